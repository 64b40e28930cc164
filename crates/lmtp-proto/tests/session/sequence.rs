//! Which command may follow which, and how sessions end.

use lmtp_proto::{Address, Event, Outcome, RecipientAnswer, Session, Step};

use crate::driver::{Connection, config};

#[track_caller]
fn check(input: &str, expected: &str, events: &[&str]) {
    let mut connection = Connection::new(config());
    connection.feed(input.as_bytes());
    assert_eq!(connection.codes(), expected);
    assert_eq!(connection.events, events);
}

const BEGIN: &str = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

#[test]
fn commands_out_of_sequence() {
    check("RCPT TO:<a@b>\r\n", "503 5.5.1", &[]);
    check("DATA\r\n", "503 5.5.1", &[]);
    check("MAIL FROM:<a@b>\r\nMAIL FROM:<c@d>\r\n", "250 2.1.0, 503 5.5.1", &["Mail a@b"]);
    check("MAIL FROM:<a@b>\r\nDATA\r\n", "250 2.1.0, 503 5.5.1", &["Mail a@b"]);
    check(
        "MAIL FROM:<a@b>\r\nRCPT TO:<unknown@d>\r\nDATA\r\nRSET\r\n",
        "250 2.1.0, 550 5.1.1, 503 5.5.1, 250 2.0.0",
        &["Mail a@b", "Recipient unknown@d", "Reset"],
    );
}

#[test]
fn mail_needs_lhlo() {
    let mut connection = Connection::before_lhlo(config());
    connection.out.clear();
    connection.feed(b"MAIL FROM:<a@b>\r\nNOOP\r\nRSET\r\n");
    assert_eq!(connection.codes(), "503 5.5.1, 250 2.0.0, 250 2.0.0");
}

/// RFC 2033 §4.1.
#[test]
fn helo_and_ehlo_are_never_positive() {
    check("HELO a\r\nEHLO a\r\nehlo a\r\n", "500 5.5.1, 500 5.5.1, 500 5.5.1", &[]);
    let mut connection = Connection::before_lhlo(config());
    connection.out.clear();
    connection.feed(b"EHLO a\r\nMAIL FROM:<a@b>\r\n");
    assert_eq!(connection.codes(), "500 5.5.1, 503 5.5.1");
}

#[test]
fn commands_at_any_time() {
    check(
        &format!("NOOP\r\n{BEGIN}noop\r\nVRFY c\r\nHELP\r\nRSET\r\nDATA\r\n"),
        "250 2.0.0, 250 2.1.0, 250 2.1.5, 250 2.0.0, 252 2.5.0, 214 2.0.0, 250 2.0.0, 503 5.5.1",
        &["Mail a@b", "Recipient c@d", "Reset"],
    );
}

#[test]
fn lhlo_resets() {
    let mut connection = Connection::new(config());
    connection.feed(format!("{BEGIN}LHLO again\r\nDATA\r\n").as_bytes());
    assert_eq!(connection.events, ["Mail a@b", "Recipient c@d", "Reset"]);
    assert!(connection.codes().ends_with("503 5.5.1"));
}

#[test]
fn unicode_addresses_need_smtputf8() {
    check("MAIL FROM:<å@b>\r\n", "553 5.6.7", &[]);
    check("MAIL FROM:<a@b>\r\nRCPT TO:<å@d>\r\n", "250 2.1.0, 553 5.6.7", &["Mail a@b"]);
    check(
        "MAIL FROM:<å@b> SMTPUTF8\r\nRCPT TO:<ö@ü.example>\r\n",
        "250 2.1.0, 250 2.1.5",
        &["Mail å@b", "Recipient ö@ü.example"],
    );
}

#[test]
fn addresses_are_handed_over_unquoted() {
    check(
        "MAIL FROM:<>\r\nRCPT TO:<@x,@y:\"a b\"@d>\r\nRCPT TO:<postmaster>\r\nRCPT TO:<a@[192.0.2.1]>\r\n",
        "250 2.1.0, 250 2.1.5, 250 2.1.5, 250 2.1.5",
        &["Mail <>", "Recipient \"a b\"@d", "Recipient postmaster", "Recipient a@[192.0.2.1]"],
    );
    let address = Address::parse("\"a b\"@d").unwrap();
    assert_eq!((address.local(), address.domain()), ("a b", Some("d")));
}

