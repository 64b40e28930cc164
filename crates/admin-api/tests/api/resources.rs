//! What the API manages, one kind after the other.

use serde_json::{Value, json};

use crate::fixture::Fixture;

const A: &str = "/v1/tenants/one/mailboxes/a@one.test";

#[tokio::test]
async fn tenants_are_suspended_resumed_and_deleted() {
    let api = Fixture::with_tenants().await;
    let body = json!({ "name": "three", "quota_octets": 1000, "limits": { "sessions_max": 5 } });
    let three = api.post("/v1/tenants", body).await.is(201);
    assert_eq!(three.json()["limits"], json!({ "sessions_max": 5 }));
    assert_eq!(three.json()["state"], "active");
    assert_eq!(api.get("/v1/tenants/three").await.is(200).octets, three.octets);
    assert_eq!(
        api.request("POST", "/v1/tenants/three/suspend", &[], "").await.is(200).json()["state"],
        "suspended"
    );
    assert_eq!(
        api.request("POST", "/v1/tenants/three/resume", &[], "").await.is(200).json()["state"],
        "active"
    );
    for (body, status, kind, field) in [
        (json!({ "name": "Three" }), 422, "invalid", "name"),
        (json!({ "name": "three" }), 409, "taken", "name"),
        (json!({ "name": "x".repeat(64) }), 422, "invalid", "name"),
        (json!({ "name": "b\u{fc}cher" }), 422, "invalid", "name"),
        (json!({ "name": "x", "limits": { "frob": 1 } }), 400, "malformed", "limits.frob"),
        (
            json!({ "name": "x", "over_allocation_percent": 1_000_001 }),
            422,
            "invalid",
            "over_allocation_percent",
        ),
    ] {
        api.post("/v1/tenants", body).await.refused(status, kind, field);
    }
    let deletion = api.delete("/v1/tenants/three").await.is(202).json();
    assert_eq!((deletion["tenant"].as_str(), &deletion["finished_at"]), (Some("three"), &Value::Null));
    let again = api.delete("/v1/tenants/three").await.is(202).json();
    assert_eq!(again["tenant_id"], deletion["tenant_id"]);
    for (method, path) in [
        ("GET", "/v1/tenants/three"),
        ("GET", "/v1/tenants/three/usage"),
        ("POST", "/v1/tenants/three/resume"),
        ("GET", "/v1/tenants/three/mailboxes"),
    ] {
        api.request(method, path, &[], "").await.refused(404, "not-found", "");
    }
    let deletions = api.get("/v1/deletions").await.is(200).json();
    assert_eq!(deletions["items"][0]["tenant"], "three");
}

#[tokio::test]
async fn domains_are_one_tenants_and_may_be_aliases() {
    let api = Fixture::with_tenants().await;
    let domains = "/v1/tenants/one/domains";
    let idn = api.post(domains, json!({ "name": "B\u{dc}CHER.test" })).await.is(201).json();
    assert_eq!(idn["name"], "xn--bcher-kva.test");
    let taken = api.post(domains, json!({ "name": "two.test" })).await.refused(409, "taken", "name");
    assert!(!taken.text().contains("two"), "{}", taken.text());
    let alias = api.post(domains, json!({ "name": "alias.test", "alias_of": "one.test" })).await.is(201);
    assert_eq!(alias.json()["alias_of"], "one.test");
    api.get("/v1/tenants/one/domains/ALIAS.test").await.is(200);
    for (body, status, kind, field) in [
        (json!({ "name": "x.test", "alias_of": "two.test" }), 409, "no-such-domain", "alias_of"),
        (json!({ "name": "x.test", "alias_of": "alias.test" }), 409, "no-such-domain", "alias_of"),
        (json!({ "name": "'; DROP TABLE domains; --" }), 422, "invalid", "name"),
        (json!({ "name": "../../etc" }), 422, "invalid", "name"),
        (json!({ "name": "x".repeat(300) }), 422, "invalid", "name"),
        (json!({ "name": "x\u{0}y" }), 422, "invalid", "name"),
    ] {
        api.post(domains, body).await.refused(status, kind, field);
    }
    api.delete("/v1/tenants/one/domains/one.test").await.refused(409, "in-use", "name");
    api.delete("/v1/tenants/one/domains/alias.test").await.is(204);
    api.delete("/v1/tenants/one/domains/two.test").await.refused(404, "not-found", "");
}

