//! One line, parsed. What cannot be a command never gets further than here.

use crate::foreign;
use crate::forwarded::ForwardedClient;
use crate::line::Line;
use crate::number::MessageNumber;
use crate::texts::{self, Text};
use crate::verb::{Verb, split};

/// A well-formed command, whatever the state makes of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    Apop(&'a str, [u8; 16]),
    /// A mechanism's name and the initial response; neither to be told what there is.
    Auth(Option<(&'a [u8], Option<&'a [u8]>)>),
    Capa,
    Dele(MessageNumber),
    /// A language range, or to be told what there is.
    Lang(Option<&'a [u8]>),
    List(Option<MessageNumber>),
    Noop,
    Pass(&'a [u8]),
    Quit,
    Retr(MessageNumber),
    Rset,
    Stat,
    Stls,
    Top(MessageNumber, u64),
    Uidl(Option<MessageNumber>),
    User(&'a str),
    Utf8,
    /// XOIP, too.
    Xclient(ForwardedClient),
}

/// A line that is not a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// Answered with this text, and counted.
    Bad(Text),
    /// From a peer that speaks another protocol.
    Foreign,
}

/// A mail address (64 octets, `@`, 255 octets: RFC 5321 §4.5.3.1) is the longest login name there is.
const MAX_LOGIN_OCTETS: usize = 320;

const BAD_NUMBER: Unusable = Unusable::Bad(texts::BAD_NUMBER);
const NO_ARGUMENT: Unusable = Unusable::Bad(texts::NO_ARGUMENT);

impl<'a> Command<'a> {
    pub(crate) fn parse(line: Line<'a>) -> Result<Self, Unusable> {
        let Line::Complete(line) = line else {
            return Err(Unusable::Bad(texts::LINE_TOO_LONG));
        };
        if foreign::is_foreign(line) {
            return Err(Unusable::Foreign);
        }
        let (keyword, rest) = split(line);
        match Verb::from_keyword(keyword) {
            Verb::Capa => no_argument(rest, Self::Capa),
            Verb::Noop => no_argument(rest, Self::Noop),
            Verb::Quit => no_argument(rest, Self::Quit),
            Verb::Rset => no_argument(rest, Self::Rset),
            Verb::Stat => no_argument(rest, Self::Stat),
            Verb::Stls => no_argument(rest, Self::Stls),
            Verb::Utf8 => no_argument(rest, Self::Utf8),
            Verb::Lang => lang(rest),
            Verb::Dele => one_number(rest).map(Self::Dele),
            Verb::Retr => one_number(rest).map(Self::Retr),
            Verb::List => optional_number(rest).map(Self::List),
            Verb::Uidl => optional_number(rest).map(Self::Uidl),
            Verb::Top => top(rest),
            Verb::User => user(rest),
            Verb::Pass => pass(rest),
            Verb::Apop => apop(rest),
            Verb::Auth => auth(rest),
            Verb::Xclient => forwarded(ForwardedClient::parse(arguments(rest))),
            Verb::Xoip => forwarded(ForwardedClient::parse_address(rest.unwrap_or_default().trim_ascii())),
            Verb::Unknown => Err(Unusable::Bad(texts::UNKNOWN_COMMAND)),
        }
    }
}

/// The arguments, which RFC 1939 §3 parts with one space each; more spaces, and trailing ones, are tolerated.
fn arguments(rest: Option<&[u8]>) -> impl Iterator<Item = &[u8]> {
    rest.unwrap_or_default().split(|&octet| octet == b' ').filter(|argument| !argument.is_empty())
}

fn no_argument<'a>(rest: Option<&[u8]>, command: Command<'a>) -> Result<Command<'a>, Unusable> {
    if arguments(rest).next().is_some() { Err(NO_ARGUMENT) } else { Ok(command) }
}

fn optional_number(rest: Option<&[u8]>) -> Result<Option<MessageNumber>, Unusable> {
    let mut arguments = arguments(rest);
    match (arguments.next(), arguments.next()) {
        (None, _) => Ok(None),
        (Some(number), None) => MessageNumber::parse(number).map(Some).ok_or(BAD_NUMBER),
        (Some(_), Some(_)) => Err(Unusable::Bad(texts::ONE_NUMBER_AT_MOST)),
    }
}

fn one_number(rest: Option<&[u8]>) -> Result<MessageNumber, Unusable> {
    optional_number(rest)?.ok_or(Unusable::Bad(texts::NUMBER_NEEDED))
}

