//! What is not exactly a message number is never message 1.

use crate::driver::logged_in;

#[track_caller]
fn check(line: &str, expected_step: Option<&str>) {
    let mut connection = logged_in();
    connection.feed(format!("{line}\r\n").as_bytes());
    let said = String::from_utf8_lossy(&connection.out).into_owned();
    match expected_step {
        Some(step) => assert_eq!(connection.steps, [step]),
        None => assert!(connection.steps.is_empty() && said.starts_with("-ERR "), "{said}"),
    }
    assert!(!connection.is_over());
}

#[test]
fn only_message_numbers_reach_the_maildrop() {
    let wrong = [
        "0",
        "-1",
        "+1",
        "01",
        "1x",
        "3",
        "4294967295",
        "4294967296",
        "4294967297",
        "18446744073709551616",
        "18446744073709551617",
        "1.",
        "1,2",
        "0x1",
        "*",
        "1:2",
    ];
    for number in wrong {
        for verb in ["RETR", "DELE", "LIST", "UIDL"] {
            check(&format!("{verb} {number}"), None);
        }
        check(&format!("TOP {number} 1"), None);
    }
    check("LIST 1 2", None);
    check("DELE 1 2", None);
    check("RETR", None);
}

#[test]
fn line_counts_of_top() {
    check("TOP 1", None);
    check("TOP 1 -1", None);
    check("TOP 1 1x", None);
    check("TOP 1 0", Some("Top(MessageNumber(1), 0)"));
    check("TOP 2 99999999999999999999999", Some("Top(MessageNumber(2), 18446744073709551615)"));
}

#[test]
fn requests_carry_the_number() {
    check("RETR 2", Some("Retrieve(MessageNumber(2))"));
    check("LIST 1", Some("List(Some(MessageNumber(1)))"));
    check("LIST ", Some("List(None)"));
    check("UIDL", Some("UniqueIds(None)"));
    check("DELE 1", Some("Delete(MessageNumber(1))"));
}
