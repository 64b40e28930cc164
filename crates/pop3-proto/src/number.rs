//! Message numbers: good for this session only.

use std::fmt;
use std::num::NonZeroU32;

/// A message's number in this session, from 1 (RFC 1939 §4). Not its identity: that is the unique-id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageNumber(NonZeroU32);

impl MessageNumber {
    /// The number, unless it is 0.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number of the message at `index` of a listing, counted from 0.
    pub fn from_index(index: usize) -> Option<Self> {
        u32::try_from(index).ok()?.checked_add(1).and_then(Self::new)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The message's place in a listing, counted from 0.
    pub fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    /// Reads a number as a client writes it: digits alone, without sign or leading zero, so that whatever
    /// is not exactly a message number is never taken for message 1.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.first() == Some(&b'0') {
            return None;
        }
        let number = text.iter().try_fold(0_u32, |number, octet| {
            let digit = octet.is_ascii_digit().then(|| u32::from(octet - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        })?;
        Self::new(number)
    }
}

impl fmt::Display for MessageNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::MessageNumber;

    #[track_caller]
    fn check(text: &str, expected: Option<u32>) {
        assert_eq!(MessageNumber::parse(text.as_bytes()).map(MessageNumber::get), expected);
    }

    #[test]
    fn parses_message_numbers() {
        check("1", Some(1));
        check("10", Some(10));
        check("4294967295", Some(u32::MAX));
    }

    #[test]
    fn takes_nothing_else_for_a_number() {
        for text in ["", "0", "-1", "+1", "01", "1x", "x1", "1.0", " 1", "1 ", "0x1", "\u{0661}"] {
            check(text, None);
        }
        check("4294967296", None); // 2^32
        check("4294967297", None); // 2^32 + 1, 1 if it wrapped
        check("18446744073709551616", None); // 2^64
        check("18446744073709551617", None);
    }

    #[test]
    fn index_and_number_agree() {
        assert_eq!(MessageNumber::from_index(0).map(MessageNumber::get), Some(1));
        assert_eq!(MessageNumber::new(7).map(MessageNumber::index), Some(6));
        assert_eq!(MessageNumber::from_index(u32::MAX as usize), None);
        assert_eq!(MessageNumber::from_index(usize::MAX), None);
    }
}
