//! EXTERNAL (RFC 4422 appendix A): who it is was said outside of SASL, by the certificate that a client showed in the
//! TLS handshake.

use maildrop::{Address, Credential};

use super::{Malformed, plain::LOGIN_MAX};
use crate::{AuthError, Authenticator, Verified};

/// Addresses that a certificate may name and be of use; what names more is for something else.
const NAMES_MAX: usize = 16;

/// The identity that a client asks for; empty for the one it has.
pub(super) fn authzid(response: &[u8]) -> Result<&str, Malformed> {
    let text = str::from_utf8(response).map_err(|_| Malformed)?;
    let fit = text.len() <= LOGIN_MAX && !text.chars().any(char::is_control);
    if fit { Ok(text) } else { Err(Malformed) }
}

/// The mailbox that a certificate with these names opens for who asks for `authzid`: the one that is asked for, if it
/// is among them, or the only one there is.
fn chosen(names: &[String], authzid: &str) -> Option<Address> {
    let mut addresses: Vec<Address> = names
        .iter()
        .take(NAMES_MAX)
        .filter(|name| Address::is_plain(name))
        .filter_map(|name| Address::try_from(name.as_str()).ok())
        .collect();
    if authzid.is_empty() {
        addresses.dedup();
        // Of several, which one is for the client to say.
        return if addresses.len() == 1 { addresses.pop() } else { None };
    }
    let wanted = Address::try_from(authzid).ok()?;
    addresses.into_iter().find(|address| *address == wanted)
}

impl Authenticator {
    /// Verifies that a client who showed a certificate with these names, which has been verified, may log in as
    /// `authzid`. Gives the login name, too.
    pub(super) async fn verify_external(
        &self,
        names: &[String],
        authzid: &str,
    ) -> (String, Result<Verified, AuthError>) {
        let Some(address) = chosen(names, authzid) else {
            // Counted for what was asked for, or for the certificate's own name.
            let name = if authzid.is_empty() { names.first().map_or("", String::as_str) } else { authzid };
            return (name.to_owned(), Err(AuthError::BadCredentials { tenant: None }));
        };
        let login = address.to_string();
        let verified = match self.look_up(&address).await.map(|found| found.account) {
            Ok(Some(account)) => {
                let mut verified = Verified::of(&account);
                verified.access.credential = Credential::Certificate;
                Ok(verified)
            }
            Ok(None) => Err(AuthError::BadCredentials { tenant: None }),
            Err(error) => Err(error),
        };
        (login, verified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &[&str], authzid: &str, expected: Option<&str>) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(chosen(&names, authzid).map(|address| address.to_string()).as_deref(), expected);
    }

    #[test]
    fn a_certificate_opens_what_it_names_and_nothing_else() {
        check(&["a@one.test"], "", Some("a@one.test"));
        check(&["A@One.Test", "a@one.test"], "", Some("a@one.test"));
        check(&["a@one.test"], "A@ONE.TEST", Some("a@one.test"));
        check(&["a@one.test", "b@one.test"], "b@one.test", Some("b@one.test"));
        check(&["a@one.test", "b@one.test"], "", None);
        check(&["a@one.test"], "b@one.test", None);
        check(&["a@one.test"], "a", None);
        check(&["one.test", "no address"], "", None);
        check(&[], "", None);
        check(&[], "a@one.test", None);
    }

    #[test]
    fn what_is_asked_for_is_text_of_one_line() {
        assert_eq!(authzid(b""), Ok(""));
        assert_eq!(authzid("ä@one.test".as_bytes()), Ok("ä@one.test"));
        for bad in [b"a\0b".as_slice(), b"a\r\n", b"\xff", &[b'a'; LOGIN_MAX + 1]] {
            assert_eq!(authzid(bad), Err(Malformed));
        }
    }
}
