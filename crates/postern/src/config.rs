//! Configuration: read once, here, from a TOML file and the environment, and turned into parsed types.
//!
//! Each key can also be given as `POSTERN__SECTION__KEY`. Unknown keys are errors, and every error names the
//! key's path.

mod check;
mod error;
mod gc;
mod listeners;
mod manifest;
mod node;
mod scrub;
mod source;
mod stores;
mod telemetry;
mod tls;
mod types;

use std::path::Path;

use admin_api::{ApiLimits, Rate};
use serde::Deserialize;

pub(crate) use error::ConfigError;
pub(crate) use gc::Gc;
pub(crate) use listeners::{Admin, Auth, Lmtp, LoginBackends, Pop3, Pop3s, Proxy, ProxyMode};
pub(crate) use manifest::Manifest;
pub(crate) use node::{Audit, Cluster, Node, Role, Worker};
pub(crate) use scrub::Scrub;
pub(crate) use stores::{Blob, BlobKind, Cache, Checksum, Index, Keys, Pack, Read, TenantBuckets};
pub(crate) use telemetry::{Log, LogFilter, LogFormat, Metrics, Telemetry};
pub(crate) use tls::{Tls, TlsIdentities};
pub(crate) use types::Secret;

/// The whole configuration.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) pop3: Pop3,
    pub(crate) pop3s: Pop3s,
    pub(crate) lmtp: Lmtp,
    pub(crate) proxy: Proxy,
    pub(crate) admin: Admin,
    pub(crate) tls: Tls,
    pub(crate) index: Index,
    pub(crate) blob: Blob,
    pub(crate) pack: Pack,
    pub(crate) read: Read,
    pub(crate) cache: Cache,
    pub(crate) keys: Keys,
    pub(crate) node: Node,
    pub(crate) cluster: Cluster,
    pub(crate) worker: Worker,
    pub(crate) gc: Gc,
    pub(crate) manifest: Manifest,
    pub(crate) scrub: Scrub,
    pub(crate) audit: Audit,
    pub(crate) auth: Auth,
    pub(crate) login_backends: LoginBackends,
    pub(crate) tenant_buckets: TenantBuckets,
    pub(crate) log: Log,
    pub(crate) metrics: Metrics,
    pub(crate) telemetry: Telemetry,
}

/// What an index's URL may be.
const INDEX_SCHEMES: &str = "must begin with postgres:// or sqlite:";

impl Config {
    /// Reads the file and the environment.
    pub(crate) fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| ConfigError::new(file.display().to_string(), error))?;
        Self::read(&text, std::env::vars())
    }

    /// Reads a file's text and these variables.
    pub(crate) fn read(
        text: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table: toml::Table = toml::from_str(text).map_err(|e| source::syntax_error(text, &e))?;
        source::overlay(&mut table, variables)?;
        let config: Self = source::deserialize(table)?;
        config.check()?;
        Ok(config)
    }

    /// The index's URL, from wherever it is given.
    pub(crate) fn index_url(&self) -> Result<Option<Secret>, ConfigError> {
        let url =
            Secret::from_either(self.index.url.as_ref(), self.index.url_file.as_deref(), "index.url_file")?;
        let known = |url: &Secret| {
            ["postgres://", "postgresql://", "sqlite:"].iter().any(|scheme| url.expose().starts_with(scheme))
        };
        if url.as_ref().is_some_and(|url| !known(url)) {
            return Err(ConfigError::new("index.url", INDEX_SCHEMES));
        }
        Ok(url)
    }

    /// The admin token, from wherever it is given.
    pub(crate) fn admin_token(&self) -> Result<Option<admin_api::AdminToken>, ConfigError> {
        let path = "admin.token_file";
        let text = Secret::from_either(self.admin.token.as_ref(), self.admin.token_file.as_deref(), path)?;
        text.map(|text| admin_api::AdminToken::new(text.expose()).map_err(|e| ConfigError::new(path, e)))
            .transpose()
    }

    /// How much may be sent to the admin API.
    pub(crate) fn api_limits(&self) -> ApiLimits {
        let requests = Rate {
            per_second: f64::from(self.admin.requests_per_second),
            burst: f64::from(self.admin.requests_burst),
        };
        let message_octets_max = self.lmtp.max_message_octets;
        ApiLimits { requests, message_octets_max, ..ApiLimits::default() }
    }

    /// The master key, from wherever it is given.
    pub(crate) fn master_key(&self) -> Result<Option<blob::MasterKey>, ConfigError> {
        let path = "keys.master_key_file";
        let file = self.keys.master_key_file.as_deref();
        let text = Secret::from_either(self.keys.master_key.as_ref(), file, path)?;
        text.map(|text| blob::MasterKey::parse(text.expose()).map_err(|e| ConfigError::new(path, e)))
            .transpose()
    }

    /// Reads every file the configuration names, so that `check-config` finds what `serve` would.
    pub(crate) fn check_files(&self) -> Result<(), ConfigError> {
        self.index_url()?;
        self.admin_token()?;
        self.master_key()?;
        self.tls_identities(None)?;
        self.telemetry.headers()?;
        blob::BlobLayout::new(&self.blob.prefix).map_err(|e| ConfigError::new("blob.prefix", e))?;
        Ok(())
    }

    /// Whether this node has a role.
    pub(crate) fn has_role(&self, role: Role) -> bool {
        self.node.roles.contains(&role)
    }
}

/// An error with its causes, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'a));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
