//! One line, parsed. What cannot be a command never gets further than here.

use crate::address::Address;
use crate::event::{BodyType, Envelope};
use crate::input::{Line, is_chunk};
use crate::path::path;
use crate::reply::{self, Reply};

/// A well-formed command, whatever the state of the session makes of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Lhlo(String),
    Mail(Envelope),
    Rcpt(Address),
    Data,
    Bdat { octets: u64, last: bool },
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
}

/// A line that is not a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// Answered with this reply, and counted.
    Bad(Reply),
    /// It is not known where the next command begins.
    OutOfStep,
}

impl From<Reply> for Unusable {
    fn from(reply: Reply) -> Self {
        Self::Bad(reply)
    }
}

impl Command {
    pub(crate) fn parse(line: Line<'_>) -> Result<Self, Unusable> {
        let line = match line {
            Line::Complete(line) => line,
            Line::TooLong => return Err(reply::LINE_TOO_LONG.into()),
            Line::OutOfStep => return Err(Unusable::OutOfStep),
        };
        if is_chunk(line) {
            // Octets follow. If it cannot be told how many, they would be read as commands.
            return bdat(line).ok_or(Unusable::OutOfStep);
        }
        let text = str::from_utf8(line).map_err(|_| reply::BAD_CHARACTERS)?;
        if text.chars().any(char::is_control) {
            return Err(reply::BAD_CHARACTERS.into());
        }
        let text = text.trim_end_matches(' ');
        let (verb, arguments) = text.split_once(' ').unwrap_or((text, ""));
        let command = match verb.to_ascii_uppercase().as_str() {
            "LHLO" => some_argument(arguments, Self::Lhlo(arguments.to_owned())),
            "MAIL" => mail(arguments),
            "RCPT" => rcpt(arguments),
            "DATA" => no_argument(arguments, Self::Data),
            "RSET" => no_argument(arguments, Self::Rset),
            "QUIT" => no_argument(arguments, Self::Quit),
            "VRFY" => some_argument(arguments, Self::Vrfy),
            "NOOP" => Ok(Self::Noop),
            "HELP" => Ok(Self::Help),
            // RFC 2033 §4.1: never a positive reply to these.
            "HELO" | "EHLO" => Err(reply::USE_LHLO),
            _ => Err(reply::UNKNOWN_COMMAND),
        };
        command.map_err(Unusable::Bad)
    }
}

fn no_argument(arguments: &str, command: Command) -> Result<Command, Reply> {
    if arguments.is_empty() { Ok(command) } else { Err(reply::BAD_SYNTAX) }
}

fn some_argument(arguments: &str, command: Command) -> Result<Command, Reply> {
    if arguments.is_empty() { Err(reply::BAD_SYNTAX) } else { Ok(command) }
}

/// `BDAT size [LAST]` (RFC 3030 §2).
fn bdat(line: &[u8]) -> Option<Command> {
    let mut words = str::from_utf8(line).ok()?.split(' ').filter(|word| !word.is_empty());
    let (_verb, octets) = (words.next().filter(|verb| verb.len() == 4)?, words.next()?);
    let octets =
        if octets.bytes().all(|octet| octet.is_ascii_digit()) { octets.parse().ok()? } else { return None };
    match (words.next(), words.next()) {
        (None, _) => Some(Command::Bdat { octets, last: false }),
        (Some(last), None) if last.eq_ignore_ascii_case("LAST") => Some(Command::Bdat { octets, last: true }),
        _ => None,
    }
}

/// Strips `FROM:` or `TO:`. RFC 5321 §3.3 allows no space behind it; old clients send one.
fn behind<'a>(arguments: &'a str, keyword: &str) -> Option<&'a str> {
    let (start, rest) = arguments.split_at_checked(keyword.len())?;
    start.eq_ignore_ascii_case(keyword).then(|| rest.trim_start_matches(' '))
}

