//! Who a proxy says it connects for: the PROXY protocol, XCLIENT and XOIP.

use frontend::fuzzing::{HEADER_OCTETS_MAX, NoHeader, ProxyHeader, proxy_header};
use pop3_proto::{Authorization, AuthorizationStep, LineBuffer, Policy};

use crate::{pop3::check_forwarded, script::Script};

/// Reads the octets as a header of the PROXY protocol, and as what XCLIENT and XOIP say.
pub fn proxy(input: &[u8]) {
    let Some(script) = Script::new(input) else { return };
    header(&script);
    for command in ["XCLIENT ", "XOIP "] {
        forwarded(command, &script, false);
        forwarded(command, &script, true);
    }
}

/// What a stream begins with is the same however its octets come: nothing is taken for a header before it is whole, and
/// nothing behind it changes what it says.
fn header(script: &Script<'_>) {
    let octets = script.rest;
    let whole = proxy_header(octets);
    let mut end = 0;
    for piece in script.pieces(octets) {
        end += piece.len();
        let part = proxy_header(&octets[..end]);
        match &part {
            Ok(None) => assert!(end < HEADER_OCTETS_MAX, "{end} octets are waited for"),
            Ok(Some(header)) => {
                check(header, &octets[..end]);
                assert_eq!(part, whole);
            }
            Err(NoHeader) => assert_eq!(whole, Err(NoHeader), "what is no header becomes one"),
        }
    }
    if let Ok(Some(header)) = &whole {
        assert_eq!(proxy_header(&octets[..header.octets]), whole, "what is behind a header counts");
        for end in 0..header.octets {
            assert_eq!(proxy_header(&octets[..end]), Ok(None), "cut at {end}");
        }
    }
}

fn check(header: &ProxyHeader, octets: &[u8]) {
    assert!(header.octets <= octets.len() && header.octets <= HEADER_OCTETS_MAX);
    if let Some(client) = header.client {
        assert_eq!(client, client.to_canonical());
    }
    for text in &header.texts {
        assert!(!text.is_empty() && text.len() <= 255 && !text.chars().any(char::is_control), "{text:?}");
    }
}

/// Says it in AUTHORIZATION, by a proxy that is trusted or is not.
fn forwarded(command: &str, script: &Script<'_>, trusted: bool) {
    let mut policy = Policy::new("ready", "");
    policy.forwarding = trusted;
    let mut input = LineBuffer::default();
    input.push(command.as_bytes());
    input.push(script.rest);
    input.push(b"\r\n");
    let mut out = Vec::new();
    let Some(line) = input.next_line() else { panic!("a line that was ended is not one") };
    match Authorization::new(policy).line(line, &mut out) {
        AuthorizationStep::Forwarded(forwarding, client) => {
            assert!(trusted, "anybody says for whom they speak");
            check_forwarded(&client);
            let state = forwarding.accept(script.bit(0), &mut out);
            assert_eq!(state.policy().plaintext_login, script.bit(0));
            assert!(out.starts_with(b"+OK "));
        }
        AuthorizationStep::Continue(_) => assert!(out.starts_with(b"-ERR ")),
        step => panic!("{step:?}"),
    }
}
