//! What is kept of a password beside its hash, for mechanisms that never see the password.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maildrop::{LoginMechanism, MailboxId, Policy};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::scram::{Hash, ScramVerifier};
use crate::Password;

/// What else is to be kept of a password: what the policy names, and only that. Each is more than a hash of argon2id
/// gives away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    scram_sha_1: bool,
    scram_sha_256: bool,
    /// The password itself, for APOP and CRAM-MD5.
    secret: bool,
}

impl Wanted {
    /// What mailboxes under this policy want. A policy that names no mechanism wants nothing.
    pub fn by(policy: &Policy) -> Self {
        let names = |mechanism| {
            policy.login_mechanisms.as_ref().is_some_and(|mechanisms| mechanisms.contains(&mechanism))
        };
        Self {
            scram_sha_1: names(LoginMechanism::ScramSha1),
            scram_sha_256: names(LoginMechanism::ScramSha256),
            secret: names(LoginMechanism::Apop) || names(LoginMechanism::CramMd5),
        }
    }

    /// Whether nothing is.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What is kept. It is sealed under the tenant's key wherever it is stored.
#[derive(Serialize, Deserialize)]
pub struct Verifiers {
    #[serde(skip_serializing_if = "Option::is_none")]
    scram_sha_1: Option<ScramVerifier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scram_sha_256: Option<ScramVerifier>,
    /// In base64: passwords are octets.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl Verifiers {
    /// What a mailbox's sealed verifiers are for, as the port that seals them wants to know it: they open for no other.
    pub fn purpose(mailbox: MailboxId) -> String {
        format!("verifiers of {mailbox}")
    }

    /// Derives what is wanted. Takes milliseconds for each kind of SCRAM.
    pub fn derive(wanted: Wanted, password: &Password) -> Self {
        let scram = |wanted: bool, hash| wanted.then(|| ScramVerifier::derive(hash, password.expose()));
        Self {
            scram_sha_1: scram(wanted.scram_sha_1, Hash::Sha1),
            scram_sha_256: scram(wanted.scram_sha_256, Hash::Sha256),
            secret: wanted.secret.then(|| STANDARD.encode(password.expose())),
        }
    }

    /// As octets to be sealed.
    pub fn to_octets(&self) -> Zeroizing<Vec<u8>> {
        // Nothing in it can fail to be written.
        Zeroizing::new(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads what [`to_octets`](Self::to_octets) gave.
    pub(crate) fn from_octets(octets: &[u8]) -> Option<Self> {
        serde_json::from_slice(octets).ok()
    }

    /// Whether this is what is wanted, and no more.
    pub(crate) fn are(&self, wanted: Wanted) -> bool {
        self.scram_sha_1.is_some() == wanted.scram_sha_1
            && self.scram_sha_256.is_some() == wanted.scram_sha_256
            && self.secret.is_some() == wanted.secret
    }

    pub(crate) fn scram(&self, hash: Hash) -> Option<ScramVerifier> {
        match hash {
            Hash::Sha1 => self.scram_sha_1.clone(),
            Hash::Sha256 => self.scram_sha_256.clone(),
        }
    }

    pub(crate) fn secret(&self) -> Option<Zeroizing<Vec<u8>>> {
        STANDARD.decode(self.secret.as_ref()?).ok().map(Zeroizing::new)
    }
}

impl Drop for Verifiers {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.secret.zeroize();
    }
}

impl std::fmt::Debug for Verifiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifiers(…)")
    }
}
