//! What the server says. Nothing a client sent is ever repeated in a reply.
//!
//! The functions append to `out` and do not allocate beyond it.

use crate::language::{Language, Wording};
use crate::number::MessageNumber;
use crate::texts::{self, MAX_TEXT_OCTETS, Text};
use crate::transaction::DropListing;

/// The header of LIST for the whole maildrop.
pub fn list_header(wording: Wording, totals: DropListing, out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK ");
    drop_summary(wording, totals, out);
    out.extend_from_slice(b"\r\n");
}

/// A scan listing: a line of LIST (RFC 1939 §5).
pub fn scan_line(number: MessageNumber, octets: u64, out: &mut Vec<u8>) {
    integer(u64::from(number.get()), out);
    out.push(b' ');
    integer(octets, out);
    out.extend_from_slice(b"\r\n");
}

/// The whole answer to LIST of one message.
pub fn list_one(number: MessageNumber, octets: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK ");
    scan_line(number, octets, out);
}

/// The header of UIDL for the whole maildrop.
pub fn unique_id_header(wording: Wording, out: &mut Vec<u8>) {
    ok(wording, texts::UNIQUE_IDS_FOLLOW, out);
}

/// A unique-id listing: a line of UIDL (RFC 1939 §7).
pub fn unique_id_line(number: MessageNumber, unique_id: &str, out: &mut Vec<u8>) {
    integer(u64::from(number.get()), out);
    out.push(b' ');
    out.extend_from_slice(unique_id.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The whole answer to UIDL of one message.
pub fn unique_id_one(number: MessageNumber, unique_id: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK ");
    unique_id_line(number, unique_id, out);
}

/// Ends a multi-line answer whose lines need no byte-stuffing: LIST, UIDL, CAPA.
pub fn terminator(out: &mut Vec<u8>) {
    out.extend_from_slice(b".\r\n");
}

/// The header of RETR; the byte-stuffed message follows.
pub fn retrieve_header(wording: Wording, octets: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK ");
    integer(octets, out);
    out.push(b' ');
    wording.write(texts::OCTETS, out);
    out.extend_from_slice(b"\r\n");
}

/// The header of TOP; the byte-stuffed top of the message follows.
pub fn top_header(wording: Wording, out: &mut Vec<u8>) {
    ok(wording, texts::TOP_FOLLOWS, out);
}

/// The number names no message: past the last, marked as deleted, or gone since the session began.
pub fn no_such_message(wording: Wording, out: &mut Vec<u8>) {
    err(wording, texts::NO_SUCH_MESSAGE, out);
}

/// Something of ours failed and may work later (RFC 3206 §4).
pub fn temporary_failure(wording: Wording, text: Text, out: &mut Vec<u8>) {
    coded(wording, "SYS/TEMP", text, out);
}

/// Something of ours failed and a person has to look (RFC 3206 §4).
pub fn permanent_failure(wording: Wording, text: Text, out: &mut Vec<u8>) {
    coded(wording, "SYS/PERM", text, out);
}

/// The node is going away; sent between commands.
pub fn shutting_down(wording: Wording, out: &mut Vec<u8>) {
    temporary_failure(wording, texts::SHUTTING_DOWN, out);
}

/// An administrator ended the session; sent between commands. There is no UPDATE.
pub fn session_ended(wording: Wording, out: &mut Vec<u8>) {
    permanent_failure(wording, texts::SESSION_ENDED, out);
}

/// The client was silent and not to be reached, and the same client took its maildrop over by another connection.
/// There is no UPDATE.
pub fn taken_over(wording: Wording, out: &mut Vec<u8>) {
    temporary_failure(wording, texts::TAKEN_OVER, out);
}

/// The autologout timer ran out (RFC 1939 §3). There is no UPDATE.
pub fn idle_timeout(wording: Wording, out: &mut Vec<u8>) {
    err(wording, texts::TOO_LONG_A_SILENCE, out);
}

/// A limit on connections was reached; sent in place of the greeting.
pub fn too_many_connections(wording: Wording, out: &mut Vec<u8>) {
    temporary_failure(wording, texts::TOO_MANY_CONNECTIONS, out);
}

/// The languages there are (RFC 6856 §3.1), each by its own name.
pub(crate) fn languages(wording: Wording, out: &mut Vec<u8>) {
    ok(wording, texts::LANGUAGES_FOLLOW, out);
    for language in Language::ALL {
        out.extend_from_slice(language.tag().as_bytes());
        out.push(b' ');
        out.extend_from_slice(language.name().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    terminator(out);
}

/// LANG succeeded (RFC 6856 §3.1): the new language's tag, and a text in it.
pub(crate) fn language_changed(wording: Wording, out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK ");
    out.extend_from_slice(wording.language.tag().as_bytes());
    out.push(b' ');
    wording.write(texts::LANGUAGE_CHANGED, out);
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn ok(wording: Wording, text: Text, out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK ");
    wording.write(text, out);
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn err(wording: Wording, text: Text, out: &mut Vec<u8>) {
    out.extend_from_slice(b"-ERR ");
    wording.write(text, out);
    out.extend_from_slice(b"\r\n");
}

/// `-ERR` with a response code (RFC 2449 §8).
pub(crate) fn coded(wording: Wording, code: &'static str, text: Text, out: &mut Vec<u8>) {
    out.extend_from_slice(b"-ERR [");
    out.extend_from_slice(code.as_bytes());
    out.extend_from_slice(b"] ");
    wording.write(text, out);
    out.extend_from_slice(b"\r\n");
}

/// `2 messages (320 octets)`, as in the examples of RFC 1939 §5.
pub(crate) fn drop_summary(wording: Wording, totals: DropListing, out: &mut Vec<u8>) {
    integer(u64::from(totals.messages), out);
    out.push(b' ');
    wording.write(texts::MESSAGES, out);
    out.extend_from_slice(b" (");
    integer(totals.octets, out);
    out.push(b' ');
    wording.write(texts::OCTETS, out);
    out.push(b')');
}

/// Text from configuration, made fit for one line.
pub(crate) fn clean(text: &str, out: &mut Vec<u8>) {
    let mut left = MAX_TEXT_OCTETS;
    for character in text.chars().filter(|character| !character.is_control()) {
        let Some(rest) = left.checked_sub(character.len_utf8()) else { return };
        left = rest;
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Appends a number in decimal. Listings of 100,000 lines are nothing but these.
pub(crate) fn integer(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20]; // 2^64 has 20
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(write: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn integers() {
        for number in [0, 1, 9, 10, 99, 100, 4_294_967_296, u64::MAX] {
            check(|out| integer(number, out), &number.to_string());
        }
    }

    #[test]
    fn answers() {
        let one = MessageNumber::new(1).unwrap();
        let totals = DropListing { messages: 2, octets: 320 };
        let wording = Wording::default();
        check(|out| list_header(wording, totals, out), "+OK 2 messages (320 octets)\r\n");
        check(|out| scan_line(one, 120, out), "1 120\r\n");
        check(|out| list_one(one, u64::MAX, out), "+OK 1 18446744073709551615\r\n");
        check(|out| unique_id_line(one, "whqtswO00WBw418f9t5JxYwZ", out), "1 whqtswO00WBw418f9t5JxYwZ\r\n");
        check(|out| unique_id_one(one, "QhdPYR:00WBw1Ph7x7", out), "+OK 1 QhdPYR:00WBw1Ph7x7\r\n");
        check(|out| retrieve_header(wording, 120, out), "+OK 120 octets\r\n");
        let going = "-ERR [SYS/TEMP] shutting down, please connect again\r\n";
        check(|out| shutting_down(wording, out), going);
        let german = Wording { language: Language::German, utf8: false };
        check(|out| list_header(german, totals, out), "+OK 2 Nachrichten (320 Oktette)\r\n");
        check(|out| no_such_message(german, out), "-ERR diese Nachricht gibt es nicht\r\n");
    }

    #[test]
    fn given_text_cannot_break_out_of_its_line() {
        check(|out| clean("a\r\n+OK\u{85}\0 b", out), "a+OK b");
        let mut out = Vec::new();
        clean(&"ä".repeat(4_000), &mut out);
        assert!(out.len() <= MAX_TEXT_OCTETS && str::from_utf8(&out).is_ok());
    }
}
