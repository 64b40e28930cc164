//! A running node: listeners, signals, drain.

mod background;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use admin_api::AdminApi;
use anyhow::Context as _;
use frontend::{
    Bound, Drain, HostCertificates, Limits, ListenAddr, LmtpConfig, LmtpService, Metrics, Networks,
    Pop3Config, Pop3Service, ProxyProtocol, Server, TenantSeries, TlsIdentity,
};
use index::Store;
use maildrop::port::SystemClock;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::{error, info, warn};

use crate::{
    config::{Config, ConfigError, ProxyMode, Role, TlsIdentities},
    inherited::Inherited,
    logging,
    telemetry::Telemetry,
    wiring::Parts,
};

/// Longest time that what the read cache has in memory is written to disk.
const CACHE_GRACE: Duration = Duration::from_secs(5);
/// After the drain's deadline a session gets this long to come to the end of its command.
const CLOSING_GRACE: Duration = Duration::from_secs(10);

/// `postern serve`.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let telemetry = Telemetry::start(&config.telemetry, &node_name(&config))?;
    logging::start(&config.log, &telemetry);
    let served = Box::pin(serve(config)).await;
    telemetry.end().await;
    served
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let parts = Parts::open(&config).await?;
    let node = Node::start(config, parts).await?;
    node.run().await
}

/// What a node listens on, as bound: with the ports the system chose.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    pub(crate) pop3: Vec<String>,
    pub(crate) pop3s: Vec<String>,
    pub(crate) lmtp: Vec<String>,
    pub(crate) admin: Vec<String>,
}

/// A node that serves.
pub(crate) struct Node {
    config: Config,
    parts: Parts,
    tls: TlsIdentities,
    drain: Drain,
    /// Cancelled when balancers shall send nobody here any more.
    leaving: tokio_util::sync::CancellationToken,
    admin_end: tokio_util::sync::CancellationToken,
    admin_tasks: tokio_util::task::TaskTracker,
    heartbeat: Option<tokio::task::JoinHandle<()>>,
    /// Listened for from before anybody is told that the node serves: whoever ends it then ends it in good order.
    terminate: Signal,
    interrupt: Signal,
    pub(crate) listening: Listening,
}

impl Node {
    /// Binds every listener, says that the node lives, and begins to serve.
    pub(crate) async fn start(config: Config, parts: Parts) -> anyhow::Result<Self> {
        let tls = config.tls_identities(Some(parts.ticket_secret.clone()))?;
        let with_hosts = |identity: Option<TlsIdentity>| -> Result<_, frontend::TlsError> {
            let Some(identity) = identity else { return Ok(None) };
            let (directory, blob) = (Arc::clone(&parts.store.directory), Arc::clone(&parts.blob));
            Ok(Some(identity.with_hosts(HostCertificates::new(directory, blob)?)))
        };
        let pop3 = with_hosts(tls.pop3)?;
        let pop3s = if tls.same { pop3.clone() } else { with_hosts(tls.pop3s)? };
        let tls = TlsIdentities { pop3, pop3s, same: tls.same };
        let mut node = Self {
            config,
            parts,
            tls,
            drain: Drain::new(),
            leaving: tokio_util::sync::CancellationToken::new(),
            admin_end: tokio_util::sync::CancellationToken::new(),
            admin_tasks: tokio_util::task::TaskTracker::new(),
            heartbeat: None,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            listening: Listening::default(),
        };
        // Bound first, all of them: a port that is taken stops the start before anything is served.
        let bound = node.bind().await?;
        let ttl = node.config.cluster.node_ttl;
        let name = node.name();
        // Before it is known to live: a master key is used once all that live have it.
        node.parts.store.keys.note_opens(node.parts.node, &node.parts.keyring.usable().await).await?;
        // A lock taken by a node nobody knows to be alive could be taken over at once.
        let pulse = node.parts.store.index.heartbeat(node.parts.node, &name, ttl).await?;
        node.parts.tenancy.throttle.set_nodes(pulse.nodes);
        node.heartbeat = Some(node.spawn_heartbeat(name.clone(), ttl));
        node.spawn_housekeeping(&name);
        let metrics = node.metrics()?;
        node.serve(bound, &name, &metrics)?;
        node.spawn_refresh(metrics)?;
        info!(node = %node.parts.node, name, listening = ?node.listening, "node serves");
        Ok(node)
    }

