//! BER as LDAP uses it (RFC 4511 §5.1): written for what is asked, and read from servers that are not trusted.
//!
//! What is read is bounded in length before it is read and never deeper than the few levels an answer has: nothing
//! here calls itself.

/// The tags of what is read and written (RFC 4511 §4.1.1 and appendix B).
pub(super) mod tag {
    pub(in super::super) const BOOLEAN: u8 = 0x01;
    pub(in super::super) const INTEGER: u8 = 0x02;
    pub(in super::super) const OCTETS: u8 = 0x04;
    pub(in super::super) const ENUMERATED: u8 = 0x0a;
    pub(in super::super) const SEQUENCE: u8 = 0x30;
    pub(in super::super) const SIMPLE: u8 = 0x80;
    pub(in super::super) const BIND_REQUEST: u8 = 0x60;
    pub(in super::super) const BIND_RESPONSE: u8 = 0x61;
    pub(in super::super) const SEARCH_REQUEST: u8 = 0x63;
    pub(in super::super) const SEARCH_ENTRY: u8 = 0x64;
    pub(in super::super) const SEARCH_DONE: u8 = 0x65;
    pub(in super::super) const SEARCH_REFERENCE: u8 = 0x73;
    pub(in super::super) const EXTENDED_REQUEST: u8 = 0x77;
    pub(in super::super) const EXTENDED_RESPONSE: u8 = 0x78;
}

/// Puts contents behind their tag and length.
pub(super) fn put(out: &mut Vec<u8>, tag: u8, contents: &[u8]) {
    out.push(tag);
    match contents.len() {
        short @ 0..=0x7f => out.push(short as u8),
        long => {
            let octets = (long as u64).to_be_bytes();
            let skip = octets.iter().take_while(|octet| **octet == 0).count();
            out.push(0x80 | (octets.len() - skip) as u8);
            out.extend_from_slice(&octets[skip..]);
        }
    }
    out.extend_from_slice(contents);
}

/// Puts a number of any sign.
pub(super) fn put_integer(out: &mut Vec<u8>, tag: u8, number: i32) {
    let octets = number.to_be_bytes();
    // The fewest octets that keep the sign.
    let skip = (0..3)
        .take_while(|&i| {
            (octets[i] == 0 && octets[i + 1] < 0x80) || (octets[i] == 0xff && octets[i + 1] >= 0x80)
        })
        .count();
    put(out, tag, &octets[skip..]);
}

/// Reads one element after the other.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its tag and contents.
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        // LDAP has no tags beyond 30.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = length(rest)?;
        if length > rest.len() {
            return None;
        }
        let (contents, rest) = rest.split_at(length);
        self.0 = rest;
        Some((tag, contents))
    }

    /// The contents of the next element, if it has this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, contents)| contents)
    }
}

/// The length at the front, and what follows.
fn length(octets: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, rest) = octets.split_first()?;
    if first < 0x80 {
        return Some((first.into(), rest));
    }
    let count = usize::from(first & 0x7f);
    // Indefinite lengths are not LDAP's (RFC 4511 §5.1), and nothing here is longer than four octets say.
    if !(1..=4).contains(&count) || rest.len() < count {
        return None;
    }
    let (digits, rest) = rest.split_at(count);
    Some((digits.iter().fold(0, |number, digit| number << 8 | usize::from(*digit)), rest))
}

/// How many octets a message has whose first ones are these, these included; `Ok(None)` where more is needed to tell.
pub(super) fn message_octets(first: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some((&tag, rest)) = first.split_first() else { return Ok(None) };
    if tag != tag::SEQUENCE {
        return Err("what the server says is no LDAP");
    }
    let Some(&count) = rest.first() else { return Ok(None) };
    let digits = if count < 0x80 { 0 } else { usize::from(count & 0x7f) };
    if count == 0x80 || digits > 4 {
        return Err("what the server says is no LDAP");
    }
    match length(rest) {
        Some((length, _)) => Ok(Some(2 + digits + length)),
        None => Ok(None),
    }
}

/// A number without sign, of four octets at most.
pub(super) fn number(contents: &[u8]) -> Option<u32> {
    if !(1..=4).contains(&contents.len()) || contents[0] >= 0x80 {
        return None;
    }
    Some(contents.iter().fold(0, |number, digit| number << 8 | u32::from(*digit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lengths_are_as_short_as_can_be() {
        let integer = |number| {
            let mut out = Vec::new();
            put_integer(&mut out, tag::INTEGER, number);
            out
        };
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(127), [2, 1, 127]);
        assert_eq!(integer(128), [2, 2, 0, 128]);
        assert_eq!(integer(i32::MAX), [2, 4, 0x7f, 0xff, 0xff, 0xff]);
        assert_eq!(integer(-1), [2, 1, 0xff]);
        for octets in [0, 1, 127, 128, 255, 256, 70_000] {
            let mut out = Vec::new();
            put(&mut out, tag::SEQUENCE, &vec![7; octets]);
            assert_eq!(message_octets(&out).unwrap(), Some(out.len()));
            assert_eq!(Reader(&out).next().unwrap().1.len(), octets);
            for cut in 0..out.len().min(4) {
                assert!(Reader(&out[..cut]).next().is_none());
                assert!(matches!(message_octets(&out[..cut]), Ok(None | Some(_))));
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_not_read() {
        for bad in [&[0x30, 0x80][..], &[0x30, 0x85, 1, 1, 1, 1, 1], &[0x04, 0], &[0x16, 3, 1], b"HTTP/1.1"] {
            assert!(message_octets(bad).is_err(), "{bad:?}");
        }
        assert!(Reader(&[0x3f, 1, 0]).next().is_none(), "a tag beyond 30");
        assert!(Reader(&[0x30, 2, 0]).next().is_none(), "shorter than it says");
        assert_eq!(number(&[0, 49]), Some(49));
        assert_eq!((number(&[]), number(&[0x80]), number(&[0; 5])), (None, None, None));
    }
}
