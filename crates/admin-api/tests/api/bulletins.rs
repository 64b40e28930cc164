//! Bulletins: posted, listed, shown, withdrawn.

use serde_json::Value;

use crate::fixture::Fixture;

const BULLETINS: &str = "/v1/tenants/one/bulletins";
const MAIL: [(&str, &str); 1] = [("content-type", "message/rfc822")];

async fn post(api: &Fixture, query: &str) -> Value {
    let message = "Subject: all of you\n\nhello\n";
    api.request("POST", &format!("{BULLETINS}{query}"), &MAIL, message).await.is(201).json()
}

#[tokio::test]
async fn a_bulletin_is_posted_shown_and_withdrawn() {
    let api = Fixture::with_tenants().await;
    let posted = post(&api, "?note=news&new_mailboxes=true&expires_at=2999-01-01T00:00:00.123456789Z").await;
    assert_eq!(posted["note"], "news");
    assert_eq!(posted["state"], "rolling_out");
    assert_eq!(posted["expires_at"], "2999-01-01T00:00:00.123456Z", "as finely as it is kept");
    assert_eq!(posted["octets"], "Subject: all of you\r\n\r\nhello\r\n".len());
    assert_eq!(posted["created_by"], "bootstrap-token");
    let path = format!("{BULLETINS}/{}", posted["id"].as_str().unwrap());
    let mut shown = api.get(&path).await.is(200).json();
    assert_eq!(shown.as_object_mut().unwrap().remove("holding"), Some(0.into()));
    assert_eq!(shown, posted, "what is said of it when it is posted is what is said of it later");
    // Who is created now has it, whatever has become of the others.
    let new = serde_json::json!({ "address": "new@one.test", "password": "pw" });
    let made = api.post("/v1/tenants/one/mailboxes", new).await.is(201).json();
    assert_eq!(made["message_count"], 1);
    let messages = api.get("/v1/tenants/one/mailboxes/new@one.test/messages").await.is(200).json();
    let raw = api.get("/v1/tenants/one/mailboxes/new@one.test/messages/1/raw").await.is(200);
    assert_eq!(raw.text(), "Delivered-To: new@one.test\r\nSubject: all of you\r\n\r\nhello\r\n");
    assert_eq!(messages["items"][0]["octets"], raw.octets.len());
    let withdrawn = api.delete(&path).await.is(202).json();
    assert_eq!((&withdrawn["state"], &withdrawn["delivered"]), (&"withdrawing".into(), &1.into()));
    assert_eq!(api.delete(&path).await.is(202).json(), withdrawn);
    let audit = api.get("/v1/tenants/one/audit?action=bulletin").await.json();
    let actions: Vec<_> = audit["items"].as_array().unwrap().iter().map(|item| &item["action"]).collect();
    assert_eq!(actions, ["bulletin.withdraw", "bulletin.create"], "{audit}");
    assert_eq!(audit["items"][1]["target"], posted["id"]);
}

#[tokio::test]
async fn bulletins_are_listed_newest_first() {
    let api = Fixture::with_tenants().await;
    for number in 0..3 {
        post(&api, &format!("?note=n{number}")).await;
    }
    let first = api.get(&format!("{BULLETINS}?limit=2")).await.is(200);
    let notes = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|item| item["note"].to_string()).collect()
    };
    assert_eq!(notes(&first.json()), ["\"n2\"", "\"n1\""]);
    assert!(first.header("link").contains("after=2"), "{first:?}");
    let second = api.get(&format!("{BULLETINS}?limit=2&after=2")).await.is(200).json();
    assert_eq!(notes(&second), ["\"n0\""]);
    assert!(second["next"].is_null());
    for after in ["x", "-1", "02", "99999999999999999999"] {
        api.get(&format!("{BULLETINS}?after={after}")).await.refused(422, "invalid", "after");
    }
    assert_eq!(notes(&api.get("/v1/tenants/two/bulletins").await.is(200).json()).len(), 0);
}

