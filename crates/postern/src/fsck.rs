//! `postern fsck`: index and packs compared.

use std::{
    cell::Cell,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use maildrop::{Fsck, FsckOptions, FsckReport, FsckState, ProgressSink, TenantName};

use crate::{
    cli::say,
    config::Config,
    rebuild::{bar, show},
    wiring::Vault,
};

/// How often the state is written.
const STATE_INTERVAL: Duration = Duration::from_secs(5);

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Mend what can be: counters, notes of garbage, packs that messages are in and the index does not know
    #[arg(long)]
    repair: bool,
    /// Take messages whose octets are lost out of their mailboxes; their rows are kept in the table `message_quarantine`
    #[arg(long)]
    quarantine: bool,
    /// With --quarantine: even where more than 16 packs of a tenant and a tenth of them are missing, or all, which
    /// rather means the wrong bucket
    #[arg(long, requires = "quarantine")]
    all_missing: bool,
    /// Open every entry, not only their ends
    #[arg(long)]
    deep: bool,
    /// Only this tenant, by its name
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Keep in this file how far it is, and go on from there where it exists; it is deleted at the end
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) async fn run(config: &Config, args: &FsckArgs) -> anyhow::Result<()> {
    let tenant = args.tenant.as_deref().map(TenantName::try_from).transpose().context("--tenant")?;
    let mut state = match &args.state {
        Some(path) => read_state(path)?,
        None => FsckState::default(),
    };
    let vault = Vault::open(config, async |_| Ok(())).await?;
    let bar = bar();
    let told = bar.clone();
    let fsck = Fsck {
        directory: vault.store.directory,
        checks: vault.store.checks,
        manifests: vault.store.manifests,
        packs: vault.packs.clone(),
        store: vault.packs,
        options: FsckOptions {
            repair: args.repair,
            quarantine: args.quarantine,
            all_missing: args.all_missing,
            deep: args.deep,
            tenant,
        },
        progress: ProgressSink::new(move |progress| show(&told, progress)),
    };
    let kept = Cell::new(Instant::now());
    let keep = |state: &FsckState| {
        if let Some(path) = &args.state
            && kept.get().elapsed() >= STATE_INTERVAL
        {
            kept.set(Instant::now());
            if let Err(error) = write_state(path, state) {
                bar.println(format!("postern: {error:#}"));
            }
        }
    };
    let result = Box::pin(fsck.run(&mut state, keep)).await;
    bar.finish_and_clear();
    if let Err(error) = result {
        if let Some(path) = &args.state {
            write_state(path, &state)?;
        }
        return Err(error.into());
    }
    if let Some(path) = &args.state {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context(path.display().to_string());
            }
            _ => {}
        }
    }
    let report = state.report;
    if args.json {
        say(&serde_json::to_string_pretty(&report)?);
    } else {
        tell(&report);
    }
    if !report.is_clean() {
        bail!("there is something wrong: see the report");
    }
    Ok(())
}

fn read_state(path: &Path) -> anyhow::Result<FsckState> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{}: not a state", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(FsckState::default()),
        Err(error) => Err(error).context(path.display().to_string()),
    }
}

fn write_state(path: &Path, state: &FsckState) -> anyhow::Result<()> {
    // Never half a state under its name.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let write = || -> std::io::Result<()> {
        fs::write(&new, serde_json::to_vec(state)?)?;
        fs::rename(&new, path)
    };
    write().with_context(|| path.display().to_string())
}

fn tell(report: &FsckReport) {
    for finding in &report.findings {
        let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
        let number = |field: &str| finding[field].as_u64().map_or_else(String::new, |n| n.to_string());
        let mut line = format!("{}: tenant {}", text("kind"), text("tenant"));
        for (what, value) in [
            ("pack", text("pack")),
            ("octet", number("offset")),
            ("mailbox", text("mailbox")),
            ("uid", number("uid")),
        ] {
            if !value.is_empty() {
                line += &format!(", {what} {value}");
            }
        }
        if finding["rows"].as_u64() > Some(1) {
            line += &format!(" and {} more", finding["rows"].as_u64().unwrap_or_default() - 1);
        }
        line += &format!(": {}", text("what"));
        if finding["repaired"] == true {
            line += " (mended)";
        }
        say(&line);
    }
    let found: u64 = report.counts.values().sum();
    say(&format!(
        "{} tenants, {} packs, {} entries, {} octets read: {found} findings, {} mended",
        report.tenants, report.packs, report.entries, report.octets_read, report.repaired
    ));
}
