//! What each role may do within its own tenant, and that it learns of no other.

use serde_json::{Value, json};

use crate::fixture::Fixture;

#[tokio::test]
async fn another_tenant_is_the_same_as_none() {
    let api = Fixture::with_tenants().await;
    for role in ["tenant_admin", "tenant_reader", "provisioning"] {
        let key = api.key(Some("one"), role).await;
        let headers = [("authorization", key.as_str())];
        for rest in ["", "/domains", "/mailboxes/a@two.test", "/audit/export", "/api-keys", "/frob"] {
            let mut answers: Vec<Value> = Vec::new();
            for tenant in ["two", "nobody", "NOT-A-NAME"] {
                let path = format!("/v1/tenants/{tenant}{rest}");
                let answer = api.request("GET", &path, &headers, "").await;
                assert_eq!(answer.status, 404, "{path}");
                let mut document = answer.json();
                document.as_object_mut().unwrap().remove("request");
                answers.push(document);
            }
            assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
        }
        for path in ["/v1/tenants", "/v1/audit", "/v1/sessions", "/v1/api-keys", "/v1/deletions"] {
            api.request("GET", path, &headers, "").await.refused(403, "forbidden", "");
        }
        api.request("DELETE", "/v1/tenants/two", &headers, "").await.refused(404, "not-found", "");
        api.request("DELETE", "/v1/tenants/one", &headers, "").await.refused(403, "forbidden", "");
    }
}

#[tokio::test]
async fn a_tenants_administrator_sets_policy_and_nothing_that_costs() {
    let api = Fixture::with_tenants().await;
    let key = api.key(Some("one"), "tenant_admin").await;
    let headers = [("authorization", key.as_str())];
    let body = json!({ "policy": { "expire_days": 30 } });
    api.json("PATCH", "/v1/tenants/one", &headers, &body).await.is(200);
    for field in
        ["quota_octets", "quota_messages", "over_allocation_percent", "mailbox_quota_octets", "limits"]
    {
        let body = json!({ "policy": { "expire_days": 31 }, field: null });
        api.json("PATCH", "/v1/tenants/one", &headers, &body).await.refused(403, "forbidden", field);
    }
    assert_eq!(api.get("/v1/tenants/one").await.json()["policy"]["expire_days"], 30);
}

#[tokio::test]
async fn readers_read_and_provisioners_provision() {
    let api = Fixture::with_tenants().await;
    let messages = "/v1/tenants/one/mailboxes/a@one.test/messages";
    let mail = [("content-type", "message/rfc822")];
    let delivered = api.request("POST", messages, &mail, "Subject: x\r\n\r\nx\r\n").await.is(201).json();
    let raw = format!("{messages}/{}/raw", delivered["uid"]);
    let reader = api.key(Some("one"), "tenant_reader").await;
    let headers = [("authorization", reader.as_str())];
    api.request("GET", messages, &headers, "").await.is(200);
    api.request("GET", &raw, &headers, "").await.refused(403, "forbidden", "");
    let body = json!({ "address": "b@one.test" });
    let mailboxes = "/v1/tenants/one/mailboxes";
    api.json("POST", mailboxes, &headers, &body).await.refused(403, "forbidden", "");
    let provisioner = api.key(Some("one"), "provisioning").await;
    let headers = [("authorization", provisioner.as_str())];
    api.json("POST", mailboxes, &headers, &body).await.is(201);
    api.request("POST", &format!("{mailboxes}/b@one.test/suspend"), &headers, "").await.is(200);
    api.request("POST", &format!("{mailboxes}/b@one.test/resume"), &headers, "").await.is(200);
    api.request("DELETE", &format!("{mailboxes}/b@one.test"), &headers, "").await.refused(
        403,
        "forbidden",
        "",
    );
    api.json("PATCH", &format!("{mailboxes}/b@one.test"), &headers, &json!({})).await.refused(
        403,
        "forbidden",
        "",
    );
    let password = format!("{mailboxes}/a@one.test/password");
    api.json("PUT", &password, &headers, &json!({ "password": "x" })).await.refused(403, "forbidden", "");
    api.request("GET", messages, &headers, "").await.refused(403, "forbidden", "");
}
