//! `cargo xtask memory`: what idle sessions, a very large message and a very large maildrop take.

mod idle;
mod large;
mod many;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;

use crate::{
    layout::{Layout, RunDir},
    load::{clients::Door, tls::Identity},
    node::{self, Node},
    sys,
    tasks::bench,
    tools,
};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Idle sessions at once.
    #[arg(long, default_value_t = 5000)]
    sessions: usize,
    /// Octets of the large message.
    #[arg(long, default_value_t = 100_000_000)]
    message_octets: usize,
    /// Messages of the large maildrop.
    #[arg(long, default_value_t = 100_000)]
    messages: u64,
    /// Measure this build of postern instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Mailboxes that are not those of the idle sessions.
const LARGE: &str = "large";
const MANY: &str = "many";

/// Measures. No figure makes it fail: judging them is left to people.
pub(crate) fn run(layout: &Layout, args: &Args) -> anyhow::Result<ExitCode> {
    bench::optimized(layout)?;
    let servers = tools::provide(layout, &[])?;
    let postern = node::binary(layout, args.binary.as_deref())?;
    let dir = RunDir::create(layout)?;
    sys::raise_file_limit();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start runtime")?;
    runtime.block_on(async {
        let tls = Identity::make(dir.path())?;
        let node = Node::start(dir.path(), &servers, &postern, &tls).await?;
        node.create_mailboxes([LARGE.to_owned(), MANY.to_owned()]).await?;
        crate::load::idle::create_mailboxes(&node, LARGE, args.sessions)?;
        let doors =
            [("plaintext", Door::Plain(node.ports.pop3)), ("TLS", Door::Tls(node.ports.pop3s, tls.clone()))];
        for (name, door) in &doors {
            idle::measure(&node, name, door, args.sessions).await?;
        }
        large::measure(&node, &doors[0].1, args.message_octets).await?;
        many::measure(&node, &doors[0].1, args.messages).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Octets in units people read.
fn human(octets: f64) -> String {
    if octets.abs() < 1_048_576.0 {
        format!("{:.1} KiB", octets / 1024.0)
    } else {
        format!("{:.1} MiB", octets / 1_048_576.0)
    }
}
