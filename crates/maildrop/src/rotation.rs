//! Rotation of the master key: what the old ones sealed is sealed by the newest, while nodes serve.
//!
//! Each sealed key is exchanged by itself, if it is still the one that was opened. So it can be broken off and begun again
//! at any point, and nothing is lost where something else changes the key meanwhile. Nodes that have both master keys
//! open either form; that all living nodes have the newest is asked first.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde::Serialize;
use time::OffsetDateTime;
use tracing::warn;
use uuid::Uuid;

use crate::{
    Actor, MasterKeyId, NodeId, ProgressSink, SealedKey, TenantId,
    port::{BlobError, ClusterSecret, Index, IndexError, KeyRows, MasterKeyring, Note, Records},
};

/// Whose the secrets are that all nodes share, as far as their seal is concerned: nobody's.
pub const MASTER_TENANT: TenantId = TenantId::from_uuid(Uuid::nil());

/// The task of whoever rotates; two at once could each undo what the other does.
const TASK: &str = "keys";
/// How long the task outlives whoever has it: a step takes less, three requests to a key service that answers late.
const TTL: Duration = Duration::from_secs(30);
/// How long it is waited for: one that was killed has it until it runs out.
const PATIENCE: Duration = Duration::from_secs(40);
/// Tenants read in one go, and seen to at once: a key service is asked twice for each.
const TENANTS: u32 = 200;
const AT_ONCE: usize = 8;
/// Times that all tenants are gone through: nodes that seal with another key may make tenants meanwhile.
const PASSES: u32 = 5;
/// Tenants that are named where they failed.
const NAMED: usize = 20;

/// Takes everything to the newest master key.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// For the task, and for which master key is expected.
    pub index: Arc<dyn Index>,
    /// For sealed keys.
    pub rows: Arc<dyn KeyRows>,
    /// For the audit log.
    pub records: Arc<dyn Records>,
    /// The master keys.
    pub keyring: Arc<dyn MasterKeyring>,
    /// This process.
    pub node: NodeId,
    /// Who does it.
    pub actor: Actor,
    /// Who is told how far it is.
    pub progress: ProgressSink,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// Somebody else is at it.
    #[error("another rotation, or a rebuild, is under way")]
    UnderWay,
    /// Some nodes could not read what is sealed by it.
    #[error(
        "these nodes do not have master key {key}: {nodes:?}. Give it to all nodes (keys.other_master_key_files) and restart them first"
    )]
    Nodes {
        /// The newest key.
        key: MasterKeyId,
        /// Their names.
        nodes: Vec<String>,
    },
    /// The index could not do it.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A key could not be opened or sealed.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct Rotated {
    /// The master key that everything is under now, but for what failed.
    pub newest: MasterKeyId,
    /// Tenants whose keys were exchanged.
    pub tenants: u64,
    /// Tenants whose keys could not be.
    pub failed: u64,
    /// What the matter was with some of them.
    pub failures: Vec<String>,
}

/// Which master keys there are, and what is under them.
#[derive(Clone, Debug, Serialize)]
pub struct KeyStatus {
    /// The one that this configuration seals with.
    pub newest: MasterKeyId,
    /// All.
    pub keys: Vec<KeyUse>,
    /// Tenants whose manifests in the bucket hold keys from before they were exchanged.
    pub outdated_manifests: u64,
    /// Whether nothing is left under any other than the newest.
    pub complete: bool,
}

/// What is under one master key.
#[derive(Clone, Debug, Serialize)]
pub struct KeyUse {
    /// The master key.
    pub key: MasterKeyId,
    /// Whether this configuration has it.
    pub available: bool,
    /// Tenants whose data keys it sealed.
    pub tenants: u64,
    /// Secrets of the cluster that it sealed.
    pub cluster_secrets: u64,
}

impl Rotation {
    /// What is under which key.
    pub async fn status(&self) -> Result<KeyStatus, RotationError> {
        let newest = self.keyring.newest();
        let opens = self.keyring.opens();
        let mut keys: Vec<KeyUse> = opens
            .iter()
            .map(|key| KeyUse { key: *key, available: true, tenants: 0, cluster_secrets: 0 })
            .collect();
        let mut of = |key: MasterKeyId| -> usize {
            keys.iter().position(|used| used.key == key).unwrap_or_else(|| {
                keys.push(KeyUse { key, available: false, tenants: 0, cluster_secrets: 0 });
                keys.len() - 1
            })
        };
        let mut counts = Vec::new();
        for count in self.rows.all_tenants_key_counts().await? {
            counts.push((of(count.key), count.tenants, 0));
        }
        for secret in ClusterSecret::ALL {
            if let Some(key) =
                self.rows.cluster_secret_if_any(secret).await?.and_then(|sealed| sealed.master_key())
            {
                counts.push((of(key), 0, 1));
            }
        }
        for (at, tenants, secrets) in counts {
            keys[at].tenants += tenants;
            keys[at].cluster_secrets += secrets;
        }
        let outdated_manifests = self.rows.all_tenants_outdated_manifests().await?;
        let under_newest =
            keys.iter().all(|used| used.key == newest || used.tenants + used.cluster_secrets == 0);
        Ok(KeyStatus { newest, keys, outdated_manifests, complete: under_newest && outdated_manifests == 0 })
    }

    /// Does it, and tells what was done.
    pub async fn run(&self) -> Result<Rotated, RotationError> {
        let newest = self.keyring.newest();
        self.gate(newest).await?;
        self.wait_for_task().await?;
        let result = self.all(newest).await;
        // So that others need not wait for it to run out.
        if let Err(error) = self.index.take_task(TASK, self.node, Duration::ZERO).await {
            let error = &error as &dyn std::error::Error;
            warn!(error, "the task could not be given back: it runs out in seconds");
        }
        result
    }

