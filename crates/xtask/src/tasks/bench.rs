//! `cargo xtask bench`: what Postern does and what it costs, beside the bare S3 server and another POP3 server.

mod dovecot;
mod idle;
mod logins;
mod plan;
mod raw;
mod report;
mod scenarios;
mod storage;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, bail};

use self::{plan::Plan, report::Report, scenarios::Target};
use crate::{
    layout::{Layout, RunDir},
    load::{self, clients::Door, tls::Identity},
    node::{self, Node, Store},
    process, sys,
    tools::{self, Servers},
};

/// Sessions of a process of Dovecot, where they are shared.
const SHARED_BY: usize = 64;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do the same work with another POP3 server in the same run.
    #[arg(long, value_enum)]
    peer: Option<Peer>,
    /// A minute in all, to see that everything runs; the figures mean little.
    #[arg(long)]
    quick: bool,
    /// Idle sessions alone.
    #[arg(long)]
    idle: bool,
    /// Where the figures go as JSON. Default: `target/xtask/bench.json`.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Measure this build of postern instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    /// Debian's Dovecot 2.3: Maildir, high-performance login mode
    Dovecot,
}

/// Measures. No figure makes it fail: judging them is left to people.
pub(crate) fn run(layout: &Layout, args: &Args) -> anyhow::Result<ExitCode> {
    optimized(layout)?;
    let packages: &[(&str, &str)] = match args.peer {
        Some(Peer::Dovecot) => &dovecot::PACKAGES,
        None => &[],
    };
    let servers = tools::provide(layout, packages)?;
    let postern = node::binary(layout, args.binary.as_deref())?;
    let dir = RunDir::create(layout)?;
    sys::raise_file_limit();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start runtime")?;
    let report = runtime.block_on(measure(&dir, &servers, &postern, args))?;
    print!("{}", report.table());
    let out = match &args.out {
        Some(out) => out.clone(),
        None => layout.own()?.join("bench.json"),
    };
    fs::write(&out, report.json()?).with_context(|| format!("write {}", out.display()))?;
    println!("figures: {}", out.display());
    Ok(ExitCode::SUCCESS)
}

async fn measure(
    dir: &RunDir,
    servers: &Servers,
    postern: &std::path::Path,
    args: &Args,
) -> anyhow::Result<Report> {
    let plan = Plan::new(args.quick);
    let mut report = Report::begin(args.quick)?;
    let tls = Identity::make(dir.path())?;
    {
        let node = Node::start(dir.path(), servers, postern, &tls).await?;
        node.create_mailboxes(plan::mailboxes()).await?;
        load::idle::create_mailboxes(&node, &plan::mailbox("poll", 0), plan.idle())?;
        let target = Target {
            name: "postern",
            ports: node.ports,
            plain: Door::Plain(node.ports.pop3),
            tls: Door::Tls(node.ports.pop3s, tls.clone()),
            servers: node.servers(),
            main: node.pid(),
            admin: Some(node.admin),
        };
        idle::all(&target, &plan, &mut report).await?;
        if !args.idle {
            scenarios::all(&target, &plan, &mut report).await?;
            logins::all(&target, &plan, &mut report).await?;
            raw::all(&node, &plan, &mut report).await?;
            let store = Store { dir: dir.path(), servers, postern, tls: &tls, more: node::QUIET };
            storage::all(&node, &target, &plan, &mut report, &store).await?;
        }
    }
    if args.peer == Some(Peer::Dovecot) {
        let peer = dovecot::Dovecot::start(&dir.path().join("dovecot"), &tls, &plan, 1).await?;
        let target = Target {
            name: "dovecot",
            ports: peer.ports,
            plain: Door::Plain(peer.ports.pop3),
            tls: Door::Tls(peer.ports.pop3s, tls.clone()),
            servers: vec![peer.server()],
            main: peer.server().pid,
            admin: None,
        };
        idle::all(&target, &plan, &mut report).await?;
        if !args.idle {
            scenarios::all(&target, &plan, &mut report).await?;
            logins::all(&target, &plan, &mut report).await?;
        }
        drop(peer);
        // Once more with processes that are shared by sessions, which is kinder to memory and less usual.
        let peer =
            dovecot::Dovecot::start(&dir.path().join("dovecot-shared"), &tls, &plan, SHARED_BY).await?;
        let target = Target {
            name: "dovecot, 64 a process",
            ports: peer.ports,
            plain: Door::Plain(peer.ports.pop3),
            tls: Door::Tls(peer.ports.pop3s, tls.clone()),
            servers: vec![peer.server()],
            main: peer.server().pid,
            admin: None,
        };
        idle::all(&target, &plan, &mut report).await?;
    }
    if !args.idle {
        report.end()?;
    }
    Ok(report)
}

/// Goes on as the optimised build of this program: a slow load generator would be measured too.
pub(crate) fn optimized(layout: &Layout) -> anyhow::Result<()> {
    if !cfg!(debug_assertions) {
        return Ok(());
    }
    let status = process::run(layout.cargo().args(["build", "--release", "--package", "xtask"]))?;
    if !status.success() {
        bail!("building xtask failed ({})", process::describe(status));
    }
    let error = Command::new(layout.target.join("release/xtask")).args(std::env::args_os().skip(1)).exec();
    Err(error).context("go on as the optimised build")
}
