//! Properties: splits do not matter, nothing panics, nothing grows.

use pop3_proto::{ByteStuffer, MAX_LINE_OCTETS, MAX_SASL_LINE_OCTETS, TopLimit};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::driver::{Connection, logged_in, open_policy, proxy_policy, strict_policy};

/// Octets a client might send: mostly commands, some of them odd.
fn client_input() -> impl Strategy<Value = Vec<u8>> {
    client_input_with("STLS")
}

/// The same with another command in the place of STLS.
fn client_input_with(starts_tls: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let known: &'static [&'static str] = &[
        "USER mrose",
        "PASS secret",
        "PASS wrong",
        "CAPA",
        "STAT",
        "LIST",
        "LIST 1",
        "LIST 9",
        "RETR 1",
        "RETR 2",
        "RETR 01",
        "DELE 1",
        "DELE 2",
        "RSET",
        "NOOP",
        "UIDL",
        "UIDL 2",
        "TOP 1 0",
        "TOP 2 1",
        "QUIT",
        "AUTH",
        "AUTH PLAIN",
        "AUTH PLAIN AG1yb3NlAHNlY3JldA==",
        "AUTH PLAIN =",
        "AUTH LOGIN",
        "AUTH SCRAM-SHA-256",
        "AG1yb3NlAHNlY3JldA==",
        "bXJvc2U=",
        "c2VjcmV0",
        "*",
        "=",
        "XCLIENT ADDR=127.0.0.1 PORT=1 SESSION=x",
        "XOIP ::1",
        "",
        " ",
        "GET / HTTP/1.0",
        "\u{16}\u{3}",
    ];
    let line = prop_oneof![
        20 => proptest::sample::select(known).prop_map(|line| line.as_bytes().to_vec()),
        1 => Just(starts_tls.as_bytes().to_vec()),
        2 => vec(any::<u8>(), 0..40),
        1 => (0..MAX_LINE_OCTETS + 20).prop_map(|octets| vec![b'x'; octets]),
    ];
    let end = prop_oneof![8 => Just("\r\n"), 2 => Just("\n"), 1 => Just("\r"), 1 => Just("")];
    vec((line, end), 0..30).prop_map(|lines| {
        lines.into_iter().flat_map(|(line, end)| [line, end.as_bytes().to_vec()].concat()).collect()
    })
}

fn connections() -> impl Strategy<Value = fn() -> Connection> {
    prop_oneof![
        Just((|| Connection::new(open_policy())) as fn() -> Connection),
        Just((|| Connection::new(strict_policy())) as fn() -> Connection),
        Just((|| Connection::new(proxy_policy())) as fn() -> Connection),
        Just(logged_in as fn() -> Connection),
    ]
}

/// Feeds the input in pieces of the given sizes, over and over.
fn run(connection: fn() -> Connection, input: &[u8], sizes: &[usize]) -> Connection {
    let mut connection = connection();
    let mut rest = input;
    for &size in sizes.iter().cycle() {
        let (piece, next) = rest.split_at(size.min(rest.len()));
        connection.feed(piece);
        assert!(connection.is_over() || connection.input.buffered() < MAX_SASL_LINE_OCTETS);
        rest = next;
        if rest.is_empty() {
            break;
        }
    }
    connection
}

/// Byte-stuffing as RFC 1939 §3 puts it, for content whose lines end in CRLF.
fn naively_stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in content.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !content.is_empty() && !content.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// What a client makes of a stuffed answer.
fn unstuffed(answer: &[u8]) -> Vec<u8> {
    let lines = answer.split_inclusive(|&octet| octet == b'\n');
    let lines = lines.take_while(|&line| line != b".\r\n");
    lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line).to_vec()).collect()
}

fn stuffed(content: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut stuffer = ByteStuffer::new();
    let (mut out, mut rest) = (Vec::new(), content);
    for &size in sizes.iter().cycle() {
        let (piece, next) = rest.split_at(size.min(rest.len()));
        stuffer.push(piece, &mut out);
        rest = next;
        if rest.is_empty() {
            break;
        }
    }
    stuffer.finish(&mut out);
    out
}

/// Content made of what the encoder looks at, and a little else.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let part =
        proptest::sample::select([".", "..", "\r\n", "\r\n.", "\r\n.\r\n", "\n", "\r", "a", "bc"].as_slice());
    vec(part, 0..40).prop_map(|parts| parts.concat().into_bytes())
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(1_usize..9, 1..9)
}

proptest! {
    /// STLS is left out of the comparison: what follows it in one piece is an injection, and in two is not.
    #[test]
    fn any_split_gives_the_same_steps_and_octets(
        start in connections(), input in client_input_with("NOOP"), sizes in sizes(),
    ) {
        let whole = run(start, &input, &[usize::MAX]);
        let split = run(start, &input, &sizes);
        prop_assert_eq!(String::from_utf8_lossy(&whole.out), String::from_utf8_lossy(&split.out));
        prop_assert_eq!(whole.steps, split.steps);
        prop_assert_eq!(whole.closed, split.closed);
        prop_assert_eq!(whole.removed, split.removed);
    }

    #[test]
    fn any_octets_in_any_state(start in connections(), input in vec(any::<u8>(), 0..2_000), sizes in sizes()) {
        run(start, &input, &sizes);
    }

    #[test]
    fn commands_in_any_state(start in connections(), input in client_input(), sizes in sizes()) {
        let connection = run(start, &input, &sizes);
        prop_assert!(connection.removed.is_none() || connection.steps.last().is_some_and(|step| step == "Quit"));
    }

    #[test]
    fn stuffing_agrees_with_the_model(content in content(), sizes in sizes()) {
        prop_assert_eq!(stuffed(&content, &sizes), naively_stuffed(&content));
    }

    #[test]
    fn unstuffing_gives_the_content_back(lines in vec("[.a\r\0é]{0,8}", 0..20), sizes in sizes()) {
        let content: String = lines.iter().flat_map(|line| [line, "\r\n"]).collect();
        let back = unstuffed(&stuffed(content.as_bytes(), &sizes));
        prop_assert_eq!(String::from_utf8_lossy(&back), content);
    }

    #[test]
    fn top_agrees_with_the_model(
        header in vec("[a.]{1,4}", 0..4), body in vec("[a.]{0,4}", 0..6), lines in 0_u64..8, sizes in sizes(),
    ) {
        let joined = |lines: &[String]| lines.iter().flat_map(|line| [line, "\r\n"]).collect::<String>();
        let message = format!("{}\r\n{}", joined(&header), joined(&body));
        let shown = body.len().min(lines as usize);
        let expected = format!("{}\r\n{}", joined(&header), joined(&body[..shown]));
        let (mut limit, mut taken, mut rest) = (TopLimit::new(lines), 0, message.as_bytes());
        for &size in sizes.iter().cycle() {
            let (piece, next) = rest.split_at(size.min(rest.len()));
            let part = limit.push(piece);
            prop_assert!(part == piece.len() || limit.done());
            taken += part;
            rest = next;
            if rest.is_empty() { break; }
        }
        prop_assert_eq!(&message[..taken], expected);
    }
}
