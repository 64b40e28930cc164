//! Past a bound the client gets a clear reply and the rest keeps working.

use lmtp_proto::Config;

use crate::driver::{Connection, config};

const BEGIN: &str = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\n";
const BEGUN: &str = "250 2.1.0, 250 2.1.5, 250 2.1.5";

fn small() -> Config {
    Config { max_message_octets: 10, max_recipients: 2, ..config() }
}

#[track_caller]
fn check(input: &str, expected: &str, events: &[&str]) {
    for size in [1, input.len()] {
        let mut connection = Connection::new(small());
        for octets in input.as_bytes().chunks(size) {
            connection.feed(octets);
        }
        assert_eq!(connection.codes(), expected);
        let events_behind_recipients = connection.events.iter().skip(3).map(String::as_str);
        assert_eq!(events_behind_recipients.collect::<Vec<_>>(), events);
    }
}

/// RFC 1870 §6.1.
#[test]
fn size_is_refused_before_it_is_sent() {
    check("MAIL FROM:<a@b> SIZE=10\r\n", "250 2.1.0", &[]);
    check("MAIL FROM:<a@b> SIZE=11\r\n", "552 5.3.4", &[]);
    check("MAIL FROM:<a@b> SIZE=99999999999999999999\r\nRSET\r\n", "552 5.3.4, 250 2.0.0", &[]);
}

#[test]
fn size_is_announced() {
    let mut connection = Connection::before_lhlo(small());
    connection.feed(b"LHLO a\r\n");
    assert!(String::from_utf8_lossy(&connection.out).ends_with("\r\n250 SIZE 10\r\n"));
}

/// RFC 1870 §6.3: a message that grows past the bound is drained, and refused for each recipient.
#[test]
fn a_message_too_large_by_data() {
    let fits = "12345678\r\n";
    check(
        &format!("{BEGIN}DATA\r\n{fits}.\r\n"),
        &format!("{BEGUN}, 354, 250 2.0.0, 250 2.0.0"),
        &["Data", "BodyEnd \"12345678\\r\\n\""],
    );
    check(
        &format!("{BEGIN}DATA\r\n123456789\r\nmore\r\n..\r\n.\r\nNOOP\r\n"),
        &format!("{BEGUN}, 354, 552 5.3.4, 552 5.3.4, 250 2.0.0"),
        &["Data", "Reset"],
    );
    // Counted as it is stored: each bare LF is two octets.
    check(
        &format!("{BEGIN}DATA\r\n1\n2\n3\n4\r\n.\r\n"),
        &format!("{BEGUN}, 354, 552 5.3.4, 552 5.3.4"),
        &["Data", "Reset"],
    );
}

#[test]
fn a_message_too_large_by_bdat() {
    check(
        &format!("{BEGIN}BDAT 11\r\n12345678901BDAT 5\r\nRSET\nBDAT 6 LAST\r\nRSET\r\nNOOP\r\n"),
        &format!("{BEGUN}, 552 5.3.4, 552 5.3.4, 552 5.3.4, 552 5.3.4, 250 2.0.0"),
        &["Data", "Reset"],
    );
    // The CRLF that is missing counts too.
    check(
        &format!("{BEGIN}BDAT 9 LAST\r\n123456789NOOP\r\n"),
        &format!("{BEGUN}, 552 5.3.4, 552 5.3.4, 250 2.0.0"),
        &["Data", "Reset"],
    );
}

/// RFC 5321 §4.5.3.1.10.
#[test]
fn recipients_are_limited() {
    check(
        &format!("{BEGIN}RCPT TO:<g@h>\r\nDATA\r\n.\r\n"),
        &format!("{BEGUN}, 452 4.5.3, 354, 250 2.0.0, 250 2.0.0"),
        &["Data", "BodyEnd \"\""],
    );
}

#[test]
fn an_overlong_line_is_answered_once() {
    let long = "x".repeat(10_000);
    check(&format!("NOOP {long}\r\nNOOP\r\n"), "500 5.5.2, 250 2.0.0", &[]);
    check(&format!("NOOP {}\r\n", "x".repeat(4_089)), "250 2.0.0", &[]);
    check(&format!("NOOP {}\r\n", "x".repeat(4_090)), "500 5.5.2", &[]);
}

#[test]
fn bad_commands_are_limited() {
    let mut connection = Connection::new(config());
    connection.feed(&b"WHAT\r\n".repeat(19));
    assert!(!connection.closed);
    connection.out.clear();
    connection.feed(b"RCPT TO:<a@b>\r\nNOOP\r\n");
    assert_eq!((connection.codes().as_str(), connection.closed), ("421 4.7.0", true));
}

#[test]
fn what_is_no_lmtp_ends_the_session() {
    for input in
        ["QUIT\n", "\x16\x03\x01", "POST / HTTP/1.1\r\n", "Host: a\r\n", "NOOP\nMAIL FROM:<evil@b>\r\n"]
    {
        let mut connection = Connection::new(config());
        connection.feed(input.as_bytes());
        connection.feed(b"MAIL FROM:<evil@b>\r\n");
        assert_eq!((connection.codes().as_str(), connection.closed), ("421 4.5.2", true), "{input:?}");
        assert!(connection.events.is_empty());
    }
}
