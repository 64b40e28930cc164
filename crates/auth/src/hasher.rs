//! Password hashing on a bounded pool of blocking threads.

use std::{sync::Arc, time::Duration};

use argon2::{Argon2, Params, PasswordHasher as _};
use maildrop::{FairGate, FairStats, Pace, TenantId};

use crate::{Password, StoredPassword, Verifiers, Wanted};

/// How much hashing may cost.
#[derive(Clone, Copy, Debug)]
pub struct HasherConfig {
    /// Hashes computed at once: each takes a core and, by default, 19 MiB for tens of milliseconds.
    pub concurrent_max: usize,
    /// Hashes of one tenant that may wait; past that a login there is refused for now. In all no more wait
    /// than there are connections.
    pub waiting_max: usize,
    /// Longest wait for a turn.
    pub wait_max: Duration,
    /// argon2id memory in KiB.
    pub memory_kib: u32,
    /// argon2id passes.
    pub passes: u32,
}

impl Default for HasherConfig {
    /// The second recommendation of RFC 9106 is for 64 MiB; a POP3 server that hashes for thousands of
    /// pollers takes OWASP's: 19 MiB, two passes, one lane.
    fn default() -> Self {
        Self {
            concurrent_max: std::thread::available_parallelism().map_or(2, usize::from),
            waiting_max: 1024,
            wait_max: Duration::from_secs(20),
            memory_kib: Params::DEFAULT_M_COST,
            passes: Params::DEFAULT_T_COST,
        }
    }
}

/// Who hashes for no tenant: names nobody has are all one tenant's, so that guessing at them waits for
/// itself. Under load they may wait longer or shorter than a tenant's own users.
const NO_TENANT: TenantId = TenantId::from_uuid(uuid::Uuid::nil());

/// Hashes and verifies passwords (argon2id).
#[derive(Clone, Debug)]
pub struct Hasher {
    argon2: Argon2<'static>,
    config: HasherConfig,
    /// A tenant at whose passwords somebody guesses makes its own users wait, not others'.
    turns: FairGate,
    /// What the password of an unknown user is compared with: no password matches it, and the comparison
    /// takes as long as any.
    nobody: Arc<StoredPassword>,
}

/// What comparing a password with a stored hash gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is another password, or there is none.
    Wrong,
    /// It is the one that was hashed.
    Good {
        /// Whether it should be hashed anew ([`StoredPassword::needs_upgrade`]).
        outdated: bool,
    },
}

/// The parameters are out of argon2's range, or there is no randomness for a salt.
#[derive(Debug, thiserror::Error)]
#[error("password could not be hashed: {0}")]
pub struct HashError(String);

impl Hasher {
    /// A hasher within these bounds.
    pub fn new(config: HasherConfig) -> Result<Self, HashError> {
        let params = Params::new(config.memory_kib, config.passes, Params::DEFAULT_P_COST, None)
            .map_err(|error| HashError(error.to_string()))?;
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let nobody = hash(&argon2, &nobodys_password())?;
        let nobody = StoredPassword::parse(&nobody).map_err(|error| HashError(error.to_string()))?;
        Ok(Self {
            argon2,
            config,
            turns: FairGate::new(config.concurrent_max, config.waiting_max),
            nobody: Arc::new(nobody),
        })
    }

    /// The same, not used yet, at a pace that it keeps together with the other work of tenants.
    #[must_use]
    pub fn paced_by(self, pace: &Pace) -> Self {
        Self { turns: self.turns.paced_by(pace), ..self }
    }

    /// The password's hash as a PHC string, in the turn of those who belong to no tenant.
    pub async fn hash(&self, password: Password) -> Result<String, HashError> {
        self.hash_for(NO_TENANT, password).await
    }

    /// The password's hash as a PHC string, in the tenant's turn.
    pub async fn hash_for(&self, tenant: TenantId, password: Password) -> Result<String, HashError> {
        let argon2 = self.argon2.clone();
        let password = password.prepared().unwrap_or(password);
        self.in_turn(tenant, move || hash(&argon2, password.expose()))
            .await
            .unwrap_or_else(|| Err(HashError("too many passwords wait to be hashed".into())))
    }

