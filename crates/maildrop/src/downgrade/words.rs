//! Encoded-words (RFC 2047).

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// RFC 2047 §2: no encoded-word is longer.
const MAX_WORD_OCTETS: usize = 75;
/// Lines are folded before an encoded-word that would end beyond it.
const LINE_OCTETS: usize = 76;

/// Appends to a header, and knows how long the line is.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    column: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, column: 0 }
    }

    /// Octets of the line so far.
    pub(super) fn column(&self) -> usize {
        self.column
    }

    /// Appends what is ASCII already.
    pub(super) fn raw(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
        self.column = match octets.iter().rposition(|&octet| octet == b'\n') {
            Some(end) => octets.len() - end - 1,
            None => self.column + octets.len(),
        };
    }

    /// Appends `octets` with question marks in place of what is not ASCII.
    pub(super) fn masked(&mut self, octets: &[u8]) {
        let mut masked = Vec::with_capacity(octets.len());
        super::mask(octets, &mut masked);
        self.raw(&masked);
    }

    /// Appends `text` as encoded-words behind what may be one: space between them would not be shown (RFC 2047
    /// §6.2).
    pub(super) fn encoded_after_word(&mut self, text: &[u8]) {
        if self.out.trim_ascii_end().ends_with(b"?=") {
            self.encoded(&[b" ", text].concat());
        } else {
            self.encoded(text);
        }
    }

    /// Parts what follows from an encoded-word before it (RFC 2047 §5).
    pub(super) fn part(&mut self) {
        if self.out.ends_with(b"?=") {
            self.raw(b" ");
        }
    }

    /// Parts an encoded-word that follows from a word before it.
    fn part_from_word(&mut self) {
        if self.out.last().is_some_and(|&last| !is_space(last) && !b"(:".contains(&last)) {
            self.raw(b" ");
        }
    }

    /// Appends `text` as encoded-words, each but the first on a line of its own.
    pub(super) fn encoded(&mut self, text: &[u8]) {
        for (i, word) in Words::new(text).enumerate() {
            if i > 0 || (self.column > 1 && self.column + word.len() > LINE_OCTETS) {
                // Space that is there becomes that of the fold: unfolding does not take it away.
                self.out.pop_if(|last| *last == b' ');
                self.raw(b"\r\n ");
            }
            self.raw(&word);
        }
    }
}

/// The encoded-words of a text.
struct Words<'a> {
    charset: &'static str,
    is_utf8: bool,
    left: &'a [u8],
}

impl<'a> Words<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { charset: charset(text), is_utf8: str::from_utf8(text).is_ok(), left: text }
    }
}

impl Iterator for Words<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.left.is_empty() {
            return None;
        }
        let room = MAX_WORD_OCTETS - "=??B??=".len() - self.charset.len();
        let mut end = (room / 4 * 3).min(self.left.len());
        // RFC 2047 §5: each word is whole characters. In UTF-8 these begin with anything but 10xxxxxx.
        while self.is_utf8 && self.left.get(end).is_some_and(|octet| octet & 0xc0 == 0x80) {
            end -= 1;
        }
        let (word, left) = self.left.split_at(end);
        self.left = left;
        Some(format!("=?{}?B?{}?=", self.charset, STANDARD.encode(word)).into_bytes())
    }
}

/// The charset that 8-bit octets are told to be in.
pub(super) fn charset(text: &[u8]) -> &'static str {
    if str::from_utf8(text).is_ok() { "UTF-8" } else { "unknown-8bit" }
}

/// A sequence of words, of which those with 8-bit octets are encoded, together where they follow each other.
pub(super) struct Phrase<'w, 'a> {
    writer: &'w mut Writer<'a>,
    /// What will be encoded.
    run: Vec<u8>,
    /// Space behind the run or the last word, folded as it was.
    space: Vec<u8>,
    /// Whether the last word written was an encoded-word already.
    after_encoded: bool,
}

impl<'w, 'a> Phrase<'w, 'a> {
    pub(super) fn new(writer: &'w mut Writer<'a>) -> Self {
        Self { writer, run: Vec::new(), space: Vec::new(), after_encoded: false }
    }

    pub(super) fn space(&mut self, space: &[u8]) {
        self.space.extend_from_slice(space);
    }

    /// A word in ASCII, as it is written.
    pub(super) fn plain(&mut self, word: &[u8]) {
        let is_encoded = word.starts_with(b"=?") && word.ends_with(b"?=");
        if !self.run.is_empty() {
            // Space between two encoded-words is not shown (RFC 2047 §6.2).
            if is_encoded && !self.space.is_empty() {
                self.run.push(b' ');
            }
            self.end_run();
        }
        let space = std::mem::take(&mut self.space);
        self.writer.raw(&space);
        if word != b")" {
            self.writer.part();
        }
        self.writer.raw(word);
        self.after_encoded = is_encoded;
    }

    /// What a word says that has 8-bit octets.
    pub(super) fn encoded(&mut self, text: &[u8]) {
        if self.run.is_empty() {
            let space = std::mem::take(&mut self.space);
            if self.after_encoded && !space.is_empty() {
                self.run.push(b' ');
            }
            self.writer.raw(&space);
            self.writer.part_from_word();
        } else {
            let unfolded = self.space.iter().filter(|&&octet| octet != b'\r' && octet != b'\n');
            self.run.extend(unfolded);
            self.space.clear();
        }
        self.run.extend_from_slice(text);
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        self.writer.encoded(&run);
    }

    pub(super) fn end(mut self) {
        self.end_run();
        let space = std::mem::take(&mut self.space);
        self.writer.raw(&space);
    }
}

/// What a quoted string or a comment says, without what keeps it together (RFC 5322 §3.2.1) and in one line.
pub(super) fn unescaped(octets: &[u8]) -> Vec<u8> {
    let mut escaped = false;
    let said = |&octet: &u8| {
        escaped = octet == b'\\' && !escaped;
        !escaped && octet != b'\r' && octet != b'\n'
    };
    octets.iter().copied().filter(said).collect()
}

pub(super) fn is_space(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\r' | b'\n')
}

/// Text of no structure: words and space between them.
pub(super) fn unstructured(value: &[u8], writer: &mut Writer<'_>) {
    let mut phrase = Phrase::new(writer);
    for piece in value.chunk_by(|a, b| is_space(*a) == is_space(*b)) {
        match piece.first() {
            Some(&first) if is_space(first) => phrase.space(piece),
            _ if piece.is_ascii() => phrase.plain(piece),
            _ => phrase.encoded(piece),
        }
    }
    phrase.end();
}
