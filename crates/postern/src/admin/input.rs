//! What commands are given: settings on the command line, secrets from elsewhere.

use std::io::{IsTerminal as _, Read as _};

use serde_json::{Map, Value};

use crate::cli::say;

/// A field and its value: `quota_octets=1000`, `policy.expire_days=30`, `limits.sessions_max=null`.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    path: Vec<String>,
    value: Value,
}

impl std::str::FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) = text.split_once('=').ok_or("a setting has the form field=value")?;
        if path.is_empty() || path.split('.').any(str::is_empty) {
            return Err("the field has no name".to_owned());
        }
        // What is no JSON is a text: nobody wants to quote a word for the shell and for JSON.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        Ok(Self { path: path.split('.').map(str::to_owned).collect(), value })
    }
}

/// Puts settings into a body.
pub(super) fn set(body: &mut Map<String, Value>, settings: Vec<Setting>) {
    for Setting { path, value } in settings {
        put(body, &path, value);
    }
}

fn put(object: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [field] => {
            object.insert(field.clone(), value);
        }
        [field, rest @ ..] => {
            let inner = object.entry(field.clone()).or_insert_with(|| Value::Object(Map::new()));
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            if let Some(inner) = inner.as_object_mut() {
                put(inner, rest, value);
            }
        }
    }
}

/// Reads a secret from standard input: it has no place on a command line, which everybody can see.
pub(super) fn secret(what: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    if std::io::stdin().is_terminal() {
        say(&format!("{what}:"));
        std::io::stdin().read_line(&mut text)?;
    } else {
        std::io::stdin().read_to_string(&mut text)?;
    }
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    anyhow::ensure!(!secret.is_empty(), "nothing was given on standard input");
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_make_a_merge_patch() {
        let settings =
            ["quota_octets=5", "policy.dele=hide", "policy.expire_days=null", "policy.pop3=true", "a=x=y"];
        let mut body = Map::new();
        set(&mut body, settings.map(|text| text.parse().unwrap()).to_vec());
        assert_eq!(
            Value::Object(body),
            json!({
                "quota_octets": 5, "a": "x=y",
                "policy": { "dele": "hide", "expire_days": null, "pop3": true },
            })
        );
        for bad in ["", "x", "=1", "a..b=1"] {
            assert!(bad.parse::<Setting>().is_err(), "{bad}");
        }
    }
}