fn top<'a>(rest: Option<&[u8]>) -> Result<Command<'a>, Unusable> {
    const USAGE: Unusable = Unusable::Bad(texts::TOP_USAGE);
    let mut arguments = arguments(rest);
    let (Some(number), Some(lines), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err(USAGE);
    };
    if !lines.iter().all(u8::is_ascii_digit) {
        return Err(USAGE);
    }
    // RFC 1939 §7: more lines than there are is the whole message, so a count past 2^64 can be clipped.
    let lines = lines
        .iter()
        .fold(0_u64, |lines, digit| lines.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Ok(Command::Top(MessageNumber::parse(number).ok_or(BAD_NUMBER)?, lines))
}

fn user(rest: Option<&[u8]>) -> Result<Command<'_>, Unusable> {
    login_name(rest.unwrap_or_default()).map(Command::User)
}

fn login_name(name: &[u8]) -> Result<&str, Unusable> {
    let name = str::from_utf8(name).map_err(|_| Unusable::Bad(texts::NAME_NOT_UTF8))?;
    let name = name.trim_matches(' ');
    if name.is_empty() || name.len() > MAX_LOGIN_OCTETS || name.chars().any(char::is_control) {
        return Err(Unusable::Bad(texts::NO_LOGIN_NAME));
    }
    Ok(name)
}

/// RFC 1939 §7: a name and 32 hexadecimal digits, lower case. The digest is the last word: names may have spaces.
fn apop(rest: Option<&[u8]>) -> Result<Command<'_>, Unusable> {
    const USAGE: Unusable = Unusable::Bad(texts::APOP_USAGE);
    let rest = rest.unwrap_or_default().trim_ascii_end();
    let space = rest.iter().rposition(|&octet| octet == b' ').ok_or(USAGE)?;
    let name = login_name(&rest[..space])?;
    let (pairs, []) = rest[space + 1..].as_chunks::<2>() else { return Err(USAGE) };
    let mut digest = [0; 16];
    if pairs.len() != digest.len() {
        return Err(USAGE);
    }
    let value = |digit: u8| char::from(digit).to_digit(16).ok_or(USAGE);
    for (octet, pair) in digest.iter_mut().zip(pairs) {
        *octet = (value(pair[0])? * 16 + value(pair[1])?) as u8;
    }
    Ok(Command::Apop(name, digest))
}

fn lang(rest: Option<&[u8]>) -> Result<Command<'_>, Unusable> {
    let mut arguments = arguments(rest);
    match (arguments.next(), arguments.next()) {
        (range, None) => Ok(Command::Lang(range)),
        _ => Err(Unusable::Bad(texts::LANG_USAGE)),
    }
}

/// AUTH alone, with trailing spaces or without, asks for a list (old clients do, before CAPA was).
fn auth(rest: Option<&[u8]>) -> Result<Command<'_>, Unusable> {
    let mut arguments = arguments(rest);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (None, ..) => Ok(Command::Auth(None)),
        (Some(mechanism), initial, None) => Ok(Command::Auth(Some((mechanism, initial)))),
        _ => Err(Unusable::Bad(texts::AUTH_USAGE)),
    }
}

/// RFC 1939 §7: "a server may treat spaces in the argument as part of the password", so everything behind
/// the one space is the password. An empty one is refused here: some directories take it for anonymous.
fn pass(rest: Option<&[u8]>) -> Result<Command<'_>, Unusable> {
    match rest {
        None | Some([]) => Err(Unusable::Bad(texts::PASSWORD_NEEDED)),
        Some(password) => Ok(Command::Pass(password)),
    }
}

