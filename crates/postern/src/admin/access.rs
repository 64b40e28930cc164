//! App passwords, sessions, the audit log, API keys and certificates.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{
    client::{Client, Query},
    mail::copy,
    output::Answer,
    tenants::items,
};

#[derive(Debug, Subcommand)]
pub(super) enum AppPasswordCommand {
    /// Create an app password and print it, this once
    Create {
        /// The tenant
        tenant: String,
        /// The mailbox's address
        address: String,
        /// What it is for
        label: String,
        /// Good for reading alone
        #[arg(long)]
        read_only: bool,
        /// When it ceases to be good: 2027-01-01T00:00:00Z
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// List app passwords
    List {
        /// The tenant
        tenant: String,
        /// The mailbox's address
        address: String,
    },
    /// Delete an app password
    Delete {
        /// The tenant
        tenant: String,
        /// The mailbox's address
        address: String,
        /// Its identity
        id: String,
    },
}

impl AppPasswordCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Create { tenant, address, label, read_only, expires_at } => {
                let scope = if read_only { "read_only" } else { "full" };
                let body = json!({ "label": label, "scope": scope, "expires_at": expires_at });
                client.post(&["tenants", &tenant, "mailboxes", &address, "app-passwords"], &body).await?
            }
            Self::List { tenant, address } => {
                items(client.get(&["tenants", &tenant, "mailboxes", &address, "app-passwords"]).await?)
            }
            Self::Delete { tenant, address, id } => {
                client.delete(&["tenants", &tenant, "mailboxes", &address, "app-passwords", &id]).await?
            }
        };
        Ok(answer.into())
    }
}

/// The path of something that a tenant has, or the platform.
fn of<'p>(tenant: Option<&'p String>, rest: &[&'p str]) -> Vec<&'p str> {
    let tenant = tenant.map(|tenant| ["tenants", tenant.as_str()]);
    tenant.into_iter().flatten().chain(rest.iter().copied()).collect()
}

#[derive(Debug, Subcommand)]
pub(super) enum SessionCommand {
    /// List who is logged in, on all nodes
    List {
        /// Only in this tenant
        #[arg(long)]
        tenant: Option<String>,
    },
    /// End a session
    End {
        /// The tenant
        tenant: String,
        /// The session
        id: String,
    },
}

impl SessionCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::List { tenant } => client.list(&of(tenant.as_ref(), &["sessions"]), Vec::new()).await?,
            Self::End { tenant, id } => client.delete(&["tenants", &tenant, "sessions", &id]).await?,
        };
        Ok(answer.into())
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List what administrators did, newest first
    List {
        #[command(flatten)]
        filter: AuditFilter,
        /// So many entries at most
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Write all of it to standard output, one JSON object a line
    Export {
        #[command(flatten)]
        filter: AuditFilter,
    },
}