#[tokio::test]
async fn mailboxes_take_passwords_and_hashes() {
    let api = Fixture::with_tenants().await;
    let mailboxes = "/v1/tenants/one/mailboxes";
    let crypt = "{SSHA}MTIzNDU2Nzg5MDEyMzQ1Njc4OTBzYWx0";
    api.post(mailboxes, json!({ "address": "hash@one.test", "password_hash": crypt })).await.is(201);
    for (body, status, kind, field) in [
        (
            json!({ "address": "b@one.test", "password": "x", "password_hash": crypt }),
            422,
            "invalid",
            "password_hash",
        ),
        (json!({ "address": "b@one.test", "password_hash": "{ROT13}x" }), 422, "invalid", "password_hash"),
        (json!({ "address": "b@one.test", "password_hash": "" }), 422, "invalid", "password_hash"),
        (json!({ "address": "b@one.test", "password": "" }), 422, "invalid", "password"),
        (json!({ "address": "b@one.test", "password": "a\r\nb" }), 422, "invalid", "password"),
        (json!({ "address": "b@one.test", "password": "x".repeat(401) }), 422, "invalid", "password"),
        (json!({ "address": "b@two.test" }), 409, "foreign-domain", "address"),
        (json!({ "address": "a@one.test" }), 409, "taken", "address"),
        (json!({ "address": "a\u{0}@one.test" }), 422, "invalid", "address"),
        (json!({ "address": format!("{}@one.test", "x".repeat(65)) }), 422, "invalid", "address"),
        (json!({ "address": 5 }), 400, "malformed", "address"),
    ] {
        let refused = api.post(mailboxes, body).await.refused(status, kind, field);
        assert!(!refused.text().contains("ROT13"), "{}", refused.text());
    }
    let password = format!("{A}/password");
    api.json("PUT", &password, &[], &json!({ "password": "other" })).await.is(204);
    api.json("PUT", &password, &[], &json!({})).await.refused(422, "invalid", "password");
    api.json("PUT", "/v1/tenants/one/mailboxes/x@one.test/password", &[], &json!({ "password": "x" }))
        .await
        .refused(404, "not-found", "");
    api.delete(A).await.is(204);
    api.delete(A).await.refused(404, "not-found", "");
}

#[tokio::test]
async fn app_passwords_come_and_go() {
    let api = Fixture::with_tenants().await;
    let path = format!("{A}/app-passwords");
    let created = api.post(&path, json!({ "label": "phone", "scope": "read_only" })).await.is(201).json();
    assert_eq!(created["password"].as_str().unwrap().len(), 29);
    let listed = api.get(&path).await.is(200).json();
    assert_eq!(
        (&listed["items"][0]["id"], &listed["items"][0]["scope"]),
        (&created["id"], &json!("read_only"))
    );
    for _ in 1..10 {
        api.post(&path, json!({ "label": "more" })).await.is(201);
    }
    api.post(&path, json!({ "label": "too many" })).await.refused(409, "too-many", "address");
    let one = format!("{path}/{}", created["id"].as_str().unwrap());
    api.delete(&one).await.is(204);
    api.delete(&one).await.refused(404, "not-found", "");
    api.delete(&format!("{path}/x")).await.refused(404, "not-found", "");
    api.post(&path, json!({ "label": "a\tb" })).await.refused(422, "invalid", "label");
}

