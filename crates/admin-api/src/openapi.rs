//! The OpenAPI document: what the handlers say of themselves, and what holds for all of them.

use serde_json::{Map, Value, json};
use utoipa::OpenApi as _;

use crate::{
    idempotency,
    problem::Document,
    routes::{self, BulkResult},
};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Postern admin API",
        description = "Tenants, domains, mailboxes and what belongs to them. Errors are problem documents (RFC 9457). \
            Times are RFC 3339 in UTC. Each answer carries `X-Request-Id`, the client's own where it sent one of at \
            most 64 visible ASCII characters."
    ),
    components(schemas(Document, BulkResult))
)]
struct Base;

/// Routes whose resource has a revision, which `If-Match` may insist on.
const REVISED: &[(&str, &str)] = &[
    ("patch", "/v1/tenants/{tenant}"),
    ("delete", "/v1/tenants/{tenant}"),
    ("post", "/v1/tenants/{tenant}/suspend"),
    ("post", "/v1/tenants/{tenant}/resume"),
    ("put", "/v1/tenants/{tenant}/login"),
    ("delete", "/v1/tenants/{tenant}/login"),
    ("put", "/v1/tenants/{tenant}/bucket"),
    ("delete", "/v1/tenants/{tenant}/bucket"),
    ("patch", "/v1/tenants/{tenant}/mailboxes/{address}"),
    ("delete", "/v1/tenants/{tenant}/mailboxes/{address}"),
    ("post", "/v1/tenants/{tenant}/mailboxes/{address}/suspend"),
    ("post", "/v1/tenants/{tenant}/mailboxes/{address}/resume"),
];

/// What creates what: the route, the parameter that names the new resource in the routes below it, and the field of the
/// answer that this is.
const CREATED: &[(&str, &str, &str, &str)] = &[
    ("post", "/v1/tenants", "tenant", "name"),
    ("post", "/v1/api-keys", "id", "id"),
    ("post", "/v1/tenants/{tenant}/domains", "domain", "name"),
    ("post", "/v1/tenants/{tenant}/mailboxes", "address", "address"),
    ("post", "/v1/tenants/{tenant}/mailboxes/{address}/app-passwords", "id", "id"),
    ("post", routes::MESSAGES, "uid", "uid"),
    ("post", routes::BULLETINS, "id", "id"),
    ("post", "/v1/tenants/{tenant}/aliases", "address", "address"),
    ("post", "/v1/tenants/{tenant}/api-keys", "id", "id"),
];

/// The document.
pub(crate) fn document() -> Value {
    let mut document = Base::openapi();
    document.merge(routes::public().into_openapi());
    document.merge(routes::management().into_openapi());
    let mut document = serde_json::to_value(&document).unwrap_or_default();
    bound_integers(&mut document);
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
        for (path, item) in paths {
            for (method, operation) in item.as_object_mut().into_iter().flatten() {
                if let Some(operation) = operation.as_object_mut() {
                    complete(path, method, operation);
                }
            }
        }
    }
    link(&mut document);
    document["components"]["securitySchemes"] = json!({ "key": {
        "type": "http", "scheme": "bearer",
        "description": "an API key, or the bootstrap token of the platform administrator",
    } });
    document["components"]["responses"] = problems();
    document
}

/// Integers end where the types do that hold them.
fn bound_integers(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if object.get("maximum").is_none() {
                let maximum = match object.get("format").and_then(Value::as_str) {
                    Some("int32") => Some(json!(u32::MAX)),
                    Some("int64") => Some(json!(i64::MAX)),
                    _ => None,
                };
                object.extend(maximum.map(|maximum| ("maximum".to_owned(), maximum)));
            }
            object.values_mut().for_each(bound_integers);
        }
        Value::Array(items) => items.iter_mut().for_each(bound_integers),
        _ => {}
    }
}

