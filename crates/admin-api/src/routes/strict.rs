//! JSON as it should have been from the beginning: a field stands once, and a whole number is one however it is
//! written.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// The largest whole number that a double tells from its neighbours: 2^53.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// A value that was read so.
pub(super) struct Strict(pub(super) Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // `1.0` is an integer to JSON Schema, and to those who write every number so.
        let is_whole = value.fract() == 0.0 && value.abs() <= WHOLE_MAX;
        Ok(if is_whole {
            Value::from(value as i64)
        } else {
            Number::from_f64(value).map_or(Value::Null, Value::Number)
        })
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the field \"{key}\" stands twice")));
            }
            let Strict(value) = fields.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_are_whole_and_fields_stand_once() {
        let read = |text: &str| serde_json::from_str::<Strict>(text).map(|strict| strict.0);
        let text = r#"{"a":[1,1.0,-2e2,1.5,1e300,18446744073709551615],"b":{"c":null,"d":true,"e":"x"}}"#;
        let value = json!({
            "a": [1, 1, -200, 1.5, 1e300, u64::MAX], "b": { "c": null, "d": true, "e": "x" },
        });
        assert_eq!(read(text).unwrap(), value);
        for bad in [r#"{"a":1,"a":1}"#, r#"{"b":{"a":1,"a":2}}"#, "{", "1e400", r#"{"a":}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(&"[".repeat(100_000)).is_err(), "the depth has a bound");
    }
}
