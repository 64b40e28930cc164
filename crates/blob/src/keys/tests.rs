use base64::{Engine, prelude::BASE64_STANDARD};

use super::*;

fn master(octet: u8) -> MasterKey {
    MasterKey::parse(&BASE64_STANDARD.encode([octet; 32])).unwrap()
}

#[test]
fn a_master_key_is_32_octets_of_base64() {
    let good = BASE64_STANDARD.encode([7; 32]);
    assert!(MasterKey::parse(&format!("  {good}\n")).is_ok());
    for bad in ["", "x", &good[1..], &BASE64_STANDARD.encode([7; 31]), &BASE64_STANDARD.encode([7; 33])] {
        assert_eq!(MasterKey::parse(bad).err(), Some(MasterKeyError), "{bad:?}");
    }
}

#[test]
fn nothing_shows_a_key() {
    assert_eq!(
        format!("{:?} {:?}", master(7), TenantKey::fixed(7)),
        "MasterKey([REDACTED]) TenantKey([REDACTED])"
    );
}

/// The index remembers it: it may never change.
#[test]
fn the_check_value_is_pinned() {
    let expected = "zMp2NsOxLOLz4srEAjBdB9Yhbh9Wnd3M4FsBS1iQRdw=";
    assert_eq!(BASE64_STANDARD.encode(master(7).check_value()), expected);
    assert_ne!(master(7).check_value(), master(8).check_value());
}

#[tokio::test]
async fn a_sealed_key_opens_for_its_tenant_and_master_key_only() {
    let (tenant, other) = (TenantId::generate(), TenantId::generate());
    let key = TenantKey::fixed(9);
    let sealed = master(7).seal(tenant, &key).await.unwrap();
    assert_eq!(master(7).open(tenant, &sealed).await.unwrap().octets(), key.octets());
    let other_key = master(8).open(tenant, &sealed).await;
    assert!(matches!(other_key, Err(BlobError::NoMasterKey(id)) if id == master(7).id()));
    assert!(matches!(master(7).open(other, &sealed).await, Err(BlobError::WrongKey)));
    for i in 0..sealed.0.len() {
        let mut flipped = sealed.clone();
        flipped.0[i] ^= 1;
        assert!(master(7).open(tenant, &flipped).await.is_err(), "octet {i}");
        let cut = SealedKey(sealed.0[..i].to_vec());
        assert!(matches!(master(7).open(tenant, &cut).await, Err(BlobError::Corrupt(_))), "cut at {i}");
    }
}

/// What version 1 wrote must open for ever.
#[tokio::test]
async fn the_sealed_key_of_version_1_is_pinned() {
    let tenant = TenantId::from_uuid(uuid::Uuid::from_bytes([1; 16]));
    let golden =
        "AQEjHdPEQ4G4Y1WsoeBLYXnSuH3N3TDRVd1T98dZ/cPsZ2FLmLNLb4mJW6rzDwU3ssowNcN0o8eL1TIKJrEHDeIx/0IdWQ==";
    let sealed = SealedKey(BASE64_STANDARD.decode(golden).unwrap());
    assert_eq!(master(7).open(tenant, &sealed).await.unwrap().octets(), TenantKey::fixed(9).octets());
}

/// Counts what reaches the key service.
#[derive(Debug)]
struct Counting(MasterKey, std::sync::atomic::AtomicU32);

#[async_trait]
impl KeyWrap for Counting {
    fn id(&self) -> MasterKeyId {
        self.0.id()
    }

    fn check_value(&self) -> [u8; 32] {
        self.0.check_value()
    }

    async fn seal(&self, tenant: TenantId, key: &TenantKey) -> Result<SealedKey, BlobError> {
        self.0.seal(tenant, key).await
    }

    async fn open(&self, tenant: TenantId, sealed: &SealedKey) -> Result<TenantKey, BlobError> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.open(tenant, sealed).await
    }
}