/// Says of each creation what can be done with what it created.
fn link(document: &mut Value) {
    for (method, path, parameter, field) in CREATED {
        let below = format!("{path}/{{{parameter}}}");
        let mut values: Map<String, Value> =
            names_in(path).map(|name| (name.to_owned(), json!(format!("$request.path.{name}")))).collect();
        values.insert((*parameter).to_owned(), json!(format!("$response.body#/{field}")));
        let mut links = Map::new();
        for (other, item) in document["paths"].as_object().into_iter().flatten() {
            let below = other.strip_prefix(&below);
            // What is there cannot be restored: that is for what was deleted.
            let is_below = below.is_some_and(|rest| names_in(rest).next().is_none() && rest != "/restore");
            for operation in item.as_object().into_iter().filter(|_| is_below).flat_map(Map::values) {
                if let Some(id) = operation["operationId"].as_str() {
                    links.insert(id.to_owned(), json!({ "operationId": id, "parameters": values.clone() }));
                }
            }
        }
        if let Some(created) = document["paths"][*path][*method]["responses"].get_mut("201") {
            created["links"] = Value::Object(links);
        }
    }
}

/// The names of what stands for something in a path.
fn names_in(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

/// Adds to an operation what follows from its path and method.
fn complete(path: &str, method: &str, operation: &mut Map<String, Value>) {
    let mut statuses = vec!["500", "504"];
    if path == "/metrics" {
        operation.insert("security".to_owned(), json!([{}, { "key": [] }]));
        statuses.extend(["401", "403", "429", "503"]);
    }
    let mut parameters = path_parameters(path);
    if path.starts_with("/v1") {
        operation.insert("security".to_owned(), json!([{ "key": [] }]));
        // 400: a query, a header, or a path that is no UTF-8.
        statuses.extend(["400", "401", "403", "404", "429", "503"]);
        if method == "get" {
            // A cursor or a filter that cannot be.
            statuses.push("422");
        }
    }
    if let Some(body) = operation.get_mut("requestBody") {
        // Whatever is sent so is octets: a schema would promise more than that.
        for media_type in ["application/x-ndjson", "message/rfc822"] {
            if let Some(content) = body["content"].get_mut(media_type) {
                *content = json!({});
            }
        }
        statuses.extend(["409", "413", "415", "422"]);
    }
    if method == "post" && path.starts_with("/v1") || method == "delete" {
        statuses.push("409");
    }
    if routes::STREAMED.contains(&path) && method == "post" {
        statuses.push("507");
    }
    if REVISED.contains(&(method, path)) {
        statuses.push("412");
        parameters.push(json!({
            "name": "If-Match", "in": "header", "required": false,
            "description": "only if the resource is at this revision: its `ETag`, or `*`",
            "schema": { "type": "string", "pattern": "^(\\*|(\"[0-9]{1,18}\")?)$" },
        }));
    }
    if method == "post" && idempotency::CREATING.contains(&path) {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "names the request, so that it can be sent again: it is carried out once, and its answer \
                remembered for a day",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]{1,255}$" },
        }));
    }
    if !parameters.is_empty() {
        let all = operation.entry("parameters").or_insert_with(|| json!([]));
        if let Some(all) = all.as_array_mut() {
            all.splice(0..0, parameters);
        }
    }
    if let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) {
        for status in statuses {
            let problem = json!({ "$ref": format!("#/components/responses/Problem{status}") });
            responses.entry(status).or_insert(problem);
        }
    }
}

/// The segments of a path that stand for something.
fn path_parameters(path: &str) -> Vec<Value> {
    names_in(path)
        .map(|name| {
            let (description, schema) = match name {
                "tenant" => (
                    "the tenant's name",
                    json!({ "type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" }),
                ),
                "address" if path.contains("/aliases/") => {
                    ("the alias's address", json!({ "type": "string", "minLength": 1, "maxLength": 320 }))
                }
                "address" => {
                    ("the mailbox's address", json!({ "type": "string", "minLength": 1, "maxLength": 320 }))
                }
                "domain" => ("the domain", json!({ "type": "string", "minLength": 1, "maxLength": 255 })),
                "host" => (
                    "the host; `*.` in front stands for one label",
                    json!({ "type": "string", "minLength": 1, "maxLength": 255 }),
                ),
                "uid" => (
                    "the message's number in the mailbox",
                    json!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX }),
                ),
                "id" if path.contains("/sessions/") => {
                    ("the session", json!({ "type": "string", "minLength": 1, "maxLength": 100 }))
                }
                _ => ("its identity", json!({ "type": "string", "format": "uuid" })),
            };
            json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema })
        })
        .collect()
}

