//! CRAM-MD5 (RFC 2195) and APOP (RFC 1939 §7): a digest over a challenge and the password, which has to be known.

use aws_lc_rs::constant_time;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use time::OffsetDateTime;

use super::{Malformed, plain};

/// The timestamp of a greeting that offers APOP, and the challenge of CRAM-MD5: `<random.time@host>`, a message-id
/// (RFC 822) that is never made twice.
pub fn timestamp(hostname: &str) -> String {
    let random = uuid::Uuid::new_v4().simple();
    // Angle brackets and spaces would make it another thing.
    let host: String =
        hostname.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).collect();
    format!("<{random}.{}@{host}>", OffsetDateTime::now_utc().unix_timestamp())
}

/// The client's answer: a name, a space, and a digest in hexadecimal digits.
pub(crate) fn parse(response: &[u8]) -> Result<(&str, [u8; 16]), Malformed> {
    let space = response.iter().rposition(|&octet| octet == b' ').ok_or(Malformed)?;
    let name = plain::name(&response[..space]).ok_or(Malformed)?;
    let (pairs, []) = response[space + 1..].as_chunks::<2>() else { return Err(Malformed) };
    let mut digest = [0; 16];
    if pairs.len() != digest.len() {
        return Err(Malformed);
    }
    let value = |digit: u8| char::from(digit).to_digit(16).ok_or(Malformed);
    for (octet, pair) in digest.iter_mut().zip(pairs) {
        *octet = (value(pair[0])? * 16 + value(pair[1])?) as u8;
    }
    Ok((name, digest))
}

/// Whether the digest is HMAC-MD5 of the challenge under the password.
pub(crate) fn is_good(challenge: &str, digest: [u8; 16], secret: &[u8]) -> bool {
    hmac_md5(secret, challenge.as_bytes())
        .is_some_and(|computed| constant_time::verify_slices_are_equal(&computed, &digest).is_ok())
}

/// Whether the digest is MD5 of the greeting's timestamp and the password.
pub(crate) fn apop_is_good(timestamp: &str, digest: [u8; 16], secret: &[u8]) -> bool {
    let computed = Md5::new().chain_update(timestamp).chain_update(secret).finalize();
    constant_time::verify_slices_are_equal(computed.as_slice(), &digest).is_ok()
}

/// There is one for every key: HMAC takes keys of any length (RFC 2104 §3).
fn hmac_md5(key: &[u8], message: &[u8]) -> Option<[u8; 16]> {
    let mut hmac = Hmac::<Md5>::new_from_slice(key).ok()?;
    hmac.update(message);
    Some(hmac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 2195 §2.
    #[test]
    fn the_example_of_rfc_2195() {
        let challenge = "<1896.697170952@postoffice.reston.mci.net>";
        let (name, digest) = parse(b"tim b913a602c7eda7a495b4e6e7334d3890").unwrap();
        assert_eq!(name, "tim");
        assert!(is_good(challenge, digest, b"tanstaaftanstaaf"));
        assert!(!is_good(challenge, digest, b"tanstaaftanstaa"));
        assert!(!is_good("<1@x>", digest, b"tanstaaftanstaaf"));
    }

    /// RFC 1939 §7.
    #[test]
    fn the_example_of_rfc_1939() {
        let (_, digest) = parse(b"mrose c4c9334bac560ecc979e58001b3e22fb").unwrap();
        assert!(apop_is_good("<1896.697170952@dbc.mtview.ca.us>", digest, b"tanstaaf"));
        assert!(!apop_is_good("<1896.697170952@dbc.mtview.ca.us>", digest, b"tanstaaF"));
    }

    #[test]
    fn answers_are_read_strictly() {
        assert_eq!(parse(b"two words B913A602C7EDA7A495B4E6E7334D3890").unwrap().0, "two words");
        for bad in [
            "",
            "tim",
            " b913a602c7eda7a495b4e6e7334d3890",
            "tim b913",
            "tim b913a602c7eda7a495b4e6e7334d389x",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn timestamps_are_message_ids_and_differ() {
        let one = timestamp("mail example>.test");
        assert!(one.starts_with('<') && one.ends_with("@mailexample.test>"), "{one}");
        assert_ne!(one, timestamp("mail example>.test"));
    }
}
