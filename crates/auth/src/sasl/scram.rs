//! SCRAM (RFC 5802, RFC 7677), the server's side.
//!
//! ```text
//!   client: n,,n=user,r=cnonce            ── gs2 header, bare first message
//!   server: r=cnonce+snonce,s=salt,i=4096
//!   client: c=biws,r=cnonce+snonce,p=proof
//!   server: v=signature
//! ```

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{ChannelBindings, Malformed, canonical, plain::LOGIN_MAX};

/// Iterations of what is derived here. RFC 7677 §4 asks for 4096 at least; a client computes as many on each login.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(10_000).expect("is not zero");
const SALT_OCTETS: usize = 16;
/// The longest client nonce: nobody needs more than some 40 characters.
const NONCE_MAX: usize = 256;
/// The longest first message: names, escaped, and a nonce.
const FIRST_MAX: usize = 2048;

/// The hash function of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        }
    }

    fn sign(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.hmac(), key), message).as_ref().to_vec()
    }

    fn hash(self, octets: &[u8]) -> Vec<u8> {
        digest::digest(self.digest(), octets).as_ref().to_vec()
    }
}

/// What a server keeps of a password: enough to verify, not enough to log in elsewhere without guessing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScramVerifier {
    iterations: NonZeroU32,
    #[serde(with = "base64_text")]
    salt: Vec<u8>,
    #[serde(with = "base64_text")]
    stored_key: Vec<u8>,
    #[serde(with = "base64_text")]
    server_key: Vec<u8>,
}

impl ScramVerifier {
    /// Of a new password.
    pub(crate) fn derive(hash: Hash, password: &[u8]) -> Self {
        // All random: the fixed bits of a UUID would tell a salt from a decoy's.
        let random = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(uuid::Uuid::into_bytes);
        let salt = blake3::hash(random.as_flattened()).as_bytes()[..SALT_OCTETS].to_vec();
        Self::with(hash, password, salt, ITERATIONS)
    }

    fn with(hash: Hash, password: &[u8], salt: Vec<u8>, iterations: NonZeroU32) -> Self {
        let mut salted = Zeroizing::new(vec![0; hash.digest().output_len()]);
        pbkdf2::derive(hash.pbkdf2(), iterations, &salt, &prepared(password), &mut salted);
        let client_key = Zeroizing::new(hash.sign(&salted, b"Client Key"));
        let server_key = hash.sign(&salted, b"Server Key");
        Self { iterations, salt, stored_key: hash.hash(&client_key), server_key }
    }

    /// What a name that nobody has, or that has no verifier, is answered with: the same each time and on each node,
    /// so that it cannot be told from one that somebody has. No password fits it.
    pub(crate) fn decoy(hash: Hash, key: &[u8; 32], login: &str) -> Self {
        let mut octets = [0; SALT_OCTETS + 64];
        let mut hasher = blake3::Hasher::new_keyed(key);
        // An account's two verifiers have two salts, and its name is the same in either case.
        hasher.update(&[hash as u8]).update(canonical(login).as_bytes()).finalize_xof().fill(&mut octets);
        let length = hash.digest().output_len();
        let (salt, keys) = octets.split_at(SALT_OCTETS);
        Self {
            iterations: ITERATIONS,
            salt: salt.to_vec(),
            stored_key: keys[..length].to_vec(),
            server_key: keys[32..32 + length].to_vec(),
        }
    }
}

impl std::fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramVerifier(…)")
    }
}

/// A password as SCRAM hashes it: SASLprep where it is text that SASLprep takes (RFC 5802 §2.2).
fn prepared(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    Zeroizing::new(text.map_or_else(|| password.to_vec(), |text| text.as_bytes().to_vec()))
}

/// The client's first message.
#[derive(Debug)]
pub(crate) struct ClientFirst {
    /// The GS2 header, to be found again in the final message.
    gs2: String,
    binding: Binding,
    bare: String,
    /// Who logs in.
    pub(crate) login: String,
    /// On whose behalf.
    pub(crate) authzid: Option<String>,
    nonce: String,
}

/// What the client says of channel binding (RFC 5802 §7, gs2-cbind-flag).
#[derive(Debug, PartialEq, Eq)]
enum Binding {
    /// `n`: it has none.
    Unsupported,
    /// `y`: it has some, and believes that the server has not.
    NotOffered,
    /// `p=`: this one.
    Used(String),
}

