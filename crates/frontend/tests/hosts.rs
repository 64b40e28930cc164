//! Certificates by the host a client asks for (SNI, RFC 6066 §3), by real handshakes. What is remembered for a
//! while is so by a clock that is paused here and advanced by hand, never slept.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use auth::{Authenticator, Hasher, HasherConfig, Penalties, PenaltyConfig, Sealed, VerifiedCache};
use blob::{BlobLayout, DiskConfig, DiskStore, Keyring, MasterKey, Packs, PacksConfig};
use frontend::{
    Bound, CertificateFiles, Drain, HostCertificates, Limits, ListenAddr, Metrics, Pop3Config, Pop3Service,
    Server, Sessions, Tenancy, TicketSecret, TlsConfig, TlsIdentity,
};
use index::{Sqlite, Store};
use maildrop::{
    Actor, Certificate, Domain, DomainName, FairGate, Maildrops, NodeId, Policy, Releaser, SealedKey, State,
    Tenant, TenantCache, TenantId, TenantName, TenantSettings, Throttle, TrafficLog,
    port::{BlobStore, Clock as _, SystemClock, TenantUpdate},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

const GREETING: &str = "mail of one ready";

/// A node that serves POP3 and POP3S, and tenant `one` with the domain `one.test`.
struct Node {
    dir: tempfile::TempDir,
    store: Store,
    blob: Arc<dyn BlobStore>,
    tenant: TenantId,
    key: SealedKey,
    identity: TlsIdentity,
    /// The leaf of the node's own certificate.
    own: CertificateDer<'static>,
    pop3: SocketAddr,
    pop3s: SocketAddr,
    _drain: Drain,
}

impl Node {
    /// A node whose own certificate is for `own_names`.
    async fn start(own_names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: Store = Arc::new(Sqlite::open(&dir.path().join("index.sqlite")).await.unwrap()).into();
        let objects = Arc::new(DiskStore::open(DiskConfig::new(dir.path().join("packs"))).await.unwrap());
        let key = MasterKey::parse("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
        let layout = BlobLayout::new("").unwrap();
        let blob: Arc<dyn BlobStore> =
            Arc::new(Packs::new(objects, Keyring::new(Arc::new(key)), layout, PacksConfig::default()));
        let (tenant, at) = (TenantId::generate(), SystemClock.now());
        let policy = Policy {
            greeting: Some(GREETING.into()),
            login_delay_secs: Some(60),
            expire_days: Some(30),
            ..Policy::default()
        };
        let new = Tenant {
            id: tenant,
            name: TenantName::try_from("one").unwrap(),
            state: State::Active,
            revision: 1,
            settings: TenantSettings { policy, ..TenantSettings::default() },
            key: blob.new_tenant_key(tenant).await.unwrap(),
            created_at: at,
        };
        store.directory.create_tenant(&new, &actor()).await.unwrap();
        let domain =
            Domain { name: DomainName::try_from("one.test").unwrap(), alias_of: None, created_at: at };
        store.directory.create_domain(tenant, &domain, true, &actor()).await.unwrap();

        let own = write_own(dir.path(), own_names);
        let (certificate_file, key_file) = own_files(dir.path());
        let hosts = HostCertificates::new(Arc::clone(&store.directory), Arc::clone(&blob)).unwrap();
        let config = TlsConfig::new(CertificateFiles::new(&certificate_file, &key_file));
        let tickets = Some(TicketSecret::new([7; 32]));
        let identity = TlsIdentity::load(config, tickets).unwrap().with_hosts(hosts);
        let drain = Drain::new();
        let service = Arc::new(service(&store, &blob, identity.clone()));
        let limits = Limits::new(100);
        let mut addrs =
            [Server::Pop3(Arc::clone(&service)), Server::Pop3s(service)].into_iter().map(|server| {
                let bound = Bound::bind(&ListenAddr::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
                let addr = bound.local_addr().unwrap().parse().unwrap();
                server.start(bound, &limits, &drain.handle());
                addr
            });
        let (pop3, pop3s) = (addrs.next().unwrap(), addrs.next().unwrap());
        drop(addrs);
        Self { dir, store, blob, tenant, key: new.key, identity, own, pop3, pop3s, _drain: drain }
    }

    /// Puts a certificate for `host` in place, with a key as it is sealed; gives the leaf.
    async fn put(&self, host: &str) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        let key = made.signing_key.serialize_pem();
        let sealed = self.blob.seal_secret(self.tenant, &self.key, "tls", key.as_bytes()).await.unwrap();
        self.put_sealed(host, made.cert.pem(), sealed).await;
        made.cert.der().clone()
    }

    async fn put_sealed(&self, host: &str, chain: String, sealed_key: Vec<u8>) {
        let at = SystemClock.now();
        let (host, not_after) = (host.to_owned(), at + time::Duration::DAY);
        let certificate = Certificate { host, chain, sealed_key, not_after, created_at: at };
        self.store.directory.put_certificate(self.tenant, &certificate, &actor()).await.unwrap();
    }

    /// What a client of this version sees that asks for `host`: a certificate and a greeting.
    async fn shown_to(
        &self,
        host: &str,
        version: &'static SupportedProtocolVersion,
    ) -> (CertificateDer<'static>, String) {
        let session = Session::begin(&client(version), host, self.pop3s).await;
        (session.leaf, session.greeting)
    }

    async fn shown(&self, host: &str) -> CertificateDer<'static> {
        self.shown_to(host, &TLS13).await.0
    }
}

/// A session over POP3S, up to the greeting.
struct Session {
    leaf: CertificateDer<'static>,
    greeting: String,
    kind: HandshakeKind,
}

impl Session {
    /// Asks for `host`; for nothing where it is an address, which is no host name (RFC 6066 §3).
    async fn begin(config: &Arc<ClientConfig>, host: &str, addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut greeting = String::new();
        stream.read_line(&mut greeting).await.unwrap();
        let (_, connection) = stream.get_ref().get_ref();
        let leaf = connection.peer_certificates().unwrap()[0].clone().into_owned();
        Self { leaf, greeting, kind: connection.handshake_kind().unwrap() }
    }
}

fn actor() -> Actor {
    Actor { name: "test".into(), origin: "local".into(), request: String::new() }
}

fn own_files(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join("cert.pem"), dir.join("key.pem"))
}