    /// What is wanted of a password beside its hash, in the tenant's turn. `None` when there was no turn in time.
    pub async fn verifiers_for(
        &self,
        tenant: TenantId,
        wanted: Wanted,
        password: Password,
    ) -> Option<Verifiers> {
        self.in_turn(tenant, move || Verifiers::derive(wanted, &password)).await
    }

    /// How many hashes wait, and how many are computed.
    pub fn stats(&self) -> FairStats {
        self.turns.stats()
    }

    /// Compares the password with a tenant's stored hash. Without one (an unknown user, or one that has
    /// none) the answer is
    /// [`Verdict::Wrong`], after the same work. `None` when there was no turn in time.
    pub(crate) async fn verify(
        &self,
        tenant: Option<TenantId>,
        password: Password,
        hashed: Option<String>,
    ) -> Option<Verdict> {
        let tenant = tenant.unwrap_or(NO_TENANT);
        let config = self.config;
        let nobody = Arc::clone(&self.nobody);
        let prepared = password.prepared();
        self.in_turn(tenant, move || {
            let stored = hashed.and_then(|hashed| {
                StoredPassword::parse(&hashed)
                    .inspect_err(|error| tracing::error!(%error, "stored password hash cannot be read"))
                    .ok()
            });
            // Each form is compared, also where there is nobody: it is the client's own password that tells how many
            // there are.
            let forms = [Some(&password), prepared.as_ref()];
            let is = |stored: &StoredPassword| {
                // Not ended at the first that fits, which would tell nothing but cost a thought.
                forms.iter().flatten().any(|form| stored.verify(form))
            };
            match stored {
                Some(stored) if is(&stored) => Verdict::Good { outdated: stored.needs_upgrade(&config) },
                // An account that was imported must not be told from one that does not exist by how soon it
                // is refused; where its scheme is a slow one, it takes longer until the first good login.
                Some(stored) if stored.is_argon2id() => Verdict::Wrong,
                Some(_) | None => {
                    let _ = is(&nobody);
                    Verdict::Wrong
                }
            }
        })
        .await
    }

    /// Runs `work` on a blocking thread when the tenant's turn comes.
    async fn in_turn<T: Send + 'static>(
        &self,
        tenant: TenantId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let turn = tokio::time::timeout(self.config.wait_max, self.turns.acquire(tenant)).await;
        let turn = turn.ok()?.ok()?;
        let running = tokio::task::spawn_blocking(move || {
            // Held by the thread, not by the caller: a caller that goes away must not let another hash
            // start while this one still runs.
            let _turn = turn;
            work()
        });
        running.await.ok()
    }
}

fn hash(argon2: &Argon2<'_>, password: &[u8]) -> Result<String, HashError> {
    argon2
        .hash_password(password)
        .map(|hashed| hashed.to_string())
        .map_err(|error| HashError(error.to_string()))
}

