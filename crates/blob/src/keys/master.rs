//! The master key, held by this process.

use std::fmt;

use async_trait::async_trait;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Prk},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use maildrop::{
    MasterKeyId, SealedKey, TenantId,
    port::{BlobError, ClusterSecret},
};
use zeroize::Zeroizing;

use super::{KeyWrap, TenantKey, tenant::KEY_OCTETS};

/// Version of the sealed key's layout.
const VERSION: u8 = 1;
/// Kind of sealed key: wrapped by a local master key.
const KIND_LOCAL: u8 = 1;
/// Octets that name a master key without giving it away.
const KEY_ID_OCTETS: usize = 8;
/// Where the nonce starts: after version, kind and key id.
const NONCE_AT: usize = 2 + KEY_ID_OCTETS;
/// Where the sealed octets start.
const SEALED_AT: usize = NONCE_AT + NONCE_LEN;
/// Octets of a sealed key: the fields above, the key, the tag.
const SEALED_OCTETS: usize = SEALED_AT + KEY_OCTETS + 16;

/// The key that wraps tenants' data keys: 32 octets that must never be lost, for without them no message
/// can be read.
pub struct MasterKey {
    seal: LessSafeKey,
    check: [u8; 32],
    decoy: [u8; 32],
    tickets: [u8; 32],
    id: [u8; KEY_ID_OCTETS],
}

/// Why a text is not a master key. Says nothing of what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a master key is 32 octets in base64, as made by `openssl rand -base64 32`")]
pub struct MasterKeyError;

impl MasterKey {
    /// Reads a key from its base64 text; white space around it is ignored.
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let octets = Zeroizing::new(BASE64_STANDARD.decode(text.trim()).map_err(|_| MasterKeyError)?);
        let octets: &[u8; 32] = octets.as_slice().try_into().map_err(|_| MasterKeyError)?;
        Self::from_octets(octets).ok_or(MasterKeyError)
    }

    /// A new key, as its base64 text.
    pub fn generate() -> Result<Zeroizing<String>, BlobError> {
        let mut octets = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(octets.as_mut_slice()).map_err(|_| no_randomness())?;
        Ok(Zeroizing::new(BASE64_STANDARD.encode(octets.as_slice())))
    }

    /// Each use has a key of its own, so that what is published (check value, id) has no bearing on what
    /// seals. The octets given are random already, so HKDF's extract step is not needed (RFC 5869 §3.3).
    fn from_octets(octets: &[u8; 32]) -> Option<Self> {
        let master = Prk::new_less_safe(HKDF_SHA256, octets);
        let seal = Zeroizing::new(derive::<32>(&master, b"postern master key v1: wrap")?);
        Some(Self {
            seal: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, seal.as_slice()).ok()?),
            check: derive(&master, b"postern master key v1: check value")?,
            id: derive(&master, b"postern master key v1: key id")?,
            decoy: derive(&master, b"postern master key v1: decoys")?,
            tickets: derive(&master, b"postern master key v1: session tickets")?,
        })
    }

    fn aad(&self, tenant: TenantId) -> Aad<[u8; NONCE_AT + 16]> {
        let mut aad = [0; NONCE_AT + 16];
        aad[..NONCE_AT].copy_from_slice(&self.head());
        aad[NONCE_AT..].copy_from_slice(tenant.as_uuid().as_bytes());
        Aad::from(aad)
    }

    fn head(&self) -> [u8; NONCE_AT] {
        let mut head = [0; NONCE_AT];
        head[0] = VERSION;
        head[1] = KIND_LOCAL;
        head[2..].copy_from_slice(&self.id);
        head
    }
}

#[async_trait]
impl KeyWrap for MasterKey {
    fn id(&self) -> MasterKeyId {
        MasterKeyId::from_octets(self.id)
    }

    fn check_value(&self) -> [u8; 32] {
        self.check
    }

    fn cluster_secret(&self, secret: ClusterSecret) -> Option<TenantKey> {
        Some(TenantKey::from_octets(match secret {
            ClusterSecret::Decoys => self.decoy,
            ClusterSecret::Tickets => self.tickets,
        }))
    }

    async fn seal(&self, tenant: TenantId, key: &TenantKey) -> Result<SealedKey, BlobError> {
        // A random nonce is safe for 2^32 keys under one master key: tenants, not messages.
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| no_randomness())?;
        let mut out = Vec::with_capacity(SEALED_OCTETS);
        out.extend_from_slice(&self.head());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(key.octets());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .seal
            .seal_in_place_separate_tag(nonce, self.aad(tenant), &mut out[SEALED_AT..])
            .map_err(|_| BlobError::WrongKey)?;
        out.extend_from_slice(tag.as_ref());
        Ok(SealedKey(out))
    }

    async fn open(&self, tenant: TenantId, sealed: &SealedKey) -> Result<TenantKey, BlobError> {
        let octets = &sealed.0;
        if octets.len() != SEALED_OCTETS || octets[..2] != [VERSION, KIND_LOCAL] {
            return Err(BlobError::Corrupt("data key is not in a form this version knows".into()));
        }
        let nonce = Nonce::try_assume_unique_for_key(&octets[NONCE_AT..SEALED_AT])
            .map_err(|_| BlobError::WrongKey)?;
        let mut plain = Zeroizing::new(octets[SEALED_AT..].to_vec());
        // A key of another master key has another id, which is part of what is authenticated.
        if let Some(id) = sealed.master_key().filter(|id| *id != self.id()) {
            return Err(BlobError::NoMasterKey(id));
        }
        let opened =
            self.seal.open_in_place(nonce, self.aad(tenant), &mut plain).map_err(|_| BlobError::WrongKey)?;
        TenantKey::from_slice(opened).ok_or(BlobError::WrongKey)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey([REDACTED])")
    }
}

fn derive<const N: usize>(master: &Prk, purpose: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    master.expand(&[purpose], Octets(N)).ok()?.fill(&mut out).ok()?;
    Some(out)
}

/// How many octets HKDF shall give.
struct Octets(usize);

impl aws_lc_rs::hkdf::KeyType for Octets {
    fn len(&self) -> usize {
        self.0
    }
}

fn no_randomness() -> BlobError {
    BlobError::Unavailable("the system gives no random octets".into())
}