fn mail(arguments: &str) -> Result<Command, Reply> {
    let text = behind(arguments, "FROM:").ok_or(reply::BAD_SYNTAX)?;
    let (sender, parameters) = path(text).ok_or(reply::BAD_SENDER)?;
    // Only a recipient may go without a domain.
    if sender.as_ref().is_some_and(|sender| sender.domain().is_none()) {
        return Err(reply::BAD_SENDER);
    }
    let mut envelope = Envelope { sender, size: None, body: BodyType::SevenBit, smtputf8: false };
    let mut seen_body = false;
    for (keyword, value) in parameter_list(parameters)? {
        match (keyword.to_ascii_uppercase().as_str(), value) {
            ("SIZE", Some(value)) if envelope.size.is_none() => envelope.size = Some(size(value)?),
            ("BODY", Some(value)) if !seen_body => {
                envelope.body = body_type(value)?;
                seen_body = true;
            }
            ("SMTPUTF8", None) if !envelope.smtputf8 => envelope.smtputf8 = true,
            ("SIZE" | "BODY" | "SMTPUTF8", _) => return Err(reply::BAD_SYNTAX),
            _ => return Err(reply::UNKNOWN_PARAMETER),
        }
    }
    if !envelope.smtputf8 && envelope.sender.as_ref().is_some_and(|sender| !sender.is_ascii()) {
        return Err(reply::NEEDS_SMTPUTF8);
    }
    Ok(Command::Mail(envelope))
}

fn rcpt(arguments: &str) -> Result<Command, Reply> {
    let text = behind(arguments, "TO:").ok_or(reply::BAD_SYNTAX)?;
    let (recipient, parameters) = path(text).ok_or(reply::BAD_RECIPIENT)?;
    let recipient = recipient.ok_or(reply::BAD_RECIPIENT)?;
    // No extension that is announced adds one.
    if parameter_list(parameters)?.next().is_some() {
        return Err(reply::UNKNOWN_PARAMETER);
    }
    Ok(Command::Rcpt(recipient))
}

/// The parameters behind a path (RFC 5321 §4.1.2), as keyword and value.
fn parameter_list(text: &str) -> Result<impl Iterator<Item = (&str, Option<&str>)>, Reply> {
    if !text.is_empty() && !text.starts_with(' ') {
        return Err(reply::BAD_SYNTAX);
    }
    let words = text.split(' ').filter(|word| !word.is_empty());
    Ok(words.map(|word| word.split_once('=').map_or((word, None), |(keyword, value)| (keyword, Some(value)))))
}

/// RFC 1870 §3: 1 to 20 digits. What does not fit 64 bits is as large as anything can be.
fn size(value: &str) -> Result<u64, Reply> {
    if value.is_empty() || value.len() > 20 || !value.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(reply::BAD_SYNTAX);
    }
    Ok(value.parse().unwrap_or(u64::MAX))
}

