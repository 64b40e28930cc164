//! Bulletins of a tenant.

use std::path::PathBuf;

use clap::Subcommand;

use super::{
    client::{Client, Query},
    mail::message,
    output::Answer,
};

#[derive(Debug, Subcommand)]
pub(super) enum BulletinCommand {
    /// Post a message to every mailbox of a tenant
    Post {
        /// The tenant
        tenant: String,
        /// The file that holds it, or - for standard input
        file: PathBuf,
        /// What it shall be called in lists
        #[arg(long)]
        note: Option<String>,
        /// Mailboxes that are created later get it, too
        #[arg(long)]
        new_mailboxes: bool,
        /// From when on no mailbox gets it any more, as RFC 3339 writes it
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// List bulletins, newest first
    List {
        /// The tenant
        tenant: String,
    },
    /// Show a bulletin, and how many mailboxes hold it
    Show {
        /// The tenant
        tenant: String,
        /// Its identity
        id: String,
    },
    /// Withdraw a bulletin: mailboxes that hold it lose it
    Withdraw {
        /// The tenant
        tenant: String,
        /// Its identity
        id: String,
    },
}

impl BulletinCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Post { tenant, file, note, new_mailboxes, expires_at } => {
                let query: Query = note
                    .map(|note| ("note", note))
                    .into_iter()
                    .chain(new_mailboxes.then(|| ("new_mailboxes", "true".to_owned())))
                    .chain(expires_at.map(|end| ("expires_at", end)))
                    .collect();
                let path = ["tenants", &tenant, "bulletins"];
                let answer = client.send(&path, query, "message/rfc822", message(&file)?).await?;
                Some(serde_json::from_str(&answer.text().await?)?)
            }
            Self::List { tenant } => client.list(&["tenants", &tenant, "bulletins"], Vec::new()).await?,
            Self::Show { tenant, id } => client.get(&["tenants", &tenant, "bulletins", &id]).await?,
            Self::Withdraw { tenant, id } => client.delete(&["tenants", &tenant, "bulletins", &id]).await?,
        };
        Ok(answer.into())
    }
}
