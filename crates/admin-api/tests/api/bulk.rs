//! Many mailboxes in one request.

use std::fmt::Write as _;

use axum::body::{Body, Bytes};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use crate::fixture::{Fixture, TOKEN};

const BULK: &str = "/v1/tenants/one/mailboxes/bulk";
const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

#[tokio::test]
async fn each_line_has_its_answer() {
    let api = Fixture::with_tenants().await;
    let long = format!("{{\"address\":\"{}\"}}", "x".repeat(70_000));
    let lines = [
        "{\"address\":\"b@one.test\",\"password\":\"x\",\"quota_octets\":5}",
        "rubbish",
        "{\"address\":\"B@one.test\"}",
        "{\"address\":\"a@one.test\"}",
        "{\"address\":\"c@two.test\"}",
        "",
        &long,
        "{\"address\":\"d@one.test\",\"frob\":1}",
        "{\"address\":\"e@one.test\",\"suspended\":true}",
    ];
    let answer = api.request("POST", BULK, &NDJSON, lines.join("\n")).await.is(200);
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let results: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> = results.iter().map(|result| result["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 400, 409, 409, 409, 400, 413, 400, 201]);
    assert_eq!(results[0], json!({ "line": 1, "address": "b@one.test", "status": 201 }));
    assert_eq!(results[2]["problem"]["type"], "urn:postern:problem:taken");
    assert_eq!(results[7]["problem"]["field"], "frob");
    assert_eq!(api.get("/v1/tenants/one/mailboxes/e@one.test").await.json()["state"], "suspended");
    let count = api.get("/v1/tenants/one/mailboxes").await.json()["items"].as_array().unwrap().len();
    assert_eq!(count, 3);
    api.request("POST", BULK, &[("content-type", "application/json")], "").await.refused(
        415,
        "media-type",
        "",
    );
    assert_eq!(api.request("POST", BULK, &NDJSON, "").await.is(200).octets, b"");
}

#[tokio::test]
async fn hundreds_of_lines_come_in_chunks() {
    let api = Fixture::with_tenants().await;
    let lines = (0..450).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "{{\"address\":\"m{number}@one.test\",\"password\":\"pw{number}\"}}");
        text
    });
    // Sent in pieces that end wherever they end.
    let pieces: Vec<_> =
        lines.as_bytes().chunks(777).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    let body = axum::body::Body::from_stream(futures_util::stream::iter(pieces));
    let answer = api.request("POST", BULK, &NDJSON, body).await.is(200);
    let created = answer.text().lines().filter(|line| line.contains("\"status\":201")).count();
    assert_eq!(created, 450);
    let usage = api.get("/v1/tenants/one/usage").await.is(200).json();
    assert_eq!(usage["mailboxes"], 451);
    // The same again changes nothing.
    let answer = api.request("POST", BULK, &NDJSON, lines).await.is(200);
    assert_eq!(answer.text().lines().filter(|line| line.contains("\"status\":409")).count(), 450);
}

#[tokio::test]
async fn answers_are_short_however_long_the_lines_are() {
    let api = Fixture::with_tenants().await;
    let long = "\u{fc}".repeat(30_000);
    let lines = [
        format!("{{\"address\":\"x{long}@one.test\"}}"),
        format!("{{\"address\":\"b@one.test\",\"x{long}\":1}}"),
        format!("{{\"address\":\"b@one.test\",\"suspended\":\"{long}\"}}"),
        format!("{{\"x{long}\":1,\"x{long}\":1}}"),
    ];
    for line in lines {
        let answer = api.request("POST", BULK, &NDJSON, line).await.is(200);
        assert!(answer.octets.len() < 1500, "{}", answer.octets.len());
        assert_eq!(answer.json()["line"], 1);
        assert!(answer.json()["problem"]["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    }
}

/// A bulk creation that is under way: one line was sent and answered.
async fn begun(api: &Fixture, key: &str) -> (mpsc::Sender<Bytes>, Body) {
    let (lines, sent) = mpsc::channel(8);
    let body = stream::unfold(sent, |mut sent| async move {
        sent.recv().await.map(|octets: Bytes| (Ok::<_, std::io::Error>(octets), sent))
    });
    let request = axum::http::Request::post(BULK)
        .header("authorization", key)
        .header("content-type", NDJSON[0].1)
        .body(Body::from_stream(body))
        .unwrap();
    let mut body = api.router.clone().oneshot(request).await.unwrap().into_body();
    lines.send("{\"address\":\"b@one.test\"}\n".into()).await.unwrap();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&first).unwrap(),
        json!({ "line": 1, "address": "b@one.test", "status": 201 })
    );
    (lines, body)
}

/// What is answered to more lines of it: each line's number, status and kind of problem.
async fn goes_on((lines, body): (mpsc::Sender<Bytes>, Body)) -> Vec<(u64, u64, String)> {
    let more = "{\"address\":\"c@one.test\"}\n{\"address\":\"d@one.test\"}\n";
    lines.send(more.into()).await.unwrap();
    let mut answers = body.into_data_stream();
    let mut answer = answers.next().await.unwrap().unwrap().to_vec();
    drop(lines);
    while let Some(octets) = answers.next().await {
        answer.extend_from_slice(&octets.unwrap());
    }
    let results = std::str::from_utf8(&answer).unwrap().lines().map(|line| {
        let result: Value = serde_json::from_str(line).unwrap();
        let kind = result["problem"]["type"].as_str().unwrap_or("").to_owned();
        (result["line"].as_u64().unwrap(), result["status"].as_u64().unwrap(), kind)
    });
    results.collect()
}

#[tokio::test]
async fn a_key_that_was_deleted_creates_no_more() {
    let api = Fixture::with_tenants().await;
    let key = api.key(Some("one"), "provisioning").await;
    let import = begun(&api, &key).await;
    let listed = api.get("/v1/tenants/one/api-keys").await.json();
    let id = listed["items"][0]["id"].as_str().unwrap();
    api.delete(&format!("/v1/tenants/one/api-keys/{id}")).await.is(204);
    let refused = (2, 401, "urn:postern:problem:unauthorized".to_owned());
    assert_eq!(goes_on(import).await, [refused]);
    api.get("/v1/tenants/one/mailboxes/b@one.test").await.is(200);
    for address in ["c@one.test", "d@one.test"] {
        api.get(&format!("/v1/tenants/one/mailboxes/{address}")).await.is(404);
    }
}

#[tokio::test]
async fn a_tenant_that_is_deleted_gets_no_more() {
    let api = Fixture::with_tenants().await;
    let key = api.key(None, "platform_admin").await;
    let import = begun(&api, &key).await;
    api.delete("/v1/tenants/one").await.is(202);
    let refused = (2, 404, "urn:postern:problem:not-found".to_owned());
    assert_eq!(goes_on(import).await, [refused]);
}

#[tokio::test]
async fn what_is_still_good_goes_on() {
    let api = Fixture::with_tenants().await;
    let import = begun(&api, &format!("Bearer {TOKEN}")).await;
    assert_eq!(goes_on(import).await, [(2, 201, String::new()), (3, 201, String::new())]);
}