impl ClientFirst {
    /// Reads the message.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, Malformed> {
        if message.len() > FIRST_MAX {
            return Err(Malformed);
        }
        let message = str::from_utf8(message).map_err(|_| Malformed)?;
        let mut parts = message.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Malformed);
        };
        let binding = match flag {
            "n" => Binding::Unsupported,
            "y" => Binding::NotOffered,
            _ => Binding::Used(
                flag.strip_prefix("p=").filter(|name| !name.is_empty()).ok_or(Malformed)?.into(),
            ),
        };
        let authzid = match authzid {
            "" => None,
            named => Some(unescape(named.strip_prefix("a=").ok_or(Malformed)?)?),
        };
        // `m=` in front would be an extension that must be understood (RFC 5802 §5.1), and none is.
        let mut attributes = bare.split(',');
        let login = attributes.next().and_then(|name| name.strip_prefix("n=")).ok_or(Malformed)?;
        let nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or(Malformed)?;
        let printable = |octet: u8| octet.is_ascii_graphic() && octet != b',';
        if nonce.is_empty() || nonce.len() > NONCE_MAX || !nonce.bytes().all(printable) {
            return Err(Malformed);
        }
        let login = unescape(login)?;
        // RFC 5802 §5.1: prepared as a query; what cannot be is nobody's name.
        let login = stringprep::saslprep(&login).map(String::from).unwrap_or(login);
        let gs2 = message[..message.len() - bare.len()].to_owned();
        Ok(Self { gs2, binding, bare: bare.to_owned(), login, authzid, nonce: nonce.to_owned() })
    }

    /// Whether the binding is what was agreed on: `plus` is the mechanism that was chosen, `offered` whether one with
    /// channel binding was on offer. What the client thinks of the offer and what was offered must be the same, or
    /// somebody between the two took it away (RFC 5802 §6).
    pub(crate) fn agrees(&self, plus: bool, offered: bool, bindings: &ChannelBindings) -> bool {
        match &self.binding {
            Binding::Unsupported => !plus,
            Binding::NotOffered => !plus && !offered,
            Binding::Used(name) => plus && bindings.get(name).is_some(),
        }
    }
}

/// The name of a login, in which `=2C` and `=3D` stand for `,` and `=`.
fn unescape(text: &str) -> Result<String, Malformed> {
    let mut parts = text.split('=');
    let mut unescaped = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (with, rest) = match part.split_at_checked(2) {
            Some(("2C", rest)) => (',', rest),
            Some(("3D", rest)) => ('=', rest),
            _ => return Err(Malformed),
        };
        unescaped.push(with);
        unescaped.push_str(rest);
    }
    if unescaped.is_empty() || unescaped.len() > LOGIN_MAX || unescaped.chars().any(char::is_control) {
        return Err(Malformed);
    }
    Ok(unescaped)
}

/// An exchange after the server's first message.
#[derive(Debug)]
pub(crate) struct ServerFirst {
    hash: Hash,
    verifier: ScramVerifier,
    first: ClientFirst,
    nonce: String,
    message: String,
}

impl ServerFirst {
    pub(crate) fn new(hash: Hash, verifier: ScramVerifier, first: ClientFirst) -> Self {
        Self::with_nonce(hash, verifier, first, &STANDARD.encode(uuid::Uuid::new_v4().as_bytes()))
    }

    fn with_nonce(hash: Hash, verifier: ScramVerifier, first: ClientFirst, nonce: &str) -> Self {
        let nonce = format!("{}{nonce}", first.nonce);
        let message = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
        Self { hash, verifier, first, nonce, message }
    }

