//! The admin API.

use serde_json::json;

use crate::support::{Http, Node, NodeOptions, deliver, login, message};

#[test]
fn resources_are_created_listed_and_deleted() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let http = node.http();
    for local in ["b", "c"] {
        node.mailbox("one", local, Some(12345));
    }
    let (status, page) = http.get("/v1/tenants/one/mailboxes?limit=2");
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(status, 200);
    assert_eq!((page["items"].as_array().unwrap().len(), page["next"].as_str()), (2, Some("b@one.test")));
    let (_, page) = http.get("/v1/tenants/one/mailboxes?limit=2&after=b@one.test");
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!((page["items"][0]["quota_octets"].as_u64(), page.get("next")), (Some(12345), None));
    deliver(node.lmtp, &a, &message("counted", 500));
    let (_, shown) = http.get(&format!("/v1/tenants/one/mailboxes/{a}"));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["message_count"].as_u64(), Some(1));
    // A mailbox that is deleted under an open session: gone for it, too, and nothing breaks.
    let mut pop3 = login(node.pop3, &a, "pw");
    assert_eq!(http.json("DELETE", &format!("/v1/tenants/one/mailboxes/{a}"), &json!(null)).0, 204);
    pop3.err("RETR 1");
    pop3.ok("QUIT");
    let (status, problem) = http.json("DELETE", "/v1/tenants/one/domains/one.test", &json!(null));
    assert_eq!((status, problem["type"].as_str()), (409, Some("urn:postern:problem:in-use")));
    assert_eq!(http.json("DELETE", "/v1/tenants/one", &json!(null)).0, 202);
    assert_eq!(http.get("/v1/tenants/one").0, 404);
}

#[test]
fn bad_requests_change_nothing_and_say_why() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    node.tenant("two");
    let http = node.http();
    let mailboxes = "/v1/tenants/one/mailboxes";
    for (method, path, body, status, field) in [
        ("POST", "/v1/tenants", json!({ "name": "One" }), 422, "name"),
        ("POST", "/v1/tenants", json!({ "name": "one" }), 409, "name"),
        ("POST", "/v1/tenants", json!({ "name": 5 }), 400, "name"),
        ("POST", "/v1/tenants", json!({ "name": "x", "extra": 1 }), 400, "extra"),
        ("POST", "/v1/tenants", json!({}), 400, ""),
        ("POST", "/v1/tenants", json!([]), 400, ""),
        ("POST", "/v1/tenants/nobody/domains", json!({ "name": "x.test" }), 404, ""),
        ("POST", "/v1/tenants/one/domains", json!({ "name": "two.test" }), 409, "name"),
        ("POST", "/v1/tenants/one/domains", json!({ "name": "bad domain" }), 422, "name"),
        ("POST", mailboxes, json!({ "address": a, "password": "x" }), 409, "address"),
        ("POST", mailboxes, json!({ "address": "b@two.test", "password": "x" }), 409, "address"),
        ("POST", mailboxes, json!({ "address": "b", "password": "x" }), 422, "address"),
        ("POST", mailboxes, json!({ "address": "b@one.test", "password": "" }), 422, "password"),
        ("POST", mailboxes, json!({ "address": "b@one.test", "password": "a\r\nb" }), 422, "password"),
        (
            "POST",
            mailboxes,
            json!({ "address": "b@one.test", "password": "x", "quota_octets": -1 }),
            400,
            "quota_octets",
        ),
        ("PUT", "/v1/tenants/one/mailboxes/b@one.test/password", json!({ "password": "x" }), 404, ""),
        ("PUT", "/v1/tenants/two/mailboxes/a@one.test/password", json!({ "password": "x" }), 404, ""),
        ("DELETE", "/v1/tenants/two/mailboxes/a@one.test", json!(null), 404, ""),
        ("DELETE", "/v1/tenants/two/domains/one.test", json!(null), 404, ""),
        ("DELETE", "/v1/tenants/'%20OR%201=1--", json!(null), 404, ""),
        ("DELETE", "/v1/tenants/..%2Fone", json!(null), 404, ""),
        ("PUT", "/v1/tenants/one", json!({}), 405, ""),
        ("GET", "/v1/frob", json!(null), 404, ""),
        ("GET", "/v1/tenants?limit=x", json!(null), 400, ""),
        ("GET", "/v1/tenants?frob=1", json!(null), 400, ""),
        ("GET", "/v1/tenants?after=NOT+A+CURSOR", json!(null), 422, "after"),
    ] {
        let (got, problem) = http.json(method, path, &body);
        assert_eq!(got, status, "{method} {path} {body}: {problem}");
        assert_eq!(problem["status"].as_u64(), Some(u64::from(status)), "{method} {path}: {problem}");
        assert!(problem["type"].as_str().unwrap().starts_with("urn:postern:problem:"));
        let named = problem["field"].as_str().unwrap_or("");
        assert!(
            named == field || problem["detail"].as_str().unwrap().contains(field),
            "{method} {path}: {problem}"
        );
    }
    let (status, head, _) = http.raw("POST", "/v1/tenants", "text/plain", b"{\"name\":\"x\"}");
    assert!(status == 415 && head.contains("content-type: application/problem+json"), "{head}");
    assert_eq!(http.raw("POST", "/v1/tenants", "application/json", b"{\"name\":\"x\"} trailing").0, 400);
    assert_eq!(http.raw("POST", "/v1/tenants", "application/json", &b"[".repeat(1_000_000)).0, 400);
    assert_eq!(http.raw("POST", "/v1/tenants", "application/json", &b" ".repeat(2_000_000)).0, 413);
    // Nothing of all this was done.
    let (_, tenants) = http.get("/v1/tenants");
    assert_eq!(tenants.matches("\"name\"").count(), 2);
    login(node.pop3, &a, "pw").ok("QUIT");
    // Another tenant's domain cannot be told from a reserved one.
    let (_, taken) = http.json("POST", "/v1/tenants/one/domains", &json!({ "name": "two.test" }));
    assert!(!taken.to_string().contains("two.test") && !taken.to_string().contains("\"two\""), "{taken}");
}

#[test]
fn without_a_token_nothing_is_known() {
    let (node, _) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    for http in [Http::new(node.admin, ""), node.http().with_token("0123456789abcdef-wrong")] {
        for path in ["/v1/tenants", "/v1/tenants/one", "/v1/frob", "/v1/tenants/one/mailboxes/a@one.test"] {
            let (status, head, _) = http.raw("GET", path, "", b"");
            assert!(status == 401 && head.contains("www-authenticate: bearer"), "{path}: {head}");
        }
        // Health and metrics are for machines that have none.
        for path in ["/livez", "/readyz", "/metrics"] {
            assert_eq!(http.get(path).0, 200, "{path}");
        }
    }
    assert!(!node.log().contains("0123456789abcdef"), "a token is in the log");
}
