//! Messages for those who take ASCII headers only: 8-bit header fields rewritten (RFC 6857), the body untouched.
//!
//! What is sent has the octets that LIST announced (P4), and those are in the message's row since it came in. **So the
//! same field is rewritten to the same octets for ever:** what is written here may not depend on tables that change,
//! and a change of it is a new form beside this one, told apart in the row.
//!
//! | field | becomes |
//! |---|---|
//! | unstructured, or unknown | words with 8-bit octets are encoded-words (RFC 2047) |
//! | addresses | names are encoded-words; an address with an 8-bit local part is an empty group of that name |
//! | MIME parameters | RFC 2231 |
//! | identifiers, paths | `Downgraded-…` with encoded-words |
//! | `Received` | comments are encoded-words; a FOR clause with 8-bit octets is left out |
//!
//! What is no UTF-8 is told as `unknown-8bit` (RFC 1428). Header fields of MIME parts are octets of the body.

mod addresses;
mod parameters;
mod words;

use words::Writer;

/// The longest field that is rewritten with care; in a longer one, 8-bit octets become question marks, one for one.
const MAX_FIELD_OCTETS: usize = 64 * 1024;
/// A field that would become more times as long is treated likewise.
const MAX_GROWTH: usize = 8;

/// Rewrites the header of a message that streams by.
#[derive(Debug, Default, Clone)]
pub(crate) struct Downgrade {
    state: State,
    /// The field as far as it has come, where it is not longer than [`MAX_FIELD_OCTETS`].
    field: Vec<u8>,
    /// Whether the next octet begins a line.
    within_line: bool,
    /// Whether anything had to be rewritten.
    rewrote: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Header,
    /// In a field that is too long to be kept.
    LongField,
    Body,
}

impl Downgrade {
    /// Takes the next octets (canonical: lines end in CRLF), and appends to `out` what they become.
    pub(crate) fn push(&mut self, mut chunk: &[u8], out: &mut Vec<u8>) {
        while let Some(&first) = chunk.first() {
            if self.state == State::Body {
                return out.extend_from_slice(chunk);
            }
            if !self.within_line && first != b' ' && first != b'\t' {
                self.flush(out);
            }
            let end = chunk.iter().position(|&octet| octet == b'\n').map(|end| end + 1);
            let (line, rest) = chunk.split_at(end.unwrap_or(chunk.len()));
            self.within_line = end.is_none();
            self.take(line, out);
            if !self.within_line && self.field == b"\r\n" {
                self.flush(out);
                self.state = State::Body;
            }
            chunk = rest;
        }
    }

    /// The end of the message: what is left of a header without a body.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        self.flush(out);
    }

    fn take(&mut self, line: &[u8], out: &mut Vec<u8>) {
        if self.state == State::Header && self.field.len() + line.len() > MAX_FIELD_OCTETS {
            self.rewrote |= !self.field.is_ascii();
            mask(&self.field, out);
            self.field.clear();
            self.state = State::LongField;
        }
        match self.state {
            State::LongField => {
                self.rewrote |= !line.is_ascii();
                mask(line, out);
            }
            State::Header | State::Body => self.field.extend_from_slice(line),
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        self.rewrote |= !self.field.is_ascii();
        field(&self.field, out);
        self.field.clear();
        if self.state == State::LongField {
            self.state = State::Header;
        }
    }
}

/// Finds out how much longer a message will be.
#[derive(Debug, Default, Clone)]
pub(crate) struct AsciiExtra {
    downgrade: Downgrade,
    /// What was rewritten, between two chunks: only its length is of interest.
    out: Vec<u8>,
    extra: i64,
}

impl AsciiExtra {
    /// Takes the next octets of the message.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        if self.downgrade.state != State::Body {
            self.out.clear();
            self.downgrade.push(chunk, &mut self.out);
            self.extra += difference(self.out.len(), chunk.len());
        }
    }

    /// By how many octets the message is longer in ASCII, where its header is not that already.
    pub(crate) fn finish(mut self) -> Option<i64> {
        self.out.clear();
        self.downgrade.finish(&mut self.out);
        self.downgrade.rewrote.then(|| self.extra + difference(self.out.len(), 0))
    }
}

