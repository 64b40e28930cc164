//! Lists of addresses (RFC 5322 §3.4), read as leniently as they are written.

use super::words::{Phrase, Writer, is_space, unescaped};

/// A label has 63 octets at most (RFC 1035 §2.3.4), and its A-label is longer than it.
const MAX_LABEL_CHARACTERS: usize = 63;

/// A piece of a structured field, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Space(&'a [u8]),
    /// With its parentheses.
    Comment(&'a [u8]),
    /// With its quotes.
    Quoted(&'a [u8]),
    /// With its angle brackets.
    Angle(&'a [u8]),
    Atom(&'a [u8]),
    /// `,`, `:` or `;`.
    Special(u8),
}

impl<'a> Token<'a> {
    fn octets(&self) -> &[u8] {
        match self {
            Self::Space(octets)
            | Self::Comment(octets)
            | Self::Quoted(octets)
            | Self::Angle(octets)
            | Self::Atom(octets) => octets,
            Self::Special(octet) => std::slice::from_ref(octet),
        }
    }

    /// Parts the first token off. What is never closed goes on to the end.
    fn first(value: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let first = *value.first()?;
        let (length, token): (usize, fn(&'a [u8]) -> Self) = match first {
            b',' | b':' | b';' => return Some((Self::Special(first), &value[1..])),
            b'(' => (nested(value), Self::Comment),
            b'"' => (quoted(value), Self::Quoted),
            b'<' => (angle(value), Self::Angle),
            _ if is_space(first) => (while_is(value, is_space), Self::Space),
            _ => (while_is(value, |octet| !is_space(octet) && !b",:;(\"<".contains(&octet)), Self::Atom),
        };
        let (octets, rest) = value.split_at(length);
        Some((token(octets), rest))
    }
}

fn tokens(value: &[u8]) -> impl Iterator<Item = Token<'_>> {
    let mut left = value;
    std::iter::from_fn(move || {
        let (token, rest) = Token::first(left)?;
        left = rest;
        Some(token)
    })
}

fn while_is(value: &[u8], is: impl Fn(u8) -> bool) -> usize {
    value.iter().position(|&octet| !is(octet)).unwrap_or(value.len())
}

fn nested(value: &[u8]) -> usize {
    let (mut depth, mut escaped) = (0_usize, false);
    for (i, &octet) in value.iter().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' => depth += 1,
            b')' if depth == 1 => return i + 1,
            b')' => depth -= 1,
            _ => {}
        }
    }
    value.len()
}

fn quoted(value: &[u8]) -> usize {
    let mut escaped = false;
    for (i, &octet) in value.iter().enumerate().skip(1) {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return i + 1,
            _ => {}
        }
    }
    value.len()
}

fn angle(value: &[u8]) -> usize {
    let mut i = 1;
    while let Some(&octet) = value.get(i) {
        match octet {
            b'"' => i += quoted(&value[i..]),
            b'>' => return i + 1,
            _ => i += 1,
        }
    }
    value.len()
}

/// What is between the first and the last octet, if the last closes what the first opened.
fn inside(octets: &[u8], closing: u8) -> &[u8] {
    let inside = octets.get(1..).unwrap_or_default();
    inside.strip_suffix(&[closing]).unwrap_or(inside)
}

/// A list of addresses.
pub(super) fn list(value: &[u8], writer: &mut Writer<'_>) {
    let mut element: Vec<Token<'_>> = Vec::new();
    let mut in_group = false;
    for token in tokens(value) {
        let Token::Special(special) = token else {
            element.push(token);
            continue;
        };
        if special == b':' {
            phrase(&element, writer);
        } else {
            address(&element, in_group, writer);
        }
        in_group = (in_group || special == b':') && special != b';';
        writer.part();
        writer.raw(&[special]);
        element.clear();
    }
    address(&element, in_group, writer);
}

