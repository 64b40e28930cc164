//! Autologout (RFC 1939 §3): time is paused here and advanced by hand, never slept.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::{path::Path, sync::Arc, time::Duration};

use auth::{Authenticator, Hasher, HasherConfig, Password, Penalties, PenaltyConfig, Sealed, VerifiedCache};
use blob::{BlobLayout, DiskConfig, DiskStore, Keyring, MasterKey, Packs, PacksConfig};
use frontend::{
    Bound, Drain, Limits, ListenAddr, Metrics, Pop3Config, Pop3Service, Server, Sessions, Tenancy,
};
use index::{Sqlite, Store};
use maildrop::{
    Actor, Address, Deliveries, Domain, DomainName, FairGate, MailboxId, MailboxSettings, Maildrops,
    NewDelivery, NewMailbox, NodeId, Outcome, RecipientCheck, Releaser, State, Tenant, TenantCache, TenantId,
    TenantName, TenantSettings, Throttle, TrafficLog, Uid,
    port::{BlobStore, Clock as _, SystemClock},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

/// A POP3 service with one mailbox that holds one message.
async fn serve(dir: &Path, drain: &Drain) -> std::path::PathBuf {
    let store: Store = Arc::new(Sqlite::open(&dir.join("index.sqlite")).await.unwrap()).into();
    let objects = Arc::new(DiskStore::open(DiskConfig::new(dir.join("packs"))).await.unwrap());
    let key = MasterKey::parse("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
    let layout = BlobLayout::new("").unwrap();
    let blob: Arc<dyn BlobStore> =
        Arc::new(Packs::new(objects, Keyring::new(Arc::new(key)), layout, PacksConfig::default()));
    let hasher = Hasher::new(HasherConfig { memory_kib: 64, passes: 1, ..HasherConfig::default() }).unwrap();
    let actor = Actor { name: "test".into(), origin: "local".into(), request: String::new() };
    let tenant = TenantId::generate();
    let at = SystemClock.now();
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
    let address = Address::try_from("a@one.test").unwrap();
    let mailbox = NewMailbox {
        id: MailboxId::generate(),
        address: address.clone(),
        credential: Some(hasher.hash(Password::new(b"pw".to_vec())).await.unwrap().into()),
        suspended: false,
        settings: MailboxSettings::default(),
    };
    store.directory.create_mailboxes(tenant, &[mailbox], &actor, at).await.unwrap()[0].as_ref().unwrap();
    let tenants = TenantCache::new(Arc::clone(&store.directory));
    let deliveries = Deliveries::new(
        Arc::clone(&store.directory),
        Arc::clone(&store.index),
        Arc::clone(&blob),
        tenants.clone(),
        Throttle::default(),
        FairGate::new(10, 10),
        FairGate::new(10, 10),
    );
    let RecipientCheck::Accepted(recipient) = deliveries.recipient(address, None).await.unwrap() else {
        panic!("the mailbox takes no mail");
    };
    let new =
        NewDelivery { sender: String::new(), recipients: vec![recipient], trace: vec![], received_at: at };
    let mut delivery = deliveries.begin(new).await;
    delivery.write(b"From: x\r\n\r\nbody\r\n").await;
    assert_eq!(delivery.finish().await, [Outcome::Delivered(Some(Uid(1)))]);

    let node = NodeId::generate();
    store.index.heartbeat(node, "test", Duration::from_hours(24)).await.unwrap();
    let (releaser, _) = Releaser::start(Arc::clone(&store.index));
    let sealed = Sealed::new(Arc::clone(&blob), tenants.clone(), [7; 32]);
    let maildrops = Maildrops::new(
        Arc::clone(&store.index),
        blob,
        tenants,
        node,
        releaser,
        FairGate::new(10, 10),
        FairGate::new(10, 10),
    );
    let verified = VerifiedCache::new(10, Duration::from_hours(1));
    let service = Pop3Service::new(
        Pop3Config::new("pop.test"),
        Authenticator::new(Arc::clone(&store.directory), hasher, verified, sealed, FairGate::new(10, 10)),
        maildrops,
        None,
        Tenancy {
            throttle: Throttle::default(),
            traffic: TrafficLog::new(Arc::clone(&store.records)),
            sessions: Sessions::default(),
            penalties: Penalties::new(PenaltyConfig::default(), Arc::clone(&store.failures), [7; 32]),
        },
        Metrics::new(&prometheus::Registry::new()).unwrap(),
    );
    let socket = dir.join("pop3.sock");
    let bound = Bound::bind(&ListenAddr::Unix(socket.clone())).unwrap();
    Server::Pop3(Arc::new(service)).start(bound, &Limits::new(10), &drain.handle());
    socket
}

struct Client(BufReader<UnixStream>);

impl Client {
    async fn connect(socket: &Path) -> Self {
        let mut client = Self(BufReader::new(UnixStream::connect(socket).await.unwrap()));
        client.line().await;
        client
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line
    }

    async fn command(&mut self, command: &str) -> String {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        self.line().await
    }

    async fn log_in(&mut self) {
        self.command("USER a@one.test").await;
        let reply = self.command("PASS pw").await;
        assert!(reply.starts_with("+OK"), "{reply}");
    }
}

#[tokio::test]
async fn not_before_ten_minutes_and_never_an_update() {
    let dir = tempfile::tempdir().unwrap();
    let drain = Drain::new();
    let socket = serve(dir.path(), &drain).await;
    let mut client = Client::connect(&socket).await;
    client.log_in().await;
    assert!(client.command("DELE 1").await.starts_with("+OK"));
    tokio::time::pause();
    for _ in 0..3 {
        // Any command resets the timer (RFC 1939 §3).
        tokio::time::advance(Duration::from_secs(9 * 60 + 59)).await;
        assert!(client.command("NOOP").await.starts_with("+OK"));
    }
    tokio::time::advance(Duration::from_secs(10 * 60 + 1)).await;
    let mut rest = String::new();
    client.0.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("-ERR ") && rest.lines().count() == 1, "{rest}");
    tokio::time::resume();
    // Nothing was deleted, and the maildrop is free.
    let mut client = Client::connect(&socket).await;
    client.log_in().await;
    assert!(client.command("STAT").await.starts_with("+OK 1 "));
}

#[tokio::test]
async fn before_login_a_minute_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let drain = Drain::new();
    let socket = serve(dir.path(), &drain).await;
    let mut client = Client::connect(&socket).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(client.command("CAPA").await.starts_with("+OK"));
    tokio::time::advance(Duration::from_secs(61)).await;
    let mut rest = String::new();
    client.0.read_to_string(&mut rest).await.unwrap();
    assert!(rest.trim_end().lines().last().unwrap().starts_with("-ERR "), "{rest}");
}