#[tokio::test]
async fn an_open_key_is_remembered_for_its_tenant_alone() {
    let wrap = Arc::new(Counting(master(7), 0.into()));
    let keyring = Keyring::new(Arc::clone(&wrap) as Arc<dyn KeyWrap>);
    let tenant = TenantId::generate();
    let sealed = keyring.generate(tenant).await.unwrap();
    for _ in 0..3 {
        keyring.open(tenant, &sealed).await.unwrap();
    }
    assert_eq!(wrap.1.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert!(matches!(keyring.open(TenantId::generate(), &sealed).await, Err(BlobError::WrongKey)));
}

/// The key in use is the one that a sealed key names, whichever is the newest.
#[tokio::test]
async fn a_ring_opens_with_each_and_seals_with_the_newest() {
    let ring = |newest: u8, others: &[u8]| {
        let others = others.iter().map(|octet| Arc::new(master(*octet)) as Arc<dyn KeyWrap>).collect();
        Keyring::of(MasterKeys::new(Arc::new(master(newest)), others))
    };
    let (old, both, new) = (ring(7, &[]), ring(8, &[7, 8, 7]), ring(8, &[]));
    assert_eq!(both.opens(), [master(8).id(), master(7).id()]);
    let tenant = TenantId::generate();
    let sealed = old.generate(tenant).await.unwrap();
    let key = both.open(tenant, &sealed).await.unwrap();
    assert!(
        matches!(new.open(tenant, &sealed).await, Err(BlobError::NoMasterKey(id)) if id == master(7).id())
    );
    let resealed = both.reseal(tenant, &sealed).await.unwrap();
    assert_eq!(resealed.master_key(), Some(master(8).id()));
    for ring in [&both, &new] {
        assert_eq!(ring.open(tenant, &resealed).await.unwrap().octets(), key.octets());
    }
    assert!(matches!(old.open(tenant, &resealed).await, Err(BlobError::NoMasterKey(_))));
    let another = TenantId::generate();
    assert!(matches!(both.reseal(another, &sealed).await, Err(BlobError::WrongKey)));
    let shown = BlobError::NoMasterKey(master(7).id()).to_string();
    assert!(shown.contains(&master(7).id().to_string()), "{shown}");
}

#[test]
fn a_secret_opens_for_its_tenant_and_purpose_only() {
    let (tenant, other) = (TenantId::generate(), TenantId::generate());
    let key = TenantKey::fixed(9);
    let sealed = key.seal_secret(tenant, "tls", b"a secret").unwrap();
    assert_eq!(key.open_secret(tenant, "tls", &sealed).as_deref(), Some(&b"a secret"[..]));
    assert!(!sealed.windows(8).any(|window| window == b"a secret"));
    assert_ne!(sealed, key.seal_secret(tenant, "tls", b"a secret").unwrap());
    assert_eq!(key.open_secret(other, "tls", &sealed), None);
    assert_eq!(key.open_secret(tenant, "dkim", &sealed), None);
    assert_eq!(TenantKey::fixed(8).open_secret(tenant, "tls", &sealed), None);
    for at in 0..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[at] ^= 1;
        assert_eq!(key.open_secret(tenant, "tls", &damaged), None, "octet {at}");
        assert_eq!(key.open_secret(tenant, "tls", &sealed[..at]), None, "cut at {at}");
    }
}

/// A service in whatever weather.
#[derive(Debug)]
struct Service {
    key: MasterKey,
    weather: std::sync::Mutex<Option<fn() -> BlobError>>,
    asked: std::sync::atomic::AtomicU32,
}

impl Service {
    fn start() -> Arc<Self> {
        Arc::new(Self { key: master(7), weather: None.into(), asked: 0.into() })
    }

    fn fail(&self, error: Option<fn() -> BlobError>) {
        *self.weather.lock().unwrap() = error;
    }

