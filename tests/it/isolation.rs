//! No tenant can see, change or guess another (P5): every route of the OpenAPI document, asked by every role.
//!
//! The document is the list: a route that needs a body and is not considered here fails the test.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::support::{Http, Node, NodeOptions, Pop3, deliver, login, message, wait_for};

/// What the names of everything of the other tenant hold, and nothing else does.
const MARK: &str = "blue";

/// The roles of tenants.
const TENANT_ROLES: [&str; 3] = ["tenant_admin", "tenant_reader", "provisioning"];

/// Something of everything in one tenant, and by what it is addressed.
struct World {
    /// What stands for each parameter; `id` by the collection it is of.
    names: BTreeMap<&'static str, String>,
    _session: Pop3,
}

impl World {
    fn create(node: &Node, tenant: &str) -> Self {
        let http = node.http();
        let domain = format!("{tenant}.test");
        let created = |path: &str, body: Value| {
            let (status, created) = http.json("POST", path, &body);
            assert_eq!(status, 201, "{path}: {created}");
            created
        };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let policy = json!({ "undelete_days": 7, "greeting": format!("{tenant} greets") });
        created("/v1/tenants", json!({ "name": tenant, "policy": policy }));
        let own = format!("/v1/tenants/{tenant}");
        created(&format!("{own}/domains"), json!({ "name": domain }));
        let address = format!("a@{domain}");
        created(&format!("{own}/mailboxes"), json!({ "address": address, "password": "pw" }));
        let alias = format!("sales@{domain}");
        created(&format!("{own}/aliases"), json!({ "address": alias, "mailbox": address }));
        let mailbox = format!("{own}/mailboxes/{address}");
        let app = created(&format!("{mailbox}/app-passwords"), json!({ "label": format!("{tenant} phone") }));
        for number in 0..2 {
            deliver(node.lmtp, &address, &message(&format!("{tenant}-{number}"), 1000));
        }
        let (_, messages) = http.get(&format!("{mailbox}/messages"));
        let messages: Value = serde_json::from_str(&messages).unwrap();
        let uid = messages["items"][0]["uid"].to_string();
        let gone = messages["items"][1]["uid"].to_string();
        assert_eq!(http.json("DELETE", &format!("{mailbox}/messages/{gone}"), &json!(null)).0, 204);
        let label = format!("{tenant} spare");
        let key = created(&format!("{own}/api-keys"), json!({ "label": label, "role": "tenant_reader" }));
        let post = format!("{own}/bulletins?note={tenant}%20news");
        let (status, _, posted) = http.raw("POST", &post, "message/rfc822", &message(tenant, 500));
        assert_eq!(status, 201, "{posted}");
        let bulletin: Value = serde_json::from_str(&posted).unwrap();
        let of_bulletin = format!("{own}/bulletins/{}", bulletin["id"].as_str().unwrap());
        wait_for("the bulletin is in every mailbox", Duration::from_secs(60), || {
            http.get(&of_bulletin).1.contains("\"state\":\"ended\"").then_some(())
        });
        let host = format!("pop.{domain}");
        let (chain, secret) = certificate(&host);
        let body = json!({ "chain": chain, "key": secret });
        assert_eq!(http.json("PUT", &format!("{own}/certificates/{host}"), &body).0, 201);
        let by = json!({ "oauth": { "issuer": format!("https://id.{tenant}.test"), "audiences": ["x"] } });
        assert_eq!(http.json("PUT", &format!("{own}/login"), &by).0, 200);
        let session = login(node.pop3, &address, "pw");
        let (_, sessions) = http.get(&format!("{own}/sessions"));
        let sessions: Value = serde_json::from_str(&sessions).unwrap();
        let names = BTreeMap::from([
            ("tenant", tenant.to_owned()),
            ("domain", domain),
            ("address", address),
            ("alias", alias),
            ("uid", uid),
            ("host", host),
            ("number", "1".to_owned()),
            ("app-passwords", text(&app["id"])),
            ("api-keys", text(&key["id"])),
            ("bulletins", text(&bulletin["id"])),
            ("sessions", text(&sessions["items"][0]["id"])),
        ]);
        Self { names, _session: session }
    }