/// Writes a certificate of the node for these names and gives it.
fn write_own(dir: &Path, names: &[&str]) -> CertificateDer<'static> {
    let made =
        rcgen::generate_simple_self_signed(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>()).unwrap();
    let (certificate_file, key_file) = own_files(dir);
    fs::write(certificate_file, made.cert.pem()).unwrap();
    fs::write(key_file, made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

fn service(store: &Store, blob: &Arc<dyn BlobStore>, identity: TlsIdentity) -> Pop3Service {
    let hasher = Hasher::new(HasherConfig { memory_kib: 64, passes: 1, ..HasherConfig::default() }).unwrap();
    let (releaser, _) = Releaser::start(Arc::clone(&store.index));
    Pop3Service::new(
        Pop3Config::new("pop.node.test"),
        Authenticator::new(
            Arc::clone(&store.directory),
            hasher,
            VerifiedCache::new(10, Duration::from_hours(1)),
            Sealed::new(Arc::clone(blob), TenantCache::new(Arc::clone(&store.directory)), [7; 32]),
            FairGate::new(10, 10),
        ),
        Maildrops::new(
            Arc::clone(&store.index),
            Arc::clone(blob),
            TenantCache::new(Arc::clone(&store.directory)),
            NodeId::generate(),
            releaser,
            FairGate::new(10, 10),
            FairGate::new(10, 10),
        ),
        Some(identity),
        Tenancy {
            throttle: Throttle::default(),
            traffic: TrafficLog::new(Arc::clone(&store.records)),
            sessions: Sessions::default(),
            penalties: Penalties::new(PenaltyConfig::default(), Arc::clone(&store.failures), [7; 32]),
        },
        Metrics::new(&prometheus::Registry::new()).unwrap(),
    )
}

/// A client that takes any certificate whose key the server has: what is looked at is which one it was.
fn client(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[version]).unwrap().dangerous();
    Arc::new(builder.with_custom_certificate_verifier(Arc::new(AnyName(provider))).with_no_client_auth())
}

#[derive(Debug)]
struct AnyName(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Remembers sessions of all hosts as if they were one's, as no decent client does.
#[derive(Debug)]
struct AnyTicket(ClientSessionMemoryCache);

impl AnyTicket {
    fn host() -> ServerName<'static> {
        ServerName::try_from("any.test").unwrap()
    }
}