#[tokio::test]
async fn aliases_lead_to_mailboxes() {
    let api = Fixture::with_tenants().await;
    let path = "/v1/tenants/one/aliases";
    api.post(path, json!({ "address": "Sales@one.test", "mailbox": "a@one.test" })).await.is(201);
    api.post(path, json!({ "address": "@one.test", "mailbox": "a@one.test" })).await.is(201);
    let listed = api.get(path).await.is(200).json();
    assert_eq!(listed["items"][0]["address"], "@one.test");
    api.get("/v1/tenants/one/aliases/@one.test").await.is(200);
    api.get("/v1/tenants/one/aliases/sales%40one.test").await.is(200);
    for (body, status, kind, field) in [
        (json!({ "address": "sales@one.test", "mailbox": "a@one.test" }), 409, "taken", "address"),
        (json!({ "address": "a@one.test", "mailbox": "a@one.test" }), 409, "taken", "address"),
        (json!({ "address": "x@two.test", "mailbox": "a@one.test" }), 409, "foreign-domain", "address"),
        (json!({ "address": "x@one.test", "mailbox": "a@two.test" }), 409, "no-such-mailbox", "mailbox"),
        (json!({ "address": "x", "mailbox": "a@one.test" }), 422, "invalid", "address"),
        (json!({ "address": "x@one.test", "mailbox": "@one.test" }), 422, "invalid", "mailbox"),
    ] {
        api.post(path, body).await.refused(status, kind, field);
    }
    api.delete("/v1/tenants/one/aliases/sales@one.test").await.is(204);
    api.delete("/v1/tenants/one/aliases/sales@one.test").await.refused(404, "not-found", "");
}

#[tokio::test]
async fn messages_are_delivered_read_deleted_and_restored() {
    let api = Fixture::with_tenants().await;
    api.patch(A, json!({ "policy": { "undelete_days": 7 } })).await.is(200);
    let path = format!("{A}/messages");
    let mail = [("content-type", "message/rfc822")];
    let delivered = api.request("POST", &path, &mail, "Subject: hi\n\n.dot\nlast").await.is(201).json();
    let uid = delivered["uid"].as_u64().unwrap();
    let raw = api.get(&format!("{path}/{uid}/raw")).await.is(200);
    assert_eq!(raw.text(), "Delivered-To: a@one.test\r\nSubject: hi\r\n\r\n.dot\r\nlast\r\n");
    assert_eq!(raw.header("content-type"), "message/rfc822");
    assert_eq!(raw.octets.len() as u64, delivered["octets"].as_u64().unwrap());
    api.traffic.flush().await;
    let traffic = &api.get("/v1/tenants/one/usage").await.is(200).json()["traffic"][0];
    assert_eq!(traffic["octets_out"], delivered["octets"]);
    let shown = api.get(&format!("{path}/{uid}")).await.is(200).json();
    assert_eq!(shown["octets"], delivered["octets"]);
    api.delete(&format!("{path}/{uid}")).await.is(204);
    api.delete(&format!("{path}/{uid}")).await.refused(404, "not-found", "");
    api.get(&format!("{path}/{uid}/raw")).await.refused(404, "not-found", "");
    let deleted = api.get(&format!("{path}?deleted=true")).await.is(200).json();
    assert_eq!(deleted["items"][0]["uid"], uid);
    assert!(deleted["items"][0]["restorable_until"].is_string());
    let restored = api.request("POST", &format!("{path}/{uid}/restore"), &[], "").await.is(200).json();
    assert_ne!(restored["uid"], uid);
    let raw = api.get(&format!("{path}/{}/raw", restored["uid"])).await.is(200);
    assert!(raw.text().ends_with("last\r\n"));
    // Its header is not ASCII: the answer says what lists say, which is what those are sent who take ASCII.
    let umlauts = api.request("POST", &path, &mail, "Subject: für alle\n\nx\n").await.is(201).json();
    let shown = api.get(&format!("{path}/{}", umlauts["uid"])).await.is(200).json();
    assert_eq!(shown["octets"], umlauts["octets"]);
    let stored = "Delivered-To: a@one.test\r\nSubject: für alle\r\n\r\nx\r\n".len() as u64;
    assert!(shown["octets"].as_u64().unwrap() > stored, "{shown}");
    // What was done by somebody else than the owner is on record (P2).
    let audit = api.get("/v1/tenants/one/audit?action=message").await.json();
    let actions: Vec<_> = audit["items"].as_array().unwrap().iter().map(|item| &item["action"]).collect();
    let expected = ["message.read", "message.restore", "message.delete", "message.read", "message.deliver"];
    let expected = [&["message.deliver"][..], &expected].concat();
    assert_eq!(actions, expected, "{audit}");
    for uid in ["x", "-1", "+1", "99", "99999999999999999999", "1%00"] {
        api.get(&format!("{path}/{uid}")).await.refused(404, "not-found", "");
    }
}

