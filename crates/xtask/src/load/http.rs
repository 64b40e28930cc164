//! As much HTTP/1.1 as the admin API and S3 need: one request after the other on a connection kept open.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};

use super::wire::Wire;

/// An open connection.
pub(crate) struct Http {
    wire: Wire,
    host: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) octets: u64,
    /// Only where it was asked for.
    pub(crate) body: Vec<u8>,
}

impl Http {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { wire: Wire::connect(address).await?, host: address.to_string() })
    }

    /// Sends a request and reads its answer; the body is kept only if `keep`.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
        keep: bool,
    ) -> anyhow::Result<Answer> {
        let host = &self.host;
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{headers}\r\n");
        let mut request = Vec::with_capacity(head.len() + length);
        request.extend_from_slice(head.as_bytes());
        request.extend_from_slice(body);
        self.wire.send(&request).await?;
        let status_line = self.wire.line().await?;
        let status =
            std::str::from_utf8(status_line).ok().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.context("read HTTP status")?;
        let mut octets = 0;
        loop {
            let line = self.wire.line().await?;
            if line.is_empty() {
                break;
            }
            let line = String::from_utf8_lossy(line).to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                octets = value.trim().parse().context("read content length")?;
            } else if line.starts_with("transfer-encoding:") {
                bail!("{method} {path}: chunked answer");
            }
        }
        let mut kept = Vec::new();
        if keep || status >= 300 {
            kept = self.wire.take(octets as usize).await?;
        } else {
            self.wire.skip(octets).await?;
        }
        Ok(Answer { status, octets, body: kept })
    }
}

impl Answer {
    /// An error unless the request succeeded.
    pub(crate) fn good(self, what: &str) -> anyhow::Result<Self> {
        if !(200..300).contains(&self.status) {
            bail!("{what}: status {}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        Ok(self)
    }
}
