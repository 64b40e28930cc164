//! Clients: one that says anything, and one that knows the password.

use std::{collections::VecDeque, num::NonZeroU32, sync::OnceLock};

use auth::ChannelBindings;
use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use maildrop::LoginMechanism;

use super::node::{LOGIN, PASSWORD};
use crate::script::Script;

pub(super) enum Client {
    /// Says what stands in the input.
    Any(VecDeque<Vec<u8>>),
    Honest(Box<Honest>),
}

impl Client {
    pub(super) fn first(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Any(messages) => messages.pop_front(),
            Self::Honest(honest) => honest.first(),
        }
    }

    pub(super) fn next(&mut self, challenge: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Any(messages) => messages.pop_front(),
            Self::Honest(honest) => honest.next(challenge),
        }
    }
}

/// Knows the password, and speaks SCRAM or CRAM-MD5.
#[derive(Debug)]
pub(super) struct Honest {
    kind: LoginMechanism,
    /// What it says of channel binding (RFC 5802 §7), and the material.
    gs2: &'static str,
    bound: Vec<u8>,
    /// Whether that is what was agreed on.
    agreed: bool,
    /// What becomes of an octet of its last message.
    change: (usize, u8),
    changed: bool,
    said_first: bool,
    done: bool,
}

const BARE: &str = "n=a@one.test,r=client";

impl Honest {
    pub(super) fn new(
        script: &Script<'_>,
        kind: LoginMechanism,
        bindings: &ChannelBindings,
        plus: bool,
        offered: bool,
    ) -> Self {
        let (gs2, material) = match script.setup[3] % 5 {
            0 => ("n,,", None),
            1 => ("y,,", None),
            2 => ("p=tls-exporter,,", bindings.exporter.clone()),
            3 => ("p=tls-server-end-point,,", bindings.server_end_point.clone()),
            // RFC 5929 §3, which is not offered: it is broken in TLS 1.2 and is not in 1.3.
            _ => ("p=tls-unique,,", None),
        };
        let agreed = match gs2.as_bytes()[0] {
            b'n' => !plus,
            b'y' => !plus && !offered,
            _ => plus && material.is_some(),
        };
        let agreed = agreed || kind == LoginMechanism::CramMd5;
        let change = (usize::from(script.setup[4]), script.setup[6]);
        let bound = material.unwrap_or_default();
        Self { kind, gs2, bound, agreed, change, changed: false, said_first: false, done: false }
    }

    pub(super) fn is_good(&self) -> bool {
        self.agreed && !self.changed && self.done
    }

    fn first(&mut self) -> Option<Vec<u8>> {
        if self.kind == LoginMechanism::CramMd5 {
            return None;
        }
        self.said_first = true;
        Some(format!("{}{BARE}", self.gs2).into_bytes())
    }

    fn next(&mut self, challenge: &[u8]) -> Option<Vec<u8>> {
        if self.done {
            assert!(challenge.starts_with(b"v="), "the server does not know the password");
            return Some(Vec::new());
        }
        if self.kind != LoginMechanism::CramMd5 && !self.said_first {
            assert!(challenge.is_empty());
            return self.first();
        }
        self.done = true;
        let good = match self.kind {
            LoginMechanism::CramMd5 => cram(challenge),
            kind => self.scram(kind, challenge),
        };
        let mut said = good.clone();
        let (at, with) = self.change;
        let at = at % said.len();
        said[at] ^= with;
        // Digits and names are the same in either case in CRAM-MD5.
        self.changed = match self.kind {
            LoginMechanism::CramMd5 => !said.eq_ignore_ascii_case(&good),
            _ => said != good,
        };
        Some(said)
    }

    /// RFC 5802 §3.
    fn scram(&self, kind: LoginMechanism, challenge: &[u8]) -> Vec<u8> {
        let server_first = str::from_utf8(challenge).unwrap();
        let (nonce, rest) = server_first.strip_prefix("r=").unwrap().split_once(",s=").unwrap();
        let (salt, iterations) = rest.split_once(",i=").unwrap();
        assert!(nonce.starts_with("client") && nonce.len() > "client".len());
        let (salt, iterations) = (STANDARD.decode(salt).unwrap(), iterations.parse().unwrap());
        let salted = salted(kind == LoginMechanism::ScramSha1, &salt, iterations);
        let (algorithm, hash) = if kind == LoginMechanism::ScramSha1 {
            (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &digest::SHA1_FOR_LEGACY_USE_ONLY)
        } else {
            (hmac::HMAC_SHA256, &digest::SHA256)
        };
        let sign = |key: &[u8], octets: &[u8]| hmac::sign(&hmac::Key::new(algorithm, key), octets);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(hash, client_key.as_ref());
        let without_proof =
            format!("c={},r={nonce}", STANDARD.encode([self.gs2.as_bytes(), &self.bound].concat()));
        let signature =
            sign(stored_key.as_ref(), format!("{BARE},{server_first},{without_proof}").as_bytes());
        let proof: Vec<u8> =
            client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, signed)| key ^ signed).collect();
        format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes()
    }
}

/// The salted password: computed once for each salt, of which the account has two.
fn salted(sha1: bool, salt: &[u8], iterations: NonZeroU32) -> Vec<u8> {
    static KNOWN: [OnceLock<(Vec<u8>, Vec<u8>)>; 2] = [const { OnceLock::new() }; 2];
    let (known, salted) = KNOWN[usize::from(sha1)].get_or_init(|| {
        let (algorithm, octets) =
            if sha1 { (pbkdf2::PBKDF2_HMAC_SHA1, 20) } else { (pbkdf2::PBKDF2_HMAC_SHA256, 32) };
        let mut salted = vec![0; octets];
        pbkdf2::derive(algorithm, iterations, salt, PASSWORD, &mut salted);
        (salt.to_vec(), salted)
    });
    assert_eq!(known, salt, "an account's salt changes");
    salted.clone()
}

/// RFC 2195 §2.
fn cram(challenge: &[u8]) -> Vec<u8> {
    use hmac_md5::{Hmac, KeyInit as _, Mac as _};
    let mut mac = Hmac::<md5::Md5>::new_from_slice(PASSWORD).unwrap();
    mac.update(challenge);
    let mut said = format!("{LOGIN} ");
    for octet in mac.finalize().into_bytes() {
        said += &format!("{octet:02x}");
    }
    said.into_bytes()
}