#[tokio::test]
async fn messages_that_cannot_be_taken_are_refused() {
    let api = Fixture::with_tenants().await;
    let path = format!("{A}/messages");
    let mail = [("content-type", "message/rfc822")];
    api.request("POST", &path, &[("content-type", "text/plain")], "x").await.refused(415, "media-type", "");
    api.request("POST", &path, &mail, "").await.refused(422, "invalid", "body");
    api.request("POST", &path, &mail, vec![b'x'; 1_000_001]).await.refused(413, "too-large", "");
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = (0..20).map(|_| Ok(vec![b'x'; 100_000])).collect();
    let body = axum::body::Body::from_stream(futures_util::stream::iter(pieces));
    api.request("POST", &path, &mail, body).await.refused(413, "too-large", "");
    let broken: Vec<Result<Vec<u8>, std::io::Error>> =
        vec![Ok(b"half".to_vec()), Err(std::io::Error::other("gone"))];
    let body = axum::body::Body::from_stream(futures_util::stream::iter(broken));
    api.request("POST", &path, &mail, body).await.refused(400, "broken-off", "");
    api.patch(A, json!({ "quota_octets": 100 })).await.is(200);
    api.request("POST", &path, &mail, vec![b'x'; 200]).await.refused(409, "over-quota", "");
    api.request("POST", &format!("{A}/suspend"), &[], "").await.is(200);
    api.request("POST", &path, &mail, "x").await.refused(409, "suspended", "");
    assert_eq!(api.get(&path).await.json()["items"], json!([]));
}