impl ClientSessionStore for AnyTicket {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(Self::host(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&Self::host())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.0.set_tls12_session(Self::host(), session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&Self::host())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&Self::host());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(Self::host(), ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Self::host())
    }
}

/// Advances the clock alone; what waits for the database or the network must not see it paused.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_host_of_a_tenant_has_its_certificate_and_greeting() {
    let node = Node::start(&["pop.node.test"]).await;
    let one = node.put("pop.one.test").await;
    for version in [&TLS12, &TLS13] {
        let (leaf, greeting) = node.shown_to("pop.one.test", version).await;
        assert_eq!(leaf, one);
        assert!(
            greeting.starts_with(&format!("+OK {GREETING} (")) && greeting.ends_with(")\r\n"),
            "{greeting}"
        );
        // Host names have no case.
        assert_eq!(node.shown_to("POP.One.Test", version).await.0, one);
    }
}

#[tokio::test]
async fn everybody_else_has_the_nodes() {
    let node = Node::start(&["pop.node.test"]).await;
    node.put("pop.one.test").await;
    for version in [&TLS12, &TLS13] {
        for host in ["127.0.0.1", "pop.node.test", "pop.other.test", "imap.one.test", "a.pop.one.test"] {
            let (leaf, greeting) = node.shown_to(host, version).await;
            assert_eq!(leaf, node.own, "{host}");
            assert!(greeting.starts_with("+OK pop.node.test Postern ready ("), "{greeting}");
        }
    }
}

#[tokio::test]
async fn a_wildcard_is_for_one_label() {
    let node = Node::start(&["pop.node.test"]).await;
    let (wildcard, exact) = (node.put("*.one.test").await, node.put("pop.one.test").await);
    assert_eq!(node.shown("any.one.test").await, wildcard);
    assert_eq!(node.shown("pop.one.test").await, exact);
    assert_eq!(node.shown("one.test").await, node.own);
    assert_eq!(node.shown("a.b.one.test").await, node.own);
}

#[tokio::test]
async fn a_name_of_the_node_is_no_tenants() {
    let node = Node::start(&["pop.node.test", "pop.one.test", "*.shared.one.test"]).await;
    for host in ["pop.one.test", "a.shared.one.test"] {
        node.put(host).await;
        let (leaf, greeting) = node.shown_to(host, &TLS13).await;
        assert_eq!(leaf, node.own, "{host}");
        assert!(greeting.contains("Postern ready"), "{greeting}");
    }
}

#[tokio::test]
async fn a_suspended_tenant_has_no_hosts() {
    let node = Node::start(&["pop.node.test"]).await;
    let one = node.put("pop.one.test").await;
    assert_eq!(node.shown("pop.one.test").await, one);
    let update = TenantUpdate { state: Some(State::Suspended), ..TenantUpdate::default() };
    let at = SystemClock.now();
    node.store.directory.update_tenant(node.tenant, &update, &actor(), at).await.unwrap().unwrap();
    pass(Duration::from_secs(61)).await;
    assert_eq!(node.shown("pop.one.test").await, node.own);
}

