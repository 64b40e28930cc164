//! Values of requests that no type rules out.

use maildrop::{Address, DomainName};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use crate::Problem;

/// Longest label in characters.
const LABEL_CHARACTERS_MAX: usize = 100;
/// Longest text that something is searched by, in octets.
const SEARCH_OCTETS_MAX: usize = 400;

/// A number that fits the database.
pub(crate) fn octets_fit(field: &str, number: Option<u64>) -> Result<(), Problem> {
    match number {
        Some(number) if i64::try_from(number).is_err() => Err(Problem::invalid(field, "is less than 2^63")),
        _ => Ok(()),
    }
}

/// What a policy or limits find wrong with themselves.
pub(crate) fn problem_in(field: &str, problem: Option<(&str, &str)>) -> Result<(), Problem> {
    match problem {
        Some((inner, detail)) => Err(Problem::invalid(&format!("{field}.{inner}"), detail)),
        None => Ok(()),
    }
}

/// A label: one line of 1 to 100 characters.
pub(super) fn label(text: String) -> Result<String, Problem> {
    let good =
        (1..=LABEL_CHARACTERS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if good {
        Ok(text)
    } else {
        Err(Problem::invalid("label", "a label is 1 to 100 characters, none of them a control character"))
    }
}

/// A text to search by; no row holds a control character.
pub(super) fn search(field: &str, text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.len() > SEARCH_OCTETS_MAX || text.chars().any(char::is_control) => {
            Err(Problem::invalid(field, "is 400 octets at most, without control characters"))
        }
        text => Ok(text),
    }
}

/// A moment, in UTC.
pub(super) fn moment(field: &str, text: Option<&str>) -> Result<Option<OffsetDateTime>, Problem> {
    let bad = |_| Problem::invalid(field, "is no time as RFC 3339 writes it");
    let moment = text.map(|text| OffsetDateTime::parse(text, &Rfc3339)).transpose().map_err(bad)?;
    Ok(moment.and_then(|moment| moment.checked_to_offset(UtcOffset::UTC)))
}

/// When a credential ceases to be good: not before it is created.
pub(super) fn expiry(text: Option<&str>, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, Problem> {
    match moment("expires_at", text)? {
        Some(end) if end <= now => Err(Problem::invalid("expires_at", "is over already")),
        end => Ok(end),
    }
}

/// The mailbox address of a path. One that cannot be is one that is not.
pub(super) fn address_of_path(text: &str) -> Result<Address, Problem> {
    Address::try_from(text).map_err(|_| Problem::not_found("mailbox"))
}

/// The domain of a path.
pub(super) fn domain_of_path(text: &str) -> Result<DomainName, Problem> {
    DomainName::try_from(text).map_err(|_| Problem::not_found("domain"))
}

/// An identity of a path.
pub(super) fn uuid_of_path(text: &str, what: &str) -> Result<uuid::Uuid, Problem> {
    uuid::Uuid::try_parse(text).map_err(|_| Problem::not_found(what))
}

/// A cursor that cannot be one of ours.
pub(super) fn bad_cursor<E>(_: E) -> Problem {
    Problem::invalid("after", "is not a cursor of this list")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_one_line() {
        assert!(label("a \u{e9} b".into()).is_ok());
        for bad in ["", "a\0", "a\nb", "\u{85}", &"x".repeat(101)] {
            assert!(label(bad.into()).is_err(), "{bad:?}");
        }
        assert!(label("\u{1f600}".repeat(100)).is_ok());
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = moment("x", Some("2026-11-23T10:00:00+02:00")).unwrap().unwrap();
        assert_eq!(time.format(&Rfc3339).unwrap(), "2026-11-23T08:00:00Z");
        for bad in ["", "2026-11-23", "2026-11-23 10:00:00", "2026-13-01T00:00:00Z", "now"] {
            assert!(moment("x", Some(bad)).is_err(), "{bad}");
        }
        assert!(expiry(Some("2000-01-01T00:00:00Z"), OffsetDateTime::now_utc()).is_err());
        // At the edge of the calendar, another offset may be outside of it.
        assert!(moment("x", Some("9999-12-31T23:59:59-10:00")).is_ok());
    }
}