    /// The path of a route, within `tenant`, with the names of this world.
    fn path(&self, route: &str, tenant: &str) -> String {
        let mut collection = "";
        let segments = route.split('/').map(|segment| {
            let name = match segment {
                "{tenant}" => return tenant.to_owned(),
                "{address}" if collection == "aliases" => "alias",
                "{id}" => collection,
                other => match other.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                    Some(name) => name,
                    None => {
                        collection = other;
                        return other.to_owned();
                    }
                },
            };
            self.names[name].clone()
        });
        segments.collect::<Vec<_>>().join("/")
    }
}

/// A certificate for a host, and its key.
fn certificate(host: &str) -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    crate::support::run(std::process::Command::new("openssl").args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=test",
        "-addext",
        &format!("subjectAltName=DNS:{host}"),
        "-keyout",
        &at("key"),
        "-out",
        &at("cert"),
    ]));
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    (read("cert"), read("key"))
}

/// A good body for each operation that takes one: media type and octets. It names what is `tenant`'s.
fn body(operation: &str, tenant: &str) -> (&'static str, Vec<u8>) {
    let json = |body: Value| ("application/json", body.to_string().into_bytes());
    match operation {
        "createTenant" => json(json!({ "name": "third" })),
        "updateTenant" | "updateMailbox" => json(json!({ "policy": { "pop3": false } })),
        "createDomain" => json(json!({ "name": format!("{tenant}.test") })),
        "createMailbox" => json(json!({ "address": format!("new@{tenant}.test"), "password": "x" })),
        "createMailboxes" => {
            ("application/x-ndjson", format!("{{\"address\":\"bulk@{tenant}.test\"}}\n").into_bytes())
        }
        "setPassword" => json(json!({ "password": "stolen" })),
        "createAppPassword" => json(json!({ "label": "stolen" })),
        "deliverMessage" | "createBulletin" => ("message/rfc822", message("stolen", 500)),
        "createAlias" => {
            json(json!({ "address": format!("new@{tenant}.test"), "mailbox": format!("a@{tenant}.test") }))
        }
        "createTenantApiKey" => json(json!({ "label": "stolen", "role": "tenant_admin" })),
        "createApiKey" => json(json!({ "label": "stolen", "role": "platform_admin" })),
        "putLogin" => json(json!({ "passwords": "none" })),
        "putBucket" => json(json!({
            "bucket": tenant, "endpoint": "http://127.0.0.1:9", "access_key_id": "x", "secret_access_key": "x",
        })),
        "putCertificate" => {
            let (chain, key) = certificate(&format!("pop.{tenant}.test"));
            json(json!({ "chain": chain, "key": key }))
        }
        other => panic!("{other} takes a body: say here what a good one is"),
    }
}

/// An operation of the document.
struct Operation {
    id: String,
    method: String,
    route: String,
    has_body: bool,
}

fn operations(http: &Http) -> Vec<Operation> {
    let (_, document) = http.get("/openapi.json");
    let document: Value = serde_json::from_str(&document).unwrap();
    let mut operations = Vec::new();
    for (route, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|_| route.starts_with("/v1")) {
            operations.push(Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase(),
                route: route.clone(),
                has_body: operation.get("requestBody").is_some(),
            });
        }
    }
    operations
}

/// Everything there is of a tenant, as the platform's administrator sees it.
fn everything_of(http: &Http, operations: &[Operation], world: &World) -> Vec<(String, String)> {
    let tenant = &world.names["tenant"];
    let reads =
        operations.iter().filter(|o| o.method == "GET" && o.route.starts_with("/v1/tenants/{tenant}"));
    let mut all: Vec<_> = reads
        .map(|operation| {
            let path = world.path(&operation.route, tenant);
            let (status, text) = http.get(&path);
            assert_eq!(status, 200, "{path}: {text}");
            if path.contains("/audit") {
                // That its mail is read here is noted; nothing else may be.
                let entries: Vec<Value> = match serde_json::from_str::<Value>(&text) {
                    Ok(page) if page["items"].is_array() => page["items"].as_array().unwrap().clone(),
                    _ => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
                };
                let ours =
                    |entry: &&Value| entry["action"] != "message.read" || entry["actor"] != "bootstrap-token";
                let left: Vec<_> = entries.iter().filter(ours).map(ToString::to_string).collect();
                return (path, left.join("\n"));
            }
            if operation.id != "readUsage" {
                return (path, text);
            }
            // Traffic is counted now and written down a little later.
            let mut usage: Value = serde_json::from_str(&text).unwrap();
            usage.as_object_mut().unwrap().remove("traffic");
            (path, usage.to_string())
        })
        .collect();
    let path = format!("/v1/tenants/{tenant}/mailboxes/{}/messages?deleted=true", world.names["address"]);
    all.push((path.clone(), http.get(&path).1));
    all
}

