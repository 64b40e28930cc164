//! `postern admin`: the REST API on the command line.

mod client;

use std::{
    io::{IsTerminal as _, Read as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::say;
use client::Client;

/// Where the API is, and what to do there.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// The API's address
    #[arg(long, env = "POSTERN_ADMIN_URL", default_value = "http://127.0.0.1:8080", global = true)]
    url: String,
    /// The bearer token; better given as a file
    #[arg(long, env = "POSTERN_ADMIN_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// A file that holds the bearer token
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Tenants
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Domains of a tenant
    #[command(subcommand)]
    Domain(DomainCommand),
    /// Mailboxes of a tenant
    #[command(subcommand)]
    Mailbox(MailboxCommand),
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Create a tenant
    Create {
        /// Its name: lower-case letters, digits, hyphens
        name: String,
    },
    /// List tenants
    List,
    /// Show a tenant
    Show {
        /// Its name
        name: String,
    },
    /// Delete a tenant with everything it has
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum DomainCommand {
    /// Create a domain
    Create {
        /// The tenant
        tenant: String,
        /// The domain
        name: String,
    },
    /// List domains
    List {
        /// The tenant
        tenant: String,
    },
    /// Delete a domain that has no mailboxes
    Delete {
        /// The tenant
        tenant: String,
        /// The domain
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum MailboxCommand {
    /// Create a mailbox; its password is read from standard input
    Create {
        /// The tenant
        tenant: String,
        /// Its address
        address: String,
        /// The most octets it may hold
        #[arg(long)]
        quota_octets: Option<u64>,
    },
    /// List mailboxes
    List {
        /// The tenant
        tenant: String,
    },
    /// Show a mailbox
    Show {
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
    },
    /// Delete a mailbox with its mail
    Delete {
        /// The tenant
        tenant: String,
        /// Its address
        address: String,
    },
}

/// Runs the command.
pub(crate) async fn run(args: AdminArgs) -> anyhow::Result<()> {
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| file.display().to_string())?.trim().to_owned()
        }
        (None, None) => anyhow::bail!("give the token by --token-file or POSTERN_ADMIN_TOKEN"),
    };
    let client = Client::new(&args.url, &token)?;
    let answer = match args.what {
        What::Tenant(command) => tenant(&client, command).await?,
        What::Domain(command) => domain(&client, command).await?,
        What::Mailbox(command) => mailbox(&client, command).await?,
    };
    if let Some(answer) = answer {
        say(&if args.json { serde_json::to_string_pretty(&answer)? } else { as_text(&answer) });
    }
    Ok(())
}

async fn tenant(client: &Client, command: TenantCommand) -> anyhow::Result<Option<Value>> {
    match command {
        TenantCommand::Create { name } => client.post(&["tenants"], &json!({ "name": name })).await,
        TenantCommand::List => client.list(&["tenants"]).await,
        TenantCommand::Show { name } => client.get(&["tenants", &name]).await,
        TenantCommand::Delete { name } => client.delete(&["tenants", &name]).await,
    }
}

async fn domain(client: &Client, command: DomainCommand) -> anyhow::Result<Option<Value>> {
    match command {
        DomainCommand::Create { tenant, name } => {
            client.post(&["tenants", &tenant, "domains"], &json!({ "name": name })).await
        }
        DomainCommand::List { tenant } => client.list(&["tenants", &tenant, "domains"]).await,
        DomainCommand::Delete { tenant, name } => {
            client.delete(&["tenants", &tenant, "domains", &name]).await
        }
    }
}

async fn mailbox(client: &Client, command: MailboxCommand) -> anyhow::Result<Option<Value>> {
    match command {
        MailboxCommand::Create { tenant, address, quota_octets } => {
            let body = json!({
                "address": address, "password": read_password()?, "quota_octets": quota_octets
            });
            client.post(&["tenants", &tenant, "mailboxes"], &body).await
        }
        MailboxCommand::List { tenant } => client.list(&["tenants", &tenant, "mailboxes"]).await,
        MailboxCommand::Show { tenant, address } => {
            client.get(&["tenants", &tenant, "mailboxes", &address]).await
        }
        MailboxCommand::Password { tenant, address } => {
            let body = json!({ "password": read_password()? });
            client.put(&["tenants", &tenant, "mailboxes", &address, "password"], &body).await
        }
        MailboxCommand::Delete { tenant, address } => {
            client.delete(&["tenants", &tenant, "mailboxes", &address]).await
        }
    }
}

/// Reads a password from standard input: it has no place on a command line, which everybody can see.
fn read_password() -> anyhow::Result<String> {
    let mut text = String::new();
    if std::io::stdin().is_terminal() {
        say("Password:");
        std::io::stdin().read_line(&mut text)?;
    } else {
        std::io::stdin().read_to_string(&mut text)?;
    }
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    anyhow::ensure!(!password.is_empty(), "no password was given on standard input");
    Ok(password.to_owned())
}

/// A resource as `key: value` lines, a list as one line an item.
fn as_text(value: &Value) -> String {
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    match value {
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::Object(fields) => fields.values().map(plain).collect::<Vec<_>>().join("\t"),
                other => plain(other),
            })
            .collect::<Vec<_>>()
            .join("\n"),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| format!("{key}: {}", plain(value)))
            .collect::<Vec<_>>()
            .join("\n"),
        other => plain(other),
    }
}
