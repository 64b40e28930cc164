//! Tenants and domains.

use std::{io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{
    client::Client,
    input::{Setting, set},
    output::Answer,
};

/// How often a deletion is asked after.
const DELETION_POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Create a tenant
    Create {
        /// Its name: lower-case letters, digits, hyphens
        name: String,
        /// A setting, such as quota_octets=1000000 or policy.expire_days=30; may be repeated
        #[arg(long = "set", value_name = "FIELD=VALUE")]
        settings: Vec<Setting>,
    },
    /// List tenants
    List,
    /// Show a tenant
    Show {
        /// Its name
        name: String,
    },
    /// Change a tenant's quotas, limits or policy
    Update {
        /// Its name
        name: String,
        /// A setting, such as quota_octets=1000000, limits.sessions_max=null; may be repeated
        #[arg(long = "set", value_name = "FIELD=VALUE", required = true)]
        settings: Vec<Setting>,
    },
    /// Suspend a tenant: nobody logs in, mail is refused
    Suspend {
        /// Its name
        name: String,
    },
    /// Resume a suspended tenant
    Resume {
        /// Its name
        name: String,
    },
    /// Show what a tenant has, holds and moved
    Usage {
        /// Its name
        name: String,
        /// The first day of traffic, YYYY-MM-DD
        #[arg(long)]
        from: Option<String>,
        /// The last day of traffic, YYYY-MM-DD
        #[arg(long)]
        to: Option<String>,
    },
    /// Delete a tenant with everything it has
    Delete {
        /// Its name
        name: String,
        /// Do not wait until everything is gone
        #[arg(long)]
        no_wait: bool,
    },
    /// List deletions under way, and those of the last 30 days
    Deletions,
}

impl TenantCommand {
    pub(super) async fn run(self, client: &Client, json: bool) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Create { name, settings } => {
                let mut body = Map::from_iter([("name".to_owned(), Value::String(name))]);
                set(&mut body, settings);
                client.post(&["tenants"], &Value::Object(body)).await?
            }
            Self::List => client.list(&["tenants"], Vec::new()).await?,
            Self::Show { name } => client.get(&["tenants", &name]).await?,
            Self::Update { name, settings } => {
                let mut body = Map::new();
                set(&mut body, settings);
                client.patch(&["tenants", &name], &Value::Object(body)).await?
            }
            Self::Suspend { name } => client.ask(&["tenants", &name, "suspend"]).await?,
            Self::Resume { name } => client.ask(&["tenants", &name, "resume"]).await?,
            Self::Usage { name, from, to } => return usage(client, &name, from, to, json).await,
            Self::Delete { name, no_wait } => {
                let deletion = client.delete(&["tenants", &name]).await?.context("the answer is empty")?;
                Some(if no_wait { deletion } else { gone(client, deletion).await? })
            }
            Self::Deletions => client.list(&["deletions"], Vec::new()).await?,
        };
        Ok(answer.into())
    }
}

/// The items of a list that comes whole.
pub(super) fn items(list: Option<Value>) -> Option<Value> {
    list.map(|mut list| list.get_mut("items").map(Value::take).unwrap_or_default())
}

async fn usage(
    client: &Client,
    name: &str,
    from: Option<String>,
    to: Option<String>,
    json: bool,
) -> anyhow::Result<Answer> {
    let query = from.map(|day| ("from", day)).into_iter().chain(to.map(|day| ("to", day))).collect();
    let mut usage = client.get_with(&["tenants", name, "usage"], query).await?.unwrap_or_default();
    if json {
        return Ok(Answer::One(usage));
    }
    let traffic = usage.as_object_mut().and_then(|usage| usage.remove("traffic"));
    Answer::One(usage).print(false)?;
    Ok(traffic.into())
}

/// Waits until everything of a tenant is gone.
async fn gone(client: &Client, mut deletion: Value) -> anyhow::Result<Value> {
    let bar =
        if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}")?);
    let id = deletion.get("tenant_id").cloned();
    while deletion.get("finished_at").is_none_or(Value::is_null) {
        let number = |key| deletion.get(key).and_then(Value::as_u64).unwrap_or(0);
        bar.set_message(format!(
            "{} rows, {} objects deleted",
            number("rows_deleted"),
            number("objects_deleted")
        ));
        bar.tick();
        tokio::time::sleep(DELETION_POLL).await;
        let deletions = client.list(&["deletions"], Vec::new()).await?.unwrap_or_default();
        let of_this =
            deletions.as_array().and_then(|all| all.iter().find(|one| one.get("tenant_id") == id.as_ref()));
        deletion = of_this.cloned().context("the deletion is not listed any more")?;
    }
    bar.finish_and_clear();
    Ok(deletion)
}

#[derive(Debug, Subcommand)]
pub(super) enum DomainCommand {
    /// Create a domain
    Create {
        /// The tenant
        tenant: String,
        /// The domain
        name: String,
        /// The domain of the tenant that it shall be another name of
        #[arg(long, value_name = "DOMAIN")]
        alias_of: Option<String>,
    },
    /// List domains
    List {
        /// The tenant
        tenant: String,
    },
    /// Show a domain
    Show {
        /// The tenant
        tenant: String,
        /// The domain
        name: String,
    },
    /// Delete a domain that has no mailboxes, aliases and alias domains
    Delete {
        /// The tenant
        tenant: String,
        /// The domain
        name: String,
    },
}

impl DomainCommand {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Create { tenant, name, alias_of } => {
                let body = json!({ "name": name, "alias_of": alias_of });
                client.post(&["tenants", &tenant, "domains"], &body).await?
            }
            Self::List { tenant } => client.list(&["tenants", &tenant, "domains"], Vec::new()).await?,
            Self::Show { tenant, name } => client.get(&["tenants", &tenant, "domains", &name]).await?,
            Self::Delete { tenant, name } => client.delete(&["tenants", &tenant, "domains", &name]).await?,
        };
        Ok(answer.into())
    }
}