/// A password nobody can guess.
fn nobodys_password() -> [u8; 32] {
    let mut octets = [0; 32];
    octets[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    octets[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher() -> Hasher {
        Hasher::new(HasherConfig { memory_kib: 64, passes: 1, ..HasherConfig::default() }).unwrap()
    }

    #[tokio::test]
    async fn verifies_what_it_hashed_and_nothing_else() {
        let hasher = hasher();
        let hashed = hasher.hash(Password::new(b" p\xc3\xa4ss ".to_vec())).await.unwrap();
        assert!(hashed.starts_with("$argon2id$"), "{hashed}");
        let verify = |p: &[u8]| hasher.verify(None, Password::new(p.to_vec()), Some(hashed.clone()));
        assert_eq!(verify(b" p\xc3\xa4ss ").await, Some(Verdict::Good { outdated: false }));
        assert_eq!(verify(b"p\xc3\xa4ss").await, Some(Verdict::Wrong));
        assert_eq!(verify(b"").await, Some(Verdict::Wrong));
        let nothing = || Password::new(vec![]);
        assert_eq!(hasher.verify(None, nothing(), None).await, Some(Verdict::Wrong));
        assert_eq!(hasher.verify(None, nothing(), Some("garbage".into())).await, Some(Verdict::Wrong));
    }

    #[tokio::test]
    async fn a_password_is_the_same_however_its_letters_are_composed() {
        let hasher = hasher();
        let composed = Password::new("p\u{e4}ss \u{fb01}".as_bytes().to_vec());
        let decomposed = || Password::new("pa\u{308}ss fi".as_bytes().to_vec());
        assert!(composed.prepared().is_some() && Password::new(b"plain".to_vec()).prepared().is_none());
        let prepared = composed.prepared().unwrap();
        assert_eq!(prepared.expose(), "p\u{e4}ss fi".as_bytes());
        for set in [composed.clone(), decomposed(), prepared] {
            let hashed = hasher.hash(set).await.unwrap();
            for typed in [composed.clone(), decomposed()] {
                let verdict = hasher.verify(None, typed, Some(hashed.clone())).await;
                assert_eq!(verdict, Some(Verdict::Good { outdated: false }));
            }
        }
        // One that was hashed elsewhere as it was typed is good as it is typed.
        let raw = hash(&hasher.argon2, composed.expose()).unwrap();
        let good = Verdict::Good { outdated: false };
        assert_eq!(hasher.verify(None, composed, Some(raw.clone())).await, Some(good));
        assert_eq!(hasher.verify(None, decomposed(), Some(raw)).await, Some(Verdict::Wrong));
        // What cannot be prepared is what it is.
        assert!(Password::new(b"\xff".to_vec()).prepared().is_none());
        assert!(Password::new("\u{7}\u{e4}".as_bytes().to_vec()).prepared().is_none());
    }

    #[tokio::test]
    async fn an_outdated_hash_is_told() {
        let hashed = "{SSHA}9/n6OBTGSyu+bYEM05BnchZP0KH+Jtgo".to_owned();
        let verdict = hasher().verify(None, Password::new(b"correct horse".to_vec()), Some(hashed)).await;
        assert_eq!(verdict, Some(Verdict::Good { outdated: true }));
    }

    #[tokio::test]
    async fn unknown_user_costs_the_same_hash() {
        // Same parameters in the stand-in hash as are configured: the work is the same by construction.
        let hasher = hasher();
        assert!(hasher.nobody.is_argon2id() && !hasher.nobody.needs_upgrade(&hasher.config));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let config = HasherConfig {
            concurrent_max: 1,
            waiting_max: 0,
            memory_kib: 64,
            passes: 1,
            ..HasherConfig::default()
        };
        let hasher = Hasher::new(config).unwrap();
        let busy = hasher.turns.acquire(NO_TENANT).await.unwrap();
        assert_eq!(hasher.verify(None, Password::new(vec![]), None).await, None);
        drop(busy);
        assert_eq!(hasher.verify(None, Password::new(vec![]), None).await, Some(Verdict::Wrong));
    }

    #[tokio::test]
    async fn a_crowd_at_one_tenant_does_not_delay_another() {
        let hasher = Hasher::new(HasherConfig {
            concurrent_max: 1,
            memory_kib: 64,
            passes: 1,
            ..HasherConfig::default()
        })
        .unwrap();
        let busy = hasher.turns.acquire(NO_TENANT).await.unwrap();
        let crowd: Vec<_> = (0..100)
            .map(|_| {
                let hasher = hasher.clone();
                tokio::spawn(async move { hasher.verify(None, Password::new(vec![]), None).await })
            })
            .collect();
        while hasher.stats().waiting < 100 {
            tokio::task::yield_now().await;
        }
        let (other, asker) = (TenantId::generate(), hasher.clone());
        let one = tokio::spawn(async move { asker.hash_for(other, Password::new(b"x".to_vec())).await });
        while hasher.stats().waiting < 101 {
            tokio::task::yield_now().await;
        }
        drop(busy);
        one.await.unwrap().unwrap();
        assert!(hasher.stats().waiting >= 90, "{:?}", hasher.stats());
        for guess in crowd {
            assert_eq!(guess.await.unwrap(), Some(Verdict::Wrong));
        }
    }
}
