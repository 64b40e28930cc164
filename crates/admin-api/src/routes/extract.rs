//! Reading requests: what is wrong with one is said in a problem document.

use std::marker::PhantomData;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, header, request::Parts},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::strict::Strict;
use crate::Problem;

/// A JSON body, read strictly: unknown fields, wrong types and anything behind it are errors.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let octets = octets_of(request, state, &["application/json"]).await?;
        Ok(Self(parse(&octets)?.0))
    }
}

/// A merge patch (RFC 7396), read as strictly as what it changes.
pub(super) struct Patch<T> {
    patch: Value,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned + Serialize, S: Send + Sync> FromRequest<S> for Patch<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let types = ["application/merge-patch+json", "application/json"];
        let octets = octets_of(request, state, &types).await?;
        // Every field of `T` may be absent or null: whatever is a `T` is a patch of one.
        let (_, patch) = parse::<T>(&octets)?;
        Ok(Self { patch, of: PhantomData })
    }
}

impl<T: DeserializeOwned + Serialize> Patch<T> {
    /// The fields that it names.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.patch.as_object().into_iter().flat_map(|object| object.keys().map(String::as_str))
    }

    /// What `current` becomes by it.
    pub(super) fn apply(&self, current: &T) -> Result<T, Problem> {
        let mut value = serde_json::to_value(current).map_err(|_| Problem::internal())?;
        merge(&mut value, &self.patch);
        serde_path_to_error::deserialize(value).map_err(|error| {
            let field = error.path().to_string();
            Problem::malformed(error.into_inner().to_string(), Some(field))
        })
    }
}

/// RFC 7396 §2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

async fn octets_of<S: Send + Sync>(request: Request, state: &S, types: &[&str]) -> Result<Bytes, Problem> {
    if !media_type(request.headers()).is_some_and(|sent| types.iter().any(|t| sent.eq_ignore_ascii_case(t))) {
        return Err(Problem::media_type(types[0]));
    }
    Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large("the body is longer than 1 MiB"),
        _ => Problem::broken_off(),
    })
}

/// The media type of a body, without its parameters.
pub(super) fn media_type(headers: &axum::http::HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(str::trim)
}

/// Reads one JSON object strictly, and gives it as a value, too.
pub(super) fn parse<T: DeserializeOwned>(octets: &[u8]) -> Result<(T, Value), Problem> {
    let value = serde_json::from_slice(octets).map(|Strict(value)| value);
    let value = value.map_err(|error| Problem::malformed(error.to_string(), None))?;
    // `serde` takes an array for a structure, field by field; nobody means that.
    if !value.is_object() {
        return Err(Problem::malformed("the body must be a JSON object", None));
    }
    for field in ["policy", "limits"] {
        if value.get(field).is_some_and(|inner| !inner.is_object() && !inner.is_null()) {
            return Err(Problem::malformed("must be a JSON object", Some(field.to_owned())));
        }
    }
    let typed = serde_path_to_error::deserialize(&value).map_err(|error| {
        let path = error.path().to_string();
        let field = (path != ".").then_some(path);
        Problem::malformed(error.into_inner().to_string(), field)
    })?;
    Ok((typed, value))
}

/// A query string, read strictly.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::malformed(rejection.body_text(), None)),
        }
    }
}

/// The segments of the path, by their names. The tenant's is the guard's.
pub(super) struct Segments<T>(pub(super) T);

/// A mailbox or an alias.
#[derive(Deserialize)]
pub(super) struct OfAddress {
    pub(super) address: String,
}

/// A credential of a mailbox.
#[derive(Deserialize)]
pub(super) struct OfCredential {
    pub(super) address: String,
    pub(super) id: String,
}

/// A domain.
#[derive(Deserialize)]
pub(super) struct OfDomain {
    pub(super) domain: String,
}

/// The host of a certificate.
#[derive(Deserialize)]
pub(super) struct OfHost {
    pub(super) host: String,
}

/// Whatever has an identity of its own.
#[derive(Deserialize)]
pub(super) struct OfId {
    pub(super) id: String,
}

