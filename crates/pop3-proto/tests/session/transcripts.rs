//! Whole conversations.

use crate::driver::{Connection, check, logged_in, open_policy};

/// RFC 1939 §10, with USER and PASS for its APOP. Texts differ, codes and numbers do not.
#[test]
fn example_of_rfc_1939_section_10() {
    let filler = "x".repeat(120 - 36);
    let longer = "x".repeat(200 - 36);
    let connection = check(
        Connection::new(open_policy()),
        &format!(
            "
            S: +OK POP3 server ready
            C: USER mrose
            S: +OK send PASS
            C: PASS secret
            S: +OK maildrop locked and ready
            C: STAT
            S: +OK 2 320
            C: LIST
            S: +OK 2 messages (320 octets)
            S: 1 120
            S: 2 200
            S: .
            C: RETR 1
            S: +OK 120 octets
            S: Subject: hello
            S:
            S: ..first
            S: second
            S: {filler}
            S: .
            C: DELE 1
            S: +OK message deleted
            C: RETR 2
            S: +OK 200 octets
            S: Subject: hello
            S:
            S: ..first
            S: second
            S: {longer}
            S: .
            C: DELE 2
            S: +OK message deleted
            C: QUIT
            S: +OK bye
            "
        ),
    );
    assert_eq!(connection.removed, Some(vec![1, 2]));
}

/// The examples of RFC 1939 §5.
#[test]
fn examples_of_rfc_1939_section_5() {
    check(
        logged_in(),
        "C: STAT
        S: +OK 2 320
        C: LIST 2
        S: +OK 2 200
        C: LIST 3
        S: -ERR no such message
        C: DELE 1
        S: +OK message deleted
        C: DELE 1
        S: -ERR no such message
        C: NOOP
        S: +OK nothing done
        C: RSET
        S: +OK maildrop has 2 messages (320 octets)
        ",
    );
}

/// The examples of RFC 1939 §7.
#[test]
fn examples_of_rfc_1939_section_7() {
    check(
        logged_in(),
        "C: TOP 1 0
        S: +OK top of message follows
        S: Subject: hello
        S:
        S: .
        C: TOP 1 1
        S: +OK top of message follows
        S: Subject: hello
        S:
        S: ..first
        S: .
        C: TOP 100 3
        S: -ERR no such message
        C: UIDL
        S: +OK unique-ids follow
        S: 1 whqtswO00WBw418f9t5JxYwZ
        S: 2 QhdPYR:00WBw1Ph7x7
        S: .
        C: UIDL 2
        S: +OK 2 QhdPYR:00WBw1Ph7x7
        C: UIDL 3
        S: -ERR no such message
        ",
    );
}

#[test]
fn deleted_messages_keep_their_number_and_leave_the_listings() {
    let connection = check(
        logged_in(),
        "C: DELE 1
        S: +OK message deleted
        C: STAT
        S: +OK 1 200
        C: LIST
        S: +OK 1 messages (200 octets)
        S: 2 200
        S: .
        C: UIDL
        S: +OK unique-ids follow
        S: 2 QhdPYR:00WBw1Ph7x7
        S: .
        C: LIST 1
        S: -ERR no such message
        C: UIDL 1
        S: -ERR no such message
        C: RETR 1
        S: -ERR no such message
        C: TOP 1 0
        S: -ERR no such message
        C: LIST 2
        S: +OK 2 200
        C: RSET
        S: +OK maildrop has 2 messages (320 octets)
        C: LIST 1
        S: +OK 1 120
        C: DELE 2
        S: +OK message deleted
        C: QUIT
        S: +OK bye
        ",
    );
    assert_eq!(connection.removed, Some(vec![2]));
}

/// RFC 1939 §5: with nothing to list, the answer is the dot alone.
#[test]
fn an_empty_maildrop_is_listed() {
    check(
        logged_in(),
        "C: DELE 1
        S: +OK message deleted
        C: DELE 2
        S: +OK message deleted
        C: STAT
        S: +OK 0 0
        C: LIST
        S: +OK 0 messages (0 octets)
        S: .
        C: UIDL
        S: +OK unique-ids follow
        S: .
        ",
    );
}

#[test]
fn quit_after_reset_removes_nothing() {
    let connection = check(
        logged_in(),
        "C: DELE 1
        S: +OK message deleted
        C: RSET
        S: +OK maildrop has 2 messages (320 octets)
        C: QUIT
        S: +OK bye
        ",
    );
    assert_eq!(connection.removed, Some(vec![]));
}

#[test]
fn quit_that_cannot_commit_is_an_error() {
    let connection = Connection::new(open_policy()).failing_commits();
    let connection = check(
        connection,
        "S: +OK POP3 server ready
        C: USER mrose
        S: +OK send PASS
        C: PASS secret
        S: +OK maildrop locked and ready
        C: DELE 1
        S: +OK message deleted
        C: QUIT
        S: -ERR [SYS/TEMP] deletions could not be committed, please try again later
        ",
    );
    assert_eq!(connection.removed, None);
}

#[test]
fn commands_in_lower_case_with_trailing_spaces() {
    check(
        logged_in(),
        "C: stat \n        S: +OK 2 320
        C: list \n        S: +OK 2 messages (320 octets)
        S: 1 120
        S: 2 200
        S: .
        C: uidl 1 \n        S: +OK 1 whqtswO00WBw418f9t5JxYwZ
        C: Quit\n        S: +OK bye
        ",
    );
}
