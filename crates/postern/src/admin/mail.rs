//! Mailboxes, aliases and messages.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Subcommand;
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};

use super::{
    client::{Client, Query},
    import::{self, ImportArgs},
    input::{Setting, secret, set},
    output::Answer,
};

#[derive(Debug, Subcommand)]
pub(super) enum MailboxCommand {
    /// Create a mailbox; its password is read from standard input
    Create {
        /// The tenant
        tenant: String,
        /// Its address
        address: String,
        /// The most octets it may hold
        #[arg(long)]
        quota_octets: Option<u64>,
        /// The most messages it may hold
        #[arg(long)]
        quota_messages: Option<u64>,
        /// A setting, such as policy.expire_days=30; may be repeated
        #[arg(long = "set", value_name = "FIELD=VALUE")]
        settings: Vec<Setting>,
        /// Standard input holds the password's hash instead
        #[arg(long)]
        hash: bool,
        /// Without a password: nobody can log in until one is set
        #[arg(long, conflicts_with = "hash")]
        no_password: bool,
        /// Suspended from the beginning
        #[arg(long)]
        suspended: bool,
    },
    /// Create many mailboxes from a file
    Import(ImportArgs),
    /// List mailboxes
    List {
        /// The tenant
        tenant: String,
        /// Only addresses that begin with this
        #[arg(long, value_name = "PREFIX")]
        search: Option<String>,
        /// Only addresses of this domain
        #[arg(long)]
        domain: Option<String>,
    },
    /// Show a mailbox
    Show {
        /// The tenant
        tenant: String,
        /// Its address
        address: String,
    },
    /// Change a mailbox's quotas or policy
    Update {
        /// The tenant
        tenant: String,
        /// Its address
        address: String,
        /// A setting, such as quota_octets=1000000 or policy.pop3=null; may be repeated
        #[arg(long = "set", value_name = "FIELD=VALUE", required = true)]
        settings: Vec<Setting>,
    },
    /// Suspend a mailbox: nobody logs in, mail is refused
    Suspend {
        /// The tenant
        tenant: String,
        /// Its address
        address: String,
    },
    /// Resume a suspended mailbox
    Resume {
        /// The tenant
        tenant: String,
        /// Its address
        address: String,
    },
    /// Set a mailbox's password, read from standard input
    Password {
        /// The tenant
        tenant: String,
        /// Its address
        address: String,
        /// Standard input holds the password's hash instead
        #[arg(long)]
        hash: bool,
    },
    /// Delete a mailbox with its mail
    Delete {
        /// The tenant
        tenant: String,
        /// Its address
        address: String,
    },
}

/// The field of a password, or of its hash, read from standard input.
fn password(hash: bool) -> anyhow::Result<(String, Value)> {
    let (field, what) = if hash { ("password_hash", "Hash") } else { ("password", "Password") };
    Ok((field.to_owned(), Value::String(secret(what)?)))
}

impl MailboxCommand {
    pub(super) async fn run(self, client: &Client, json: bool) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Create {
                tenant,
                address,
                quota_octets,
                quota_messages,
                settings,
                hash,
                no_password,
                suspended,
            } => {
                let mut body = Map::from_iter([("address".to_owned(), Value::String(address))]);
                body.extend(quota_octets.map(|octets| ("quota_octets".to_owned(), json!(octets))));
                body.extend(quota_messages.map(|messages| ("quota_messages".to_owned(), json!(messages))));
                body.extend(suspended.then(|| ("suspended".to_owned(), json!(true))));
                if !no_password {
                    body.extend([password(hash)?]);
                }
                set(&mut body, settings);
                client.post(&["tenants", &tenant, "mailboxes"], &Value::Object(body)).await?
            }
            Self::Import(args) => return import::run(client, args, json).await,
            Self::List { tenant, search, domain } => {
                let query: Query = search
                    .map(|prefix| ("search", prefix))
                    .into_iter()
                    .chain(domain.map(|domain| ("domain", domain)))
                    .collect();
                client.list(&["tenants", &tenant, "mailboxes"], query).await?
            }
            Self::Show { tenant, address } => {
                client.get(&["tenants", &tenant, "mailboxes", &address]).await?
            }
            Self::Update { tenant, address, settings } => {
                let mut body = Map::new();
                set(&mut body, settings);
                client.patch(&["tenants", &tenant, "mailboxes", &address], &Value::Object(body)).await?
            }
            Self::Suspend { tenant, address } => {
                client.ask(&["tenants", &tenant, "mailboxes", &address, "suspend"]).await?
            }
            Self::Resume { tenant, address } => {
                client.ask(&["tenants", &tenant, "mailboxes", &address, "resume"]).await?
            }
            Self::Password { tenant, address, hash } => {
                let body = Value::Object(Map::from_iter([password(hash)?]));
                client.put(&["tenants", &tenant, "mailboxes", &address, "password"], &body).await?
            }
            Self::Delete { tenant, address } => {
                client.delete(&["tenants", &tenant, "mailboxes", &address]).await?
            }
        };
        Ok(answer.into())
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum AliasCommand {
    /// Create an alias
    Create {
        /// The tenant
        tenant: String,
        /// Its address; @domain for all addresses of a domain that nobody has
        address: String,
        /// The mailbox's address
        mailbox: String,
    },
    /// List aliases
    List {
        /// The tenant
        tenant: String,
    },
    /// Show an alias
    Show {
        /// The tenant
        tenant: String,
        /// Its address
        address: String,
    },
    /// Delete an alias
    Delete {
        /// The tenant
        tenant: String,
        /// Its address
        address: String,
    },
}

