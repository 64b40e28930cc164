//! Verified logins are remembered for minutes, so that a client that polls does not cost a hash each time.

use std::time::{Duration, Instant};

use maildrop::{Access, Address, MailboxId, TenantId};

use crate::{Password, Verified};

/// Remembers that a login name and password were verified, as a keyed hash under a key that lives and dies
/// with the process: neither can be read back from memory or guessed faster than by asking argon2.
#[derive(Clone, Debug)]
pub struct VerifiedCache {
    key: [u8; 32],
    logins: moka::sync::Cache<[u8; 32], Verified>,
    /// By login name, the password that a tenant's back end took last.
    offline: moka::sync::Cache<[u8; 32], Offline>,
}

/// A login that counts for a while where nobody can be asked.
#[derive(Clone, Debug)]
struct Offline {
    /// Of name and password.
    digest: [u8; 32],
    /// Whose it was: an address may become another's.
    tenant: TenantId,
    mailbox: MailboxId,
    tenant_revision: i64,
    credential_version: i64,
    at: Instant,
}

/// The longest that any tenant lets such a login count.
const OFFLINE_MAX: Duration = Duration::from_hours(7 * 24);

impl VerifiedCache {
    /// Remembers up to `logins_max` logins for `ttl` each.
    pub fn new(logins_max: u64, ttl: Duration) -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let logins = moka::sync::Cache::builder().max_capacity(logins_max).time_to_live(ttl).build();
        let offline = moka::sync::Cache::builder().max_capacity(logins_max).time_to_live(OFFLINE_MAX).build();
        Self { key, logins, offline }
    }

    /// Remembers the password that this address was logged in to with, in the place of the one before.
    pub(crate) fn keep_for_offline(&self, login: &Address, password: &Password, access: &Access) {
        let offline = Offline {
            digest: self.digest(login, password),
            tenant: access.tenant,
            mailbox: access.mailbox,
            tenant_revision: access.tenant_revision,
            credential_version: access.credential_version,
            at: Instant::now(),
        };
        self.offline.insert(self.name(login), offline);
    }

    /// Whether this password was the last that was good, no longer ago than `within`, and nothing was changed since
    /// of tenant and mailbox.
    pub(crate) fn was_good(
        &self,
        login: &Address,
        password: &Password,
        access: &Access,
        within: Duration,
    ) -> bool {
        self.offline.get(&self.name(login)).is_some_and(|offline| {
            offline.digest == self.digest(login, password)
                && (offline.tenant, offline.mailbox) == (access.tenant, access.mailbox)
                && offline.tenant_revision == access.tenant_revision
                && offline.credential_version == access.credential_version
                && offline.at.elapsed() < within
        })
    }

    /// Forgets the password if it is the one remembered: it is good no longer.
    pub(crate) fn forget_for_offline(&self, login: &Address, password: &Password) {
        let name = self.name(login);
        let digest = self.digest(login, password);
        if self.offline.get(&name).is_some_and(|offline| offline.digest == digest) {
            self.offline.invalidate(&name);
        }
    }

    fn name(&self, login: &Address) -> [u8; 32] {
        *blake3::keyed_hash(&self.key, login.as_str().as_bytes()).as_bytes()
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

    use maildrop::{LoginScope, State};

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

    #[test]
    fn the_last_good_password_counts_offline_while_nothing_changes() {
        let cache = VerifiedCache::new(10, Duration::from_mins(1));
        let login = Address::try_from("a@b.test").unwrap();
        let password = |p: &str| Password::new(p.as_bytes().to_vec());
        let access = Access {
            tenant: TenantId::generate(),
            mailbox: MailboxId::generate(),
            tenant_revision: 1,
            credential: maildrop::Credential::Password,
            credential_version: 1,
            scope: LoginScope::Full,
            rules: Arc::default(),
        };
        let hour = Duration::from_hours(1);
        let good = |text: &str, access: &Access| cache.was_good(&login, &password(text), access, hour);
        assert!(!good("x", &access));
        cache.keep_for_offline(&login, &password("x"), &access);
        // An address may become another mailbox's, or another tenant's, with the same small numbers.
        assert!(good("x", &access));
        assert!(!good("x", &Access { mailbox: MailboxId::generate(), ..access.clone() }));
        assert!(!good("x", &Access { tenant: TenantId::generate(), ..access.clone() }));
        assert!(good("x", &access) && !good("y", &access));
        assert!(!cache.was_good(&login, &password("x"), &access, Duration::ZERO), "it may be too long ago");
        for changed in [
            Access { tenant_revision: 2, ..access.clone() },
            Access { credential_version: 2, ..access.clone() },
        ] {
            assert!(!good("x", &changed));
        }
        cache.forget_for_offline(&login, &password("y"));
        assert!(good("x", &access), "a wrong password takes nothing away");
        cache.keep_for_offline(&login, &password("y"), &access);
        assert!(good("y", &access) && !good("x", &access), "one at a time");
        cache.forget_for_offline(&login, &password("y"));
        assert!(!good("y", &access));
    }
}
