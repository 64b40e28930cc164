//! Requests that come more than once.

use serde_json::json;

use crate::fixture::Fixture;

const MAILBOXES: &str = "/v1/tenants/one/mailboxes";

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer() {
    let api = Fixture::with_tenants().await;
    let key = [("idempotency-key", "order-1")];
    let body = json!({ "address": "b@one.test", "password": "x" });
    let first = api.json("POST", MAILBOXES, &key, &body).await.is(201);
    let again = api.json("POST", MAILBOXES, &key, &body).await.is(201);
    assert_eq!(again.octets, first.octets);
    assert_eq!((again.header("etag"), again.header("idempotent-replayed")), (first.header("etag"), "true"));
    assert_eq!(first.header("idempotent-replayed"), "");
    let other = json!({ "address": "c@one.test", "password": "x" });
    api.json("POST", MAILBOXES, &key, &other).await.refused(422, "idempotency-mismatch", "Idempotency-Key");
    api.json("POST", "/v1/tenants/two/mailboxes", &key, &body).await.refused(
        422,
        "idempotency-mismatch",
        "Idempotency-Key",
    );
    api.get("/v1/tenants/one/mailboxes/c@one.test").await.is(404);
    // Another caller's keys are its own.
    let admin = api.key(Some("one"), "tenant_admin").await;
    let headers = [("idempotency-key", "order-1"), ("authorization", admin.as_str())];
    api.json("POST", MAILBOXES, &headers, &other).await.is(201);
}

#[tokio::test]
async fn a_request_that_changed_nothing_may_be_tried_again() {
    let api = Fixture::with_tenants().await;
    let key = [("idempotency-key", "order-2")];
    let body = json!({ "name": "sub.one.test", "alias_of": "later.one.test" });
    let domains = "/v1/tenants/one/domains";
    api.json("POST", domains, &key, &body).await.refused(409, "no-such-domain", "alias_of");
    api.post(domains, json!({ "name": "later.one.test" })).await.is(201);
    api.json("POST", domains, &key, &body).await.is(201);
    for bad in ["", "a b", &"x".repeat(256), "\u{e9}"] {
        api.json("POST", domains, &[("idempotency-key", bad)], &body).await.refused(
            400,
            "malformed",
            "Idempotency-Key",
        );
    }
}

#[tokio::test]
async fn secrets_are_shown_once() {
    let api = Fixture::with_tenants().await;
    for (path, body, field) in [
        ("/v1/tenants/one/api-keys", json!({ "label": "x", "role": "provisioning" }), "key"),
        ("/v1/tenants/one/mailboxes/a@one.test/app-passwords", json!({ "label": "phone" }), "password"),
    ] {
        let key = [("idempotency-key", field)];
        let first = api.json("POST", path, &key, &body).await.is(201).json();
        let again = api.json("POST", path, &key, &body).await.refused(409, "secret-shown-once", "");
        assert_eq!(again.json()["resource"], first["id"]);
        assert!(!again.text().contains(first[field].as_str().unwrap()));
        let listed = api.get(path).await.json();
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
        assert!(!listed.to_string().contains(first[field].as_str().unwrap()));
    }
    let audit = api.get("/v1/audit").await;
    assert!(!audit.text().contains("pstk_"), "{}", audit.text());
}

#[tokio::test]
async fn of_many_at_once_one_is_carried_out() {
    let api = Fixture::with_tenants().await;
    let path = "/v1/tenants/one/mailboxes/a@one.test/messages";
    let headers = [("idempotency-key", "order-4"), ("content-type", "message/rfc822")];
    let requests = (0..8).map(|_| api.request("POST", path, &headers, "Subject: once\n\nhello\n"));
    let answers = futures_util::future::join_all(requests).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert!(created >= 1, "{answers:?}");
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (409, "idempotency-pending"));
    }
    let messages = api.get(path).await.json();
    assert_eq!(messages["items"].as_array().unwrap().len(), 1, "{messages}");
}