fn forwarded<'a>(client: Option<ForwardedClient>) -> Result<Command<'a>, Unusable> {
    client.map(Command::Xclient).ok_or(Unusable::Bad(texts::NO_CLIENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &[u8], expected: &Command<'_>) {
        assert_eq!(Command::parse(Line::Complete(line)).as_ref(), Ok(expected));
    }

    #[track_caller]
    fn check_bad(line: &[u8]) {
        let parsed = Command::parse(Line::Complete(line));
        assert!(matches!(parsed, Err(Unusable::Bad(_))), "{parsed:?}");
    }

    fn number(number: u32) -> MessageNumber {
        MessageNumber::new(number).unwrap()
    }

    #[test]
    fn keywords_in_any_case_with_trailing_spaces() {
        check(b"STAT", &Command::Stat);
        check(b"sTaT  ", &Command::Stat);
        check(b"retr 1 ", &Command::Retr(number(1)));
        check(b"RETR  1", &Command::Retr(number(1)));
        check_bad(b" STAT");
        check_bad(b"STAT\t");
        check_bad(b"STATS");
        check_bad(b"");
    }

    #[test]
    fn arguments_where_there_are_none() {
        for line in ["STAT 1", "NOOP x", "RSET 1", "QUIT now", "CAPA x", "STLS x", "UTF8 x", "LANG de en"] {
            check_bad(line.as_bytes());
        }
    }

    #[test]
    fn message_numbers() {
        for verb in ["RETR", "DELE", "LIST", "UIDL"] {
            for bad in ["0", "-1", "+1", "01", "1x", "4294967296", "18446744073709551616", "1 2", "1\t"] {
                check_bad(format!("{verb} {bad}").as_bytes());
            }
        }
        check_bad(b"RETR");
        check_bad(b"DELE ");
        check(b"LIST", &Command::List(None));
        check(b"LIST ", &Command::List(None));
        check(b"UIDL ", &Command::Uidl(None));
        check(b"UIDL 2 ", &Command::Uidl(Some(number(2))));
        check(b"DELE 4294967295", &Command::Dele(number(u32::MAX)));
    }

    #[test]
    fn top_takes_two_numbers() {
        check(b"TOP 1 0", &Command::Top(number(1), 0));
        check(b"TOP 1 10 ", &Command::Top(number(1), 10));
        check(b"TOP 1 99999999999999999999999", &Command::Top(number(1), u64::MAX));
        for line in
            ["TOP", "TOP ", "TOP 1", "TOP 1 ", "TOP 1 -1", "TOP 1 +1", "TOP 1 x", "TOP 0 1", "TOP 1 1 1"]
        {
            check_bad(line.as_bytes());
        }
    }

    #[test]
    fn pass_takes_the_rest_of_the_line() {
        check(b"PASS  two words ", &Command::Pass(b" two words "));
        check(b"pass  ", &Command::Pass(b" "));
        check(b"PASS \xff\x00\x01", &Command::Pass(b"\xff\x00\x01"));
        check("PASS pässwörd".as_bytes(), &Command::Pass("pässwörd".as_bytes()));
        check_bad(b"PASS");
        check_bad(b"PASS ");
    }

    #[test]
    fn login_names_are_bounded_text() {
        check(b"USER alice@example.org ", &Command::User("alice@example.org"));
        check("USER åsa@example.org".as_bytes(), &Command::User("åsa@example.org"));
        check(b"USER two words", &Command::User("two words"));
        check_bad(b"USER");
        check_bad(b"USER  ");
        check_bad(b"USER a\xff");
        check_bad(b"USER a\x1b[2J");
        check(format!("USER {}", "x".repeat(320)).as_bytes(), &Command::User(&"x".repeat(320)));
        check_bad(format!("USER {}", "x".repeat(321)).as_bytes());
    }

    #[test]
    fn auth_names_a_mechanism_or_asks_for_the_list() {
        check(b"AUTH", &Command::Auth(None));
        check(b"AUTH  ", &Command::Auth(None));
        check(b"auth plain", &Command::Auth(Some((b"plain", None))));
        check(b"AUTH PLAIN AGEAYg== ", &Command::Auth(Some((b"PLAIN", Some(b"AGEAYg==")))));
        check(b"AUTH PLAIN =", &Command::Auth(Some((b"PLAIN", Some(b"=")))));
        check_bad(b"AUTH PLAIN a b");
    }

    #[test]
    fn apop_takes_a_name_and_a_digest() {
        let digest =
            [0xc4, 0xc9, 0x33, 0x4b, 0xac, 0x56, 0x0e, 0xcc, 0x97, 0x9e, 0x58, 0x00, 0x1b, 0x3e, 0x22, 0xfb];
        check(b"APOP mrose c4c9334bac560ecc979e58001b3e22fb", &Command::Apop("mrose", digest));
        check(b"APOP two words C4C9334BAC560ECC979E58001B3E22FB ", &Command::Apop("two words", digest));
        for bad in
            ["", " ", " a", " a c4c9334bac560ecc979e58001b3e22f", " a c4c9334bac560ecc979e58001b3e22fg"]
        {
            check_bad(format!("APOP{bad}").as_bytes());
        }
        check_bad(b"APOP  c4c9334bac560ecc979e58001b3e22fb");
        check_bad(b"APOP a +4c9334bac560ecc979e58001b3e22fb");
    }

    #[test]
    fn what_is_not_offered() {
        for line in ["LAST", "XTND XMIT"] {
            assert!(matches!(Command::parse(Line::Complete(line.as_bytes())), Err(Unusable::Bad(_))));
        }
        assert_eq!(Command::parse(Line::Complete(b"GET / HTTP/1.1")), Err(Unusable::Foreign));
    }
}
