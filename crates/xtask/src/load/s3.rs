//! A bare S3 client, for the store's own rates: path-style requests signed by Signature Version 4.

use std::{fmt::Write as _, net::SocketAddr};

use anyhow::Context as _;
use aws_lc_rs::{digest, hmac};
use time::{OffsetDateTime, macros::format_description};

use super::http::Http;
use crate::services::{ADMIN_KEY, ADMIN_SECRET};

const REGION: &str = "us-east-1";

/// Octets with their digest, which is computed once and not for each request.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) octets: Vec<u8>,
    sha256: String,
}

impl Payload {
    /// Takes the octets of an object.
    pub(crate) fn new(octets: Vec<u8>) -> Self {
        let sha256 = hex(digest::digest(&digest::SHA256, &octets).as_ref());
        Self { octets, sha256 }
    }
}

/// One connection to the store.
pub(crate) struct S3 {
    http: Http,
    host: String,
}

impl S3 {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { http: Http::connect(address).await?, host: address.to_string() })
    }

    /// Creates a bucket.
    pub(crate) async fn create_bucket(&mut self, bucket: &str) -> anyhow::Result<()> {
        self.put(&format!("/{bucket}"), &Payload::new(Vec::new())).await
    }

    /// Writes an object.
    pub(crate) async fn put(&mut self, path: &str, payload: &Payload) -> anyhow::Result<()> {
        let headers = self.sign("PUT", path, &payload.sha256)?;
        self.http.request("PUT", path, &headers, &payload.octets, false).await?.good("PUT")?;
        Ok(())
    }

    /// Reads an object; its octets are counted and thrown away.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<u64> {
        let empty = hex(digest::digest(&digest::SHA256, b"").as_ref());
        let headers = self.sign("GET", path, &empty)?;
        Ok(self.http.request("GET", path, &headers, b"", false).await?.good("GET")?.octets)
    }

    fn sign(&self, method: &str, path: &str, sha256: &str) -> anyhow::Result<String> {
        let now = OffsetDateTime::now_utc();
        let stamp = now
            .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
            .context("format time")?;
        let day = &stamp[..8];
        let host = &self.host;
        let signed = "host;x-amz-content-sha256;x-amz-date";
        let request = format!(
            "{method}\n{path}\n\nhost:{host}\nx-amz-content-sha256:{sha256}\nx-amz-date:{stamp}\n\n{signed}\n{sha256}"
        );
        let scope = format!("{day}/{REGION}/s3/aws4_request");
        let digest = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}");
        let mut key = mac(format!("AWS4{ADMIN_SECRET}").as_bytes(), day);
        for part in [REGION, "s3", "aws4_request"] {
            key = mac(key.as_ref(), part);
        }
        let signature = hex(mac(key.as_ref(), &text).as_ref());
        Ok(format!(
            "x-amz-content-sha256: {sha256}\r\nx-amz-date: {stamp}\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential={ADMIN_KEY}/{scope}, SignedHeaders={signed}, Signature={signature}\r\n"
        ))
    }
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}
