//! What a node does, alone and among others.

use std::{path::PathBuf, time::Duration};

use maildrop::HousekeepingConfig;
use serde::Deserialize;

use super::types::{duration, list, optional_text};

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Serves POP3 and POP3S.
    Pop3,
    /// Takes mail in.
    Lmtp,
    /// Serves the admin API. Health and metrics are served by every node that has `admin.listen`.
    Admin,
    /// Does the housekeeping.
    Worker,
}

impl std::str::FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pop3" => Ok(Self::Pop3),
            "lmtp" => Ok(Self::Lmtp),
            "admin" => Ok(Self::Admin),
            "worker" => Ok(Self::Worker),
            _ => Err("is none of \"pop3\", \"lmtp\", \"admin\" and \"worker\""),
        }
    }
}

/// This node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Node {
    /// Its name, as greetings, `Received` and logs show it. Default: the host's name.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) name: Option<String>,
    /// What it does. Default: everything.
    #[serde(deserialize_with = "list")]
    pub(crate) roles: Vec<Role>,
    /// How long listeners stay open after SIGTERM, while `/readyz` already says 503. Default: none.
    #[serde(deserialize_with = "duration")]
    pub(crate) drain_delay: Duration,
    /// How long sessions may go on after that. Default: 30 s.
    #[serde(deserialize_with = "duration")]
    pub(crate) drain_timeout: Duration,
    /// Where the embedded index, blobs and keys lie. Default: `postern-data`.
    pub(crate) data_dir: PathBuf,
    /// Work under way at once for tenants: what comes beyond waits for its tenant's turn. Default: 16 a core.
    pub(crate) work_max: Option<usize>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: None,
            roles: vec![Role::Pop3, Role::Lmtp, Role::Admin, Role::Worker],
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            data_dir: "postern-data".into(),
            work_max: None,
        }
    }
}

/// The nodes together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cluster {
    /// A node that is silent for so long loses its locks. Default: 15 s; at least 1 s.
    #[serde(deserialize_with = "duration")]
    pub(crate) node_ttl: Duration,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { node_ttl: Duration::from_secs(15) }
    }
}

/// The housekeeping of nodes with the role `worker`; one does it at a time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Worker {
    /// Pause between two rounds. Default: 1 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) interval: Duration,
    /// Time between two searches for messages that expire. Default: 1 h.
    #[serde(deserialize_with = "duration")]
    pub(crate) expiry_interval: Duration,
    /// The deletion of a tenant is not finished sooner than this after it began. Default: 2 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) deletion_grace: Duration,
}

impl Default for Worker {
    fn default() -> Self {
        let defaults = HousekeepingConfig::default();
        Self {
            interval: defaults.interval,
            expiry_interval: defaults.expiry_interval,
            deletion_grace: defaults.deletion_grace,
        }
    }
}

impl Worker {
    /// As the domain wants it.
    pub(crate) fn housekeeping(&self, audit: &Audit) -> HousekeepingConfig {
        HousekeepingConfig {
            interval: self.interval,
            expiry_interval: self.expiry_interval,
            deletion_grace: self.deletion_grace,
            audit_kept_days: Some(audit.kept_days).filter(|days| *days > 0),
        }
    }
}

/// The audit log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Audit {
    /// Days that its entries are kept; 0 for ever. Default: 400; at least 30.
    pub(crate) kept_days: u32,
}

impl Default for Audit {
    fn default() -> Self {
        Self { kept_days: HousekeepingConfig::default().audit_kept_days.unwrap_or(0) }
    }
}