    /// What the server says first.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Checks the client's final message. The server's, if the proof is good.
    pub(crate) fn verify(
        &self,
        message: &[u8],
        bindings: &ChannelBindings,
    ) -> Result<Option<String>, Malformed> {
        let message = str::from_utf8(message).map_err(|_| Malformed)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(Malformed)?;
        let mut attributes = without_proof.split(',');
        let bound = attributes.next().and_then(|bound| bound.strip_prefix("c=")).ok_or(Malformed)?;
        let nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or(Malformed)?;
        let (bound, proof) = (decode(bound)?, decode(proof)?);
        if nonce != self.nonce {
            return Ok(None);
        }
        let mut expected = self.first.gs2.clone().into_bytes();
        if let Binding::Used(name) = &self.first.binding {
            expected.extend_from_slice(bindings.get(name).ok_or(Malformed)?);
        }
        let authenticated = format!("{},{},{without_proof}", self.first.bare, self.message);
        let signature = self.hash.sign(&self.verifier.stored_key, authenticated.as_bytes());
        if proof.len() != signature.len() {
            return Err(Malformed);
        }
        let client_key: Zeroizing<Vec<u8>> =
            Zeroizing::new(proof.iter().zip(&signature).map(|(proof, signed)| proof ^ signed).collect());
        let same = |a: &[u8], b: &[u8]| constant_time::verify_slices_are_equal(a, b).is_ok();
        if !same(&self.hash.hash(&client_key), &self.verifier.stored_key) || !same(&bound, &expected) {
            return Ok(None);
        }
        let signature = self.hash.sign(&self.verifier.server_key, authenticated.as_bytes());
        Ok(Some(format!("v={}", STANDARD.encode(signature))))
    }
}

fn decode(text: &str) -> Result<Vec<u8>, Malformed> {
    STANDARD.decode(text).map_err(|_| Malformed)
}

mod base64_text {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(octets: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(octets))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(hash: Hash, verifier: &ScramVerifier, first: &str, server_nonce: &str) -> ServerFirst {
        let first = ClientFirst::parse(first.as_bytes()).unwrap();
        ServerFirst::with_nonce(hash, verifier.clone(), first, server_nonce)
    }

    fn verifier(hash: Hash, salt: &str) -> ScramVerifier {
        ScramVerifier::with(hash, b"pencil", decode(salt).unwrap(), NonZeroU32::new(4096).unwrap())
    }

    /// RFC 5802 §5.
    #[test]
    fn the_example_of_rfc_5802() {
        let server = exchange(
            Hash::Sha1,
            &verifier(Hash::Sha1, "QSXCR+Q6sek8bf92"),
            "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            "3rfcNHYJY1ZVvWVs7j",
        );
        assert_eq!(
            server.message(),
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096"
        );
        let last = "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=";
        let verified = server.verify(last.as_bytes(), &ChannelBindings::default()).unwrap();
        assert_eq!(verified.as_deref(), Some("v=rmF9pqV8S7suAoZWja4dJRkFsKQ="));
    }

