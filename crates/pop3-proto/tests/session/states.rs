//! What each state allows, and how sessions end.

use pop3_proto::{Authorization, AuthorizationStep, CloseReason, DropListing, Line, MessageNumber};

use crate::driver::{Connection, logged_in, open_policy};

#[test]
fn quit_before_login_is_no_update() {
    let mut connection = Connection::new(open_policy());
    connection.out.clear();
    connection.feed(b"QUIT\r\nUSER mrose\r\nPASS secret\r\n");
    assert_eq!(connection.out, b"+OK bye\r\n");
    assert_eq!((connection.closed, connection.removed), (Some(CloseReason::Quit), None));
}

#[test]
fn nothing_is_processed_after_quit() {
    let mut connection = logged_in();
    connection.feed(b"QUIT\r\nDELE 1\r\nNOOP\r\n");
    assert_eq!(connection.out, b"+OK bye\r\n");
    assert_eq!(connection.steps, ["Quit"]);
    assert_eq!(connection.removed, Some(vec![]));
}

#[test]
fn commands_of_the_other_state_are_refused() {
    for line in ["STAT", "LIST", "LIST 1", "RETR 1", "DELE 1", "NOOP", "RSET", "TOP 1 1", "UIDL"] {
        let mut connection = Connection::new(open_policy());
        connection.out.clear();
        connection.feed(format!("{line}\r\n").as_bytes());
        assert_eq!(connection.out, b"-ERR log in first\r\n", "{line}");
    }
    for line in ["USER mrose", "PASS secret", "STLS", "UTF8"] {
        let mut connection = logged_in();
        connection.feed(format!("{line}\r\n").as_bytes());
        assert_eq!(connection.out, b"-ERR you are logged in already\r\n", "{line}");
    }
}

#[test]
fn what_is_not_offered_is_a_clean_error() {
    for line in
        ["APOP mrose c4c9334bac560ecc979e58001b3e22fb", "AUTH", "AUTH ", "AUTH PLAIN", "LAST", "XTND", ""]
    {
        for mut connection in [Connection::new(open_policy()), logged_in()] {
            connection.out.clear();
            connection.feed(format!("{line}\r\n").as_bytes());
            assert!(connection.out.starts_with(b"-ERR ") && connection.out.ends_with(b"\r\n"));
            assert_eq!(String::from_utf8_lossy(&connection.out).lines().count(), 1);
            assert!(!connection.is_over());
        }
    }
}

#[test]
fn bad_commands_are_limited_across_states() {
    let mut connection = Connection::new(open_policy());
    connection.feed(&b"WHAT\r\n".repeat(10));
    connection.feed(b"USER mrose\r\nPASS secret\r\nDELE 1\r\n");
    connection.feed(&b"RETR 0\r\n".repeat(9));
    assert!(!connection.is_over());
    connection.out.clear();
    connection.feed(b"WHAT\r\nQUIT\r\n");
    assert_eq!(connection.out, b"-ERR too many bad commands, nothing was deleted\r\n");
    assert_eq!((connection.closed, connection.removed), (Some(CloseReason::TooManyBadCommands), None));
}

#[test]
fn an_absent_message_is_not_a_bad_command() {
    let mut connection = logged_in();
    connection.feed(&b"RETR 3\r\n".repeat(100));
    assert!(!connection.is_over());
}

#[test]
fn an_overlong_line_is_answered_once() {
    let mut connection = logged_in();
    connection.feed(format!("NOOP {}\r\nSTAT\r\n", "QUIT ".repeat(4_000)).as_bytes());
    assert_eq!(connection.out, b"-ERR the line is too long\r\n+OK 2 320\r\n");
}

#[test]
fn http_and_tls_are_hung_up_on() {
    let long_request = format!("GET /{} HTTP/1.1\r\nHost: a\r\nUSER a\r\n", "x".repeat(2_000));
    let requests =
        ["GET / HTTP/1.1\r\nUSER a\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n", &long_request, "\x16\x03\x01"];
    for request in requests {
        let mut connection = Connection::new(open_policy());
        connection.feed(request.as_bytes());
        assert_eq!(connection.closed, Some(CloseReason::ForeignProtocol));
        assert!(connection.steps.is_empty());
    }
    let mut connection = logged_in();
    connection.feed(b"DELE 1\r\nPOST / HTTP/1.1\r\nQUIT\r\n");
    assert_eq!((connection.closed, connection.removed), (Some(CloseReason::ForeignProtocol), None));
}

#[test]
fn nothing_sent_is_repeated() {
    for line in ["\x1b[31mEVIL", "RETR \x1b[31mEVIL", "USER \x1b[31mEVIL", "EVIL", "LIST EVIL", "TOP 1 EVIL"]
    {
        for mut connection in [Connection::new(open_policy()), logged_in()] {
            connection.feed(format!("{line}\r\n").as_bytes());
            let said = String::from_utf8_lossy(&connection.out).into_owned();
            assert!(!said.contains("EVIL") && !said.contains('\x1b'), "{said:?}");
        }
    }
}

#[test]
fn totals_can_be_corrected_until_a_message_is_marked() {
    let mut out = Vec::new();
    let AuthorizationStep::Continue(state) =
        Authorization::new(open_policy()).line(Line::Complete(b"USER a"), &mut out)
    else {
        panic!("USER is taken");
    };
    let AuthorizationStep::Login(login, _) = state.line(Line::Complete(b"PASS b"), &mut out) else {
        panic!("PASS is taken");
    };
    let mut state = login.accept(DropListing { messages: 1, octets: 10 }, &mut out);
    let (first, third) = (MessageNumber::new(1).unwrap(), MessageNumber::new(3).unwrap());
    let big = DropListing { messages: 2, octets: 1 << 40 };
    state.totals_replaced(big);
    assert_eq!(state.totals(), big);
    state.deleted(first, 1 << 39, &mut out);
    state.totals_replaced(DropListing::default());
    assert_eq!(state.totals(), DropListing { messages: 1, octets: 1 << 39 });
    out.clear();
    state.deleted(first, 1, &mut out);
    state.deleted(third, 1, &mut out);
    assert_eq!(out, b"-ERR no such message\r\n-ERR no such message\r\n");
    assert!(state.is_deleted(first) && !state.is_deleted(third));
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    let mut connection = Connection::new(open_policy());
    connection.out.clear();
    connection.feed(b"USER mrose\r\nPASS secret\r\nSTAT\r\nLIST 1\r\nDELE 1\r\nSTAT\r\nQUIT\r\n");
    let expected = [
        "+OK send PASS",
        "+OK maildrop locked and ready",
        "+OK 2 320",
        "+OK 1 120",
        "+OK message deleted",
        "+OK 1 200",
        "+OK bye",
        "",
    ];
    assert_eq!(String::from_utf8_lossy(&connection.out), expected.join("\r\n"));
}