impl AliasCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Create { tenant, address, mailbox } => {
                let body = json!({ "address": address, "mailbox": mailbox });
                client.post(&["tenants", &tenant, "aliases"], &body).await?
            }
            Self::List { tenant } => client.list(&["tenants", &tenant, "aliases"], Vec::new()).await?,
            Self::Show { tenant, address } => client.get(&["tenants", &tenant, "aliases", &address]).await?,
            Self::Delete { tenant, address } => {
                client.delete(&["tenants", &tenant, "aliases", &address]).await?
            }
        };
        Ok(answer.into())
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum MessageCommand {
    /// List messages
    List {
        /// The tenant
        tenant: String,
        /// The mailbox's address
        address: String,
        /// Those that were deleted and can be restored
        #[arg(long)]
        deleted: bool,
    },
    /// Show a message, without what it says
    Show {
        /// The tenant
        tenant: String,
        /// The mailbox's address
        address: String,
        /// Its number
        uid: u64,
    },
    /// Write a message to standard output, as clients get it
    Raw {
        /// The tenant
        tenant: String,
        /// The mailbox's address
        address: String,
        /// Its number
        uid: u64,
    },
    /// Deliver a message
    Deliver {
        /// The tenant
        tenant: String,
        /// The mailbox's address
        address: String,
        /// The file that holds it, or - for standard input
        file: PathBuf,
    },
    /// Delete a message
    Delete {
        /// The tenant
        tenant: String,
        /// The mailbox's address
        address: String,
        /// Its number
        uid: u64,
    },
    /// Put a deleted message back
    Restore {
        /// The tenant
        tenant: String,
        /// The mailbox's address
        address: String,
        /// Its number
        uid: u64,
    },
}

impl MessageCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::List { tenant, address, deleted } => {
                let query = if deleted { vec![("deleted", "true".to_owned())] } else { Vec::new() };
                client.list(&["tenants", &tenant, "mailboxes", &address, "messages"], query).await?
            }
            Self::Show { tenant, address, uid } => {
                client.get(&["tenants", &tenant, "mailboxes", &address, "messages", &uid.to_string()]).await?
            }
            Self::Raw { tenant, address, uid } => {
                let uid = uid.to_string();
                let path = ["tenants", &tenant, "mailboxes", &address, "messages", &uid, "raw"];
                copy(client.fetch(&path, Vec::new()).await?).await?;
                None
            }
            Self::Deliver { tenant, address, file } => {
                let path = ["tenants", &tenant, "mailboxes", &address, "messages"];
                let answer = client.send(&path, Vec::new(), "message/rfc822", message(&file)?).await?;
                Some(serde_json::from_str(&answer.text().await?)?)
            }
            Self::Delete { tenant, address, uid } => {
                let path = ["tenants", &tenant, "mailboxes", &address, "messages", &uid.to_string()];
                client.delete(&path).await?
            }
            Self::Restore { tenant, address, uid } => {
                let uid = uid.to_string();
                client.ask(&["tenants", &tenant, "mailboxes", &address, "messages", &uid, "restore"]).await?
            }
        };
        Ok(answer.into())
    }
}

/// Writes what comes to standard output.
pub(super) async fn copy(answer: reqwest::Response) -> anyhow::Result<()> {
    let mut body = answer.bytes_stream();
    while let Some(chunk) = body.next().await {
        std::io::stdout().write_all(&chunk?)?;
    }
    Ok(std::io::stdout().flush()?)
}

/// A message as it is read, piece by piece.
pub(super) fn message(file: &Path) -> anyhow::Result<reqwest::Body> {
    use std::io::Read as _;
    let mut reader: Box<dyn std::io::Read + Send> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| file.display().to_string())?)
    };
    let (pieces, waiting) = tokio::sync::mpsc::channel::<std::io::Result<bytes::Bytes>>(4);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; 64 * 1024];
            let piece = reader.read(&mut piece).map(|octets| {
                piece.truncate(octets);
                bytes::Bytes::from(piece)
            });
            let is_end = piece.as_ref().map_or(true, bytes::Bytes::is_empty);
            if piece.as_ref().is_ok_and(bytes::Bytes::is_empty)
                || pieces.blocking_send(piece).is_err()
                || is_end
            {
                return;
            }
        }
    });
    Ok(reqwest::Body::wrap_stream(futures_util::stream::unfold(waiting, |mut waiting| async move {
        waiting.recv().await.map(|piece| (piece, waiting))
    })))
}
