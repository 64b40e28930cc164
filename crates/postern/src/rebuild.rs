//! `postern rebuild`: an index from the bucket and the keys.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::bail;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use maildrop::{
    NodeId, Progress, ProgressSink, Rebuild, RebuildError, RebuildOptions, RebuildReport, TenantId,
    TenantRebuild,
    port::{BlobError, ManifestStore},
};

use crate::{cli::say, config::Config, wiring::Vault};

/// What to rebuild.
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Only look, and say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Read every pack, and open every message in it
    #[arg(long)]
    verify: bool,
    /// Only this tenant, by its name or identity
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) async fn run(config: &Config, args: &RebuildArgs) -> anyhow::Result<()> {
    let vault = Vault::open(config, |packs| async move { fits(&*packs).await }).await?;
    let bar = bar();
    let told = bar.clone();
    let rebuild = Rebuild {
        directory: Arc::clone(&vault.store.directory),
        index: Arc::clone(&vault.store.index),
        garbage: Arc::clone(&vault.store.garbage),
        bulletins: Arc::clone(&vault.store.bulletins),
        manifests: Arc::clone(&vault.store.manifests),
        blob: vault.packs.clone(),
        packs: vault.packs.clone(),
        store: vault.packs.clone(),
        node: NodeId::generate(),
        options: RebuildOptions { dry_run: args.dry_run, verify: args.verify, tenant: args.tenant.clone() },
        progress: ProgressSink::new(move |progress| show(&told, progress)),
    };
    let report = Box::pin(rebuild.run()).await;
    bar.finish_and_clear();
    let report = report?;
    if args.json {
        say(&serde_json::to_string_pretty(&report)?);
    } else {
        tell(&report);
    }
    if !report.is_whole() {
        bail!("not everything could be restored: see the report");
    }
    Ok(())
}

/// Whether the bucket is of this master key, by the first manifest in it.
async fn fits(store: &dyn ManifestStore) -> anyhow::Result<()> {
    let mut after: Option<TenantId> = None;
    while let Some(tenant) = store.all_tenants_next(after).await? {
        after = Some(tenant);
        if let Some(part) = store.list_manifests(tenant).await?.last() {
            match store.read_manifest(tenant, part).await {
                Err(error @ (BlobError::WrongKey | BlobError::NoMasterKey(_))) => {
                    return Err(
                        anyhow::Error::from(RebuildError::WrongKey(tenant)).context(error.to_string())
                    );
                }
                // Damage is told later.
                Ok(_) | Err(BlobError::Corrupt(_) | BlobError::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// On a terminal a line that moves; nothing elsewhere.
pub(crate) fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {pos}/{len} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

pub(crate) fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.of.max(progress.done));
    bar.set_position(progress.done);
    bar.set_message(format!("{} {}", progress.tenant, progress.step));
}

fn tell(report: &RebuildReport) {
    for tenant in &report.tenants {
        tell_tenant(tenant, report.dry_run);
    }
    if report.being_deleted > 0 {
        say(&format!("{} tenants are being deleted, and were left alone", report.being_deleted));
    }
    let messages: u64 = report.tenants.iter().map(|t| t.messages + t.renumbered + t.messages_found).sum();
    let mailboxes: u64 = report.tenants.iter().map(|t| t.mailboxes + t.mailboxes_found).sum();
    let verb = if report.dry_run { "would be restored" } else { "restored" };
    say(&format!("{} tenants, {mailboxes} mailboxes, {messages} messages {verb}", report.tenants.len()));
    say(
        "Not known to a bucket: what was deleted or refused, and which accounts were changed, after a tenant's last \
         manifest; deleted messages that could be undeleted; platform API keys; the audit log; traffic.",
    );
}

fn tell_tenant(tenant: &TenantRebuild, dry_run: bool) {
    let name = tenant.name.clone().unwrap_or_else(|| "?".into());
    let of = format!("tenant {name} ({})", tenant.tenant);
    if tenant.has_key {
        let as_of =
            tenant.as_of.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok());
        let as_of = as_of.map_or("the index knew all of its manifests".into(), |at| format!("as of {at}"));
        let verb = if dry_run { "would restore" } else { "restored" };
        say(&format!(
            "{of}: {as_of}; {verb} {} mailboxes and {} messages with their unique-ids; of later packs, under new \
             unique-ids, {} messages, {} bulletins, {} mailboxes without password; read {} of {} packs, {} octets",
            tenant.mailboxes,
            tenant.messages,
            tenant.messages_found,
            tenant.bulletins_found,
            tenant.mailboxes_found,
            tenant.packs_read,
            tenant.packs,
            tenant.octets_read
        ));
    } else {
        say(&format!(
            "{of}: there is no manifest that can be read: its data key is lost, and its packs with it"
        ));
    }
    let counts = [
        (tenant.renumbered, "messages have new unique-ids, since the index gave theirs to others"),
        (
            tenant.messages_gone,
            "messages are nowhere in the bucket: deleted after the last manifest, or lost",
        ),
        (tenant.unplaced, "messages are for mailboxes that are not there"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        say(&format!("  {count} {what}"));
    }
    for taken in &tenant.taken {
        say(&format!("  not restored, something else has its name: {taken}"));
    }
    for damage in &tenant.damage {
        say(&format!("  damaged: {damage}"));
    }
}
