//! What holds for every route: pages, entity tags, patches, problems, request ids, limits.

use admin_api::{ApiLimits, Rate};
use serde_json::json;

use crate::fixture::{Fixture, TOKEN};

const A: &str = "/v1/tenants/one/mailboxes/a@one.test";

#[tokio::test]
async fn pages_lead_to_each_other() {
    let api = Fixture::with_tenants().await;
    for number in 0..5 {
        let body = json!({ "address": format!("b{number}@one.test") });
        api.post("/v1/tenants/one/mailboxes", body).await.is(201);
    }
    let (mut path, mut seen) = ("/v1/tenants/one/mailboxes?limit=2&search=b".to_owned(), Vec::new());
    loop {
        let page = api.get(&path).await.is(200);
        let items = page.json()["items"].as_array().unwrap().clone();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|item| item["address"].as_str().unwrap().to_owned()));
        let link = page.header("link");
        let Some(next) = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")) else {
            assert!(page.json().get("next").is_none() && link.is_empty());
            break;
        };
        next.clone_into(&mut path);
    }
    assert_eq!(seen, ["b0", "b1", "b2", "b3", "b4"].map(|local| format!("{local}@one.test")));
    for (query, status, kind, field) in [
        ("limit=0", 422, "invalid", "limit"),
        ("limit=1001", 422, "invalid", "limit"),
        ("limit=x", 400, "malformed", ""),
        ("limit=1&limit=1", 400, "malformed", ""),
        ("after=nobody", 422, "invalid", "after"),
        ("search=%00", 422, "invalid", "search"),
        ("domain=x_y", 422, "invalid", "domain"),
        ("frob=1", 400, "malformed", ""),
    ] {
        let path = format!("/v1/tenants/one/mailboxes?{query}");
        api.get(&path).await.refused(status, kind, field);
    }
    let found = api.get("/v1/tenants/one/mailboxes?search=A@").await.is(200).json();
    assert_eq!(found["items"].as_array().unwrap().len(), 1, "{found}");
}

#[tokio::test]
async fn changes_insist_on_the_revision_they_were_made_from() {
    let api = Fixture::with_tenants().await;
    for path in [A, "/v1/tenants/one"] {
        let first = api.get(path).await.is(200).header("etag").to_owned();
        assert!(first.starts_with('"') && first.ends_with('"'), "{first}");
        let body = json!({ "quota_octets": 1000 });
        let changed = api.json("PATCH", path, &[("if-match", &first)], &body).await.is(200);
        let second = changed.header("etag").to_owned();
        assert_ne!(first, second);
        assert_eq!(changed.json()["quota_octets"], 1000);
        for stale in [first.as_str(), "W/\"1\"", "\"none\"", "\"99999\""] {
            let body = json!({ "quota_octets": 5 });
            api.json("PATCH", path, &[("if-match", stale)], &body).await.refused(412, "stale", "");
            api.request("DELETE", path, &[("if-match", stale)], "").await.refused(412, "stale", "");
            let suspend = format!("{path}/suspend");
            api.request("POST", &suspend, &[("if-match", stale)], "").await.refused(412, "stale", "");
        }
        api.json("PATCH", path, &[("if-match", "1")], &body).await.refused(400, "malformed", "If-Match");
        let list = format!("{first}, {second}");
        api.json("PATCH", path, &[("if-match", &list)], &body).await.is(200);
        api.json("PATCH", path, &[("if-match", "*")], &body).await.is(200);
        assert_eq!(api.get(path).await.json()["quota_octets"], 1000);
    }
}

#[tokio::test]
async fn patches_change_what_they_name() {
    let api = Fixture::with_tenants().await;
    let body = json!({ "quota_octets": 5, "policy": { "expire_days": 30, "dele": "hide" } });
    api.patch(A, body).await.is(200);
    let body = json!({ "policy": { "expire_days": null, "pop3": false } });
    let merged = api.json("PATCH", A, &[], &body).await.is(200).json();
    assert_eq!(merged["quota_octets"], 5);
    assert_eq!(merged["policy"], json!({ "pop3": false, "dele": "hide" }));
    let merge = [("content-type", "application/merge-patch+json")];
    let body = json!({ "quota_octets": null, "policy": null }).to_string();
    let merged = api.request("PATCH", A, &merge, body).await.is(200).json();
    assert_eq!((&merged["quota_octets"], &merged["policy"]), (&json!(null), &json!({})));
    for (body, status, kind, field) in [
        (json!({ "frob": null }), 400, "malformed", "frob"),
        (json!({ "address": "b@one.test" }), 400, "malformed", "address"),
        (json!({ "policy": [] }), 400, "malformed", "policy"),
        (json!({ "policy": { "frob": null } }), 400, "malformed", "policy.frob"),
        (json!({ "policy": { "expire_days": 0 } }), 422, "invalid", "policy.expire_days"),
        (json!({ "policy": { "greeting": "a\nb" } }), 422, "invalid", "policy.greeting"),
        (json!({ "quota_octets": u64::MAX }), 422, "invalid", "quota_octets"),
        (json!({ "quota_octets": -1 }), 400, "malformed", "quota_octets"),
        (json!([]), 400, "malformed", ""),
        (json!("x"), 400, "malformed", ""),
    ] {
        api.patch(A, body).await.refused(status, kind, field);
    }
    api.request("PATCH", A, &[("content-type", "text/plain")], "{}").await.refused(415, "media-type", "");
}

