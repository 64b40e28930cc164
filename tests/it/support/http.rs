//! The smallest HTTP client that can talk to the admin API.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// The admin API of a node.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    addr: SocketAddr,
    token: String,
}

impl Http {
    pub(crate) fn new(addr: SocketAddr, token: &str) -> Self {
        Self { addr, token: token.to_owned() }
    }

    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { addr: self.addr, token: token.to_owned() }
    }

    /// Sends a request with a JSON body; gives status and body.
    pub(crate) fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, text) = self.raw(method, path, "application/json", body.to_string().as_bytes());
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let (status, _, text) = self.raw("GET", path, "", b"");
        (status, text)
    }

    /// Sends a request; gives status, head and body.
    pub(crate) fn raw(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> (u16, String, String) {
        self.send(method, path, content_type, &[], body)
    }

    /// Sends a request with these headers, too; gives status, head and body.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        if !self.token.is_empty() {
            request += &format!("Authorization: Bearer {}\r\n", self.token);
        }
        if !content_type.is_empty() {
            request += &format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        // A server that refuses a body early may close before it has read it.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let head = head.to_ascii_lowercase();
        let body =
            if head.contains("transfer-encoding: chunked") { dechunked(body) } else { body.to_owned() };
        (status, head, body)
    }
}

/// A body without the lengths of its chunks (RFC 9112 §7.1).
fn dechunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole += &rest[..length];
        body = rest[length..].strip_prefix("\r\n").unwrap_or("");
    }
    whole
}