/// What can go wrong, by status.
fn problems() -> Value {
    let mut responses = Map::new();
    for (status, description) in [
        ("400", "the request cannot be read: `malformed`, `broken-off`"),
        ("401", "there is no key, or none that is good: `unauthorized`"),
        ("403", "the key's role does not allow this: `forbidden`"),
        ("404", "it does not exist, for this key: `not-found`, `no-such-route`"),
        (
            "409",
            "it cannot be as things are: `taken`, `foreign-domain`, `no-such-domain`, `no-such-mailbox`, `in-use`, \
             `over-allocated`, `over-quota`, `suspended`, `too-many`, `idempotency-pending`, `secret-shown-once`",
        ),
        ("412", "the resource is not as `If-Match` says: `stale`"),
        ("413", "the body is too large: `too-large`"),
        ("415", "the content type is another: `media-type`"),
        ("422", "a value cannot be: `invalid`, `idempotency-mismatch`"),
        ("429", "too much: `rate-limited`"),
        ("500", "something is wrong with the server: `internal`, `damaged`"),
        ("503", "some part does not answer: `unavailable`"),
        ("504", "it took too long: `timeout`"),
        ("507", "the blob store has no room: `storage-full`"),
    ] {
        let mut response = json!({
            "description": description,
            "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
        });
        let header = match status {
            "401" => Some(("WWW-Authenticate", json!({ "schema": { "type": "string" } }))),
            "429" => Some(("Retry-After", json!({ "schema": { "type": "integer", "minimum": 1 } }))),
            _ => None,
        };
        if let Some((name, header)) = header {
            response["headers"][name] = header;
        }
        responses.insert(format!("Problem{status}"), response);
    }
    Value::Object(responses)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn operations() -> Vec<(String, String, Value)> {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let of = |(path, item): (&String, &Value)| {
            let methods = item.as_object().unwrap().clone();
            let path = path.clone();
            methods.into_iter().map(move |(method, operation)| (path.clone(), method, operation))
        };
        paths.iter().flat_map(of).collect()
    }

    #[test]
    fn every_operation_is_whole() {
        let mut ids = HashSet::new();
        let operations = operations();
        assert!(operations.len() > 50);
        for (path, method, operation) in operations {
            let what = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{what}");
            assert!(operation["summary"].is_string(), "{what}");
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            for name in names_in(&path) {
                assert!(parameters.iter().any(|p| p["name"] == name && p["in"] == "path"), "{what}");
            }
            assert!(!path.starts_with("/v1") || operation["responses"]["401"].is_object(), "{what}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, root: &Value) {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                assert!(root.pointer(&reference[1..]).is_some(), "{reference}");
            }
            match value {
                Value::Object(object) => object.values().for_each(|inner| walk(inner, root)),
                Value::Array(items) => items.iter().for_each(|inner| walk(inner, root)),
                _ => {}
            }
        }
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        walk(&document, &document);
    }

    #[test]
    fn bodies_take_no_unknown_fields() {
        let document = document();
        for (path, method, operation) in operations() {
            let content = &operation["requestBody"]["content"];
            for (_, media) in content.as_object().into_iter().flatten() {
                let Some(reference) = media["schema"]["$ref"].as_str() else { continue };
                let schema = document.pointer(&reference[1..]).unwrap();
                assert_eq!(schema["additionalProperties"], false, "{method} {path}");
            }
        }
    }
}