    /// RFC 7677 §3.
    #[test]
    fn the_example_of_rfc_7677() {
        let server = exchange(
            Hash::Sha256,
            &verifier(Hash::Sha256, "W22ZaJ0SNY7soEsUEjb6gQ=="),
            "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        );
        let nonce = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        assert_eq!(server.message(), format!("{nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
        let verify = |last: String| server.verify(last.as_bytes(), &ChannelBindings::default());
        let proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let good = verify(format!("c=biws,{nonce},p={proof}")).unwrap();
        assert_eq!(good.as_deref(), Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        // Another proof, another nonce, another GS2 header than that of the first message.
        assert_eq!(verify(format!("c=biws,{nonce},p={}", proof.replace('d', "e"))), Ok(None));
        assert_eq!(verify(format!("c=biws,{nonce}x,p={proof}")), Ok(None));
        assert_eq!(verify(format!("c=eSws,{nonce},p={proof}")), Ok(None));
        for malformed in ["", "c=biws", &format!("c=biws,{nonce}"), &format!("c=biws,{nonce},p=*")] {
            assert_eq!(verify(malformed.to_owned()), Err(Malformed), "{malformed}");
        }
        assert_eq!(verify(format!("c=biws,{nonce},p=AAAA")), Err(Malformed));
    }

    #[test]
    fn first_messages_are_read_strictly() {
        let read = |message: &str| ClientFirst::parse(message.as_bytes());
        let first = read("n,a=other,n=a=2Cb=3Dc@d.test,r=x,ext=1").unwrap();
        assert_eq!((first.login.as_str(), first.authzid.as_deref()), ("a,b=c@d.test", Some("other")));
        for bad in [
            "",
            "n",
            "n,,",
            "x,,n=user,r=x",
            "p=,,n=user,r=x",
            "n,b=c,n=user,r=x",
            "n,,m=ext,n=user,r=x",
            "n,,n=,r=x",
            "n,,n=user",
            "n,,n=user,r=",
            "n,,n=us=er,r=x",
            "n,,n=us=2cer,r=x",
            "n,,n=us\u{7}er,r=x",
            "n,,n=user,r=x\u{7f}",
            &format!("n,,n={},r=x", "a".repeat(321)),
            &format!("n,,n=user,r=x,{}", "e".repeat(2048)),
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(ClientFirst::parse(b"n,,n=\xff,r=x").is_err());
        // SASLprep maps what looks alike (RFC 4013 §3).
        assert_eq!(read("n,,n=I\u{ad}X,r=x").unwrap().login, "IX");
    }

    #[test]
    fn a_binding_is_what_was_agreed_on() {
        let bindings = ChannelBindings { exporter: Some(vec![1; 32]), server_end_point: None };
        let agrees = |flag: &str, plus, offered| {
            ClientFirst::parse(format!("{flag},,n=user,r=x").as_bytes())
                .unwrap()
                .agrees(plus, offered, &bindings)
        };
        assert!(agrees("n", false, true) && agrees("n", false, false) && !agrees("n", true, true));
        assert!(
            agrees("y", false, false) && !agrees("y", false, true),
            "the offer was taken away on its way"
        );
        assert!(agrees("p=tls-exporter", true, true) && !agrees("p=tls-exporter", false, true));
        assert!(!agrees("p=tls-server-end-point", true, true), "there is no certificate to be bound to");
        assert!(!agrees("p=tls-unique", true, true));
    }

    #[test]
    fn a_bound_exchange_is_good_on_its_own_connection_only() {
        let bindings = |octet| ChannelBindings { exporter: Some(vec![octet; 32]), server_end_point: None };
        let kept = ScramVerifier::derive(Hash::Sha256, b"pencil");
        let server = exchange(Hash::Sha256, &kept, "p=tls-exporter,,n=user,r=abc", "def");
        let mut bound = b"p=tls-exporter,,".to_vec();
        bound.extend_from_slice(&[7; 32]);
        let without_proof = format!("c={},r=abcdef", STANDARD.encode(&bound));
        let authenticated = format!("n=user,r=abc,{},{without_proof}", server.message());
        let mut salted = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &kept.salt, b"pencil", &mut salted);
        let client_key = Hash::Sha256.sign(&salted, b"Client Key");
        let signature = Hash::Sha256.sign(&kept.stored_key, authenticated.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signed)| key ^ signed).collect();
        let last = format!("{without_proof},p={}", STANDARD.encode(proof));
        assert!(server.verify(last.as_bytes(), &bindings(7)).unwrap().is_some());
        assert_eq!(server.verify(last.as_bytes(), &bindings(8)), Ok(None), "somebody is in the middle");
    }

    #[test]
    fn a_decoy_is_steady_and_fits_nothing() {
        let key = [7; 32];
        let decoy = ScramVerifier::decoy(Hash::Sha256, &key, "nobody@a.test");
        assert_eq!(decoy, ScramVerifier::decoy(Hash::Sha256, &key, "nobody@a.test"));
        assert_ne!(decoy, ScramVerifier::decoy(Hash::Sha256, &key, "somebody@a.test"));
        let real = ScramVerifier::derive(Hash::Sha256, b"x");
        assert_eq!((decoy.salt.len(), decoy.iterations), (real.salt.len(), real.iterations));
        assert_eq!((decoy.stored_key.len(), decoy.server_key.len()), (32, 32));
        assert_eq!(ScramVerifier::decoy(Hash::Sha1, &key, "x").stored_key.len(), 20);
        // As of an account: each hash has its own salt, and the name is the same in either case.
        assert_ne!(ScramVerifier::decoy(Hash::Sha1, &key, "nobody@a.test").salt, decoy.salt);
        assert_eq!(ScramVerifier::decoy(Hash::Sha256, &key, "Nobody@A.test").salt, decoy.salt);
    }

    #[test]
    fn real_salts_have_no_pattern_that_decoys_have_not() {
        let salts: Vec<_> = (0..64).map(|_| ScramVerifier::derive(Hash::Sha256, b"x").salt).collect();
        let decoys: Vec<_> =
            (0..64).map(|i| ScramVerifier::decoy(Hash::Sha256, &[7; 32], &i.to_string()).salt).collect();
        for salts in [salts, decoys] {
            for bit in 0..SALT_OCTETS * 8 {
                let set = salts.iter().filter(|salt| salt[bit / 8] >> (bit % 8) & 1 == 1).count();
                assert!((1..64).contains(&set), "bit {bit} is always the same");
            }
        }
    }
}
