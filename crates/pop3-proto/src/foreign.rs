//! Peers that speak another protocol: hung up on at once, before a payload of theirs reads as commands.

use memchr::memmem;

/// The content type of a TLS handshake record (RFC 8446 §5.1), the first octet of every ClientHello.
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;

const HTTP_METHODS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"CONNECT ",
    b"PATCH ",
    b"TRACE ",
    b"PRI ",
];

/// Whether the line is TLS, or of an HTTP request: its first line, or the `Host` header for when the first
/// line was too long to be seen.
pub(crate) fn is_foreign(line: &[u8]) -> bool {
    line.first() == Some(&TLS_HANDSHAKE)
        || line.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"host:"))
        || (HTTP_METHODS.iter().any(|method| line.starts_with(method))
            && memmem::find(line, b" HTTP/").is_some())
}

#[cfg(test)]
mod tests {
    use super::is_foreign;

    #[test]
    fn knows_http_and_tls() {
        for line in ["GET / HTTP/1.1", "PRI * HTTP/2.0", "CONNECT a:1 HTTP/1.0", "host: a", "\x16\x03\x01"] {
            assert!(is_foreign(line.as_bytes()), "{line:?}");
        }
        for line in ["", "GET", "GET /", "PASS GET / HTTP/1.1", "USER host:", "QUIT", "HOST"] {
            assert!(!is_foreign(line.as_bytes()), "{line:?}");
        }
    }
}
