//! `postern keys`: master keys are made, looked at, and rotated.

use std::{path::PathBuf, sync::Arc};

use anyhow::bail;
use blob::MasterKey;
use clap::{Args, Subcommand};
use maildrop::{Actor, KeyStatus, NodeId, ProgressSink, Rotation};

use crate::{
    cli::say,
    config::Config,
    rebuild::{bar, show},
    wiring,
};

/// What to do with master keys.
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a new master key
    New,
    /// Say how much is sealed under which master key
    Status(OfConfig),
    /// Seal everything under `keys.master_key_file` that another master key sealed; safe to break off and to repeat
    Rotate(OfConfig),
}

#[derive(Debug, Args)]
struct OfConfig {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) async fn run(args: &KeysArgs) -> anyhow::Result<()> {
    match &args.command {
        Command::New => {
            say(MasterKey::generate()?.as_str());
            Ok(())
        }
        Command::Status(of) => status(of).await,
        Command::Rotate(of) => rotate(of).await,
    }
}

async fn rotation(of: &OfConfig, progress: ProgressSink) -> anyhow::Result<Rotation> {
    let (store, keyring) = wiring::open_keys(&Config::load(&of.config)?).await?;
    Ok(Rotation {
        index: store.index,
        rows: store.keys,
        records: store.records,
        keyring: Arc::new(keyring),
        node: NodeId::generate(),
        actor: Actor { name: "postern keys".into(), origin: "local".into(), request: String::new() },
        progress,
    })
}

async fn status(of: &OfConfig) -> anyhow::Result<()> {
    let status = rotation(of, ProgressSink::default()).await?.status().await?;
    if of.json {
        say(&serde_json::to_string_pretty(&status)?);
    } else {
        tell(&status);
    }
    Ok(())
}

async fn rotate(of: &OfConfig) -> anyhow::Result<()> {
    let bar = bar();
    let told = bar.clone();
    let rotation = rotation(of, ProgressSink::new(move |progress| show(&told, progress))).await?;
    let rotated = Box::pin(rotation.run()).await;
    bar.finish_and_clear();
    let rotated = rotated?;
    let status = rotation.status().await?;
    if of.json {
        say(&serde_json::to_string_pretty(&serde_json::json!({ "rotated": rotated, "status": status }))?);
    } else {
        say(&format!("{} tenants' keys are under master key {} now", rotated.tenants, rotated.newest));
        for failure in &rotated.failures {
            say(&format!("  not exchanged: {failure}"));
        }
        tell(&status);
    }
    let left: u64 =
        status.keys.iter().filter(|used| used.key != status.newest).map(|used| used.tenants).sum();
    if left > 0 {
        bail!("{left} tenants' keys are still under other master keys");
    }
    Ok(())
}

fn tell(status: &KeyStatus) {
    for used in &status.keys {
        let role = match (used.key == status.newest, used.available) {
            (true, _) => "seals",
            (false, true) => "opens only",
            (false, false) => "not given in this configuration",
        };
        let (tenants, secrets) = (used.tenants, used.cluster_secrets);
        say(&format!(
            "master key {} ({role}): {tenants} tenants' keys, {secrets} secrets of the cluster",
            used.key
        ));
    }
    if status.outdated_manifests > 0 {
        say(&format!(
            "manifests of {} tenants hold older keys: a worker writes them anew within manifest.interval",
            status.outdated_manifests
        ));
    }
    say(if status.complete {
        "nothing is left under any other master key"
    } else {
        "keep the other master keys until nothing is left under them"
    });
}
