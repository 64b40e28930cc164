//! Where index, message bodies and keys are.

use std::{path::PathBuf, time::Duration};

use auth::HostPattern;
use frontend::Network;
use serde::Deserialize;

use super::types::{Secret, duration, list, optional_duration, optional_text, text};

/// The mailbox index.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Index {
    /// `postgres://user:password@host:port/database`, or `sqlite:FILE`. Default: SQLite under `node.data_dir`.
    pub(crate) url: Option<Secret>,
    /// A file that holds it.
    pub(crate) url_file: Option<PathBuf>,
    /// Connections to PostgreSQL at most. Default: 16.
    pub(crate) connections_max: u32,
    /// Longest wait for a connection. Default: 5 s.
    #[serde(deserialize_with = "duration")]
    pub(crate) acquire_timeout: Duration,
    /// Longest wait for a statement. Default: 15 s.
    #[serde(deserialize_with = "duration")]
    pub(crate) statement_timeout: Duration,
}

impl Default for Index {
    fn default() -> Self {
        let defaults = index::PostgresConfig::new("");
        Self {
            url: None,
            url_file: None,
            connections_max: defaults.connections_max,
            acquire_timeout: defaults.acquire_timeout,
            statement_timeout: defaults.statement_timeout,
        }
    }
}

/// Buckets of tenants' own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TenantBuckets {
    /// Networks they may be in though these are not public: loopback, private, link-local. What is listed here may be
    /// reached in the clear, too. Default: none.
    #[serde(deserialize_with = "list")]
    pub(crate) allowed_networks: Vec<Network>,
    /// Hosts they may be on wherever the names lead, also in the clear; `*.` in front for all below. Default: none.
    #[serde(deserialize_with = "list")]
    pub(crate) allowed_hosts: Vec<HostPattern>,
    /// Whether public addresses may be reached, encrypted. Default: true.
    pub(crate) allow_public: bool,
    /// Requests to one of them at once. Default: 32.
    pub(crate) requests_max: usize,
    /// Clients held at once; past that, those that were asked longest ago are dropped. Default: 1000.
    pub(crate) clients_max: u64,
}

impl Default for TenantBuckets {
    fn default() -> Self {
        Self {
            allowed_networks: Vec::new(),
            allowed_hosts: Vec::new(),
            allow_public: true,
            requests_max: 32,
            clients_max: 1000,
        }
    }
}

/// What kind of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BlobKind {
    /// A directory of this machine.
    #[default]
    Disk,
    /// An S3 bucket.
    S3,
}

/// When the S3 client adds checksums of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Checksum {
    /// Wherever the operation knows them: Amazon's default.
    WhenSupported,
    /// Only where the operation demands them: what other servers want.
    WhenRequired,
}

/// Where message bodies lie.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Blob {
    /// `disk` or `s3`. Default: `disk`.
    pub(crate) kind: BlobKind,
    /// For `disk`: the directory. Default: `packs` under `node.data_dir`.
    pub(crate) path: Option<PathBuf>,
    /// For `s3`: the bucket; it must exist.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) bucket: Option<String>,
    /// For `s3`: put in front of every key. Default: nothing.
    #[serde(deserialize_with = "text")]
    pub(crate) prefix: String,
    /// For `s3`: default from the AWS chain.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) region: Option<String>,
    /// For `s3`: the server's URL; default Amazon's.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) endpoint: Option<String>,
    /// For `s3`: whether the bucket stands in the path. Default: yes with an endpoint.
    pub(crate) force_path_style: Option<bool>,
    /// For `s3`: `when_supported` or `when_required`. Default: the latter with an endpoint.
    pub(crate) checksum: Option<Checksum>,
    /// For `s3`: longest wait for a connection. Default: 3 s.
    #[serde(deserialize_with = "optional_duration")]
    pub(crate) connect_timeout: Option<Duration>,
    /// For `s3`: longest silence after a request. Default: 10 s.
    #[serde(deserialize_with = "optional_duration")]
    pub(crate) read_timeout: Option<Duration>,
    /// For `s3`: requests at once. Default: 128.
    pub(crate) requests_max: Option<usize>,
    /// For `s3`: attempts at a request. Default: 3.
    pub(crate) attempts_max: Option<u32>,
    /// For `s3`: repeated attempts in a row while nothing succeeds at the first. Default: 30.
    pub(crate) retries_max: Option<u32>,
    /// For `s3`: requests in a row that must fail for further ones to fail at once; 0 for never. Default: 5.
    pub(crate) breaker_failures: Option<u32>,
    /// For `s3`: whether slow reads are asked for twice. Default: yes.
    pub(crate) hedge: Option<bool>,
    /// For `s3`: a replica of the bucket, for reads that it does not answer.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) replica_bucket: Option<String>,
    /// Its region; default `region`.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) replica_region: Option<String>,
    /// Its server's URL; default `endpoint`.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) replica_endpoint: Option<String>,
}

