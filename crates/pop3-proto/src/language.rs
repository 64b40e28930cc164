//! Languages of the texts, and how a session wants them (RFC 6856 §3).

use crate::texts::Text;

/// A language the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    /// `i-default` (RFC 2277 §4.5): what is spoken until the client asks for another. English in ASCII.
    #[default]
    Default,
    /// `en`.
    English,
    /// `de`.
    German,
}

impl Language {
    /// Every language, in the order LANG lists them.
    pub const ALL: &[Self] = &[Self::English, Self::German, Self::Default];

    /// Its tag (RFC 5646).
    pub fn tag(self) -> &'static str {
        match self {
            Self::Default => "i-default",
            Self::English => "en",
            Self::German => "de",
        }
    }

    /// Its name in itself.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "Default language",
            Self::English => "English",
            Self::German => "Deutsch",
        }
    }

    /// The language for a language range, by lookup (RFC 4647 §3.4): `de-AT` gives German. `*` is the default.
    pub(crate) fn for_range(range: &[u8]) -> Option<Self> {
        if range == b"*" {
            return Some(Self::Default);
        }
        let mut range = range;
        loop {
            let found = Self::ALL.iter().find(|language| {
                let tag = language.tag().as_bytes();
                tag.eq_ignore_ascii_case(range)
            });
            if let Some(language) = found {
                return Some(*language);
            }
            range = &range[..range.iter().rposition(|&octet| octet == b'-')?];
        }
    }
}

/// How a session is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wording {
    /// The language (LANG).
    pub language: Language,
    /// Whether the client takes UTF-8 (UTF8). Without, texts are in ASCII, and so are the headers of messages.
    pub utf8: bool,
}

impl Wording {
    /// Appends the text in its language, and in ASCII where the client takes nothing else.
    pub(crate) fn write(self, text: Text, out: &mut Vec<u8>) {
        let text = text.in_language(self.language);
        if self.utf8 {
            return out.extend_from_slice(text.as_bytes());
        }
        for character in text.chars() {
            match ascii(character) {
                Some(written) => out.extend_from_slice(written.as_bytes()),
                None => out.push(u8::try_from(character).unwrap_or(b'?')),
            }
        }
    }
}

/// How somebody without the letter would write it.
fn ascii(character: char) -> Option<&'static str> {
    Some(match character {
        'ä' => "ae",
        'ö' => "oe",
        'ü' => "ue",
        'Ä' => "Ae",
        'Ö' => "Oe",
        'Ü' => "Ue",
        'ß' => "ss",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts;

    #[test]
    fn ranges_are_looked_up() {
        let check = |range: &str, expected| assert_eq!(Language::for_range(range.as_bytes()), expected);
        check("de", Some(Language::German));
        check("DE-at", Some(Language::German));
        check("de-Latn-DE-1996", Some(Language::German));
        check("en-boont", Some(Language::English));
        check("i-default", Some(Language::Default));
        check("*", Some(Language::Default));
        for unknown in ["", "d", "deu", "fr", "fr-de", "i", "-", "*-de"] {
            check(unknown, None);
        }
    }

    #[test]
    fn texts_are_in_ascii_unless_the_client_takes_utf8() {
        let written = |language, utf8| {
            let mut out = Vec::new();
            Wording { language, utf8 }.write(texts::MESSAGE_DELETED, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Language::German, true), "Nachricht ist gelöscht");
        assert_eq!(written(Language::German, false), "Nachricht ist geloescht");
        assert_eq!(written(Language::Default, false), "message deleted");
    }
}
