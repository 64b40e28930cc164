//! Trace fields: what a delivering server adds in front of a message (RFC 5321 §4.4).

use time::{OffsetDateTime, format_description::well_known::Rfc2822};

/// What the trace fields are made of.
#[derive(Debug, Clone)]
pub struct Trace<'a> {
    /// The reverse-path without angle brackets; empty for a bounce.
    pub sender: &'a str,
    /// What the client called itself in LHLO.
    pub client_name: &'a str,
    /// The client's address as text, or `unix` for a local socket.
    pub client_address: &'a str,
    /// Our own host name.
    pub hostname: &'a str,
    /// The protocol, as registered with IANA for `with`: `LMTP`, `LMTPS`, `UTF8LMTP`.
    pub protocol: &'a str,
    /// An identifier of the delivery that the log also carries.
    pub id: &'a str,
    /// When it came in.
    pub received_at: OffsetDateTime,
}

impl Trace<'_> {
    /// `Return-Path` and `Received`, with CRLF line ends, to be stored in front of the message.
    pub fn to_octets(&self) -> Vec<u8> {
        let date = self.received_at.format(&Rfc2822).unwrap_or_default();
        format!(
            "Return-Path: <{}>\r\nReceived: from {} ([{}])\r\n\tby {} (Postern) with {} id {};\r\n\t{}\r\n",
            clean(self.sender),
            clean(self.client_name),
            clean(self.client_address),
            clean(self.hostname),
            self.protocol,
            self.id,
            date,
        )
        .into_bytes()
    }
}

/// The `Delivered-To` line served in front of a message, with its CRLF. Empty for an empty address.
pub fn delivered_to(address: &str) -> String {
    if address.is_empty() { String::new() } else { format!("Delivered-To: {}\r\n", clean(address)) }
}

/// A header value must stay on its line whatever a peer called itself.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_fields_have_the_shape_of_rfc_5321() {
        let trace = Trace {
            sender: "a@b.test",
            client_name: "mx\r\nX-Evil: 1",
            client_address: "192.0.2.1",
            hostname: "pop.test",
            protocol: "LMTP",
            id: "42",
            received_at: OffsetDateTime::UNIX_EPOCH,
        };
        assert_eq!(
            String::from_utf8(trace.to_octets()).unwrap(),
            "Return-Path: <a@b.test>\r\nReceived: from mxX-Evil: 1 ([192.0.2.1])\r\n\tby pop.test (Postern) with LMTP id 42;\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n"
        );
        assert_eq!(delivered_to("x@y"), "Delivered-To: x@y\r\n");
    }
}