#[test]
fn no_role_sees_or_changes_another_tenant_by_any_route() {
    let extra = "[worker]\ninterval = \"100ms\"\n".to_owned();
    let node = Node::start(&NodeOptions { extra, ..NodeOptions::embedded() });
    let http = node.http();
    let (red, blue) = (World::create(&node, "red"), World::create(&node, MARK));
    let operations = operations(&http);
    assert!(operations.len() > 50, "{}", operations.len());
    let keys: BTreeMap<&str, Http> = TENANT_ROLES
        .into_iter()
        .map(|role| {
            let body = json!({ "label": role, "role": role });
            let (status, key) = http.json("POST", "/v1/tenants/red/api-keys", &body);
            assert_eq!(status, 201, "{key}");
            (role, http.with_token(key["key"].as_str().unwrap()))
        })
        .collect();
    let (_, metrics) = http.json("POST", "/v1/api-keys", &json!({ "label": "m", "role": "metrics" }));
    let metrics = http.with_token(metrics["key"].as_str().unwrap());
    let before = everything_of(&http, &operations, &blue);
    assert!(before.iter().filter(|(_, text)| text.contains(MARK)).count() > 10, "{before:?}");

    let mut asked = 0;
    for operation in &operations {
        let Operation { id, method, route, has_body } = operation;
        let of_tenant = route.starts_with("/v1/tenants/{tenant}");
        let ask = |http: &Http, path: &str, tenant: &str| {
            let (media_type, octets) = if *has_body { body(id, tenant) } else { ("", Vec::new()) };
            let (status, _, text) = http.raw(method, path, media_type, &octets);
            (status, text)
        };
        let foreign = blue.path(route, MARK);
        for (role, key) in &keys {
            let what = format!("{method} {foreign} as {role}");
            let (status, text) = ask(key, &foreign, MARK);
            asked += 1;
            assert!(!text.contains(MARK), "{what}: {text}");
            if of_tenant {
                // Exactly what is said of a tenant that does not exist.
                let (_, nobody) = ask(key, &blue.path(route, "nobody"), "nobody");
                let document = |text: &str| {
                    let mut document: Value = serde_json::from_str(text).unwrap();
                    document.as_object_mut().unwrap().remove("request");
                    document
                };
                assert_eq!((status, document(&text)), (404, document(&nobody)), "{what}");
                // Its own tenant, and the other's names in it: nothing is found there. Deleting what has the other's
                // name of one's own is deleting nothing.
                let crossed = blue.path(route, "red");
                if crossed != red.path(route, "red") {
                    let (status, text) = ask(key, &crossed, MARK);
                    asked += 1;
                    assert!(
                        matches!(status, 403 | 404 | 409),
                        "{method} {crossed} as {role}: {status} {text}"
                    );
                    assert!(!text.contains(MARK), "{method} {crossed} as {role}: {text}");
                } else if *has_body
                    && !["updateTenant", "createTenantApiKey", "putLogin", "createBulletin"]
                        .contains(&id.as_str())
                {
                    // The bodies of these name nothing that is the other's.
                    let (status, text) = ask(key, &crossed, MARK);
                    asked += 1;
                    // Each line has its own answer.
                    let line = id == "createMailboxes" && text.contains("\"status\":409");
                    let refused = line || matches!(status, 403 | 404 | 409);
                    assert!(refused, "{method} {crossed} as {role}: {status} {text}");
                }
                if method == "GET" {
                    let (_, text) = ask(key, &red.path(route, "red"), "red");
                    assert!(!text.contains(MARK), "{method} {route} as {role}: {text}");
                }
            } else {
                assert_eq!(status, 403, "{what}: {text}");
            }
        }
        let (status, text) = ask(&metrics, &foreign, MARK);
        assert_eq!(status, 403, "{method} {foreign} as metrics: {text}");
        // Guessing is slowed down in the end.
        let (status, text) = ask(&Http::new(node.admin, ""), &foreign, MARK);
        assert!(matches!(status, 401 | 429) && !text.contains(MARK), "{method} {foreign}: {status} {text}");
        asked += 2;
    }
    assert_eq!(everything_of(&http, &operations, &blue), before, "the other tenant is not what it was");
    println!("isolation: {} operations, {asked} requests", operations.len());
}