    /// Serves until a signal says otherwise, then drains.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self {
            config,
            parts,
            drain,
            leaving,
            admin_end,
            admin_tasks,
            heartbeat,
            mut terminate,
            mut interrupt,
            ..
        } = self;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        leaving.cancel();
        let drained = async {
            if !config.node.drain_delay.is_zero() {
                info!(delay = ?config.node.drain_delay, "node leaves");
                tokio::time::sleep(config.node.drain_delay).await;
            }
            info!(timeout = ?config.node.drain_timeout, "node drains");
            drain.drain(config.node.drain_timeout, CLOSING_GRACE).await
        };
        // A second signal means it.
        let cut_off = tokio::select! {
            cut_off = drained => cut_off,
            _ = terminate.recv() => 0,
            _ = interrupt.recv() => 0,
        };
        if cut_off > 0 {
            warn!(sessions = cut_off, "sessions were cut off");
        }
        admin_end.cancel();
        admin_tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(5), admin_tasks.wait()).await;
        // A heartbeat under way would bring the node back to life.
        if let Some(heartbeat) = heartbeat {
            let _ = tokio::time::timeout(Duration::from_secs(5), heartbeat).await;
        }
        // Locks still held are free with the node's life; the database may be away, and the lease ends anyway.
        let retire = parts.store.index.retire(parts.node);
        match tokio::time::timeout(Duration::from_secs(5), retire).await {
            Ok(Ok(())) => info!("node is down"),
            Ok(Err(error)) => warn!(error = &error as &dyn std::error::Error, "node could not be retired"),
            Err(_) => warn!("node could not be retired in time"),
        }
        if let Some(cache) = &parts.cache
            && tokio::time::timeout(CACHE_GRACE, cache.close()).await.is_err()
        {
            warn!("read cache could not be written to disk in time");
        }
        Ok(())
    }

    fn name(&self) -> String {
        node_name(&self.config)
    }

    async fn bind(&mut self) -> anyhow::Result<Vec<(Kind, BoundListener)>> {
        let config = &self.config;
        let mut wanted: Vec<(Kind, ListenAddr)> = Vec::new();
        let tcp = |addr: &SocketAddr| ListenAddr::Tcp(*addr);
        if config.has_role(Role::Pop3) {
            wanted.extend(config.pop3.listen.iter().cloned().map(|addr| (Kind::Pop3, addr)));
            wanted.extend(config.pop3s.listen.iter().map(|addr| (Kind::Pop3s, tcp(addr))));
        }
        if config.has_role(Role::Lmtp) {
            wanted.extend(config.lmtp.listen.iter().cloned().map(|addr| (Kind::Lmtp, addr)));
        }
        wanted.extend(config.admin.listen.iter().map(|addr| (Kind::Admin, tcp(addr))));
        let mut inherited = Inherited::take()?;
        let mut bound = Vec::new();
        for (kind, addr) in wanted {
            let failed =
                |error| ConfigError::new(format!("{}.listen", kind.section()), format!("{addr:?}: {error}"));
            let (listener, local) = if let (Kind::Admin, ListenAddr::Tcp(tcp)) = (kind, &addr) {
                let listener = match inherited.admin(&addr).map_err(failed)? {
                    Some(listener) => listener,
                    None => TcpListener::bind(tcp).await.map_err(failed)?,
                };
                let local = listener.local_addr().map_err(failed)?.to_string();
                (BoundListener::Admin(listener), local)
            } else {
                let listener = match inherited.mail(&addr).map_err(failed)? {
                    Some(listener) => listener,
                    None => Bound::bind(&addr).map_err(failed)?,
                };
                let local = listener.local_addr().map_err(failed)?;
                (BoundListener::Mail(listener), local)
            };
            match kind {
                Kind::Pop3 => &mut self.listening.pop3,
                Kind::Pop3s => &mut self.listening.pop3s,
                Kind::Lmtp => &mut self.listening.lmtp,
                Kind::Admin => &mut self.listening.admin,
            }
            .push(local);
            bound.push((kind, listener));
        }
        inherited.check()?;
        Ok(bound)
    }

    fn metrics(&self) -> anyhow::Result<Metrics> {
        let registry = &self.parts.registry;
        let tenants = match &self.config.metrics {
            config if config.tenant_series => TenantSeries::new(registry, config.tenant_series_max)?,
            _ => TenantSeries::off(),
        };
        Ok(Metrics::with_tenants(registry, tenants)?)
    }

    fn serve(&self, bound: Vec<(Kind, BoundListener)>, name: &str, metrics: &Metrics) -> anyhow::Result<()> {
        let pop3 = Arc::new(self.pop3(name, self.tls.pop3.clone(), metrics));
        let pop3s = Arc::new(self.pop3(name, self.tls.pop3s.clone(), metrics));
        let lmtp = Arc::new(self.lmtp(name, metrics));
        let pop3_limits = Limits {
            connections_max: self.config.pop3.connections_max,
            per_source_max: self.config.pop3.connections_per_source_max,
            strangers_per_source_max: self.config.pop3.strangers_per_source_max,
            uncapped: self.uncapped_networks(),
        };
        let lmtp_limits = Limits::new(self.config.lmtp.connections_max);
        let proxies = |mode| (mode == ProxyMode::Require).then(|| self.proxies(metrics));
        let drain = self.drain.handle();
        for (kind, listener) in bound {
            match (kind, listener) {
                (Kind::Pop3, BoundListener::Mail(bound)) => {
                    let proxies = proxies(self.config.pop3.proxy_protocol);
                    Server::Pop3(Arc::clone(&pop3)).start_behind(proxies, bound, &pop3_limits, &drain);
                }
                (Kind::Pop3s, BoundListener::Mail(bound)) => {
                    let proxies = proxies(self.config.pop3s.proxy_protocol);
                    Server::Pop3s(Arc::clone(&pop3s)).start_behind(proxies, bound, &pop3_limits, &drain);
                }
                (Kind::Lmtp, BoundListener::Mail(bound)) => {
                    let proxies = proxies(self.config.lmtp.proxy_protocol);
                    Server::Lmtp(Arc::clone(&lmtp)).start_behind(proxies, bound, &lmtp_limits, &drain);
                }
                (_, BoundListener::Admin(listener)) => self.serve_admin(listener)?,
                (Kind::Admin, BoundListener::Mail(_)) => {}
            }
        }
        Ok(())
    }

    fn trusted_networks(&self) -> Networks {
        self.config.proxy.trusted_networks.iter().copied().collect()
    }

    /// Behind a proxy that is trusted to say who its clients are, it is these that are counted; until it has, it is
    /// nobody's crowd.
    fn uncapped_networks(&self) -> Networks {
        let uncapped = self.config.pop3.uncapped_networks.iter();
        uncapped.chain(&self.config.proxy.trusted_networks).copied().collect()
    }

    fn proxies(&self, metrics: &Metrics) -> ProxyProtocol {
        let timeout = self.config.proxy.header_timeout;
        ProxyProtocol::new(self.trusted_networks(), timeout, self.config.log.client_addresses, metrics)
    }

    fn pop3(&self, name: &str, tls: Option<TlsIdentity>, metrics: &Metrics) -> Pop3Service {
        let config = Pop3Config {
            plaintext_auth: self.config.pop3.plaintext_auth,
            mechanisms: self.config.pop3.mechanisms.clone(),
            login_timeout: self.config.pop3.login_timeout,
            idle_timeout: self.config.pop3.idle_timeout,
            write_timeout: self.config.pop3.write_timeout,
            log_clients: self.config.log.client_addresses,
            forwarders: if self.config.pop3.xclient { self.trusted_networks() } else { Networks::default() },
            default_domain: self.config.pop3.default_domain.as_deref().map(Arc::from),
            tls_default_domain: self
                .config
                .pop3s
                .default_domain
                .as_deref()
                .or(self.config.pop3.default_domain.as_deref())
                .map(Arc::from),
            ..Pop3Config::new(name)
        };
        Pop3Service::new(
            config,
            self.parts.authenticator.clone(),
            self.parts.maildrops.clone(),
            tls,
            self.parts.tenancy.clone(),
            metrics.clone(),
        )
    }

    fn lmtp(&self, name: &str, metrics: &Metrics) -> LmtpService {
        let config = LmtpConfig {
            max_message_octets: self.config.lmtp.max_message_octets,
            max_recipients: self.config.lmtp.max_recipients,
            idle_timeout: self.config.lmtp.idle_timeout,
            write_timeout: self.config.lmtp.write_timeout,
            log_clients: self.config.log.client_addresses,
            ..LmtpConfig::new(name)
        };
        let traffic = self.parts.tenancy.traffic.clone();
        LmtpService::new(config, self.parts.deliveries.clone(), traffic, metrics.clone())
    }

    fn serve_admin(&self, listener: TcpListener) -> anyhow::Result<()> {
        let token = self.config.admin_token()?.context("admin.token_file is missing")?;
        let leaving = self.leaving.clone();
        let Store { directory, index, records, bulletins, .. } = self.parts.managed.clone();
        let api = AdminApi {
            directory,
            index,
            records,
            bulletins,
            blob: Arc::clone(&self.parts.blob),
            maildrops: self.parts.maildrops.clone(),
            deliveries: self.parts.deliveries.clone(),
            bulletin_writers: self.parts.bulletins.clone(),
            traffic: self.parts.tenancy.traffic.clone(),
            hasher: self.parts.hasher.clone(),
            backends: self.parts.backends.clone(),
            clock: Arc::new(SystemClock),
            token,
            registry: self.parts.registry.clone(),
            metrics_public: self.config.admin.metrics_public,
            limits: self.config.api_limits(),
            draining: Arc::new(move || leaving.is_cancelled()),
            manages: self.config.has_role(Role::Admin),
        };
        let end = self.admin_end.clone().cancelled_owned();
        self.admin_tasks.spawn(async move {
            if let Err(error) = api.serve(listener, end).await {
                error!(%error, "admin API ended");
            }
        });
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pop3,
    Pop3s,
    Lmtp,
    Admin,
}

impl Kind {
    fn section(self) -> &'static str {
        match self {
            Self::Pop3 => "pop3",
            Self::Pop3s => "pop3s",
            Self::Lmtp => "lmtp",
            Self::Admin => "admin",
        }
    }
}

enum BoundListener {
    Mail(Bound),
    Admin(TcpListener),
}

/// The name a node goes by.
fn node_name(config: &Config) -> String {
    config.node.name.clone().unwrap_or_else(host_name)
}

/// The host's name, as the kernel has it.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}
