//! OAUTHBEARER (RFC 7628) and XOAUTH2: a token, and for whom.

use super::{Malformed, plain::name};

/// The longest token taken: what fits a response.
const TOKEN_OCTETS_MAX: usize = 64 * 1024;

/// A client's message.
#[derive(PartialEq, Eq)]
pub(crate) struct Bearer<'a> {
    /// Whose mailbox; OAUTHBEARER need not say.
    pub(crate) login: Option<String>,
    /// The token (RFC 6750 §2.1); empty where the client asks what is wanted of it.
    pub(crate) token: &'a str,
}

impl<'a> Bearer<'a> {
    /// Reads OAUTHBEARER's message (RFC 7628 §3.1): a GS2 header, key-value pairs between 0x01 octets, and another at
    /// the end.
    pub(crate) fn parse_oauthbearer(message: &'a [u8]) -> Result<Self, Malformed> {
        let message = str::from_utf8(message).map_err(|_| Malformed)?;
        let (header, pairs) = message.split_once('\u{1}').ok_or(Malformed)?;
        // There is no channel binding with it (RFC 7628 §3.1).
        let rest = header.strip_prefix("n,").or_else(|| header.strip_prefix("y,")).ok_or(Malformed)?;
        let authzid = rest.strip_suffix(',').ok_or(Malformed)?;
        let login = match authzid.strip_prefix("a=") {
            Some(written) => {
                let login = saslname(written).ok_or(Malformed)?;
                Some(name(login.as_bytes()).ok_or(Malformed)?.to_owned())
            }
            None if authzid.is_empty() => None,
            None => return Err(Malformed),
        };
        let (mut token, mut ended) = (None, false);
        for pair in pairs.split('\u{1}') {
            match pair.split_once('=') {
                // Others are told by their names and of no use here: host, port.
                Some((key, value)) if !key.is_empty() && key.bytes().all(|o| o.is_ascii_alphabetic()) => {
                    if key == "auth" && token.replace(value).is_some() {
                        return Err(Malformed);
                    }
                }
                None if pair.is_empty() => ended = true,
                _ => return Err(Malformed),
            }
        }
        let token = bearer(token.ok_or(Malformed)?)?;
        if ended { Ok(Self { login, token }) } else { Err(Malformed) }
    }

    /// Reads XOAUTH2's: `user=`, 0x01, `auth=Bearer `, the token, and 0x01 twice.
    pub(crate) fn parse_xoauth2(message: &'a [u8]) -> Result<Self, Malformed> {
        let message = str::from_utf8(message).map_err(|_| Malformed)?;
        let message = message.strip_suffix("\u{1}\u{1}").ok_or(Malformed)?;
        let (user, auth) = message.split_once('\u{1}').ok_or(Malformed)?;
        let login = name(user.strip_prefix("user=").ok_or(Malformed)?.as_bytes()).ok_or(Malformed)?;
        let token = bearer(auth.strip_prefix("auth=").ok_or(Malformed)?)?;
        Ok(Self { login: Some(login.to_owned()), token })
    }
}

/// The token behind `Bearer `.
fn bearer(value: &str) -> Result<&str, Malformed> {
    if value.is_empty() {
        return Ok("");
    }
    let (scheme, token) = value.split_once(' ').ok_or(Malformed)?;
    let token = token.trim_matches(' ');
    let good = token.len() <= TOKEN_OCTETS_MAX && token.bytes().all(|octet| octet.is_ascii_graphic());
    if scheme.eq_ignore_ascii_case("Bearer") && good { Ok(token) } else { Err(Malformed) }
}

/// A name as GS2 writes it: `=2C` for a comma, `=3D` for an equals sign (RFC 5801 §4).
fn saslname(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (written, rest) = part.split_at_checked(2)?;
        name.push(match written {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        name.push_str(rest);
    }
    (!name.contains('\0')).then_some(name)
}

/// What a client is told of a token that is not taken (RFC 7628 §3.2.2).
pub(crate) const OAUTHBEARER_REFUSAL: &[u8] = br#"{"status":"invalid_token"}"#;
/// The same, as clients of XOAUTH2 know it.
pub(crate) const XOAUTH2_REFUSAL: &[u8] = br#"{"status":"401","schemes":"bearer"}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(parsed: Result<Bearer<'_>, Malformed>, expected: Option<(Option<&str>, &str)>) {
        let parsed = parsed.ok();
        let parsed = parsed.as_ref().map(|bearer| (bearer.login.as_deref(), bearer.token));
        assert_eq!(parsed, expected);
    }

    #[test]
    fn oauthbearer_of_the_rfc() {
        let check = |message: &str, expected| check(Bearer::parse_oauthbearer(message.as_bytes()), expected);
        // RFC 7628 §4.1.
        check(
            "n,a=user@example.com,\u{1}host=server.example.com\u{1}port=143\u{1}auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\u{1}\u{1}",
            Some((Some("user@example.com"), "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==")),
        );
        check("n,,\u{1}auth=bearer t\u{1}\u{1}", Some((None, "t")));
        check("y,a=a=2Cb=3Dc@d.test,\u{1}auth=Bearer t\u{1}\u{1}", Some((Some("a,b=c@d.test"), "t")));
        // It asks what is wanted of it (§4.3).
        check("n,a=user@example.com,\u{1}host=h\u{1}auth=\u{1}\u{1}", Some((Some("user@example.com"), "")));
        for bad in [
            "",
            "\u{1}",
            "n,,",
            "n,,\u{1}auth=Bearer t",
            "n,,\u{1}auth=Bearer t\u{2}",
            "n,,\u{1}\u{1}",
            "p=tls-exporter,,\u{1}auth=Bearer t\u{1}\u{1}",
            "n,b=x,\u{1}auth=Bearer t\u{1}\u{1}",
            "n,a=,\u{1}auth=Bearer t\u{1}\u{1}",
            "n,a=x=2c,\u{1}auth=Bearer t\u{1}\u{1}",
            "n,a=x=,\u{1}auth=Bearer t\u{1}\u{1}",
            "n,,\u{1}auth=Basic t\u{1}\u{1}",
            "n,,\u{1}auth=Bearer t\u{1}auth=Bearer u\u{1}\u{1}",
            "n,,\u{1}auth=Bearer a b\u{1}\u{1}",
            "n,,\u{1}auth=Bearer t\u{1}x\u{1}\u{1}",
            "n,a=\u{1b}[2J,\u{1}auth=Bearer t\u{1}\u{1}",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn xoauth2_as_its_inventors_wrote_it() {
        let check = |message: &str, expected| check(Bearer::parse_xoauth2(message.as_bytes()), expected);
        check(
            "user=someuser@example.com\u{1}auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\u{1}\u{1}",
            Some((Some("someuser@example.com"), "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg")),
        );
        for bad in [
            "",
            "user=a\u{1}auth=Bearer t\u{1}",
            "user=\u{1}auth=Bearer t\u{1}\u{1}",
            "auth=Bearer t\u{1}\u{1}",
            "user=a\u{1}auth=t\u{1}\u{1}",
            "user=a\u{1}x=y\u{1}auth=Bearer t\u{1}\u{1}",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn refusals_are_json() {
        for refusal in [OAUTHBEARER_REFUSAL, XOAUTH2_REFUSAL] {
            let value: serde_json::Value = serde_json::from_slice(refusal).unwrap();
            assert!(value["status"].is_string());
        }
    }
}
