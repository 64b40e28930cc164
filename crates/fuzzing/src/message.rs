//! What becomes of a message between the sender and the client: the header for clients without UTF-8 (RFC 6857), and
//! what is measured.

use maildrop::{Measure, fuzzing::Downgraded};

use crate::script::Script;

/// Rewrites a message in one piece and in several, and measures it.
pub fn message(input: &[u8]) {
    let Some(script) = Script::new(input) else { return };
    let message = canonical(script.rest);
    let whole = downgraded([&*message]);
    let split = downgraded(script.pieces(&message));
    assert_eq!(whole, split, "the rewritten header depends on how the octets come");
    let (out, extra) = whole;
    // P4: LIST announces what RETR will send before anybody has asked for it.
    let rewritten = out != message;
    assert_eq!(extra, rewritten.then(|| out.len() as i64 - message.len() as i64));

    let (header, body) = message.split_at(header_octets(&message));
    let now = out.strip_suffix(body).expect("the body is left as it is");
    assert!(now.is_ascii(), "the header is ASCII");
    assert!(!header.is_ascii() || now == header, "what is ASCII is left as it is");
    assert_eq!(fields(now), fields(header), "a value breaks out of its line");
    assert!(
        now.len() <= 9 * header.len() + 1024 * (fields(header) + 1),
        "{} became {}",
        header.len(),
        now.len()
    );
    assert!(longest_line(now) <= longest_line(header) + 560, "a line of {} octets", longest_line(now));
    check_line_ends(now);
    // Once is enough.
    let (again, none) = downgraded([&*out]);
    assert!(again == out && none.is_none());

    let measured = measure([&*message]);
    assert_eq!(measured, measure(script.pieces(&message)), "what is measured depends on how the octets come");
    assert_eq!(measured.octets, message.len() as u64);
    assert_eq!(measured.header_octets, header.len() as u64);
}

/// The octets as LMTP stores them: every LF behind a CR, CRLF at the end.
fn canonical(octets: &[u8]) -> Vec<u8> {
    let mut canonical = lmtp_proto::Canonicaliser::default();
    let mut message = Vec::new();
    canonical.push(octets, &mut message);
    canonical.finish(&mut message);
    check_line_ends(&message);
    message
}

fn downgraded<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Option<i64>) {
    let (mut downgraded, mut out) = (Downgraded::default(), Vec::new());
    for piece in pieces {
        downgraded.push(piece, &mut out);
    }
    let extra = downgraded.finish(&mut out);
    (out, extra)
}

fn measure<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> maildrop::Measured {
    let mut measure = Measure::default();
    for piece in pieces {
        measure.update(piece);
    }
    measure.finish()
}

/// Up to and with the blank line.
fn header_octets(message: &[u8]) -> usize {
    if message.starts_with(b"\r\n") {
        return 2;
    }
    message.windows(4).position(|four| four == b"\r\n\r\n").map_or(message.len(), |at| at + 4)
}

fn fields(header: &[u8]) -> usize {
    lines(header)
        .filter(|line| !line.is_empty() && !line.starts_with(b" ") && !line.starts_with(b"\t"))
        .count()
}

fn longest_line(header: &[u8]) -> usize {
    lines(header).map(<[u8]>::len).max().unwrap_or(0)
}

fn lines(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    header.split_inclusive(|&octet| octet == b'\n')
}

fn check_line_ends(octets: &[u8]) {
    for (at, octet) in octets.iter().enumerate() {
        assert!(*octet != b'\n' || (at > 0 && octets[at - 1] == b'\r'), "a bare LF");
    }
    assert!(octets.is_empty() || octets.ends_with(b"\r\n"));
}