fn body_type(value: &str) -> Result<BodyType, Reply> {
    match value.to_ascii_uppercase().as_str() {
        "7BIT" => Ok(BodyType::SevenBit),
        "8BITMIME" => Ok(BodyType::EightBitMime),
        // RFC 3030 §3: not announced, because a message without line ends cannot go out over POP3.
        "BINARYMIME" => Err(reply::UNKNOWN_PARAMETER),
        _ => Err(reply::BAD_SYNTAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: &Command) {
        assert_eq!(Command::parse(Line::Complete(line.as_bytes())).as_ref(), Ok(expected));
    }

    #[track_caller]
    fn check_bad(line: &[u8], expected: Reply) {
        assert_eq!(Command::parse(Line::Complete(line)), Err(Unusable::Bad(expected)));
    }

    fn envelope(sender: &str) -> Envelope {
        Envelope { sender: Address::parse(sender), size: None, body: BodyType::SevenBit, smtputf8: false }
    }

    #[test]
    fn verbs_in_any_case() {
        check("lhlo client.example", &Command::Lhlo("client.example".to_owned()));
        check("data", &Command::Data);
        check("Rset ", &Command::Rset);
        check("NOOP whatever", &Command::Noop);
        check("help me", &Command::Help);
        check("VRFY alice", &Command::Vrfy);
        check("quit", &Command::Quit);
    }

    #[test]
    fn verbs_that_are_refused() {
        check_bad(b"HELO client", reply::USE_LHLO);
        check_bad(b"ehlo client", reply::USE_LHLO);
        check_bad(b"EXPN list", reply::UNKNOWN_COMMAND);
        check_bad(b"STARTTLS", reply::UNKNOWN_COMMAND);
        check_bad(b"", reply::UNKNOWN_COMMAND);
        check_bad(b" QUIT", reply::UNKNOWN_COMMAND);
        check_bad(b"LHLO", reply::BAD_SYNTAX);
        check_bad(b"VRFY ", reply::BAD_SYNTAX);
        check_bad(b"DATA now", reply::BAD_SYNTAX);
        check_bad(b"NOOP \xff", reply::BAD_CHARACTERS);
        check_bad(b"NOOP a\rb", reply::BAD_CHARACTERS);
        check_bad(b"NOOP \0", reply::BAD_CHARACTERS);
    }

    #[test]
    fn mail_and_its_parameters() {
        check("MAIL FROM:<a@b>", &Command::Mail(envelope("a@b")));
        check("mail from: <> ", &Command::Mail(envelope("")));
        let full =
            Envelope { size: Some(10), body: BodyType::EightBitMime, smtputf8: true, ..envelope("å@b") };
        check("MAIL FROM:<å@b> SIZE=10 body=8bitmime SMTPUTF8", &Command::Mail(full));
        let huge = Envelope { size: Some(u64::MAX), ..envelope("a@b") };
        check("MAIL FROM:<a@b> SIZE=99999999999999999999", &Command::Mail(huge));
        check_bad("MAIL FROM:<å@b>".as_bytes(), reply::NEEDS_SMTPUTF8);
        check_bad(b"MAIL FROM:<a@b> BODY=BINARYMIME", reply::UNKNOWN_PARAMETER);
        check_bad(b"MAIL FROM:<a@b> AUTH=<>", reply::UNKNOWN_PARAMETER);
        for bad in [
            "SIZE",
            "SIZE=",
            "SIZE=-1",
            "SIZE=999999999999999999999",
            "SIZE=1 SIZE=1",
            "BODY=9BIT",
            "BODY=7BIT BODY=7BIT",
            "SMTPUTF8=1",
            "SMTPUTF8 SMTPUTF8",
        ] {
            check_bad(format!("MAIL FROM:<a@b> {bad}").as_bytes(), reply::BAD_SYNTAX);
        }
        check_bad(b"MAIL FROM:<a@b>SIZE=1", reply::BAD_SYNTAX);
        check_bad(b"MAIL", reply::BAD_SYNTAX);
        check_bad(b"MAIL TO:<a@b>", reply::BAD_SYNTAX);
        check_bad("MAIL FROMä<a@b>".as_bytes(), reply::BAD_SYNTAX);
        check_bad(b"MAIL FROM:a@b", reply::BAD_SENDER);
        check_bad(b"MAIL FROM:<postmaster>", reply::BAD_SENDER);
    }

    #[test]
    fn rcpt() {
        check("RCPT TO:<@a,@b:c@d>", &Command::Rcpt(Address::parse("c@d").unwrap()));
        check("rcpt to:<postmaster>", &Command::Rcpt(Address::parse("postmaster").unwrap()));
        check_bad(b"RCPT TO:<>", reply::BAD_RECIPIENT);
        check_bad(b"RCPT TO:a@b", reply::BAD_RECIPIENT);
        check_bad(b"RCPT FROM:<a@b>", reply::BAD_SYNTAX);
        check_bad(b"RCPT TO:<a@b> NOTIFY=NEVER", reply::UNKNOWN_PARAMETER);
    }

    #[test]
    fn bdat_is_exact_or_the_end() {
        check("BDAT 0", &Command::Bdat { octets: 0, last: false });
        check("bdat 1000 last", &Command::Bdat { octets: 1_000, last: true });
        for bad in [
            "BDAT",
            "BDAT ",
            "BDAT x",
            "BDAT -1",
            "BDAT +1",
            "BDAT 1 FIRST",
            "BDAT 1 LAST LAST",
            "BDATA 1",
            "BDAT 18446744073709551616",
            "BDAT\t1",
        ] {
            assert_eq!(Command::parse(Line::Complete(bad.as_bytes())), Err(Unusable::OutOfStep), "{bad}");
        }
    }
}
