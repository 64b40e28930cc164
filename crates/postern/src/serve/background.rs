//! What a node does beside serving: certificates looked at again, traffic and failed logins shared, housekeeping, heartbeat.

use std::{sync::Arc, time::Duration};

use frontend::{Metrics, Tenancy};
use maildrop::{GarbageCollector, Housekeeping, ManifestWriter, Scrubber, port::MasterKeyring as _};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::Node;
use crate::config::{Role, TlsIdentities};

/// How long another node may go on without knowing what failed at this one.
const PENALTIES_INTERVAL: Duration = Duration::from_secs(2);
/// How often what counts no longer is forgotten.
const FORGET_INTERVAL: Duration = Duration::from_mins(10);
/// Time between two writings of traffic.
const TRAFFIC_INTERVAL: Duration = Duration::from_secs(10);

/// Time between two searches for uploads that nobody will end, and how old they are by then. They cost what their parts
/// do; none that somebody is at takes a day.
const LEFTOVERS_INTERVAL: Duration = Duration::from_hours(6);
const LEFTOVERS_AGE: time::Duration = time::Duration::DAY;

/// Rounds of the worker between two counts of what is under which master key: 10 min by default.
const KEYS_ROUNDS: u32 = 10;

/// Pause after a heartbeat that failed.
const HEARTBEAT_RETRY: Duration = Duration::from_secs(1);

impl Node {
    /// Looks at certificates' files again: now and then, and when told to by SIGHUP.
    pub(super) fn spawn_refresh(&self, metrics: Metrics) -> anyhow::Result<()> {
        let mut hang_up = signal(SignalKind::hangup())?;
        let TlsIdentities { pop3, pop3s, same } = &self.tls;
        let identities: Vec<_> = pop3.iter().chain(pop3s.iter().filter(|_| !same)).cloned().collect();
        for identity in &identities {
            identity.introduce(&metrics);
        }
        let interval = self.config.tls.reload_interval;
        let end = self.admin_end.clone();
        self.admin_tasks.spawn(async move {
            loop {
                let pause = async {
                    if interval.is_zero() {
                        std::future::pending::<()>().await;
                    } else {
                        tokio::time::sleep(interval).await;
                    }
                };
                let told = tokio::select! {
                    () = pause => false,
                    _ = hang_up.recv() => true,
                    () = end.cancelled() => return,
                };
                if told && identities.is_empty() {
                    info!("there is no certificate to reload");
                }
                for identity in &identities {
                    identity.refresh(&metrics, told).await;
                }
            }
        });
        Ok(())
    }

