//! SASL mechanisms by name (RFC 4422, RFC 5034).

macro_rules! mechanisms {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A SASL mechanism this core knows the name of. How it is done is the driver's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Mechanism {
            $($(#[$doc])* $name,)*
        }

        impl Mechanism {
            /// Every mechanism, the strongest first: the order they are listed in.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The registered name.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

mechanisms! {
    /// RFC 4422 appendix A: by what TLS has found out.
    External = "EXTERNAL",
    /// RFC 7677, bound to the TLS connection.
    ScramSha256Plus = "SCRAM-SHA-256-PLUS",
    /// RFC 5802, bound to the TLS connection.
    ScramSha1Plus = "SCRAM-SHA-1-PLUS",
    /// RFC 7677.
    ScramSha256 = "SCRAM-SHA-256",
    /// RFC 5802.
    ScramSha1 = "SCRAM-SHA-1",
    /// RFC 2195.
    CramMd5 = "CRAM-MD5",
    /// RFC 7628.
    OauthBearer = "OAUTHBEARER",
    /// Google's and Microsoft's forerunner of OAUTHBEARER.
    Xoauth2 = "XOAUTH2",
    /// RFC 4616.
    Plain = "PLAIN",
    /// draft-murchison-sasl-login.
    Login = "LOGIN",
}

impl Mechanism {
    /// The mechanism of this name, in either case (RFC 5034 §4).
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.iter().copied().find(|mechanism| name.eq_ignore_ascii_case(mechanism.as_str().as_bytes()))
    }

    /// Whether the client sends what somebody who listens could log in with.
    pub fn reveals_secret(self) -> bool {
        matches!(self, Self::Plain | Self::Login | Self::OauthBearer | Self::Xoauth2)
    }

    /// Whether it is bound to TLS (RFC 5802 §6), or rests on it.
    pub fn needs_tls(self) -> bool {
        matches!(self, Self::External | Self::ScramSha256Plus | Self::ScramSha1Plus)
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of mechanisms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mechanisms(u16);

impl Mechanisms {
    /// None.
    pub const NONE: Self = Self(0);

    /// Whether it has this one.
    pub fn contains(self, mechanism: Mechanism) -> bool {
        self.0 & mechanism.bit() != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The mechanisms, the strongest first.
    pub fn iter(self) -> impl Iterator<Item = Mechanism> {
        Mechanism::ALL.iter().copied().filter(move |mechanism| self.contains(*mechanism))
    }
}

impl FromIterator<Mechanism> for Mechanisms {
    fn from_iter<I: IntoIterator<Item = Mechanism>>(mechanisms: I) -> Self {
        Self(mechanisms.into_iter().fold(0, |bits, mechanism| bits | mechanism.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_either_case() {
        for mechanism in Mechanism::ALL {
            let name = mechanism.as_str();
            assert_eq!(Mechanism::from_name(name.to_lowercase().as_bytes()), Some(*mechanism));
            assert!(name.len() <= 20, "RFC 4422 §3.1");
        }
        assert_eq!(Mechanism::from_name(b"PLAI"), None);
        assert_eq!(Mechanism::from_name(b""), None);
    }

    #[test]
    fn a_set_lists_the_strongest_first() {
        let set: Mechanisms =
            [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha1Plus].into_iter().collect();
        let names: Vec<_> = set.iter().map(Mechanism::as_str).collect();
        assert_eq!(names, ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "PLAIN"]);
        assert!(Mechanisms::NONE.is_empty() && !set.is_empty());
        assert!(!set.contains(Mechanism::Login));
    }
}