fn address(element: &[Token<'_>], in_group: bool, writer: &mut Writer<'_>) {
    if element.iter().all(|token| token.octets().is_ascii()) {
        return element.iter().for_each(|token| writer.raw(token.octets()));
    }
    if let Some(at) = element.iter().position(|token| matches!(token, Token::Angle(_))) {
        phrase(&element[..at], writer);
        writer.part();
        let angle = element[at].octets();
        if angle.is_ascii() {
            writer.raw(angle);
        } else {
            mailbox(inside(angle, b'>'), true, in_group, writer);
        }
        return phrase(&element[at + 1..], writer);
    }
    // An address without angle brackets: all that is neither space nor comment.
    let is_part = |token: &Token<'_>| !matches!(token, Token::Space(_) | Token::Comment(_));
    let bare: Vec<u8> = element.iter().filter(|t| is_part(t)).flat_map(Token::octets).copied().collect();
    if bare.is_ascii() || !bare.contains(&b'@') {
        return phrase(element, writer);
    }
    let first = element.iter().position(is_part).unwrap_or(0);
    phrase(&element[..first], writer);
    mailbox(&bare, false, in_group, writer);
    let rest: Vec<_> = element[first..].iter().filter(|token| !is_part(token)).copied().collect();
    phrase(&rest, writer);
}

/// An address with 8-bit octets: in its domain alone, it has another form; in its local part, there is none (RFC 6857
/// §3.1.8).
fn mailbox(address: &[u8], in_angles: bool, in_group: bool, writer: &mut Writer<'_>) {
    if let Some(ascii) = in_ascii(address) {
        let (open, close): (&[u8], &[u8]) = if in_angles { (b"<", b">") } else { (b"", b"") };
        writer.raw(open);
        writer.raw(&ascii);
        writer.raw(close);
    } else if in_group {
        // Groups have no groups in them.
        writer.raw(b"(");
        writer.encoded(address);
        writer.raw(b")");
    } else {
        writer.encoded_after_word(address);
        writer.raw(b" :;");
    }
}

/// The address with A-labels in its domain (RFC 5890), where its local part is ASCII. Labels are taken to be U-labels,
/// as RFC 6531 §3.3 has it: nothing is mapped, by tables that might change.
fn in_ascii(address: &[u8]) -> Option<Vec<u8>> {
    let (local, domain) = str::from_utf8(address).ok()?.rsplit_once('@')?;
    if !local.is_ascii() {
        return None;
    }
    let mut ascii = format!("{local}@");
    for (i, label) in domain.split('.').enumerate() {
        if i > 0 {
            ascii.push('.');
        }
        if label.is_ascii() {
            ascii.push_str(label);
        } else if label.chars().count() > MAX_LABEL_CHARACTERS {
            // None is so long, and the time that punycode takes grows with the square.
            return None;
        } else {
            ascii.push_str("xn--");
            ascii.push_str(&idna::punycode::encode_str(label)?);
        }
    }
    Some(ascii.into_bytes())
}

/// Words, quoted strings and comments.
fn phrase(element: &[Token<'_>], writer: &mut Writer<'_>) {
    let mut phrase = Phrase::new(writer);
    for token in element {
        match token {
            Token::Space(space) => phrase.space(space),
            token if token.octets().is_ascii() => phrase.plain(token.octets()),
            Token::Quoted(quoted) => phrase.encoded(&unescaped(inside(quoted, b'"'))),
            Token::Comment(comment) => {
                phrase.plain(b"(");
                phrase.encoded(&unescaped(inside(comment, b')')));
                phrase.plain(b")");
            }
            Token::Atom(octets) | Token::Angle(octets) => phrase.encoded(octets),
            Token::Special(_) => {}
        }
    }
    phrase.end();
}

/// A trace field (RFC 6857 §3.2.2).
pub(super) fn received(value: &[u8], writer: &mut Writer<'_>) {
    let tokens: Vec<_> = tokens(value).collect();
    let mut i = 0;
    while let Some(token) = tokens.get(i) {
        let is_for = matches!(token, Token::Atom(atom) if atom.eq_ignore_ascii_case(b"for"));
        let path =
            is_for.then(|| (i + 1..tokens.len()).find(|&j| !matches!(tokens[j], Token::Space(_)))).flatten();
        match (path, token) {
            (Some(path), _) if !tokens[path].octets().is_ascii() => i = path,
            (_, Token::Comment(comment)) if !comment.is_ascii() => {
                writer.raw(b"(");
                writer.encoded(&unescaped(inside(comment, b')')));
                writer.raw(b")");
            }
            (_, token) => writer.masked(token.octets()),
        }
        i += 1;
    }
}
