//! BDAT (RFC 3030 §2).

use crate::driver::{Connection, config};

#[track_caller]
fn check(mut connection: Connection, input: &str, expected: &str, messages: &[&str]) {
    connection.feed(input.as_bytes());
    assert_eq!(connection.codes(), expected);
    assert_eq!(connection.messages, messages);
}

const BEGIN: &str = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<later@d>\r\n";
const BEGUN: &str = "250 2.1.0, 250 2.1.5, 250 2.1.5";

#[test]
fn line_ends_may_be_split_between_chunks() {
    check(
        Connection::new(config()),
        &format!("{BEGIN}BDAT 2\r\na\rBDAT 3\r\n\nb\nBDAT 0 LAST\r\n"),
        &format!("{BEGUN}, 250 2.0.0, 250 2.0.0, 250 2.0.0, 451 4.3.0"),
        &["a\r\nb\r\n"],
    );
    check(
        Connection::new(config()),
        &format!("{BEGIN}BDAT 1\r\na\r\nBDAT 1 LAST\r\nbRSET\r\n"),
        // The CRLF behind the first chunk is an empty command: chunks are not lines.
        &format!("{BEGUN}, 250 2.0.0, 500 5.5.1, 250 2.0.0, 451 4.3.0, 250 2.0.0"),
        &["ab\r\n"],
    );
}

#[test]
fn an_empty_message() {
    check(
        Connection::new(config()),
        &format!("{BEGIN}BDAT 0 LAST\r\n"),
        &format!("{BEGUN}, 250 2.0.0, 451 4.3.0"),
        &[""],
    );
}

#[test]
fn commands_among_chunks() {
    check(
        Connection::new(config()),
        &format!("{BEGIN}BDAT 1\r\naNOOP\r\nDATA\r\nRCPT TO:<e@f>\r\nMAIL FROM:<a@b>\r\nBDAT 1 LAST\r\nb"),
        &format!("{BEGUN}, 250 2.0.0, 250 2.0.0, 503 5.5.1, 503 5.5.1, 503 5.5.1, 250 2.0.0, 451 4.3.0"),
        &["ab\r\n"],
    );
    check(
        Connection::new(config()),
        &format!("{BEGIN}BDAT 1\r\naRSET\r\n{BEGIN}BDAT 1 LAST\r\nb"),
        &format!("{BEGUN}, 250 2.0.0, 250 2.0.0, {BEGUN}, 250 2.0.0, 451 4.3.0"),
        &["b\r\n"],
    );
}

/// RFC 2033 §4.2: the octets of a chunk come though nobody is to get them.
#[test]
fn chunks_without_recipients_are_drained() {
    let chunk = "MAIL FROM:<evil@b>\r\n";
    check(
        Connection::new(config()),
        &format!(
            "MAIL FROM:<a@b>\r\nRCPT TO:<unknown@d>\r\nBDAT 20\r\n{chunk}BDAT 20 LAST\r\n{chunk}NOOP\r\n"
        ),
        "250 2.1.0, 550 5.1.1, 503 5.5.1, 503 5.5.1, 250 2.0.0",
        &[],
    );
    check(
        Connection::new(config()),
        &format!("BDAT 20\r\n{chunk}BDAT 20 LAST\r\n{chunk}NOOP\r\n"),
        "503 5.5.1, 503 5.5.1, 250 2.0.0",
        &[],
    );
    // A recipient that comes after a lost chunk must not get the rest as a message.
    check(
        Connection::new(config()),
        "MAIL FROM:<a@b>\r\nBDAT 1\r\naRCPT TO:<c@d>\r\nBDAT 1 LAST\r\nb",
        "250 2.1.0, 503 5.5.1, 503 5.5.1, 503 5.5.1",
        &[],
    );
}

#[test]
fn refused_chunks_are_drained() {
    let connection = Connection::new(config()).refusing_data();
    check(
        connection,
        &format!("{BEGIN}BDAT 6\r\nRSET\r\nBDAT 6 LAST\r\nRSET\r\nNOOP\r\n"),
        &format!("{BEGUN}, 451 4.3.0, 451 4.3.0, 451 4.3.0, 250 2.0.0"),
        &[],
    );
}

#[test]
fn a_bdat_that_cannot_be_counted_ends_the_session() {
    for bad in ["BDAT", "BDAT x", "BDAT -1", "BDAT 1 FIRST", "BDAT 18446744073709551616 LAST"] {
        let mut connection = Connection::new(config());
        connection.feed(format!("{BEGIN}{bad}\r\nRCPT TO:<evil@b>\r\n").as_bytes());
        assert_eq!(connection.codes(), format!("{BEGUN}, 421 4.5.2"));
        assert!(connection.closed && !connection.events.iter().any(|event| event.contains("evil")));
    }
}

#[test]
fn huge_chunks_are_not_buffered() {
    let mut connection = Connection::new(config());
    connection.feed(format!("{BEGIN}BDAT 18446744073709551615 LAST\r\n").as_bytes());
    let octets = vec![b'x'; 64 * 1024];
    for _ in 0..900 {
        connection.feed(&octets);
    }
    assert_eq!(connection.codes(), BEGUN);
    assert_eq!(connection.events.last().map(String::as_str), Some("Reset"));
}

#[test]
fn body_events_are_bounded() {
    // The driver checks each event; bare line feeds are the content that grows most.
    let content = "\n".repeat(300_000);
    let mut connection = Connection::new(config());
    connection.feed(format!("{BEGIN}BDAT {} LAST\r\n{content}", content.len()).as_bytes());
    assert_eq!(connection.messages, [content.replace('\n', "\r\n")]);
}
