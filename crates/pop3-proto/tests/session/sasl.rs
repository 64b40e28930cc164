//! AUTH (RFC 5034) and APOP (RFC 1939 §7).

use pop3_proto::{MAX_TOKEN_OCTETS, Mechanism, Policy, Tls};

use crate::driver::{Connection, check, logged_in, open_policy, strict_policy};

fn policy() -> Policy {
    Policy { mechanisms: [Mechanism::Plain, Mechanism::Login].into_iter().collect(), ..open_policy() }
}

/// `mrose` and `secret`, as PLAIN wants them.
const PLAIN: &str = "AG1yb3NlAHNlY3JldA==";

#[test]
fn plain_in_one_line_and_in_two() {
    check(
        Connection::new(policy()),
        "S: +OK POP3 server ready
        C: auth plain AG1yb3NlAHNlY3JldA==
        S: +OK maildrop locked and ready
        ",
    );
    let connection = check(
        Connection::new(policy()),
        "S: +OK POP3 server ready
        C: AUTH PLAIN
        S: +\u{20}
        C: AG1yb3NlAHNlY3JldA==
        S: +OK maildrop locked and ready
        C: AUTH PLAIN
        S: -ERR you are logged in already
        ",
    );
    assert_eq!(connection.steps, ["PLAIN \0mrose\0secret"]);
}

#[test]
fn login_prompts_twice() {
    check(
        Connection::new(policy()),
        "S: +OK POP3 server ready
        C: AUTH LOGIN
        S: + VXNlciBOYW1lAA==
        C: bXJvc2U=
        S: + UGFzc3dvcmQA
        C: c2VjcmV0
        S: +OK maildrop locked and ready
        ",
    );
}

#[test]
fn an_exchange_can_be_cancelled_and_begun_anew() {
    check(
        Connection::new(policy()),
        "S: +OK POP3 server ready
        C: AUTH LOGIN
        S: + VXNlciBOYW1lAA==
        C: *
        S: -ERR authentication was cancelled
        C: AUTH LOGIN
        S: + VXNlciBOYW1lAA==
        C: QUIT!
        S: -ERR that is not base64
        C: AUTH PLAIN AG1yb3NlAHdyb25n
        S: -ERR [AUTH] wrong login name or password
        C: AUTH PLAIN AG1yb3NlAHNlY3JldA==
        S: +OK maildrop locked and ready
        ",
    );
}

#[test]
fn an_empty_initial_response_is_written_as_an_equals_sign() {
    let mut connection = Connection::new(policy());
    connection.feed(b"AUTH PLAIN =\r\n");
    assert_eq!(connection.steps, ["PLAIN "]);
}

#[test]
fn auth_alone_lists_what_the_connection_is_fit_for() {
    for command in ["AUTH", "AUTH "] {
        let mut connection = Connection::new(policy());
        connection.out.clear();
        connection.feed(format!("{command}\r\n").as_bytes());
        assert_eq!(connection.out, b"+OK mechanisms follow\r\nPLAIN\r\nLOGIN\r\n.\r\n");
    }
    let strict = Policy { mechanisms: policy().mechanisms, tls: Tls::Available, ..strict_policy() };
    check(
        Connection::new(strict),
        "S: +OK POP3 server ready
        C: AUTH
        S: -ERR AUTH is not offered here
        C: AUTH PLAIN
        S: -ERR TLS is required before login
        C: AUTH SCRAM-SHA-256
        S: -ERR no such mechanism
        C: AUTH NOSUCH
        S: -ERR no such mechanism
        C: STLS
        S: +OK begin TLS
        C: AUTH PLAIN AG1yb3NlAHNlY3JldA==
        S: +OK maildrop locked and ready
        ",
    );
}

/// What is pipelined behind an exchange waits for its end, whatever it looks like.
#[test]
fn pipelined_responses() {
    let mut connection = Connection::new(policy());
    connection.feed(format!("AUTH PLAIN\r\n{PLAIN}\r\nSTAT\r\n").as_bytes());
    assert!(connection.out.ends_with(b"+OK 2 320\r\n"), "{}", String::from_utf8_lossy(&connection.out));
}

#[test]
fn tokens_of_64_kib_pass_and_longer_ones_are_refused() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    for (octets, passes) in [(MAX_TOKEN_OCTETS, true), (MAX_TOKEN_OCTETS + 1, false), (80_000, false)] {
        let token = STANDARD.encode(vec![b'x'; octets]);
        for lines in [format!("AUTH PLAIN {token}\r\n"), format!("AUTH PLAIN\r\n{token}\r\n")] {
            let mut connection = Connection::new(policy());
            for piece in lines.as_bytes().chunks(1000) {
                connection.feed(piece);
            }
            assert_eq!(connection.steps.len(), usize::from(passes), "{octets}");
            let out = String::from_utf8_lossy(&connection.out);
            assert!(out.lines().last().unwrap().starts_with("-ERR "), "{out}");
            assert!(!connection.is_over());
            connection.feed(format!("AUTH PLAIN {PLAIN}\r\n").as_bytes());
            assert!(connection.out.ends_with(b"+OK maildrop locked and ready\r\n"));
        }
    }
}

#[test]
fn refused_logins_are_limited_however_they_come() {
    let mut connection = Connection::new(policy());
    connection.feed(b"USER mrose\r\nPASS wrong\r\nAUTH PLAIN AA==\r\nAUTH LOGIN\r\neA==\r\neA==\r\n");
    assert!(connection.is_over());
}

#[test]
fn apop_where_the_greeting_invites_it() {
    let timestamp = "<1896.697170952@dbc.mtview.ca.us>";
    let connection = check(
        Connection::new(Policy { apop: Some(timestamp.into()), ..open_policy() }),
        "S: +OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>
        C: APOP mrose
        S: -ERR a login name and a digest of 32 hexadecimal digits are needed
        C: APOP mrose c4c9334bac560ecc979e58001b3e22fb
        S: -ERR [AUTH] wrong login name or password
        ",
    );
    assert!(connection.steps[0].starts_with("Apop mrose [c4, c9, 33"), "{:?}", connection.steps);
    let mut connection = logged_in();
    connection.out.clear();
    connection.feed(b"APOP mrose c4c9334bac560ecc979e58001b3e22fb\r\n");
    assert_eq!(connection.out, b"-ERR you are logged in already\r\n");
}

#[test]
fn an_exchange_prints_no_token() {
    use pop3_proto::{Authorization, AuthorizationStep, Line};
    let line = format!("AUTH PLAIN {PLAIN}");
    let step = Authorization::new(policy()).line(Line::Complete(line.as_bytes()), &mut Vec::new());
    assert!(matches!(step, AuthorizationStep::Sasl(..)));
    assert!(!format!("{step:?}").contains("secret"));
}