    /// Writes traffic every few seconds, and does the housekeeping where that is a role of the node.
    pub(super) fn spawn_housekeeping(&self, name: &str) {
        let (traffic, end) = (self.parts.tenancy.traffic.clone(), self.admin_end.clone());
        self.admin_tasks.spawn(async move {
            while tokio::time::timeout(TRAFFIC_INTERVAL, end.cancelled()).await.is_err() {
                traffic.flush().await;
            }
            traffic.flush().await;
        });
        let (penalties, end) = (self.parts.tenancy.penalties.clone(), self.admin_end.clone());
        let forgets = self.config.has_role(Role::Worker);
        self.admin_tasks.spawn(async move {
            let mut forgot = tokio::time::Instant::now();
            while tokio::time::timeout(PENALTIES_INTERVAL, end.cancelled()).await.is_err() {
                penalties.share().await;
                if forgets && forgot.elapsed() >= FORGET_INTERVAL {
                    penalties.forget().await;
                    forgot = tokio::time::Instant::now();
                }
            }
            penalties.share().await;
        });
        if !forgets {
            return;
        }
        let (objects, prefix) = (Arc::clone(&self.parts.objects), self.parts.objects_prefix.clone());
        let end = self.admin_end.clone();
        self.admin_tasks.spawn(async move {
            loop {
                let before = time::OffsetDateTime::now_utc() - LEFTOVERS_AGE;
                // Every worker does it: twice is as good as once, and it is one request where there is nothing to do.
                match objects.abort_leftovers(&prefix, before).await {
                    Ok(0) => {}
                    Ok(aborted) => info!(aborted, "uploads that were never ended are forgotten"),
                    Err(error) => warn!(%error, "uploads that were never ended could not be looked for"),
                }
                if tokio::time::timeout(LEFTOVERS_INTERVAL, end.cancelled()).await.is_ok() {
                    return;
                }
            }
        });
        self.spawn_key_gauges();
        let housekeeping = Housekeeping {
            directory: Arc::clone(&self.parts.store.directory),
            index: Arc::clone(&self.parts.store.index),
            records: Arc::clone(&self.parts.store.records),
            bulletins: Arc::clone(&self.parts.store.bulletins),
            blob: Arc::clone(&self.parts.blob),
            node: self.parts.node,
            name: name.to_owned(),
            config: self.config.worker.housekeeping(&self.config.audit),
        };
        self.admin_tasks.spawn(housekeeping.run(self.admin_end.clone().cancelled_owned()));
        let collector = GarbageCollector {
            directory: Arc::clone(&self.parts.store.directory),
            index: Arc::clone(&self.parts.store.index),
            garbage: Arc::clone(&self.parts.store.garbage),
            packs: Arc::clone(&self.parts.packs),
            node: self.parts.node,
            config: self.config.gc.collection(),
            stats: Arc::clone(&self.parts.garbage),
        };
        self.admin_tasks.spawn(collector.run(self.admin_end.clone().cancelled_owned()));
        let writer = ManifestWriter {
            directory: Arc::clone(&self.parts.store.directory),
            index: Arc::clone(&self.parts.store.index),
            manifests: Arc::clone(&self.parts.store.manifests),
            store: Arc::clone(&self.parts.manifests),
            node: self.parts.node,
            config: self.config.manifest.writing(),
            stats: Arc::clone(&self.parts.manifest_stats),
            checked: Arc::default(),
        };
        self.admin_tasks.spawn(writer.run(self.admin_end.clone().cancelled_owned()));
        let scrubber = Scrubber {
            index: Arc::clone(&self.parts.store.index),
            checks: Arc::clone(&self.parts.store.checks),
            tenants: self.parts.tenants.clone(),
            store: Arc::clone(&self.parts.manifests),
            node: self.parts.node,
            config: self.config.scrub.scrubbing(),
            stats: Arc::clone(&self.parts.scrub),
        };
        self.admin_tasks.spawn(scrubber.run(self.admin_end.clone().cancelled_owned()));
    }

    /// Counts now and then what is under which master key. Each worker does: each may have another newest one.
    fn spawn_key_gauges(&self) {
        let (gauges, rows) = (Arc::clone(&self.parts.key_gauges), Arc::clone(&self.parts.store.keys));
        let (newest, interval) = (self.parts.keyring.newest(), self.config.worker.interval * KEYS_ROUNDS);
        let end = self.admin_end.clone();
        self.admin_tasks.spawn(async move {
            loop {
                if let Err(error) = gauges.count(&*rows, newest).await {
                    warn!(%error, "what is under which master key could not be counted");
                }
                if tokio::time::timeout(interval, end.cancelled()).await.is_ok() {
                    return;
                }
            }
        });
    }

    pub(super) fn spawn_heartbeat(&self, name: String, ttl: Duration) -> tokio::task::JoinHandle<()> {
        let index = Arc::clone(&self.parts.store.index);
        let Tenancy { throttle, sessions, .. } = self.parts.tenancy.clone();
        let node = self.parts.node;
        let end = self.admin_end.clone();
        tokio::spawn(async move {
            let mut pause = ttl / 3;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = end.cancelled() => return,
                }
                // One that failed is repeated soon: the lease may be nearly over.
                pause = match index.heartbeat(node, &name, ttl).await {
                    Ok(pulse) => {
                        throttle.set_nodes(pulse.nodes);
                        sessions.end(&pulse.ended);
                        ttl / 3
                    }
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, "heartbeat failed");
                        (ttl / 3).min(HEARTBEAT_RETRY)
                    }
                };
            }
        })
    }
}
