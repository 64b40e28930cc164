//! AUTHORIZATION: who may log in, how, and over what.

use pop3_proto::{CloseReason, Policy, Tls};

use crate::driver::{Connection, check, open_policy, strict_policy};

#[track_caller]
fn check_refusal(login: &str, expected: &str) {
    check(
        Connection::new(open_policy()),
        &format!(
            "S: +OK POP3 server ready
            C: USER {login}
            S: +OK send PASS
            C: PASS wrong
            S: -ERR {expected}
            C: PASS secret
            S: -ERR send USER first
            C: USER mrose
            S: +OK send PASS
            C: PASS secret
            S: +OK maildrop locked and ready
            "
        ),
    );
}

#[test]
fn refusals_tell_the_client_what_to_do() {
    check_refusal("mrose", "[AUTH] wrong login name or password");
    check_refusal("nobody", "[AUTH] wrong login name or password");
    check_refusal("busy", "[IN-USE] the maildrop is open in another session");
    check_refusal("down", "[SYS/TEMP] login is not possible right now, please try later");
    check_refusal("gone", "[SYS/PERM] login is disabled, please ask your administrator");
    check_refusal("soon", "[LOGIN-DELAY] too soon after the last login, please try later");
}

#[test]
fn refused_logins_are_limited() {
    let mut connection = Connection::new(open_policy());
    connection.feed(&b"USER mrose\r\nPASS wrong\r\n".repeat(5));
    assert_eq!(connection.closed, Some(CloseReason::TooManyRefusedLogins));
    assert_eq!(connection.steps.len(), 3);
}

#[test]
fn the_password_is_the_rest_of_the_line() {
    let mut connection = Connection::new(open_policy());
    connection.feed(b"USER mrose \r\npass  se cret \xff \r\n");
    assert_eq!(connection.steps, [format!("Login mrose {:?}", b" se cret \xff ")]);
}

#[test]
fn a_later_user_replaces_the_first() {
    let mut connection = Connection::new(open_policy());
    connection.feed(b"USER a\r\nUSER b\r\nCAPA\r\nPASS c\r\n");
    assert_eq!(connection.steps, [format!("Login b {:?}", b"c")]);
}

#[test]
fn pass_without_user_is_refused() {
    check(
        Connection::new(open_policy()),
        "S: +OK POP3 server ready
        C: PASS secret
        S: -ERR send USER first
        C: USER
        S: -ERR that is not a login name
        C: PASS secret
        S: -ERR send USER first
        ",
    );
}

/// RFC 2595 §2.3 and §4: nothing is asked in plaintext, and nothing learnt there is believed.
#[test]
fn stls_before_login() {
    let connection = check(
        Connection::new(strict_policy()),
        "S: +OK POP3 server ready
        C: USER mrose
        S: -ERR TLS is required before login
        C: PASS secret
        S: -ERR send USER first
        C: CAPA
        S: +OK capability list follows
        S: TOP
        S: UIDL
        S: RESP-CODES
        S: AUTH-RESP-CODE
        S: PIPELINING
        S: UTF8 USER
        S: LANG
        S: STLS
        S: IMPLEMENTATION Postern
        S: .
        C: STLS
        S: +OK begin TLS
        C: CAPA
        S: +OK capability list follows
        S: TOP
        S: UIDL
        S: RESP-CODES
        S: AUTH-RESP-CODE
        S: PIPELINING
        S: UTF8 USER
        S: LANG
        S: USER
        S: IMPLEMENTATION Postern
        S: .
        C: STLS
        S: -ERR TLS is active already
        C: USER mrose
        S: +OK send PASS
        C: PASS secret
        S: +OK maildrop locked and ready
        C: STLS
        S: -ERR you are logged in already
        ",
    );
    assert_eq!(connection.steps[0], "StartTls");
}

#[test]
fn user_is_forgotten_by_stls() {
    let mut policy = open_policy();
    policy.tls = Tls::Available;
    check(
        Connection::new(policy),
        "S: +OK POP3 server ready
        C: USER mrose
        S: +OK send PASS
        C: STLS
        S: +OK begin TLS
        C: PASS secret
        S: -ERR send USER first
        ",
    );
}

/// RFC 2595 §4, CVE-2011-0411.
#[test]
fn plaintext_behind_stls_is_seen_by_the_driver() {
    for injected in ["USER mrose\r\n", "U", "\r\n"] {
        let mut connection = Connection::new(strict_policy());
        connection.feed(format!("STLS\r\n{injected}").as_bytes());
        assert_eq!(connection.steps, ["StartTls", "injection"]);
        assert!(connection.is_over());
    }
}

#[test]
fn stls_without_a_certificate_is_refused() {
    check(
        Connection::new(open_policy()),
        "S: +OK POP3 server ready
        C: STLS
        S: -ERR TLS is not available
        ",
    );
}

#[test]
fn the_greeting_does_not_invite_apop() {
    check(
        Connection::new(Policy::new("<1896.697170952@dbc.mtview.ca.us>\r\n+OK", "")),
        "S: +OK 1896.697170952@dbc.mtview.ca.us+OK
        ",
    );
}

#[test]
fn credentials_print_no_password() {
    use pop3_proto::{Authorization, AuthorizationStep, Line};
    let mut out = Vec::new();
    let step = Authorization::new(open_policy()).line(Line::Complete(b"USER mrose"), &mut out);
    let AuthorizationStep::Continue(state) = step else { panic!("{step:?}") };
    let step = state.line(Line::Complete(b"PASS tanstaaf"), &mut out);
    assert!(matches!(step, AuthorizationStep::Login(..)));
    assert!(!format!("{step:?}").contains("tanstaaf"));
}