impl Blob {
    /// What is wrong with what is said of a replica, if anything.
    pub(super) fn replica_fault(&self) -> Option<&'static str> {
        let said = self.replica_region.is_some() || self.replica_endpoint.is_some();
        match &self.replica_bucket {
            None if said => Some("is missing, but a region or endpoint of it is given"),
            None => None,
            Some(_) if self.kind != BlobKind::S3 => Some("is for blob.kind \"s3\""),
            Some(replica) => {
                let elsewhere =
                    self.replica_endpoint.as_ref().is_some_and(|e| Some(e) != self.endpoint.as_ref());
                (Some(replica) == self.bucket.as_ref() && !elsewhere).then_some("is blob.bucket itself")
            }
        }
    }
}

/// How packs are written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Pack {
    /// Longest time a message waits for the upload in front of it, to go into the pack after it. Default: 100 ms.
    #[serde(deserialize_with = "duration")]
    pub(crate) linger: Duration,
    /// Sealed octets of a pack at most. Default: 8 MiB.
    pub(crate) max_octets: u64,
    /// Messages of a pack at most. Default: 512.
    pub(crate) max_messages: usize,
    /// Packs of one tenant being stored at once. Default: 4.
    pub(crate) lanes: usize,
    /// Octets of sealed messages in memory that wait to be stored. Default: 64 MiB.
    pub(crate) memory_octets: usize,
    /// Where sealed messages go past that. Default: the system's directory for temporary files.
    pub(crate) spool_dir: Option<PathBuf>,
    /// Octets of them there; 0 for none. Default: 1 GiB.
    pub(crate) spool_octets: u64,
    /// A message over so many sealed octets is stored by itself. Default: 1 MiB.
    pub(crate) solo_octets: usize,
    /// Octets of a part of a streamed message; at least 5 MiB. Default: 8 MiB.
    pub(crate) part_octets: usize,
    /// Streamed messages at once; further ones wait. Default: 8.
    pub(crate) large_uploads_max: usize,
    /// zstd's level. Default: 3.
    pub(crate) compression_level: i32,
}

impl Default for Pack {
    fn default() -> Self {
        let defaults = blob::PacksConfig::default();
        let gathering = maildrop::GatherConfig::default();
        Self {
            linger: gathering.linger,
            max_octets: gathering.octets_max,
            max_messages: gathering.messages_max,
            lanes: gathering.lanes,
            memory_octets: defaults.memory_octets,
            spool_dir: None,
            spool_octets: 1 << 30,
            solo_octets: defaults.solo_octets,
            part_octets: defaults.part_octets,
            large_uploads_max: defaults.large_uploads_max,
            compression_level: defaults.compression_level,
        }
    }
}

/// How messages are read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Read {
    /// Octets fetched ahead of a session that reads in order, at most; 0 for none. Default: 4 MiB.
    pub(crate) ahead_octets: u64,
    /// Requests of one session for them at once. Default: 32.
    pub(crate) ahead_requests: usize,
    /// Octets fetched ahead for all sessions of a node. Default: 128 MiB.
    pub(crate) memory_octets: usize,
}

impl Default for Read {
    fn default() -> Self {
        let defaults = blob::PacksConfig::default();
        Self {
            ahead_octets: defaults.ahead_octets,
            ahead_requests: defaults.ahead_requests,
            memory_octets: defaults.ahead_memory_octets,
        }
    }
}

/// Packs kept near, sealed as they are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cache {
    /// Octets in memory; 0 for no cache. Default: 64 MiB.
    pub(crate) memory_octets: usize,
    /// A directory of the cache's own. Default: none, nothing is kept on disk.
    pub(crate) dir: Option<PathBuf>,
    /// Octets there. Default: 8 GiB.
    pub(crate) disk_octets: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self { memory_octets: 64 << 20, dir: None, disk_octets: 8 << 30 }
    }
}

/// The master key, 32 octets in base64. Default, where index and blobs are under `node.data_dir`:
/// `master-key` there, made at the first start.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Keys {
    /// The key.
    pub(crate) master_key: Option<Secret>,
    /// A file that holds it.
    pub(crate) master_key_file: Option<PathBuf>,
}