fn difference(octets: usize, from: usize) -> i64 {
    (octets as u64).cast_signed() - (from as u64).cast_signed()
}

/// Appends the field, its line ends included, as it is for those who take ASCII only.
pub(crate) fn field(field: &[u8], out: &mut Vec<u8>) {
    if field.is_ascii() {
        return out.extend_from_slice(field);
    }
    let colon = field.iter().position(|&octet| octet == b':');
    let Some((name, value)) = colon.map(|colon| field.split_at(colon)) else { return mask(field, out) };
    // A line that goes on with nothing before it is no field, whatever stands in it: another name would make it one.
    if !name.is_ascii() || name.starts_with(b" ") || name.starts_with(b"\t") {
        return mask(field, out);
    }
    let start = out.len();
    rewrite(name, &value[1..], out);
    // Nothing of use grows so much.
    if out.len() - start > MAX_GROWTH * field.len() + 1024 {
        out.truncate(start);
        mask(field, out);
    }
}

/// Appends the field of this name and value.
fn rewrite(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    // What is never closed does not take the line end with it.
    let (value, end) = match value.strip_suffix(b"\r\n") {
        Some(value) => (value, &b"\r\n"[..]),
        None => (value, &b""[..]),
    };
    let mut writer = Writer::new(out);
    match Kind::of(name) {
        Kind::Unstructured => {
            writer.raw(name);
            writer.raw(b":");
            words::unstructured(value, &mut writer);
        }
        Kind::Encapsulated => {
            writer.raw(b"Downgraded-");
            writer.raw(name);
            writer.raw(b":");
            words::unstructured(value, &mut writer);
        }
        Kind::Addresses => {
            writer.raw(name);
            writer.raw(b":");
            addresses::list(value, &mut writer);
        }
        Kind::Received => {
            writer.raw(name);
            writer.raw(b":");
            addresses::received(value, &mut writer);
        }
        Kind::Parameters => {
            writer.raw(name);
            writer.raw(b":");
            parameters::value(value, &mut writer);
        }
    }
    writer.raw(end);
}

/// What a field's value is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unstructured,
    Addresses,
    Parameters,
    Received,
    /// Nothing in it can be told otherwise: the field keeps its text under another name (RFC 6857 §3.1.10).
    Encapsulated,
}

impl Kind {
    fn of(name: &[u8]) -> Self {
        const ADDRESSES: &[&str] = &[
            "from",
            "sender",
            "reply-to",
            "to",
            "cc",
            "bcc",
            "resent-from",
            "resent-sender",
            "resent-reply-to",
            "resent-to",
            "resent-cc",
            "resent-bcc",
            "disposition-notification-to",
            "mail-followup-to",
            "mail-reply-to",
        ];
        const ENCAPSULATED: &[&str] = &[
            "message-id",
            "resent-message-id",
            "in-reply-to",
            "references",
            "content-id",
            "return-path",
            "delivered-to",
            "original-recipient",
            "final-recipient",
            "date",
            "resent-date",
            "mime-version",
            "content-transfer-encoding",
        ];
        let name = name.trim_ascii();
        let is_in = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if is_in(ADDRESSES) {
            Self::Addresses
        } else if is_in(&["content-type", "content-disposition"]) {
            Self::Parameters
        } else if is_in(&["received"]) {
            Self::Received
        } else if is_in(ENCAPSULATED) {
            Self::Encapsulated
        } else {
            Self::Unstructured
        }
    }
}

/// Question marks in place of 8-bit octets.
fn mask(octets: &[u8], out: &mut Vec<u8>) {
    out.extend(octets.iter().map(|octet| if octet.is_ascii() { *octet } else { b'?' }));
}

#[cfg(test)]
mod tests;
