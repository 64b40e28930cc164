//! A delivery whose tenant's turn does not come is put off, and nothing else (P6, ADR 10).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::{sync::Arc, time::Duration};

use blob::{BlobLayout, DiskConfig, DiskStore, Keyring, MasterKey, Packs, PacksConfig};
use frontend::{Bound, Drain, Limits, ListenAddr, LmtpConfig, LmtpService, Metrics, Server};
use index::{Sqlite, Store};
use maildrop::{
    Actor, Address, Deliveries, Domain, DomainName, FairGate, MailboxId, MailboxSettings, NewMailbox, State,
    Tenant, TenantCache, TenantId, TenantName, TenantSettings, Throttle, TrafficLog,
    port::{BlobStore, Clock as _, SystemClock},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

#[tokio::test]
async fn a_delivery_whose_turn_does_not_come_is_put_off() {
    let dir = tempfile::tempdir().unwrap();
    let store: Store = Arc::new(Sqlite::open(&dir.path().join("index.sqlite")).await.unwrap()).into();
    let objects = Arc::new(DiskStore::open(DiskConfig::new(dir.path().join("packs"))).await.unwrap());
    let key = MasterKey::parse("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
    let layout = BlobLayout::new("").unwrap();
    let blob: Arc<dyn BlobStore> =
        Arc::new(Packs::new(objects, Keyring::new(Arc::new(key)), layout, PacksConfig::default()));
    let actor = Actor { name: "test".into(), origin: "local".into(), request: String::new() };
    let (tenant, at) = (TenantId::generate(), SystemClock.now());
    let new = Tenant {
        id: tenant,
        name: TenantName::try_from("one").unwrap(),
        state: State::Active,
        revision: 1,
        settings: TenantSettings::default(),
        key: blob.new_tenant_key(tenant).await.unwrap(),
        created_at: at,
    };
    store.directory.create_tenant(&new, &actor).await.unwrap();
    let domain = Domain { name: DomainName::try_from("one.test").unwrap(), alias_of: None, created_at: at };
    store.directory.create_domain(tenant, &domain, false, &actor).await.unwrap();
    let mailbox = NewMailbox {
        id: MailboxId::generate(),
        address: Address::try_from("a@one.test").unwrap(),
        credential: None,
        suspended: false,
        settings: MailboxSettings::default(),
    };
    store.directory.create_mailboxes(tenant, &[mailbox], &actor, at).await.unwrap()[0].as_ref().unwrap();
    let storing = FairGate::new(1, 10);
    let deliveries = Deliveries::new(
        Arc::clone(&store.directory),
        Arc::clone(&store.index),
        blob,
        TenantCache::new(Arc::clone(&store.directory)),
        Throttle::default(),
        FairGate::new(10, 10),
        storing.clone(),
    );
    let service = LmtpService::new(
        LmtpConfig::new("mx.test"),
        deliveries,
        TrafficLog::new(Arc::clone(&store.records)),
        Metrics::new(&prometheus::Registry::new()).unwrap(),
    );
    let (socket, drain) = (dir.path().join("lmtp.sock"), Drain::new());
    let bound = Bound::bind(&ListenAddr::Unix(socket.clone())).unwrap();
    let limits = Limits::new(10);
    Server::Lmtp(Arc::new(service)).start(bound, &limits, &drain.handle());

    let mut lmtp = BufReader::new(UnixStream::connect(&socket).await.unwrap());
    // What is said, and how many lines are answered; the last line.
    let mut talk = async |octets: &str, lines: usize| {
        lmtp.get_mut().write_all(octets.as_bytes()).await.unwrap();
        let mut last = String::new();
        for _ in 0..lines {
            loop {
                last.clear();
                lmtp.read_line(&mut last).await.unwrap();
                if last.as_bytes().get(3) != Some(&b'-') {
                    break;
                }
            }
        }
        last
    };
    let envelope = "MAIL FROM:<x@y.test>\r\nRCPT TO:<a@one.test>\r\nDATA\r\n";
    let message = "From: x@y.test\r\n\r\nbody\r\n.\r\n";
    assert!(talk("LHLO test\r\n", 2).await.starts_with("250"));
    // Another tenant's work takes all there is, for longer than a sender is kept waiting.
    let busy = storing.acquire(TenantId::generate()).await.unwrap();
    let before = std::time::Instant::now();
    // Said before the message is sent.
    let put_off = talk(envelope, 3).await;
    assert!(put_off.starts_with("451 4."), "{put_off}");
    assert!(before.elapsed() >= Duration::from_secs(9), "{:?}", before.elapsed());
    // The connection goes on, and so does delivery.
    drop(busy);
    let go_on = talk(envelope, 3).await;
    assert!(go_on.starts_with("354"), "{go_on}");
    let delivered = talk(message, 1).await;
    assert!(delivered.starts_with("250 "), "{delivered}");
}