    fn asked(&self) -> u32 {
        self.asked.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[async_trait]
impl KeyWrap for Service {
    fn id(&self) -> MasterKeyId {
        self.key.id()
    }

    fn check_value(&self) -> [u8; 32] {
        self.key.check_value()
    }

    fn is_remote(&self) -> bool {
        true
    }

    async fn seal(&self, tenant: TenantId, key: &TenantKey) -> Result<SealedKey, BlobError> {
        self.key.seal(tenant, key).await
    }

    async fn open(&self, tenant: TenantId, sealed: &SealedKey) -> Result<TenantKey, BlobError> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let error = *self.weather.lock().unwrap();
        match error {
            Some(error) => Err(error()),
            None => self.key.open(tenant, sealed).await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_open_stays_open_while_the_service_is_away() {
    let service = Service::start();
    let keyring = Keyring::new(Arc::clone(&service) as Arc<dyn KeyWrap>);
    let (tenant, other) = (TenantId::generate(), TenantId::generate());
    let (sealed, cold) = (keyring.generate(tenant).await.unwrap(), keyring.generate(other).await.unwrap());
    // A crowd asks once.
    let crowd = (0..100).map(|_| keyring.open(tenant, &sealed));
    assert!(futures_util::future::join_all(crowd).await.iter().all(Result::is_ok));
    assert_eq!(service.asked(), 1);
    service.fail(Some(|| BlobError::Unavailable("away".into())));
    for minute in 0..60 {
        keyring.open(tenant, &sealed).await.unwrap_or_else(|error| panic!("minute {minute}: {error}"));
        tokio::time::sleep(Duration::from_mins(1)).await;
    }
    // It was asked now and then, and not with each use.
    assert!((20..=60).contains(&service.asked()), "{}", service.asked());
    assert!(matches!(keyring.open(other, &cold).await, Err(BlobError::Unavailable(_))));
    service.fail(None);
    keyring.open(other, &cold).await.unwrap();
    // Asked again in the background, it answers: from then on every five minutes.
    keyring.open(tenant, &sealed).await.unwrap();
    tokio::time::sleep(Duration::from_mins(1)).await;
    let asked = service.asked();
    for _ in 0..3 {
        keyring.open(tenant, &sealed).await.unwrap();
        tokio::time::sleep(Duration::from_mins(1)).await;
    }
    assert_eq!(service.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_master_key_that_is_disabled_closes_what_is_open() {
    let service = Service::start();
    let keyring = Keyring::new(Arc::clone(&service) as Arc<dyn KeyWrap>);
    let tenant = TenantId::generate();
    let sealed = keyring.generate(tenant).await.unwrap();
    keyring.open(tenant, &sealed).await.unwrap();
    service.fail(Some(|| BlobError::Misconfigured("disabled".into())));
    tokio::time::sleep(REFRESH).await;
    // The one who finds out still gets it; nobody after.
    keyring.open(tenant, &sealed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(keyring.open(tenant, &sealed).await, Err(BlobError::Misconfigured(_))));
}

#[tokio::test(start_paused = true)]
async fn keys_in_use_are_asked_for_again_by_a_few_at_a_time() {
    let service = Service::start();
    let keyring = Keyring::new(Arc::clone(&service) as Arc<dyn KeyWrap>);
    let mut keys = Vec::new();
    for _ in 0..1000 {
        let tenant = TenantId::generate();
        keys.push((tenant, keyring.generate(tenant).await.unwrap()));
    }
    let open_all = async || {
        for (tenant, sealed) in &keys {
            keyring.open(*tenant, sealed).await.unwrap();
        }
    };
    open_all().await;
    tokio::time::sleep(REFRESH).await;
    let asked = service.asked();
    // All are due; what finds its place taken is left for another time.
    open_all().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let at_once = service.asked() - asked;
    assert!((1..=OPENING_MAX as u32).contains(&at_once), "{at_once}");
    // In the end all are.
    for _ in 0..60 {
        tokio::time::sleep(REFRESH_RETRY).await;
        open_all().await;
    }
    assert!(service.asked() - asked >= 1000, "{}", service.asked() - asked);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_a_service_does_not_let_this_node_use_is_not_usable() {
    let service = Service::start();
    let ring = MasterKeys::new(Arc::new(master(8)), vec![Arc::clone(&service) as Arc<dyn KeyWrap>]);
    let keyring = Keyring::of(ring);
    assert_eq!(keyring.usable().await, [master(8).id(), master(7).id()]);
    service.fail(Some(|| BlobError::Misconfigured("denied".into())));
    assert_eq!(keyring.usable().await, [master(8).id()]);
    // What is configured is what it was.
    assert_eq!(keyring.opens(), [master(8).id(), master(7).id()]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_service_that_hangs_is_told_in_time() {
    let service = Service::start();
    let keyring = Keyring::new(Arc::clone(&service) as Arc<dyn KeyWrap>);
    let tenant = TenantId::generate();
    let sealed = keyring.generate(tenant).await.unwrap();
    service.fail(Some(|| BlobError::Unavailable("away".into())));
    let begun = Instant::now();
    // Each is a request of its own where the one before failed; nobody waits for all of them.
    let crowd = (0..500).map(|_| keyring.open(tenant, &sealed));
    assert!(futures_util::future::join_all(crowd).await.iter().all(Result::is_err));
    assert!(begun.elapsed() <= OPENING_WAIT + Duration::from_secs(1), "{:?}", begun.elapsed());
}