#[tokio::test]
async fn certificates_fit_their_host_and_key() {
    let api = Fixture::with_tenants().await;
    let made = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let ((chain, key), (_, other_key)) = (made(&["pop.one.test"]), made(&["pop.one.test"]));
    let put = async |host: &str, chain: &str, key: &str| {
        let path = format!("/v1/tenants/one/certificates/{host}");
        api.json("PUT", &path, &[], &json!({ "chain": chain, "key": key })).await
    };
    put("POP.one.test", &chain, &key).await.is(201);
    let again = put("pop.one.test", &chain, &key).await.is(200);
    assert_eq!(again.json()["host"], "pop.one.test");
    let shown = api.get("/v1/tenants/one/certificates/pop.one.test").await.is(200);
    assert_eq!(shown.json()["chain"], chain);
    assert!(!shown.text().contains("PRIVATE"));
    let (star, star_key) = made(&["*.one.test"]);
    put("imap.one.test", &star, &star_key).await.is(201);
    put("*.one.test", &star, &star_key).await.is(201);
    put("one.test", &star, &star_key).await.refused(422, "invalid", "chain");
    put("a.b.one.test", &star, &star_key).await.refused(422, "invalid", "chain");
    put("pop.one.test", &chain, &other_key).await.refused(422, "invalid", "key");
    put("pop.one.test", &key, &key).await.refused(422, "invalid", "chain");
    put("pop.one.test", "rubbish", &key).await.refused(422, "invalid", "chain");
    put("pop.one.test", &chain, "rubbish").await.refused(422, "invalid", "key");
    let (foreign, foreign_key) = made(&["pop.two.test"]);
    put("pop.two.test", &foreign, &foreign_key).await.refused(409, "foreign-domain", "host");
    put("b%00d", &chain, &key).await.refused(404, "not-found", "");
    let listed = api.get("/v1/tenants/one/certificates").await.is(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
    api.delete("/v1/tenants/one/certificates/pop.one.test").await.is(204);
    api.delete("/v1/tenants/one/certificates/pop.one.test").await.refused(404, "not-found", "");
}

#[tokio::test]
async fn logins_are_set_whole_and_shown_without_secrets() {
    const LOGIN: &str = "/v1/tenants/one/login";
    let api = Fixture::with_tenants().await;
    let shown = api.get(LOGIN).await.is(200);
    assert_eq!((shown.json(), shown.header("etag")), (json!({ "passwords": "internal" }), "\"0\""));
    let put = async |body: Value| api.json("PUT", LOGIN, &[], &body).await;
    let http = |secret: Value| json!({ "passwords": "http", "http": { "url": "https://auth.one.test/", "secret": secret } });
    let set = put(http(json!({ "value": "hush-hush" }))).await.is(200);
    let expected = json!({ "passwords": "http", "http": { "url": "https://auth.one.test/", "secret": {} } });
    assert_eq!((set.json(), set.header("etag")), (expected.clone(), "\"1\""));
    assert_eq!(api.get(LOGIN).await.json(), expected);
    let audit = api.get("/v1/tenants/one/audit?limit=1").await.is(200);
    assert!(audit.text().contains("tenant.set_login") && !audit.text().contains("hush"), "{}", audit.text());
    // A secret is given anew each time, so that it goes nowhere that who gave it did not mean.
    put(expected).await.refused(422, "invalid", "http.secret");
    put(json!({ "passwords": "ldap" })).await.refused(422, "invalid", "ldap");
    put(http(json!({ "value": "x", "file": "y" }))).await.refused(422, "invalid", "http.secret");
    put(http(json!({ "file": "y" }))).await.refused(422, "invalid", "http.secret");
    put(json!({ "password": "ldap" })).await.refused(400, "malformed", "password");
    let local =
        json!({ "passwords": "http", "http": { "url": "https://127.0.0.1/", "secret": { "value": "x" } } });
    put(local).await.refused(422, "invalid", "http.url");
    put(json!({ "default_domain": "two.test" })).await.refused(422, "invalid", "default_domain");
    let stale = [("If-Match", "\"0\"")];
    api.json("PUT", LOGIN, &stale, &json!({})).await.refused(412, "stale", "");
    let none = json!({ "passwords": "none", "default_domain": "One.TEST" });
    api.json("PUT", LOGIN, &[("If-Match", "\"1\"")], &none).await.is(200);
    assert_eq!(api.get(LOGIN).await.json()["default_domain"], "one.test");
    assert_eq!(api.get("/v1/tenants/two/login").await.json(), json!({ "passwords": "internal" }));
    api.delete(LOGIN).await.is(204);
    assert_eq!(api.get(LOGIN).await.json(), json!({ "passwords": "internal" }));
}

#[tokio::test]
async fn each_change_is_on_record_with_before_and_after() {
    let api = Fixture::with_tenants().await;
    api.patch(A, json!({ "quota_octets": 5 })).await.is(200);
    api.patch(A, json!({ "quota_octets": 6 })).await.is(200);
    let audit = api.get("/v1/tenants/one/audit?target=a@one.test&action=mailbox.update").await.is(200).json();
    let latest = &audit["items"][0];
    assert_eq!((&latest["before"]["quota_octets"], &latest["after"]["quota_octets"]), (&json!(5), &json!(6)));
    let page = api.get("/v1/tenants/one/audit?limit=1").await.json();
    let next = format!("/v1/tenants/one/audit?limit=1&before={}", page["next"].as_str().unwrap());
    assert!(api.get(&next).await.json()["items"][0]["id"].as_i64() < page["items"][0]["id"].as_i64());
    let all = api.get("/v1/tenants/one/audit").await.json()["items"].as_array().unwrap().len();
    let export = api.get("/v1/tenants/one/audit/export").await.is(200);
    assert_eq!(export.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = export.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), all);
    assert!(!export.text().contains("two.test"), "{}", export.text());
    let everything = api.get("/v1/audit/export").await.is(200);
    assert!(everything.text().contains("two.test"));
    assert!(!everything.text().contains("$argon2"), "a password's hash is in the audit log");
    for query in ["before=0", "since=x", "actor=%00", "limit=0"] {
        api.get(&format!("/v1/audit?{query}")).await.is(422);
    }
    let none = api.get("/v1/audit?since=2999-01-01T00:00:00Z").await.is(200).json();
    assert_eq!(none["items"], json!([]));
}

