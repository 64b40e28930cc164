//! API keys: from their creation to their end.

use serde_json::{Value, json};

use crate::fixture::Fixture;

#[tokio::test]
async fn a_key_is_good_until_it_is_deleted() {
    let api = Fixture::with_tenants().await;
    let created = api
        .post("/v1/tenants/one/api-keys", json!({ "label": "b\u{fc}ro", "role": "tenant_admin" }))
        .await
        .is(201)
        .json();
    let text = format!("Bearer {}", created["key"].as_str().unwrap());
    let headers = [("authorization", text.as_str())];
    api.request("GET", "/v1/tenants/one", &headers, "").await.is(200);
    // Its use is noted, by and by.
    let id = created["id"].as_str().unwrap();
    let listed = loop {
        let listed = api.get("/v1/tenants/one/api-keys").await.is(200).json();
        if !listed["items"][0]["last_used_at"].is_null() {
            break listed;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    let key = &listed["items"][0];
    assert_eq!((key["id"].as_str(), key["role"].as_str()), (Some(id), Some("tenant_admin")));
    assert_eq!(
        (key["label"].as_str(), key["created_by"].as_str()),
        (Some("b\u{fc}ro"), Some("bootstrap-token"))
    );
    // Who it was stands in the audit log.
    let path = "/v1/tenants/one/domains";
    api.json("POST", path, &headers, &json!({ "name": "x.one.test" })).await.is(201);
    let audit = api.request("GET", "/v1/tenants/one/audit?limit=1", &headers, "").await.is(200).json();
    assert_eq!(audit["items"][0]["actor"], format!("key:{id}"));
    // It may delete itself, and is good no longer.
    let path = format!("/v1/tenants/one/api-keys/{id}");
    api.request("DELETE", &path, &headers, "").await.is(204);
    api.request("GET", "/v1/tenants/one", &headers, "").await.refused(401, "unauthorized", "");
    api.delete(&path).await.refused(404, "not-found", "");
}

#[tokio::test]
async fn a_key_ends_when_it_says() {
    let api = Fixture::with_tenants().await;
    let soon = time::OffsetDateTime::now_utc() + time::Duration::seconds(1);
    let soon = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
    let body = json!({ "label": "short", "role": "tenant_reader", "expires_at": soon });
    let created = api.post("/v1/tenants/one/api-keys", body).await.is(201).json();
    let text = format!("Bearer {}", created["key"].as_str().unwrap());
    let headers = [("authorization", text.as_str())];
    api.request("GET", "/v1/tenants/one", &headers, "").await.is(200);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    api.request("GET", "/v1/tenants/one", &headers, "").await.refused(401, "unauthorized", "");
    for (body, status, kind, field) in [
        (
            json!({ "label": "x", "role": "tenant_reader", "expires_at": "2001-01-01T00:00:00Z" }),
            422,
            "invalid",
            "expires_at",
        ),
        (
            json!({ "label": "x", "role": "tenant_reader", "expires_at": "soon" }),
            422,
            "invalid",
            "expires_at",
        ),
        (json!({ "label": "", "role": "tenant_reader" }), 422, "invalid", "label"),
        (json!({ "label": "a\u{0}b", "role": "tenant_reader" }), 422, "invalid", "label"),
        (json!({ "label": "x".repeat(101), "role": "tenant_reader" }), 422, "invalid", "label"),
        (json!({ "label": "x", "role": "platform_admin" }), 400, "malformed", "role"),
        (json!({ "label": "x", "role": "metrics" }), 400, "malformed", "role"),
        (json!({ "label": "x" }), 400, "malformed", ""),
    ] {
        api.post("/v1/tenants/one/api-keys", body).await.refused(status, kind, field);
    }
    api.post("/v1/api-keys", json!({ "label": "x", "role": "tenant_admin" })).await.refused(
        400,
        "malformed",
        "role",
    );
}

#[tokio::test]
async fn what_is_no_good_key_is_never_told_why() {
    let api = Fixture::with_tenants().await;
    let good = api.key(Some("one"), "tenant_admin").await;
    let mut wrong_secret = good.clone();
    wrong_secret.replace_range(good.len() - 3.., "___");
    let texts = [
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer x",
        "Bearer pstk_",
        "Bearer 0123456789abcdef-bootstrab",
        "Bearer pstk_00000000000000000000000000000000_0000000000000000000000000000000000000000000",
        wrong_secret.as_str(),
        &good[7..],
    ];
    let mut answers: Vec<Value> = Vec::new();
    for text in texts {
        for path in ["/v1/tenants/one", "/v1/tenants/nobody", "/v1/frob", "/metrics"] {
            let answer = api.request("GET", path, &[("authorization", text)], "").await;
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            let mut document = answer.refused(401, "unauthorized", "").json();
            document.as_object_mut().unwrap().remove("request");
            answers.push(document);
        }
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn metrics_need_their_key_where_they_are_not_public() {
    let api = Fixture::with_tenants().await;
    let metrics = api.key(None, "metrics").await;
    api.request("GET", "/metrics", &[("authorization", &metrics)], "").await.is(200);
    api.get("/metrics").await.is(200);
    let admin = api.key(Some("one"), "tenant_admin").await;
    api.request("GET", "/metrics", &[("authorization", &admin)], "").await.refused(403, "forbidden", "");
    for path in ["/v1/tenants", "/v1/tenants/one", "/v1/tenants/nobody", "/v1/sessions"] {
        api.request("GET", path, &[("authorization", &metrics)], "").await.refused(403, "forbidden", "");
    }
}

#[tokio::test]
async fn a_tenant_has_a_hundred_keys_at_most() {
    let api = Fixture::with_tenants().await;
    let path = "/v1/tenants/one/api-keys";
    let body = json!({ "label": "x", "role": "tenant_reader" });
    for _ in 0..100 {
        api.post(path, body.clone()).await.is(201);
    }
    api.post(path, body.clone()).await.refused(409, "limit-reached", "");
    api.post("/v1/tenants/two/api-keys", body.clone()).await.is(201);
    api.post("/v1/api-keys", json!({ "label": "x", "role": "metrics" })).await.is(201);
    let listed = api.get(path).await.json();
    api.delete(&format!("{path}/{}", listed["items"][0]["id"].as_str().unwrap())).await.is(204);
    api.post(path, body).await.is(201);
}
