//! MIME parameters (RFC 2231).

use super::words::{Writer, charset, is_space, unescaped};

/// The longest name of a parameter that is rewritten.
const MAX_NAME_OCTETS: usize = 64;
/// Octets of an encoded value on one line.
const PIECE_OCTETS: usize = 54;

/// A parameter that would end beyond this goes to a line of its own. Lines have 998 octets at most (RFC 5322 §2.1.1); folds
/// within a parameter are gone when it is encoded, and each makes up to three octets of one. Only what is made to be long gets
/// near this.
const LONG_LINE_OCTETS: usize = 400;

/// The value of `Content-Type` or `Content-Disposition`.
pub(super) fn value(value: &[u8], writer: &mut Writer<'_>) {
    let mut left = value;
    let mut first = true;
    loop {
        let end = end_of_part(left);
        let (part, rest) = left.split_at(end);
        if part.is_ascii() {
            writer.raw(part);
        } else if first {
            writer.masked(part);
        } else {
            parameter(part, writer);
        }
        let Some(rest) = rest.strip_prefix(b";") else { return };
        writer.raw(b";");
        left = rest;
        first = false;
    }
}

/// The next semicolon that is in no quotes.
fn end_of_part(value: &[u8]) -> usize {
    let (mut within, mut escaped) = (false, false);
    for (i, &octet) in value.iter().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if within => escaped = true,
            b'"' => within = !within,
            b';' if !within => return i,
            _ => {}
        }
    }
    value.len()
}

fn parameter(part: &[u8], writer: &mut Writer<'_>) {
    let start = part.iter().position(|&octet| !is_space(octet)).unwrap_or(part.len());
    let end = part.iter().rposition(|&octet| !is_space(octet)).map_or(start, |last| last + 1);
    let said = &part[start..end];
    let equals = said.iter().position(|&octet| octet == b'=');
    let Some((name, text)) = equals.map(|equals| said.split_at(equals)) else { return writer.masked(part) };
    let name = name.trim_ascii();
    // One that is encoded already, or has a name that says nothing; a long one would be there again with each piece.
    let odd = name.is_empty() || name.len() > MAX_NAME_OCTETS || name.ends_with(b"*");
    if odd || !name.is_ascii() || name.iter().any(|&octet| is_space(octet)) {
        return writer.masked(part);
    }
    let text = unquoted(text[1..].trim_ascii());
    let mut encoded = Encoded { text: &text };
    let first = encoded.piece();
    let before = &part[..start];
    if writer.column() + before.len() + name.len() + first.len() > LONG_LINE_OCTETS
        && !before.contains(&b'\n')
    {
        writer.raw(b"\r\n ");
    } else {
        writer.raw(before);
    }
    if encoded.text.is_empty() {
        writer.raw(name);
        writer.raw(format!("*={}''", charset(&text)).as_bytes());
        writer.raw(&first);
    } else {
        writer.raw(name);
        writer.raw(format!("*0*={}''", charset(&text)).as_bytes());
        writer.raw(&first);
        for number in 1.. {
            let piece = encoded.piece();
            if piece.is_empty() {
                break;
            }
            writer.raw(b";\r\n ");
            writer.raw(name);
            writer.raw(format!("*{number}*=").as_bytes());
            writer.raw(&piece);
        }
    }
    writer.raw(&part[end..]);
}

fn unquoted(text: &[u8]) -> Vec<u8> {
    match text.strip_prefix(b"\"") {
        Some(inside) => unescaped(inside.strip_suffix(b"\"").unwrap_or(inside)),
        None => text.to_vec(),
    }
}

/// A value in percent-encoding, piece by piece.
struct Encoded<'a> {
    text: &'a [u8],
}

impl Encoded<'_> {
    fn piece(&mut self) -> Vec<u8> {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let mut piece = Vec::new();
        while let Some((&octet, rest)) = self.text.split_first() {
            if piece.len() + 3 > PIECE_OCTETS {
                break;
            }
            if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
                piece.push(octet);
            } else {
                piece.extend([b'%', DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 15)]]);
            }
            self.text = rest;
        }
        piece
    }
}
