//! Verified logins are remembered for minutes, so that a client that polls does not cost a hash each time.

use std::time::Duration;

use maildrop::Address;

use crate::{Password, Verified};

/// Remembers that a login name and password were verified, as a keyed hash under a key that lives and dies
/// with the process: neither can be read back from memory or guessed faster than by asking argon2.
#[derive(Clone, Debug)]
pub struct VerifiedCache {
    key: [u8; 32],
    logins: moka::sync::Cache<[u8; 32], Verified>,
}

impl VerifiedCache {
    /// Remembers up to `logins_max` logins for `ttl` each.
    pub fn new(logins_max: u64, ttl: Duration) -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let logins = moka::sync::Cache::builder().max_capacity(logins_max).time_to_live(ttl).build();
        Self { key, logins }
    }

    pub(crate) fn get(&self, login: &Address, password: &Password) -> Option<Verified> {
        // Looking a keyed hash up takes no time that depends on the password.
        self.logins.get(&self.digest(login, password)).map(|v| Verified { remembered: true, ..v })
    }

    pub(crate) fn insert(&self, login: &Address, password: &Password, verified: Verified) {
        self.logins.insert(self.digest(login, password), verified);
    }

    pub(crate) fn forget(&self, login: &Address, password: &Password) {
        self.logins.invalidate(&self.digest(login, password));
    }

    fn digest(&self, login: &Address, password: &Password) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // The length keeps (login, password) pairs apart that would read the same joined.
        hasher.update(&(login.as_str().len() as u64).to_le_bytes());
        hasher.update(login.as_str().as_bytes());
        hasher.update(password.expose());
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use maildrop::{Access, LoginScope, MailboxId, State, TenantId};

    use super::*;

    #[test]
    fn remembers_the_pair_and_nothing_near_it() {
        let cache = VerifiedCache::new(10, Duration::from_mins(1));
        let login = Address::try_from("a@b.test").unwrap();
        let other = Address::try_from("a@b.tes").unwrap();
        let password = |p: &str| Password::new(p.as_bytes().to_vec());
        let access = Access {
            tenant: TenantId::generate(),
            mailbox: MailboxId::generate(),
            tenant_revision: 1,
            credential_version: 1,
            credential: maildrop::Credential::Password,
            scope: LoginScope::Full,
            rules: Arc::default(),
        };
        let verified = Verified { access, state: State::Active, remembered: false, until: None };
        cache.insert(&login, &password("x"), verified.clone());
        assert_eq!(cache.get(&login, &password("x")), Some(Verified { remembered: true, ..verified }));
        assert_eq!(cache.get(&login, &password("y")), None);
        assert_eq!(cache.get(&other, &password("tx")), None);
        cache.forget(&login, &password("x"));
        assert_eq!(cache.get(&login, &password("x")), None);
    }
}
