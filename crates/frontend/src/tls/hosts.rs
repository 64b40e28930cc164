//! Certificates of tenants, by the host a client asks for.
//!
//! Whoever connects chooses the name, so what a name may cost is bounded: so many names are remembered, also
//! those that are nobody's, so many are looked up at once, and none for long. Where there is no answer, what was
//! presented last for the host goes on; where nothing was, the node's own certificate is presented: the client sees that
//! it is for another host, and the connection is not lost.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use maildrop::{
    LoginMechanism, LoginSettings,
    port::{BlobError, BlobStore, Directory, HostCertificate, IndexError},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::Instant,
};
use tracing::warn;

use super::{
    ClientAuth, TlsError,
    terms::{Presents, Served, Terms},
};

/// What the key of a certificate is sealed for; the admin API seals it for the same.
const PURPOSE: &str = "tls";
/// How long an answer counts: so long a certificate that was replaced, and its key, may still be in use.
const KEPT: Duration = Duration::from_mins(1);
/// How long a failure counts: short, for its clients see the wrong certificate; long enough that they do not each
/// wait for a database that is away.
const FAILURE_KEPT: Duration = Duration::from_secs(5);
/// How many hosts are remembered. With a certificate one takes 2 KiB (P-256) to 4 KiB (RSA) and its chain; one that
/// is nobody's, some hundreds of octets.
const HOSTS_MAX: u64 = 10_000;
/// How long the last certificate of a host is good for while the index is away: longer than people need to bring it
/// back, and no certificate is for ever.
const LAST_KEPT: Duration = Duration::from_hours(24);
/// How many hosts are looked up at once: half of the connections to the database that there are by default.
const LOOKUPS_MAX: usize = 8;
/// Longest time for a lookup, waiting for its turn included: a client that waits longer may give up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Certificates of tenants. Cheap to clone: all share what is remembered.
#[derive(Clone)]
pub struct HostCertificates {
    shared: Arc<Shared>,
}

struct Shared {
    directory: Arc<dyn Directory>,
    blob: Arc<dyn BlobStore>,
    /// What is negotiated. A ticket is good for its host's certificate alone.
    terms: ArcSwap<Terms>,
    hosts: moka::sync::Cache<String, Slot>,
    /// What was found last for hosts that are some tenant's: no name that is nobody's takes a place here.
    last: moka::sync::Cache<String, Arc<Host>>,
    lookups: Semaphore,
}

/// The place of an answer. Whoever asks while it is being looked up waits for the same one.
type Slot = Arc<OnceCell<Answer>>;

#[derive(Debug)]
struct Answer {
    host: Option<Arc<Host>>,
    /// Counts until then.
    until: Instant,
}

/// A host of a tenant.
#[derive(Debug)]
pub(super) struct Host {
    /// What is presented to its clients.
    pub(super) served: Arc<Served>,
    /// Under these terms. Once there are others it is presented no longer.
    terms: Arc<Terms>,
    /// What its clients are told and offered.
    pub(super) face: Arc<HostFace>,
}

/// What the clients of a tenant's host are told and offered.
#[derive(Debug)]
pub(crate) struct HostFace {
    /// The tenant's greeting, if it has one.
    pub(crate) greeting: Option<String>,
    /// The domain of login names that have none.
    pub(crate) default_domain: Option<Arc<str>>,
    /// The least seconds between logins to a mailbox of the tenant that has no policy of its own.
    pub(crate) login_delay_secs: Option<u32>,
    /// After how many days mail expires in such a mailbox.
    pub(crate) expire_days: Option<u32>,
    login: LoginSettings,
    taken: Option<Vec<LoginMechanism>>,
}

impl HostFace {
    /// Whether this way to log in can be of use to the tenant's mailboxes.
    pub(crate) fn offers(&self, mechanism: LoginMechanism) -> bool {
        self.login.offers(mechanism, self.taken.as_deref())
    }
}

/// Why a certificate cannot be presented. There is one answer to all of it.
type Problem = Box<dyn std::error::Error + Send + Sync>;

impl HostCertificates {
    /// The certificates that `directory` knows, their keys opened by `blob`.
    pub fn new(directory: Arc<dyn Directory>, blob: Arc<dyn BlobStore>) -> Result<Self, TlsError> {
        let hosts = moka::sync::Cache::builder().max_capacity(HOSTS_MAX).time_to_live(KEPT).build();
        let last = moka::sync::Cache::builder().max_capacity(HOSTS_MAX).time_to_live(LAST_KEPT).build();
        let terms = ArcSwap::from_pointee(Terms::new(&ClientAuth::Off, None)?);
        let lookups = Semaphore::new(LOOKUPS_MAX);
        Ok(Self { shared: Arc::new(Shared { directory, blob, terms, hosts, last, lookups }) })
    }

    /// From now on they are presented under these terms.
    pub(super) fn present_under(&self, terms: &Arc<Terms>) {
        self.shared.terms.store(Arc::clone(terms));
    }

