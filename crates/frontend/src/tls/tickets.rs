//! Session tickets (RFC 5077, RFC 8446 §4.6.1) that every node can open, and that open nothing for long.
//!
//! Nothing is remembered of a session: its ticket holds all, sealed under a key that each node derives by itself from a
//! secret they share, the time, and what the ticket is good for (ADR 19).
//!
//! ```text
//!   secret ─ HKDF ─► key of (scope, epoch) ─ HKDF with the ticket's salt ─► AES-256-GCM key and nonce
//!   ticket = epoch, 4 octets │ salt, 16 │ sealed state │ tag, 16
//! ```

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
    rand,
};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

/// How long a key seals. One more epoch it opens what it sealed, so a ticket lives for one to two.
const EPOCH_SECS: u64 = 12 * 60 * 60;
const EPOCH_OCTETS: usize = 4;
const SALT_OCTETS: usize = 16;
const HEAD_OCTETS: usize = EPOCH_OCTETS + SALT_OCTETS;
const TAG_OCTETS: usize = 16;
const KEY_OCTETS: usize = 32;
/// Whoever sends more sends no ticket of ours: the largest holds a chain of client certificates.
const TICKET_OCTETS_MAX: usize = 64 * 1024;

/// The secret that keys of tickets are derived from: the same on all nodes, and known to nobody else.
#[derive(Clone)]
pub struct TicketSecret(Arc<Zeroizing<[u8; 32]>>);

impl TicketSecret {
    /// With these octets.
    pub fn new(octets: [u8; 32]) -> Self {
        Self(Arc::new(Zeroizing::new(octets)))
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(…)")
    }
}

/// The tickets of one certificate on one listener.
#[derive(Debug)]
pub(super) struct Tickets {
    secret: TicketSecret,
    /// What they are good for. A ticket of another scope is none.
    scope: [u8; 32],
    now: fn() -> u64,
}

impl Tickets {
    pub(super) fn new(secret: TicketSecret, scope: [u8; 32]) -> Self {
        Self { secret, scope, now: unix_now }
    }

    /// The key of one ticket, and its nonce: used for nothing else, so that no number of tickets is too many.
    fn key(&self, head: &[u8; HEAD_OCTETS]) -> Option<(LessSafeKey, Nonce)> {
        let (epoch, salt) = head.split_at(EPOCH_OCTETS);
        let of_scope = Salt::new(HKDF_SHA256, &self.scope).extract(self.secret.0.as_slice());
        let mut octets = Zeroizing::new([0; KEY_OCTETS + NONCE_LEN]);
        let info = [b"postern session tickets v1".as_slice(), epoch, salt];
        of_scope.expand(&info, Length(KEY_OCTETS + NONCE_LEN)).ok()?.fill(octets.as_mut_slice()).ok()?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &octets[..KEY_OCTETS]).ok()?);
        Some((key, Nonce::try_assume_unique_for_key(&octets[KEY_OCTETS..]).ok()?))
    }

    fn epoch(&self) -> u32 {
        ((self.now)() / EPOCH_SECS) as u32
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        EPOCH_SECS as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut head = [0; HEAD_OCTETS];
        head[..EPOCH_OCTETS].copy_from_slice(&self.epoch().to_be_bytes());
        rand::fill(&mut head[EPOCH_OCTETS..]).ok()?;
        let (key, nonce) = self.key(&head)?;
        let mut ticket = Vec::with_capacity(HEAD_OCTETS + plain.len() + TAG_OCTETS);
        ticket.extend_from_slice(&head);
        ticket.extend_from_slice(plain);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(head), &mut ticket[HEAD_OCTETS..]).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_OCTETS_MAX {
            return None;
        }
        let (head, sealed) = ticket.split_first_chunk::<HEAD_OCTETS>()?;
        let (epoch, _) = head.split_first_chunk::<EPOCH_OCTETS>()?;
        // One's own, the one before, and the next: another node's clock may be ahead.
        if self.epoch().abs_diff(u32::from_be_bytes(*epoch)) > 1 {
            return None;
        }
        let (key, nonce) = self.key(head)?;
        let mut state = sealed.to_vec();
        let len = key.open_in_place(nonce, Aad::from(*head), &mut state).ok()?.len();
        state.truncate(len);
        Some(state)
    }
}

/// How many octets are derived.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 41_234 * EPOCH_SECS;

    fn at(now: fn() -> u64) -> Tickets {
        Tickets { now, ..Tickets::new(TicketSecret::new([7; 32]), [1; 32]) }
    }

    #[test]
    fn every_node_opens_what_another_sealed_for_an_epoch_more() {
        let ticket = at(|| NOON).encrypt(b"state of a session").unwrap();
        assert_eq!(at(|| NOON).decrypt(&ticket).unwrap(), b"state of a session");
        assert_eq!(at(|| NOON + 2 * EPOCH_SECS - 1).decrypt(&ticket).unwrap(), b"state of a session");
        assert_eq!(
            at(|| NOON - 1).decrypt(&ticket).unwrap(),
            b"state of a session",
            "a clock that is behind"
        );
        assert_eq!(at(|| NOON + 2 * EPOCH_SECS).decrypt(&ticket), None);
        assert_eq!(at(|| NOON - EPOCH_SECS - 1).decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_is_good_for_what_it_was_made_for_alone() {
        let ticket = at(|| NOON).encrypt(b"state").unwrap();
        let other_scope = Tickets { scope: [2; 32], ..at(|| NOON) };
        let other_secret = Tickets { secret: TicketSecret::new([8; 32]), ..at(|| NOON) };
        assert_eq!((other_scope.decrypt(&ticket), other_secret.decrypt(&ticket)), (None, None));
        for place in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[place] ^= 1;
            assert_eq!(at(|| NOON).decrypt(&forged), None, "octet {place}");
            assert_eq!(at(|| NOON).decrypt(&ticket[..place]), None, "of {place} octets");
        }
        assert_eq!(at(|| NOON).decrypt(&vec![0; TICKET_OCTETS_MAX + 1]), None);
        assert_ne!(at(|| NOON).encrypt(b"state").unwrap(), ticket, "no two are the same");
        assert_eq!(format!("{:?}", TicketSecret::new([7; 32])), "TicketSecret(…)");
    }
}