#[tokio::test]
async fn usage_has_bounds() {
    let api = Fixture::with_tenants().await;
    let usage = api.get("/v1/tenants/one/usage?from=2026-01-01&to=2026-02-01").await.is(200).json();
    assert_eq!((&usage["mailboxes"], &usage["traffic"]), (&json!(1), &json!([])));
    for (query, field) in [
        ("from=x", "from"),
        ("to=2026-02-30", "to"),
        ("from=2026-02-02&to=2026-02-01", "from"),
        ("from=2000-01-01", "from"),
    ] {
        api.get(&format!("/v1/tenants/one/usage?{query}")).await.refused(422, "invalid", field);
    }
    assert_eq!(api.get("/v1/sessions").await.is(200).json()["items"], json!([]));
    api.delete("/v1/tenants/one/sessions/nothing").await.refused(404, "not-found", "");
}

#[tokio::test]
async fn buckets_are_tried_out_before_they_are_set() {
    const BUCKET: &str = "/v1/tenants/one/bucket";
    let api = Fixture::with_tenants().await;
    let shown = api.get(BUCKET).await.is(200);
    let nothing = json!({
        "current": null, "earlier": [], "house_packs": 0, "house_octets": 0, "packs_elsewhere": 0,
        "octets_elsewhere": 0,
    });
    assert_eq!((shown.json(), shown.header("etag")), (nothing.clone(), "\"0\""));
    let put = async |change: Value| {
        let mut body = json!({
            "bucket": "own", "endpoint": "http://127.0.0.1:9", "access_key_id": "key", "secret_access_key": "hush-hush",
        });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        api.json("PUT", BUCKET, &[], &body).await
    };
    for (change, field) in [
        (json!({ "bucket": "a/b" }), "bucket"),
        (json!({ "bucket": "" }), "bucket"),
        (json!({ "prefix": "../x" }), "prefix"),
        (json!({ "region": "a.b" }), "region"),
        (json!({ "endpoint": "http://10.0.0.1" }), "endpoint"),
        (json!({ "endpoint": "http://127.0.0.1:9/path" }), "endpoint"),
        (json!({ "access_key_id": "" }), "access_key_id"),
        (json!({ "secret_access_key": "\n" }), "secret_access_key"),
    ] {
        put(change).await.refused(422, "invalid", field);
    }
    put(json!({ "secret": "x" })).await.refused(400, "malformed", "secret");
    // Nobody listens there.
    let unusable = put(json!({})).await;
    assert!(unusable.text().contains("write") && !unusable.text().contains("hush"), "{}", unusable.text());
    unusable.refused(422, "bucket-unusable", "");
    assert_eq!(api.get(BUCKET).await.json(), nothing);
    api.delete(BUCKET).await.is(204);
    api.delete("/v1/tenants/one/bucket/stores/1").await.refused(404, "not-found", "");
}