    /// The tenant's host of this name, if it is one and can be served.
    pub(super) async fn get(&self, host: &str) -> Option<Arc<Host>> {
        let slot = self
            .shared
            .hosts
            .entry_by_ref(host)
            // The cache lets go of what has grown old when it finds the time, and knows no failures.
            .or_insert_with_if(Slot::default, |slot| {
                slot.get().is_some_and(|answer| answer.is_over() || !self.shared.is_under_terms(answer))
            })
            .into_value();
        slot.get_or_init(|| self.shared.look_up(host)).await.host.clone()
    }
}

impl fmt::Debug for HostCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostCertificates").finish_non_exhaustive()
    }
}

impl Answer {
    fn is_over(&self) -> bool {
        self.until <= Instant::now()
    }
}

impl Shared {
    fn is_under_terms(&self, answer: &Answer) -> bool {
        answer.host.as_ref().is_none_or(|host| self.has_terms_of(host))
    }

    fn has_terms_of(&self, host: &Host) -> bool {
        Arc::ptr_eq(&host.terms, &self.terms.load())
    }

    async fn look_up(&self, name: &str) -> Answer {
        let found = match tokio::time::timeout(LOOKUP_TIMEOUT, self.find(name)).await {
            Ok(found) => found,
            Err(elapsed) => Err(elapsed.into()),
        };
        match found {
            Ok(found) => {
                match &found {
                    Some(host) => self.last.insert(name.to_owned(), Arc::clone(host)),
                    None => self.last.invalidate(name),
                }
                Answer { host: found, until: Instant::now() + KEPT }
            }
            Err(error) => {
                let last = if passes(&error) { self.last.get(name) } else { None };
                let last = last.filter(|host| self.has_terms_of(host));
                warn!(
                    host = name,
                    error = error.as_ref() as &dyn std::error::Error,
                    "certificate of a host cannot be had: {} is presented",
                    if last.is_some() { "its last one" } else { "the node's" }
                );
                Answer { host: last, until: Instant::now() + FAILURE_KEPT }
            }
        }
    }

    async fn find(&self, host: &str) -> Result<Option<Arc<Host>>, Problem> {
        // All the hosts of a node that has just started are asked for at once: they wait rather than be refused.
        let _turn = self.lookups.acquire().await?;
        let Some(found) = self.directory.all_tenants_certificate(host).await? else { return Ok(None) };
        let HostCertificate { tenant, key, certificate, policy, login } = found;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).collect();
        // What the reader says of a PEM it cannot read may quote it, so it is not passed on.
        let chain = chain.map_err(|_| "chain is no PEM")?;
        let opened = self.blob.open_secret(tenant, &key, PURPOSE, &certificate.sealed_key).await?;
        let key = PrivateKeyDer::from_pem_slice(&opened).map_err(|_| "key is no PEM")?;
        let leaf = chain.first().cloned().ok_or("chain is empty")?;
        let terms = self.terms.load_full();
        let presents = Presents::new(chain, key, None, &terms.provider)?;
        let served = terms.serve(leaf, presents, tenant.as_uuid().as_bytes())?;
        let face = HostFace {
            greeting: policy.greeting,
            default_domain: login.default_domain.as_deref().map(Arc::from),
            login_delay_secs: policy.login_delay_secs.filter(|secs| *secs > 0),
            expire_days: policy.expire_days,
            login,
            taken: policy.login_mechanisms,
        };
        Ok(Some(Arc::new(Host { served: Arc::new(served), terms, face: Arc::new(face) })))
    }
}

/// Whether it says nothing of the host: that somebody did not answer.
fn passes(problem: &Problem) -> bool {
    problem.is::<tokio::time::error::Elapsed>()
        || problem.downcast_ref().is_some_and(IndexError::is_retryable)
        || problem.downcast_ref().is_some_and(BlobError::is_retryable)
}

#[cfg(test)]
mod tests {
    use blob::{BlobLayout, DiskConfig, DiskStore, Keyring, MasterKey, Packs, PacksConfig};
    use futures_util::future::join_all;
    use index::Sqlite;
    use maildrop::{
        Actor, Certificate, Domain, DomainName, State, Tenant, TenantId, TenantName, TenantSettings,
        port::{Clock as _, SystemClock},
    };

    use super::*;

