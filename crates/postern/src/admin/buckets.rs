//! Buckets of tenants' own.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::Value;

use super::{client::Client, output::Answer};

#[derive(Debug, Subcommand)]
pub(super) enum BucketCommand {
    /// Show where the packs of a tenant lie; secrets are not shown
    Show {
        /// The tenant
        tenant: String,
    },
    /// Let new packs of a tenant go to a bucket of its own, or replace the access key of one that it has
    Set {
        /// The tenant
        tenant: String,
        /// The settings, JSON, with the secret; - for standard input
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Let new packs of a tenant go to the house's store
    Leave {
        /// The tenant
        tenant: String,
    },
    /// Forget a bucket that a tenant has left, and that no pack lies in
    Forget {
        /// The tenant
        tenant: String,
        /// The number of the store
        number: u16,
    },
}

impl BucketCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Show { tenant } => client.get(&["tenants", &tenant, "bucket"]).await?,
            Self::Set { tenant, file } => {
                let text = if file.as_os_str() == "-" {
                    std::io::read_to_string(std::io::stdin()).context("read standard input")?
                } else {
                    std::fs::read_to_string(&file).with_context(|| file.display().to_string())?
                };
                let settings: Value = serde_json::from_str(&text).context("the settings are no JSON")?;
                client.put(&["tenants", &tenant, "bucket"], &settings).await?
            }
            Self::Leave { tenant } => client.delete(&["tenants", &tenant, "bucket"]).await?,
            Self::Forget { tenant, number } => {
                client.delete(&["tenants", &tenant, "bucket", "stores", &number.to_string()]).await?
            }
        };
        Ok(answer.into())
    }
}
