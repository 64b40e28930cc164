//! Where index, message bodies and keys are.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::types::{Secret, duration, optional_duration, optional_text, text};

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
}

/// How packs are written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Pack {
    /// A message over so many sealed octets is streamed by itself. Default: 1 MiB.
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
        Self {
            solo_octets: defaults.solo_octets,
            part_octets: defaults.part_octets,
            large_uploads_max: defaults.large_uploads_max,
            compression_level: defaults.compression_level,
        }
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
