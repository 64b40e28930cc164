//! The form of what is said and of what is heard.

use pop3_proto::{ForwardedAddress, ForwardedClient};

/// The longest line of a reply, its line end included (RFC 2449 §4).
const REPLY_LINE_OCTETS: usize = 512;

/// What a proxy says of its client is fit for limits and logs.
pub(crate) fn check_forwarded(client: &ForwardedClient) {
    if let Some(ForwardedAddress::Known(address)) = client.address {
        assert_eq!(address, address.to_canonical());
    }
    if let Some(session) = &client.session {
        assert!((1..=128).contains(&session.len()) && session.bytes().all(|octet| octet.is_ascii_graphic()));
    }
}

/// Takes the status line off a reply and checks it.
pub(super) fn check_status(reply: &[u8], utf8: bool) -> (&[u8], &[u8]) {
    let end = reply.windows(2).position(|two| two == b"\r\n").expect("a reply ends in CRLF");
    let (status, rest) = reply.split_at(end + 2);
    let good = status.starts_with(b"+OK ") || status.starts_with(b"-ERR ") || status.starts_with(b"+ ");
    assert!(good, "{status:?}");
    // A challenge may be longer: RFC 5034 §4 sets no bound.
    assert!(status.len() <= REPLY_LINE_OCTETS || status.starts_with(b"+ "), "{} octets", status.len());
    let text = str::from_utf8(&status[..end]).expect("replies are UTF-8");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(utf8 || text.is_ascii(), "{text:?}");
    (status, rest)
}

/// One status line, and behind a good one perhaps lines that end in one with a dot (RFC 1939 §3).
pub(super) fn check_reply(reply: &[u8], utf8: bool) {
    let (status, rest) = check_status(reply, utf8);
    if rest.is_empty() {
        return;
    }
    assert!(status.starts_with(b"+OK "), "more lines behind {status:?}");
    let lines = rest.strip_suffix(b".\r\n").expect("the last line is a dot");
    assert!(lines.is_empty() || lines.ends_with(b"\r\n"));
    let lines = str::from_utf8(lines).expect("listings are UTF-8");
    for line in lines.split_terminator("\r\n") {
        assert!(!line.starts_with('.') && !line.is_empty() && line.len() < REPLY_LINE_OCTETS, "{line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

/// The reply to RETR or TOP: a client that undoes the byte-stuffing has the content, and one that takes LF alone for a
/// line end does not see an end before the end.
pub(super) fn check_content(reply: &[u8], content: &[u8]) {
    let (status, rest) = check_status(reply, true);
    if status.starts_with(b"-ERR ") {
        return assert!(rest.is_empty());
    }
    let body = rest.strip_suffix(b".\r\n").expect("the last line is a dot");
    assert!(body.is_empty() || body.ends_with(b"\r\n"));
    let mut unstuffed = Vec::with_capacity(body.len());
    for line in body.split_inclusive(|&octet| octet == b'\n') {
        match line {
            [b'.', rest @ ..] => {
                assert!(rest != b"\n" && rest != b"\r\n", "the reply ends before its end");
                unstuffed.extend_from_slice(rest);
            }
            line => unstuffed.extend_from_slice(line),
        }
    }
    let ended = content.is_empty() || content.ends_with(b"\r\n");
    let added: &[u8] = if ended { b"" } else { b"\r\n" };
    assert_eq!(unstuffed, [content, added].concat());
}