#[derive(Debug, Args)]
pub(super) struct AuditFilter {
    /// Only in this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only what this actor did
    #[arg(long)]
    actor: Option<String>,
    /// Only this action, or all that begin with it and a dot
    #[arg(long)]
    action: Option<String>,
    /// Only what was done to this
    #[arg(long)]
    target: Option<String>,
    /// Not before this: 2026-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl AuditFilter {
    fn query(&self) -> Query {
        let fields = [
            ("actor", &self.actor),
            ("action", &self.action),
            ("target", &self.target),
            ("since", &self.since),
            ("until", &self.until),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

impl AuditCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Answer> {
        match self {
            Self::List { filter, limit } => {
                let path = of(filter.tenant.as_ref(), &["audit"]);
                Ok(client.pages(&path, filter.query(), "before", Some(limit.max(1))).await?.into())
            }
            Self::Export { filter } => {
                let path = of(filter.tenant.as_ref(), &["audit", "export"]);
                copy(client.fetch(&path, filter.query()).await?).await?;
                Ok(Answer::Nothing)
            }
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum ApiKeyCommand {
    /// Create a key and print it, this once
    Create {
        /// What it is for
        label: String,
        /// What it may do; with --tenant: tenant-admin, tenant-reader or provisioning
        #[arg(long)]
        role: KeyRole,
        /// The tenant it is for
        #[arg(long)]
        tenant: Option<String>,
        /// When it ceases to be good: 2027-01-01T00:00:00Z
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// List keys
    List {
        /// Those of this tenant instead of the platform's
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Delete a key
    Delete {
        /// Its identity
        id: String,
        /// The tenant it is for
        #[arg(long)]
        tenant: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum KeyRole {
    /// Everything, in every tenant
    PlatformAdmin,
    /// Read /metrics
    Metrics,
    /// Everything within the tenant, save its quotas, its limits and its existence
    TenantAdmin,
    /// Look at everything within the tenant, save the contents of messages
    TenantReader,
    /// Create, suspend and resume mailboxes of the tenant
    Provisioning,
}

impl KeyRole {
    fn as_str(self) -> &'static str {
        match self {
            Self::PlatformAdmin => "platform_admin",
            Self::Metrics => "metrics",
            Self::TenantAdmin => "tenant_admin",
            Self::TenantReader => "tenant_reader",
            Self::Provisioning => "provisioning",
        }
    }
}

impl ApiKeyCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Create { label, role, tenant, expires_at } => {
                let body = json!({ "label": label, "role": role.as_str(), "expires_at": expires_at });
                client.post(&of(tenant.as_ref(), &["api-keys"]), &body).await?
            }
            Self::List { tenant } => client.list(&of(tenant.as_ref(), &["api-keys"]), Vec::new()).await?,
            Self::Delete { id, tenant } => client.delete(&of(tenant.as_ref(), &["api-keys", &id])).await?,
        };
        Ok(answer.into())
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum CertificateCommand {
    /// Put a certificate in the place of the one for its host
    Put {
        /// The tenant
        tenant: String,
        /// The host; *. in front stands for one label
        host: String,
        /// The chain, PEM, leaf first
        #[arg(long, value_name = "FILE")]
        chain: PathBuf,
        /// The leaf's private key, PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// List certificates
    List {
        /// The tenant
        tenant: String,
    },
    /// Show a certificate with its chain
    Show {
        /// The tenant
        tenant: String,
        /// The host
        host: String,
    },
    /// Delete a certificate
    Delete {
        /// The tenant
        tenant: String,
        /// The host
        host: String,
    },
}

impl CertificateCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Put { tenant, host, chain, key } => {
                let read = |file: &PathBuf| {
                    std::fs::read_to_string(file)
                        .map(Value::String)
                        .with_context(|| file.display().to_string())
                };
                let body = json!({ "chain": read(&chain)?, "key": read(&key)? });
                client.put(&["tenants", &tenant, "certificates", &host], &body).await?
            }
            Self::List { tenant } => client.list(&["tenants", &tenant, "certificates"], Vec::new()).await?,
            Self::Show { tenant, host } => client.get(&["tenants", &tenant, "certificates", &host]).await?,
            Self::Delete { tenant, host } => {
                client.delete(&["tenants", &tenant, "certificates", &host]).await?
            }
        };
        Ok(answer.into())
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum LoginCommand {
    /// Show how the logins of a tenant are verified; secrets are not shown
    Show {
        /// The tenant
        tenant: String,
    },
    /// Set how the logins of a tenant are verified, all of it
    Set {
        /// The tenant
        tenant: String,
        /// The settings, JSON, with their secrets; - for standard input
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Have the logins of a tenant verified by the passwords kept here, and nothing else
    Reset {
        /// The tenant
        tenant: String,
    },
}

impl LoginCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Show { tenant } => client.get(&["tenants", &tenant, "login"]).await?,
            Self::Set { tenant, file } => {
                let text = if file.as_os_str() == "-" {
                    std::io::read_to_string(std::io::stdin()).context("read standard input")?
                } else {
                    std::fs::read_to_string(&file).with_context(|| file.display().to_string())?
                };
                let settings: Value = serde_json::from_str(&text).context("the settings are no JSON")?;
                client.put(&["tenants", &tenant, "login"], &settings).await?
            }
            Self::Reset { tenant } => client.delete(&["tenants", &tenant, "login"]).await?,
        };
        Ok(answer.into())
    }
}
