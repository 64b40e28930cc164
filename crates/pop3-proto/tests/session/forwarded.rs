//! XCLIENT and XOIP: from whom they are taken, and what of them is kept.

use crate::driver::{Connection, check, logged_in, open_policy, proxy_policy, strict_policy};

const PLAIN: &str = "[XCLIENT] POP3 server ready";

#[test]
fn a_trusted_proxy_says_for_whom_it_speaks() {
    let connection = check(
        Connection::new(proxy_policy()),
        &format!(
            "S: +OK {PLAIN}
            C: USER mrose
            S: -ERR TLS is required before login
            C: XCLIENT ADDR=127.0.0.1 PORT=40000 SESSION=bkEzB2oTdoB/AAAB TTL=4 HELO=x PROTO=POP3
            S: +OK noted
            C: USER mrose
            S: +OK send PASS
            C: PASS secret
            S: +OK maildrop locked and ready
            "
        ),
    );
    let expected = "ForwardedClient { address: Some(Known(127.0.0.1)), port: Some(40000), \
                    session: Some(\"bkEzB2oTdoB/AAAB\") }";
    assert_eq!(connection.steps[0], expected);
}

/// What the client may do is decided anew, whoever the proxy is.
#[test]
fn another_client_may_do_less() {
    let mut policy = proxy_policy();
    policy.plaintext_login = true;
    check(
        Connection::new(policy),
        &format!(
            "S: +OK {PLAIN}
            C: USER mrose
            S: +OK send PASS
            C: XOIP 192.0.2.7
            S: +OK noted
            C: PASS secret
            S: -ERR send USER first
            C: USER mrose
            S: -ERR TLS is required before login
            "
        ),
    );
}

#[test]
fn it_is_announced_to_trusted_proxies_and_before_login_only() {
    for (policy, announced) in [(proxy_policy(), true), (strict_policy(), false)] {
        let mut connection = Connection::new(policy);
        let greeting = String::from_utf8(std::mem::take(&mut connection.out)).unwrap();
        assert_eq!(greeting.contains("XCLIENT"), announced, "{greeting}");
        connection.feed(b"CAPA\r\n");
        let capabilities = String::from_utf8(std::mem::take(&mut connection.out)).unwrap();
        assert_eq!(capabilities.contains("XCLIENT ADDR PORT SESSION\r\nXOIP\r\n"), announced);
    }
}

#[test]
fn nobody_else_may_say_it() {
    for line in ["XCLIENT ADDR=192.0.2.7", "XOIP 192.0.2.7", "XCLIENT"] {
        for (mut connection, reply) in [
            (Connection::new(open_policy()), "-ERR this is taken from trusted proxies only\r\n"),
            (logged_in(), "-ERR you are logged in already\r\n"),
        ] {
            connection.out.clear();
            connection.feed(format!("{line}\r\n").as_bytes());
            assert_eq!(String::from_utf8_lossy(&connection.out), reply, "{line}");
            assert!(connection.steps.is_empty());
        }
    }
}

#[test]
fn what_cannot_be_is_refused_and_never_repeated() {
    for line in [
        "XCLIENT ADDR=\x1b[31mEVIL",
        "XCLIENT ADDR=192.0.2.7 SESSION=\x1b[31mEVIL",
        "XCLIENT PORT=EVIL",
        "XCLIENT EVIL",
        "XOIP EVIL",
        "XOIP",
        "XOIP 192.0.2.7 192.0.2.8",
    ] {
        let mut connection = Connection::new(proxy_policy());
        connection.out.clear();
        connection.feed(format!("{line}\r\n").as_bytes());
        assert_eq!(String::from_utf8_lossy(&connection.out), "-ERR that cannot be said of a client\r\n");
        assert!(connection.steps.is_empty(), "{line:?}: {:?}", connection.steps);
    }
    // An attribute that is not known may hold anything, and is gone.
    let mut connection = Connection::new(proxy_policy());
    connection.out.clear();
    connection.feed(b"XCLIENT LOGIN=\x1b[31mEVIL ADDR=[UNAVAILABLE]\r\n");
    assert_eq!(connection.out, b"+OK noted\r\n");
    let nothing_else = "ForwardedClient { address: Some(Unavailable), port: None, session: None }";
    assert_eq!(connection.steps, [nothing_else]);
}