    /// Certificates over an index with one, for `pop.one.test`.
    async fn certificates(dir: &std::path::Path) -> HostCertificates {
        let directory: Arc<dyn Directory> = Arc::new(Sqlite::open(&dir.join("index.sqlite")).await.unwrap());
        let objects = Arc::new(DiskStore::open(DiskConfig::new(dir.join("packs"))).await.unwrap());
        let key = MasterKey::parse("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
        let layout = BlobLayout::new("").unwrap();
        let blob = Packs::new(objects, Keyring::new(Arc::new(key)), layout, PacksConfig::default());
        let actor = Actor { name: "test".into(), origin: "local".into(), request: String::new() };
        let (id, at) = (TenantId::generate(), SystemClock.now());
        let tenant = Tenant {
            id,
            name: TenantName::try_from("one").unwrap(),
            state: State::Active,
            revision: 1,
            settings: TenantSettings::default(),
            key: blob.new_tenant_key(id).await.unwrap(),
            created_at: at,
        };
        directory.create_tenant(&tenant, &actor).await.unwrap();
        let name = DomainName::try_from("one.test").unwrap();
        directory
            .create_domain(id, &Domain { name, alias_of: None, created_at: at }, false, &actor)
            .await
            .unwrap();
        let host = "pop.one.test".to_owned();
        let made = rcgen::generate_simple_self_signed([host.clone()]).unwrap();
        let pem = made.signing_key.serialize_pem();
        let sealed_key = blob.seal_secret(id, &tenant.key, PURPOSE, pem.as_bytes()).await.unwrap();
        let not_after = at + time::Duration::DAY;
        let certificate = Certificate { host, chain: made.cert.pem(), sealed_key, not_after, created_at: at };
        directory.put_certificate(id, &certificate, &actor).await.unwrap();
        HostCertificates::new(directory, Arc::new(blob)).unwrap()
    }

    #[tokio::test]
    async fn who_asks_at_the_same_time_gets_the_same_answer() {
        let dir = tempfile::tempdir().unwrap();
        let certificates = certificates(dir.path()).await;
        // More than there are turns, so they cannot all have one.
        let hosts = join_all((0..3 * LOOKUPS_MAX).map(|_| certificates.get("pop.one.test"))).await;
        let first = hosts[0].clone().unwrap();
        assert!(hosts.iter().flatten().all(|host| Arc::ptr_eq(host, &first)));
        assert_eq!(hosts.iter().flatten().count(), hosts.len());
    }

    #[tokio::test]
    async fn more_than_can_be_looked_up_at_once_wait_their_turn() {
        let dir = tempfile::tempdir().unwrap();
        let certificates = certificates(dir.path()).await;
        let nobodys: Vec<_> = (0..100).map(|i| format!("{i}.other.test")).collect();
        let all = join_all(nobodys.iter().map(|host| certificates.get(host)));
        let (none, one) = tokio::join!(all, certificates.get("pop.one.test"));
        assert!(none.iter().all(Option::is_none) && one.is_some());
    }

    #[tokio::test]
    async fn an_outage_takes_no_certificate_away() {
        let dir = tempfile::tempdir().unwrap();
        let certificates = certificates(dir.path()).await;
        let (host, wanted) = ("pop.one.test", certificates.get("pop.one.test").await.unwrap());
        let shared = &certificates.shared;
        // The database answers nobody, for longer than its answers count.
        let turns = shared.lookups.acquire_many(LOOKUPS_MAX as u32).await.unwrap();
        tokio::time::pause();
        tokio::time::advance(KEPT).await;
        assert!(Arc::ptr_eq(&certificates.get(host).await.unwrap(), &wanted));
        tokio::time::advance(FAILURE_KEPT).await;
        assert!(Arc::ptr_eq(&certificates.get(host).await.unwrap(), &wanted), "and on and on");
        assert!(certificates.get("imap.one.test").await.is_none(), "what was never presented is not known");
        // It is back, and asked again soon: what is gone is gone, in the next outage, too.
        drop(turns);
        tokio::time::advance(FAILURE_KEPT).await;
        tokio::time::resume();
        let tenant = shared.directory.all_tenants_certificate(host).await.unwrap().unwrap().tenant;
        let actor = Actor { name: "test".into(), origin: "local".into(), request: String::new() };
        let at = SystemClock.now();
        assert!(shared.directory.delete_certificate(tenant, host, &actor, at).await.unwrap());
        assert!(certificates.get(host).await.is_none());
        let turns = shared.lookups.acquire_many(LOOKUPS_MAX as u32).await.unwrap();
        tokio::time::pause();
        tokio::time::advance(KEPT).await;
        assert!(certificates.get(host).await.is_none());
        drop(turns);
    }

    #[tokio::test]
    async fn a_flood_of_names_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let certificates = certificates(dir.path()).await;
        let shared = &certificates.shared;
        // The database answers nobody.
        let turns = shared.lookups.acquire_many(LOOKUPS_MAX as u32).await.unwrap();
        tokio::time::pause();
        let start = Instant::now();
        let names: Vec<_> = (0..2 * HOSTS_MAX).map(|i| format!("{i}.one.test")).collect();
        let flood = join_all(names.iter().map(|name| certificates.get(name)));
        let (flood, one) = tokio::join!(flood, certificates.get("pop.one.test"));
        assert!(flood.iter().all(Option::is_none) && one.is_none());
        assert!(start.elapsed() < LOOKUP_TIMEOUT + Duration::from_millis(10), "{:?}", start.elapsed());
        shared.hosts.run_pending_tasks();
        assert!(shared.hosts.entry_count() <= HOSTS_MAX, "{}", shared.hosts.entry_count());
        drop(turns);
        tokio::time::advance(FAILURE_KEPT).await;
        tokio::time::resume();
        assert!(certificates.get("pop.one.test").await.is_some(), "a failure soon counts no more");
    }
}