    /// Asked again and again: nodes may come that do not have it.
    async fn gate(&self, newest: MasterKeyId) -> Result<(), RotationError> {
        let nodes = self.rows.nodes_without(newest).await?;
        if nodes.is_empty() { Ok(()) } else { Err(RotationError::Nodes { key: newest, nodes }) }
    }

    async fn keep_task(&self) -> Result<(), RotationError> {
        let kept = self.index.take_task(TASK, self.node, TTL).await?;
        if kept { Ok(()) } else { Err(RotationError::UnderWay) }
    }

    async fn wait_for_task(&self) -> Result<(), RotationError> {
        let begun = tokio::time::Instant::now();
        while !self.index.take_task(TASK, self.node, TTL).await? {
            if begun.elapsed() > PATIENCE {
                return Err(RotationError::UnderWay);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    async fn all(&self, newest: MasterKeyId) -> Result<Rotated, RotationError> {
        let mut rotated = Rotated { newest, tenants: 0, failed: 0, failures: Vec::new() };
        let left = self.left(newest).await?;
        if left > 0 {
            self.note("keys.rotate", &rotated, serde_json::json!({ "tenants": left })).await?;
        }
        for pass in 0..PASSES {
            rotated.failed = 0;
            rotated.failures.clear();
            let before = rotated.tenants;
            self.pass(&mut rotated, left).await?;
            // What cannot be opened does not get better by being tried again.
            if self.left(newest).await? <= rotated.failed || (pass > 0 && rotated.tenants == before) {
                break;
            }
        }
        self.keep_task().await?;
        let secrets = self.cluster_secrets(newest).await?;
        let check = self.keyring.check_value();
        // Only now may nodes be started that have the newest alone.
        let mut expected = false;
        self.gate(newest).await?;
        if self.left(newest).await? == 0 {
            self.keep_task().await?;
            expected = self.index.key_check(&check).await? != check;
            if expected {
                self.rows.set_key_check(&check).await?;
            }
        }
        if rotated.tenants > 0 || secrets || expected {
            let (tenants, failed) = (rotated.tenants, rotated.failed);
            let after = serde_json::json!({ "tenants": tenants, "failed": failed, "complete": expected });
            self.note("keys.rotated", &rotated, after).await?;
        }
        Ok(rotated)
    }

    async fn left(&self, newest: MasterKeyId) -> Result<u64, RotationError> {
        let counts = self.rows.all_tenants_key_counts().await?;
        Ok(counts.iter().filter(|count| count.key != newest).map(|count| count.tenants).sum())
    }

    /// All tenants that are under another key, in their order.
    async fn pass(&self, rotated: &mut Rotated, of: u64) -> Result<(), RotationError> {
        let (mut after, mut done) = (None, 0);
        loop {
            self.gate(rotated.newest).await?;
            let page = self.rows.all_tenants_keys_not_under(rotated.newest, after, TENANTS).await?;
            for some in page.chunks(AT_ONCE) {
                self.keep_task().await?;
                let exchanged = join_all(some.iter().map(|(tenant, key)| self.exchange(*tenant, key))).await;
                for ((tenant, _), result) in some.iter().zip(exchanged) {
                    match result {
                        Ok(exchanged) => rotated.tenants += u64::from(exchanged),
                        Err(RotationError::Blob(error)) if !error.is_retryable() => {
                            rotated.failed += 1;
                            if rotated.failures.len() < NAMED {
                                rotated.failures.push(format!("tenant {tenant}: {error}"));
                            }
                        }
                        Err(error) => return Err(error),
                    }
                }
                done += some.len() as u64;
                self.progress.tell(some[some.len() - 1].0, "exchanging keys", done, of);
            }
            after = page.last().map(|(tenant, _)| *tenant).filter(|_| page.len() == TENANTS as usize);
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Whether it was exchanged: not where somebody else has, or the tenant is being deleted.
    async fn exchange(&self, tenant: TenantId, key: &SealedKey) -> Result<bool, RotationError> {
        let resealed = self.keyring.reseal(tenant, key).await?;
        Ok(self.rows.exchange_key(tenant, key, &resealed).await?)
    }

    /// Whether any was exchanged. Who rotates because a master key got out does not want what was derived from it to go
    /// on: tickets are sealed by a new secret. Decoys keep theirs: salts that change tell names that exist from others.
    async fn cluster_secrets(&self, newest: MasterKeyId) -> Result<bool, RotationError> {
        let mut exchanged = false;
        for secret in ClusterSecret::ALL {
            let Some(sealed) = self.rows.cluster_secret_if_any(secret).await? else { continue };
            if sealed.master_key() == Some(newest) {
                continue;
            }
            let new = match secret {
                ClusterSecret::Decoys => self.keyring.reseal(MASTER_TENANT, &sealed).await?,
                ClusterSecret::Tickets => self.keyring.generate(MASTER_TENANT).await?,
            };
            exchanged |= self.rows.exchange_cluster_secret(secret, &sealed, &new).await?;
        }
        Ok(exchanged)
    }

    async fn note(
        &self,
        action: &'static str,
        rotated: &Rotated,
        after: serde_json::Value,
    ) -> Result<(), IndexError> {
        let target = rotated.newest.to_string();
        let note = Note {
            tenant: None,
            actor: &self.actor,
            at: OffsetDateTime::now_utc(),
            action,
            target: &target,
            after: Some(after),
        };
        self.records.note(&note).await
    }
}
