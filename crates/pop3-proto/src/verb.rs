//! The commands by name.

use crate::line::Line;

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident = $keyword:literal,)*) => {
        /// A command's name, from a finite set: fit to be a metric's label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Verb {
            $($(#[$doc])* $name,)*
            /// Anything else, overlong lines included.
            Unknown,
        }

        impl Verb {
            /// Every verb.
            pub const ALL: &[Self] = &[$(Self::$name,)* Self::Unknown];

            /// The name, in lower case.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $keyword,)*
                    Self::Unknown => "unknown",
                }
            }

            pub(crate) fn from_keyword(keyword: &[u8]) -> Self {
                $(if keyword.eq_ignore_ascii_case($keyword.as_bytes()) {
                    return Self::$name;
                })*
                Self::Unknown
            }
        }
    };
}

verbs! {
    /// RFC 1939 §7.
    Apop = "apop",
    /// RFC 5034.
    Auth = "auth",
    /// RFC 2449 §5.
    Capa = "capa",
    /// RFC 1939 §5.
    Dele = "dele",
    /// RFC 6856 §3.
    Lang = "lang",
    /// RFC 1939 §5.
    List = "list",
    /// RFC 1939 §5.
    Noop = "noop",
    /// RFC 1939 §7.
    Pass = "pass",
    /// RFC 1939 §4 and §6.
    Quit = "quit",
    /// RFC 1939 §5.
    Retr = "retr",
    /// RFC 1939 §5.
    Rset = "rset",
    /// RFC 1939 §5.
    Stat = "stat",
    /// RFC 2595 §4.
    Stls = "stls",
    /// RFC 1939 §7.
    Top = "top",
    /// RFC 1939 §7.
    Uidl = "uidl",
    /// RFC 1939 §7.
    User = "user",
    /// RFC 6856 §2.
    Utf8 = "utf8",
    /// Dovecot's, after Postfix's.
    Xclient = "xclient",
    /// The same of other proxies.
    Xoip = "xoip",
}

impl Verb {
    /// The command a line names.
    pub fn of(line: Line<'_>) -> Self {
        match line {
            Line::Complete(line) => Self::from_keyword(split(line).0),
            Line::TooLong => Self::Unknown,
        }
    }
}

/// Parts a line at its first space: the keyword, and all that follows if there was a space.
pub(crate) fn split(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b' ', line) {
        Some(space) => (&line[..space], Some(&line[space + 1..])),
        None => (line, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_case() {
        for &verb in Verb::ALL {
            let line = format!("{} x", verb.as_str().to_uppercase());
            assert_eq!(Verb::of(Line::Complete(line.as_bytes())), verb);
            assert_eq!(Verb::of(Line::Complete(verb.as_str().as_bytes())), verb);
        }
        assert_eq!(Verb::of(Line::Complete(b"QUITX")), Verb::Unknown);
        assert_eq!(Verb::of(Line::TooLong), Verb::Unknown);
    }
}