#[tokio::test]
async fn what_was_put_is_served_within_a_minute() {
    let node = Node::start(&["pop.node.test"]).await;
    assert_eq!(node.shown("pop.one.test").await, node.own);
    let first = node.put("pop.one.test").await;
    pass(Duration::from_secs(50)).await;
    assert_eq!(node.shown("pop.one.test").await, node.own, "that there is none is remembered, too");
    pass(Duration::from_secs(11)).await;
    assert_eq!(node.shown("pop.one.test").await, first);
    let second = node.put("pop.one.test").await;
    assert_eq!(node.shown("pop.one.test").await, first);
    pass(Duration::from_secs(61)).await;
    assert_eq!(node.shown("pop.one.test").await, second);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_costs_no_connection() {
    let node = Node::start(&["pop.node.test"]).await;
    let made = rcgen::generate_simple_self_signed(["pop.one.test".to_owned()]).unwrap();
    let chain = made.cert.pem();
    let seal = async |purpose, secret: &str| {
        node.blob.seal_secret(node.tenant, &node.key, purpose, secret.as_bytes()).await.unwrap()
    };
    let key = made.signing_key.serialize_pem();
    let another = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_owned();
    for (chain, sealed_key) in [
        (chain.clone(), b"sealed by nobody".to_vec()),
        (chain.clone(), seal("another purpose", &key).await),
        (chain.clone(), seal("tls", "no PEM").await),
        (chain.clone(), seal("tls", &another).await),
        (String::new(), seal("tls", &key).await),
        (broken, seal("tls", &key).await),
    ] {
        node.put_sealed("pop.one.test", chain, sealed_key).await;
        assert_eq!(node.shown("pop.one.test").await, node.own);
        // A failure does not count as long as an answer does.
        pass(Duration::from_secs(5)).await;
    }
    let good = node.put("pop.one.test").await;
    assert_eq!(node.shown("pop.one.test").await, good);
}

#[tokio::test]
async fn a_reload_is_of_the_nodes_own_certificate() {
    let node = Node::start(&["pop.node.test"]).await;
    let one = node.put("pop.one.test").await;
    assert_eq!(node.shown("pop.one.test").await, one);
    let reloaded = write_own(node.dir.path(), &["pop.node.test"]);
    let (certificate_file, key_file) = own_files(node.dir.path());
    assert_eq!(node.identity.reload(false).changed, std::slice::from_ref(&certificate_file));
    assert_eq!(node.shown("pop.node.test").await, reloaded);
    assert_eq!(node.shown("pop.one.test").await, one);
    fs::write(&key_file, "no key").unwrap();
    assert_eq!(node.identity.reload(false).failures.len(), 1);
    assert!(node.identity.reload(false).failures.is_empty(), "told once");
    assert_eq!(node.shown("pop.node.test").await, reloaded);
}

#[tokio::test]
async fn a_session_is_resumed_with_its_own_host_only() {
    let node = Node::start(&["pop.node.test"]).await;
    node.put("*.one.test").await;
    for version in [&TLS12, &TLS13] {
        let mut client = ClientConfig::clone(&client(version));
        client.resumption = Resumption::store(Arc::new(AnyTicket(ClientSessionMemoryCache::new(10))));
        let client = Arc::new(client);
        let full = HandshakeKind::Full;
        assert_eq!(Session::begin(&client, "a.one.test", node.pop3s).await.kind, full);
        // Also when the certificate was looked up anew since.
        pass(Duration::from_secs(61)).await;
        let resumed = Session::begin(&client, "a.one.test", node.pop3s).await;
        assert_eq!(resumed.kind, HandshakeKind::Resumed);
        assert!(resumed.greeting.contains(GREETING), "{}", resumed.greeting);
        assert_eq!(Session::begin(&client, "b.one.test", node.pop3s).await.kind, full);
    }
}

#[tokio::test]
async fn stls_knows_hosts_as_the_port_does() {
    let node = Node::start(&["pop.node.test"]).await;
    let one = node.put("pop.one.test").await;
    let mut stream = BufReader::new(TcpStream::connect(node.pop3).await.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("+OK pop.node.test Postern ready ("), "{line}");
    // Whose login it will be is not known yet: nothing is promised of delays and of how long mail is kept.
    stream.write_all(b"CAPA\r\nNOOP\r\n").await.unwrap();
    line.clear();
    while !line.contains("-ERR") {
        stream.read_line(&mut line).await.unwrap();
    }
    assert!(!line.contains("LOGIN-DELAY") && !line.contains("EXPIRE"), "{line}");
    stream.write_all(b"STLS\r\n").await.unwrap();
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("+OK"), "{line}");
    let name = ServerName::try_from("pop.one.test").unwrap();
    let connector = TlsConnector::from(client(&TLS13));
    let mut stream = connector.connect(name, stream.into_inner()).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], one);
    // No second greeting (RFC 2595 §4).
    stream.write_all(b"CAPA\r\nQUIT\r\n").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("+OK capability") && rest.ends_with(".\r\n+OK bye\r\n"), "{rest}");
    // The host's tenant is: its policy is what may hold (RFC 2449 §6.5, §6.7).
    assert!(rest.contains("\r\nLOGIN-DELAY 60 USER\r\nEXPIRE 30 USER\r\n"), "{rest}");
}