#[tokio::test]
async fn bulletins_that_cannot_be_are_refused() {
    let api = Fixture::with_tenants().await;
    let ask = async |query: &str, body: Vec<u8>| {
        api.request("POST", &format!("{BULLETINS}{query}"), &MAIL, body).await
    };
    ask("", Vec::new()).await.refused(422, "invalid", "body");
    ask("", vec![b'x'; 1_000_001]).await.refused(413, "too-large", "");
    ask("?note=a%0Ab", b"x".to_vec()).await.refused(422, "invalid", "note");
    ask(&format!("?note={}", "x".repeat(201)), b"x".to_vec()).await.refused(422, "invalid", "note");
    ask("?expires_at=2000-01-01T00:00:00Z", b"x".to_vec()).await.refused(422, "invalid", "expires_at");
    ask("?expires_at=tomorrow", b"x".to_vec()).await.refused(422, "invalid", "expires_at");
    ask("?new_mailboxes=perhaps", b"x".to_vec()).await.is(400);
    ask("?bogus=1", b"x".to_vec()).await.is(400);
    let text = [("content-type", "text/plain")];
    api.request("POST", BULLETINS, &text, "x").await.refused(415, "media-type", "");
    api.request("POST", "/v1/tenants/none/bulletins", &MAIL, "x").await.refused(404, "not-found", "");
    let broken: Vec<Result<Vec<u8>, std::io::Error>> =
        vec![Ok(b"half".to_vec()), Err(std::io::Error::other("gone"))];
    let body = axum::body::Body::from_stream(futures_util::stream::iter(broken));
    api.request("POST", BULLETINS, &MAIL, body).await.refused(400, "broken-off", "");
    assert_eq!(api.get(BULLETINS).await.json()["items"], Value::Array(Vec::new()), "nothing was posted");
    for id in ["x", "00000000-0000-0000-0000-000000000000"] {
        api.get(&format!("{BULLETINS}/{id}")).await.refused(404, "not-found", "");
        api.delete(&format!("{BULLETINS}/{id}")).await.refused(404, "not-found", "");
    }
    let posted = post(&api, "").await;
    let foreign = format!("/v1/tenants/two/bulletins/{}", posted["id"].as_str().unwrap());
    api.get(&foreign).await.refused(404, "not-found", "");
    api.delete(&foreign).await.refused(404, "not-found", "");
    assert_eq!(api.get(BULLETINS).await.json()["items"][0]["state"], "rolling_out");
}

#[tokio::test]
async fn a_repeated_post_is_one_bulletin() {
    let api = Fixture::with_tenants().await;
    let headers = [MAIL[0], ("idempotency-key", "news-1")];
    let first = api.request("POST", BULLETINS, &headers, "Subject: once\n\nx\n").await.is(201);
    let again = api.request("POST", BULLETINS, &headers, "Subject: once\n\nx\n").await.is(201);
    assert_eq!((first.json(), again.header("idempotent-replayed")), (again.json(), "true"));
    assert_eq!(api.get(BULLETINS).await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn who_may_post_bulletins() {
    let api = Fixture::with_tenants().await;
    let posted = post(&api, "").await;
    let path = format!("{BULLETINS}/{}", posted["id"].as_str().unwrap());
    for (role, read, change) in
        [("tenant_admin", true, true), ("tenant_reader", true, false), ("provisioning", false, false)]
    {
        let key = api.key(Some("one"), role).await;
        let key = ("authorization", key.as_str());
        for path in [BULLETINS, &path] {
            let status = api.request("GET", path, &[key], "").await.status;
            assert_eq!(status.as_u16(), if read { 200 } else { 403 }, "{role} {path}");
        }
        let status = api.request("POST", BULLETINS, &[key, MAIL[0]], "x").await.status;
        assert_eq!(status.as_u16(), if change { 201 } else { 403 }, "{role}");
        let status = api.request("DELETE", &path, &[key], "").await.status;
        assert_eq!(status.as_u16(), if change { 202 } else { 403 }, "{role}");
    }
}
