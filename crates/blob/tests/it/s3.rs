//! The S3 adapter against a real server.

use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::{Client, config::Credentials};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use blob::{BlobKey, ObjectStore, S3Config, S3Store, StaticCredentials};
use bytes::Bytes;
use maildrop::port::BlobError;

use crate::support::{House, noise, prose};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run by `cargo xtask test`"))
}

/// Settings for a bucket of its own.
fn config(bucket: &str) -> S3Config {
    S3Config {
        endpoint: Some(variable("POSTERN_TEST_S3_ENDPOINT")),
        credentials: Some(StaticCredentials {
            access_key: variable("POSTERN_TEST_S3_ACCESS_KEY"),
            secret_key: variable("POSTERN_TEST_S3_SECRET_KEY"),
        }),
        ..S3Config::new(bucket)
    }
}

/// The SDK without our adapter, to make buckets and to look behind it.
fn client(config: &S3Config) -> Client {
    let credentials = config.credentials.as_ref().unwrap();
    let credentials = Credentials::new(&credentials.access_key, &credentials.secret_key, None, None, "test");
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .build_https();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new("us-east-1"))
        .endpoint_url(config.endpoint.as_ref().unwrap())
        .force_path_style(true)
        .credentials_provider(credentials)
        .build();
    Client::from_conf(config)
}

async fn fresh_bucket() -> S3Config {
    let config = config(&format!("test-{}", uuid::Uuid::new_v4()));
    client(&config).create_bucket().bucket(&config.bucket).send().await.unwrap();
    config
}

async fn fresh() -> S3Store {
    S3Store::connect(fresh_bucket().await).await
}

mod contract {
    use super::fresh;
    crate::contract::contract!(async { (fresh().await, ()) });
}

fn key(text: &str) -> BlobKey {
    BlobKey::try_from(text).unwrap()
}

#[track_caller]
fn assert_misconfigured<T>(result: Result<T, BlobError>) {
    match result {
        Err(BlobError::Misconfigured(_)) => {}
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it worked"),
    }
}

#[tokio::test]
async fn a_missing_bucket_is_a_misconfiguration_and_not_a_missing_message() {
    let store = S3Store::connect(config("no-such-bucket-here")).await;
    assert_misconfigured(store.ready().await);
    assert_misconfigured(store.put(&key("a"), Bytes::new()).await);
    assert_misconfigured(store.get(&key("a"), 0..1).await);
    assert_misconfigured(store.list("", None).await);
    assert_misconfigured(store.upload(&key("a")).await);
}

#[tokio::test]
async fn wrong_credentials_are_a_misconfiguration() {
    let good = fresh_bucket().await;
    for (access_key, secret_key) in [("gwtest", "wrong"), ("nobody", "wrong")] {
        let credentials =
            Some(StaticCredentials { access_key: access_key.into(), secret_key: secret_key.into() });
        let store = S3Store::connect(S3Config { credentials, ..good.clone() }).await;
        assert_misconfigured(store.ready().await);
        assert_misconfigured(store.put(&key("a"), Bytes::from_static(b"x")).await);
        assert_misconfigured(store.get(&key("a"), 0..1).await);
    }
}

#[tokio::test]
async fn no_server_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = listener.local_addr().unwrap();
    drop(listener);
    let config = S3Config { endpoint: Some(format!("http://{refused}")), ..config("any") };
    let store = S3Store::connect(config).await;
    let ready = store.ready().await;
    assert!(matches!(ready, Err(BlobError::Unavailable(_))), "{ready:?}");
    let put = store.put(&key("a"), Bytes::from_static(b"x")).await;
    assert!(matches!(put, Err(BlobError::Unavailable(_))), "{put:?}");
}

#[tokio::test]
async fn dropped_uploads_are_aborted_on_the_server() {
    let config = fresh_bucket().await;
    let store = S3Store::connect(config.clone()).await;
    let mut upload = store.upload(&key("t/x")).await.unwrap();
    upload.part(Bytes::from(noise(5 * 1024 * 1024, 1))).await.unwrap();
    let behind = client(&config);
    let open = || async {
        behind.list_multipart_uploads().bucket(&config.bucket).send().await.unwrap().uploads().len()
    };
    assert_eq!(open().await, 1);
    drop(upload);
    for _ in 0..200 {
        if open().await == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("the upload is still there");
}

#[tokio::test]
async fn leftovers_of_dead_processes_are_aborted_by_age() {
    let config = fresh_bucket().await;
    let store = S3Store::connect(config.clone()).await;
    for name in ["t/1", "t/2", "u/3"] {
        client(&config).create_multipart_upload().bucket(&config.bucket).key(name).send().await.unwrap();
    }
    let now = time::OffsetDateTime::now_utc();
    assert_eq!(store.abort_leftovers("t/", now - time::Duration::HOUR).await.unwrap(), 0);
    assert_eq!(store.abort_leftovers("t/", now + time::Duration::HOUR).await.unwrap(), 2);
    assert_eq!(store.abort_leftovers("", now + time::Duration::HOUR).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_and_large_messages_come_back() {
    let house = House::new(fresh().await);
    for octets in [0, 1, 20_000, 300_000, 5_000_000, 30_000_000] {
        let message = prose(octets, 1);
        let stored = house.store(&message).await.unwrap();
        house.check_served(stored.extent, &message).await;
    }
    let message = noise(17_000_000, 2);
    let stored = house.store(&message).await.unwrap();
    house.check_served(stored.extent, &message).await;
}

/// Passes connections on to the server, cutting each off after so many octets of the server's answers.
async fn cutting_proxy(server: &str, octets: u64) -> String {
    use tokio::io::AsyncReadExt;

    let server = server.trim_start_matches("http://").to_owned();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move {
                let ((mut from_client, mut to_client), (from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let mut some = from_server.take(octets);
                drop(tokio::io::copy(&mut some, &mut to_client).await);
                up.abort();
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_cut_on_the_wire_are_resumed() {
    let config = fresh_bucket().await;
    let direct = House::new(S3Store::connect(config.clone()).await);
    let proxy = cutting_proxy(config.endpoint.as_ref().unwrap(), 900_000).await;
    let through = S3Store::connect(S3Config { endpoint: Some(proxy), ..config }).await;
    let cut = direct.also_on(through);
    let message = noise(6_000_000, 3);
    let stored = direct.store(&message).await.unwrap();
    cut.check_served(stored.extent, &message).await;
    // A short range is held whole: cut or not, what is served is right.
    let small = noise(200_000, 4);
    let stored = direct.store(&small).await.unwrap();
    for _ in 0..6 {
        cut.check_served(stored.extent, &small).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stands_still_ends_in_an_error() {
    use std::time::{Duration, Instant};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = client.read(&mut request).await.unwrap();
                let head = "HTTP/1.1 206 Partial Content\r\nContent-Length: 1000\r\n\
                            Content-Range: bytes 0-999/1000\r\n\r\nbeginning";
                client.write_all(head.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_mins(1)).await;
            });
        }
    });
    let stall_grace = Duration::from_secs(1);
    let config = S3Config { endpoint: Some(format!("http://{address}")), stall_grace, ..config("any") };
    let store = S3Store::connect(config).await;
    let began = Instant::now();
    let body = store.get(&key("a"), 0..1000).await.unwrap();
    let got = blob::collect(body).await;
    assert!(matches!(got, Err(BlobError::Unavailable(_))), "{got:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