#[tokio::test]
async fn changes_at_once_do_not_undo_each_other() {
    let api = Fixture::with_tenants().await;
    let one = async {
        for n in 0..10 {
            api.patch(A, json!({ "quota_octets": n })).await.is(200);
        }
    };
    let other = async {
        for n in 0..10 {
            api.patch(A, json!({ "quota_messages": n })).await.is(200);
        }
    };
    tokio::join!(one, other);
    let mailbox = api.get(A).await.json();
    assert_eq!((&mailbox["quota_octets"], &mailbox["quota_messages"]), (&json!(9), &json!(9)));
}

#[tokio::test]
async fn requests_have_names() {
    let api = Fixture::with_tenants().await;
    let named = api.request("GET", A, &[("x-request-id", "ticket-4711")], "").await.is(200);
    assert_eq!(named.header("x-request-id"), "ticket-4711");
    for bad in ["", "a b", &"x".repeat(65), "\u{e9}"] {
        let made = api.request("GET", A, &[("x-request-id", bad)], "").await.is(200);
        assert_eq!(made.header("x-request-id").len(), 32, "{bad}");
    }
    let headers = [("x-request-id", "ticket-4712")];
    let body = json!({ "address": "new@one.test" });
    api.json("POST", "/v1/tenants/one/mailboxes", &headers, &body).await.is(201);
    let audit = api.get("/v1/audit?limit=1").await.json();
    assert_eq!(audit["items"][0]["request"], "ticket-4712", "{audit}");
}

#[tokio::test]
async fn what_is_no_request_is_told_so() {
    let api = Fixture::with_tenants().await;
    let deep = "[".repeat(1_000_000);
    let json = [("content-type", "application/json")];
    for (body, status, kind) in [
        (deep.as_str(), 400, "malformed"),
        ("{\"name\":\"x\"} trailing", 400, "malformed"),
        ("{\"name\":\"x\",\"name\":\"y\"}", 400, "malformed"),
        ("[\"x\"]", 400, "malformed"),
        (&" ".repeat(2_000_000), 413, "too-large"),
    ] {
        api.request("POST", "/v1/tenants", &json, body.to_owned()).await.refused(status, kind, "");
    }
    api.request("PUT", "/v1/tenants", &json, "{}").await.refused(405, "method-not-allowed", "");
    let answer = api.request("PUT", "/v1/tenants", &json, "{}").await;
    assert_eq!(answer.header("allow"), "GET, POST, HEAD");
    api.get("/v1/frob").await.refused(404, "no-such-route", "");
    api.get("/v1").await.refused(404, "no-such-route", "");
    api.get("/v1/tenants/..%2Fone").await.refused(404, "not-found", "");
    api.get("/v1/tenants/%ff").await.refused(400, "malformed", "");
    assert!(api.request("HEAD", "/v1/tenants", &[], "").await.is(200).octets.is_empty());
}

#[tokio::test]
async fn too_many_requests_are_told_to_wait() {
    let few = Rate { per_second: 0.1, burst: 3.0 };
    let api = Fixture::with_limits(ApiLimits { requests: few, failures: few, ..ApiLimits::default() }).await;
    let key = api.key(None, "platform_admin").await;
    let headers = [("authorization", key.as_str())];
    for _ in 0..3 {
        api.request("GET", "/v1/tenants", &headers, "").await.is(200);
    }
    let refused = api.request("GET", "/v1/tenants", &headers, "").await.refused(429, "rate-limited", "");
    assert!((1..=10).contains(&refused.header("retry-after").parse::<u32>().unwrap()));
    let wrong = [("authorization", "Bearer pstk_00000000000000000000000000000000_x")];
    for _ in 0..3 {
        api.request("GET", "/v1/tenants", &wrong, "").await.refused(401, "unauthorized", "");
    }
    api.request("GET", "/v1/tenants", &wrong, "").await.refused(429, "rate-limited", "");
    // The bootstrap token is the way in when nothing else is.
    let bootstrap = format!("Bearer {TOKEN}");
    api.request("GET", "/v1/tenants", &[("authorization", &bootstrap)], "").await.is(200);
}

#[tokio::test]
async fn the_document_and_its_page_are_there_for_everybody() {
    let api = Fixture::new().await;
    let nobody = [("authorization", "")];
    let document = api.request("GET", "/openapi.json", &nobody, "").await.is(200).json();
    assert!(document["paths"].as_object().unwrap().len() > 30);
    api.request("GET", "/docs/", &nobody, "").await.is(200);
    let page = api.request("GET", "/docs/swagger-initializer.js", &nobody, "").await.is(200);
    assert!(page.text().contains("/openapi.json") && !page.text().contains("https://"), "{}", page.text());
}
