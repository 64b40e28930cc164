//! CAPA (RFC 2449 §5).

use crate::policy::{Policy, Tls};
use crate::{replies, texts};

/// Which state asks: some capabilities depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Authorization,
    Transaction,
}

/// Answers CAPA.
pub(crate) fn list(policy: &Policy, phase: Phase, out: &mut Vec<u8>) {
    replies::ok(policy.wording, texts::CAPABILITIES_FOLLOW, out);
    out.extend_from_slice(
        b"TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nUTF8 USER\r\nLANG\r\n",
    );
    if policy.allows_passwords() {
        out.extend_from_slice(b"USER\r\n");
    }
    // RFC 5034 §3: no capability without a mechanism; it is listed in both states, as RFC 2449 §5 asks.
    let mut mechanisms = policy.mechanisms.iter().filter(|&mechanism| policy.offers(mechanism)).peekable();
    if mechanisms.peek().is_some() {
        out.extend_from_slice(b"SASL");
        for mechanism in mechanisms {
            out.push(b' ');
            out.extend_from_slice(mechanism.as_str().as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    // RFC 2595 §4: listed where it is permitted, which is in AUTHORIZATION and not twice. That is the later and
    // narrower rule than RFC 2449 §5, by which both states list the same.
    if policy.tls == Tls::Available && phase == Phase::Authorization {
        out.extend_from_slice(b"STLS\r\n");
    }
    if policy.forwarding && phase == Phase::Authorization {
        out.extend_from_slice(b"XCLIENT ADDR PORT SESSION\r\nXOIP\r\n");
    }
    // RFC 2449 §6.5, §6.7: before login it is not known whose it will be, so what is said is what may hold for one user
    // and not for another.
    let whose: &[u8] = if phase == Phase::Authorization { b" USER\r\n" } else { b"\r\n" };
    if let Some(seconds) = policy.login_delay_secs {
        out.extend_from_slice(b"LOGIN-DELAY ");
        replies::integer(u64::from(seconds), out);
        out.extend_from_slice(whose);
    }
    match (policy.expire_days, phase) {
        (Some(days), _) => {
            out.extend_from_slice(b"EXPIRE ");
            replies::integer(u64::from(days), out);
            out.extend_from_slice(whose);
        }
        (None, Phase::Transaction) => out.extend_from_slice(b"EXPIRE NEVER\r\n"),
        // NEVER is a promise, and somebody's mail may expire.
        (None, Phase::Authorization) => {}
    }
    if !policy.implementation.is_empty() {
        out.extend_from_slice(b"IMPLEMENTATION ");
        replies::clean(&policy.implementation, out);
        out.extend_from_slice(b"\r\n");
    }
    replies::terminator(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mechanism::Mechanism;

    #[track_caller]
    fn check(policy: &Policy, phase: Phase, expected: &str) {
        let mut out = Vec::new();
        list(policy, phase, &mut out);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "+OK capability list follows");
        assert_eq!(lines[lines.len() - 1], ".");
        let fixed = "TOP,UIDL,RESP-CODES,AUTH-RESP-CODE,PIPELINING,UTF8 USER,LANG,";
        let expected = format!("{fixed}{expected}");
        assert_eq!(lines[1..lines.len() - 1].join(","), expected.trim_end_matches(','));
    }

    #[test]
    fn capabilities_depend_on_tls_and_state() {
        let mut policy = Policy::new("", "Postern");
        check(&policy, Phase::Authorization, "IMPLEMENTATION Postern");
        policy.tls = Tls::Available;
        check(&policy, Phase::Authorization, "STLS,IMPLEMENTATION Postern");
        check(&policy, Phase::Transaction, "EXPIRE NEVER,IMPLEMENTATION Postern");
        policy.plaintext_login = true;
        check(&policy, Phase::Authorization, "USER,STLS,IMPLEMENTATION Postern");
        policy.plaintext_login = false;
        policy.tls = Tls::Active;
        check(&policy, Phase::Authorization, "USER,IMPLEMENTATION Postern");
        check(&policy, Phase::Transaction, "USER,EXPIRE NEVER,IMPLEMENTATION Postern");
    }

    #[test]
    fn mechanisms_are_named_where_the_connection_is_fit_for_them() {
        let mut policy = Policy::new("", "");
        policy.mechanisms = Mechanism::ALL.iter().copied().collect();
        let without_secrets = "SASL SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5";
        check(&policy, Phase::Authorization, without_secrets);
        policy.tls = Tls::Active;
        let all = "USER,SASL EXTERNAL SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 \
                   OAUTHBEARER XOAUTH2 PLAIN LOGIN";
        check(&policy, Phase::Authorization, all);
        check(&policy, Phase::Transaction, &format!("{all},EXPIRE NEVER"));
        policy.tls = Tls::Unavailable;
        policy.mechanisms = [Mechanism::Plain].into_iter().collect();
        check(&policy, Phase::Authorization, "");
        policy.plaintext_login = true;
        check(&policy, Phase::Authorization, "USER,SASL PLAIN");
    }

    #[test]
    fn trusted_proxies_learn_what_is_taken_from_them() {
        let mut policy = Policy::new("", "");
        policy.forwarding = true;
        check(&policy, Phase::Authorization, "XCLIENT ADDR PORT SESSION,XOIP");
        check(&policy, Phase::Transaction, "EXPIRE NEVER");
    }

    #[test]
    fn capabilities_of_policy() {
        let mut policy = Policy::new("", "");
        policy.login_delay_secs = Some(60);
        policy.expire_days = Some(30);
        check(&policy, Phase::Authorization, "LOGIN-DELAY 60 USER,EXPIRE 30 USER");
        check(&policy, Phase::Transaction, "LOGIN-DELAY 60,EXPIRE 30");
    }
}