/// A message of a mailbox.
#[derive(Deserialize)]
pub(super) struct OfMessage {
    pub(super) address: String,
    pub(super) uid: String,
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::malformed(rejection.body_text(), None)),
        }
    }
}

/// Which revision of a resource a change is meant for (RFC 9110 §13.1.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// Whichever it is.
    Any,
    /// One of these; an entity tag that is none of ours matches nothing.
    Revisions(Vec<i64>),
}

impl IfMatch {
    fn parse(text: &str) -> Option<Self> {
        if text.trim() == "*" {
            return Some(Self::Any);
        }
        let mut revisions = Vec::new();
        // Empty elements of a list are passed over (RFC 9110 §5.6.1.2).
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            let (weak, quoted) = tag.strip_prefix("W/").map_or((false, tag), |quoted| (true, quoted));
            let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
            if !inner.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'"') {
                return None;
            }
            // A weak tag never matches strongly, as it would have to here. Ours are written one way only.
            if let (false, Ok(revision)) = (weak, inner.parse::<i64>())
                && revision.to_string() == inner
            {
                revisions.push(revision);
            }
        }
        Some(Self::Revisions(revisions))
    }

    /// The revision to insist on where the resource is at `current`.
    pub(super) fn insist(&self, current: i64) -> Result<Option<i64>, Problem> {
        match self {
            Self::Any => Ok(None),
            Self::Revisions(revisions) if revisions.contains(&current) => Ok(Some(current)),
            Self::Revisions(_) => Err(Problem::stale()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut sent = parts.headers.get_all(header::IF_MATCH).iter();
        let Some(first) = sent.next() else { return Ok(Self::Any) };
        let read = first.to_str().ok().and_then(Self::parse).filter(|_| sent.next().is_none());
        read.ok_or_else(|| {
            Problem::malformed("is no list of entity tags, nor *", Some("If-Match".to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::TenantPatch;

    #[test]
    fn patches_merge_as_rfc_7396_says() {
        // The examples of its appendix A.
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, result, "{target} {patch}");
        }
    }

    #[test]
    fn bodies_are_strict() {
        assert!(parse::<TenantPatch>(br#"{"quota_octets":1,"policy":{"pop3":false}}"#).is_ok());
        for bad in [
            "",
            "[]",
            "null",
            "1",
            "{",
            "{}{}",
            r#"{"policy":[]}"#,
            r#"{"limits":[1]}"#,
            r#"{"policy":{"x":1}}"#,
            r#"{"bogus":null}"#,
            r#"{"quota_octets":1,"quota_octets":2}"#,
            r#"{"quota_octets":1.5}"#,
            r#"{"quota_octets":-1}"#,
            r#"{"quota_octets":"1"}"#,
            r#"{"quota_octets":1e30}"#,
        ] {
            assert!(parse::<TenantPatch>(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse::<TenantPatch>(b"{\"quota_octets\xff\":1}").is_err());
        let deep = "[".repeat(100_000);
        assert!(parse::<TenantPatch>(format!("{{\"policy\":{deep}").as_bytes()).is_err());
    }

    #[test]
    fn if_match_is_a_list_of_tags() {
        let revisions = |list: &[i64]| Some(IfMatch::Revisions(list.to_vec()));
        assert_eq!(IfMatch::parse(" * "), Some(IfMatch::Any));
        assert_eq!(IfMatch::parse(r#""3""#), revisions(&[3]));
        assert_eq!(IfMatch::parse(r#""3", "5""#), revisions(&[3, 5]));
        assert_eq!(IfMatch::parse(r#"W/"3", "x", "03", "+3""#), revisions(&[]));
        assert_eq!(IfMatch::parse(r#""3", ,"#), revisions(&[3]));
        assert_eq!(IfMatch::parse(""), revisions(&[]));
        for bad in ["3", r#""3"#, r#"3""#, r#""3" "4""#, "\"a b\""] {
            assert_eq!(IfMatch::parse(bad), None, "{bad}");
        }
        assert!(IfMatch::Revisions(vec![]).insist(1).is_err());
        assert_eq!(IfMatch::Any.insist(1).unwrap(), None);
    }
}