#[test]
fn data_that_is_refused() {
    let mut connection = Connection::new(config()).refusing_data();
    connection.feed(format!("{BEGIN}DATA\r\n{BEGIN}").as_bytes());
    assert_eq!(connection.codes(), "250 2.1.0, 250 2.1.5, 451 4.3.0, 250 2.1.0, 250 2.1.5");
}

#[test]
fn quit_ends_the_session() {
    let mut connection = Connection::new(config());
    connection.feed(b"QUIT\r\nMAIL FROM:<a@b>\r\n");
    connection.feed(b"MAIL FROM:<a@b>\r\n");
    assert_eq!(
        (connection.codes().as_str(), connection.closed, connection.events.len()),
        ("221 2.0.0", true, 0)
    );
}

#[test]
fn farewells() {
    type Farewell = fn(&mut Session, &mut Vec<u8>);
    let farewells: [(Farewell, &str); 3] = [
        (Session::shutting_down, "421 4.3.2"),
        (Session::idle_timeout, "421 4.4.2"),
        (Session::too_many_connections, "421 4.3.2"),
    ];
    for (farewell, expected) in farewells {
        let mut connection = Connection::new(config());
        connection.feed(BEGIN.as_bytes());
        connection.out.clear();
        assert!(connection.session.is_between_commands() && connection.session.has_transaction());
        farewell(&mut connection.session, &mut connection.out);
        farewell(&mut connection.session, &mut connection.out);
        connection.feed(b"DATA\r\n");
        assert_eq!((connection.codes().as_str(), connection.closed), (expected, true));
    }
}

#[test]
fn answers_nobody_waits_for_are_ignored() {
    let (mut session, mut out) = (Session::new(config()), Vec::new());
    session.recipient(RecipientAnswer::Accepted, &mut out);
    session.data_ready(&mut out);
    session.data_refused(&mut out);
    session.delivered(&[Outcome::Delivered], &mut out);
    assert_eq!((session.step(&mut out), out.len()), (Step::NeedInput, 0));
    session.feed(b"LHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
    assert!(matches!(session.step(&mut out), Step::Event(Event::Mail(_))));
    assert!(matches!(session.step(&mut out), Step::Event(Event::Recipient(_))));
    out.clear();
    session.data_ready(&mut out);
    session.delivered(&[], &mut out);
    assert_eq!((session.step(&mut out), out.len()), (Step::NeedInput, 0));
}

#[test]
fn missing_outcomes_are_temporary_failures() {
    let (mut session, mut out) = (Session::new(config()), Vec::new());
    session.feed(b"LHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n.\r\n");
    loop {
        match session.step(&mut out) {
            Step::Event(Event::Recipient(_)) => session.recipient(RecipientAnswer::Accepted, &mut out),
            Step::Event(Event::Data) => session.data_ready(&mut out),
            Step::Event(Event::BodyEnd { octets }) => {
                assert_eq!(octets, 0);
                out.clear();
                session.delivered(&[Outcome::Delivered], &mut out);
            }
            Step::Event(_) => {}
            Step::NeedInput | Step::Close => break,
        }
    }
    assert_eq!(out, b"250 2.0.0 delivered\r\n451 4.3.0 temporary failure, please try again\r\n");
}

#[test]
fn nothing_sent_is_repeated() {
    for line in
        ["EVIL", "MAIL FROM:<EVIL", "RCPT TO:<EVIL@b>", "VRFY EVIL", "LHLO EVIL", "MAIL FROM:<EVIL@b> EVIL=1"]
    {
        let mut connection = Connection::new(config());
        connection.feed(format!("{line}\r\n").as_bytes());
        assert!(!String::from_utf8_lossy(&connection.out).contains("EVIL"), "{line}");
    }
}
