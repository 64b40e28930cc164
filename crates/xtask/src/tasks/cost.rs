//! `cargo xtask cost`: requests to the object store, and what they cost, for mail that comes, is read and is deleted.

use std::{
    collections::BTreeMap, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    interrupt,
    layout::{Layout, RunDir},
    load::{
        clients::{Door, deliveries},
        drive::{Budget, drive},
        http::Http,
        mail::Mail,
        tls::Identity,
    },
    node::{self, Node, Store},
    tasks::bench,
    tools,
};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Messages of each kind of traffic.
    #[arg(long, default_value_t = 4000)]
    messages: u64,
    /// Measure this build of postern instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Mailboxes that the mail is for.
const MAILBOXES: usize = 64;
/// Of so many messages one is kept, as some people keep some.
const KEPT: u64 = 10;
const LONG: Duration = Duration::from_mins(30);
/// Dollars of a request that writes or lists, and of one that reads: list prices of S3 Standard in us-east-1. Deletions
/// are free there; those of many objects at once are counted as if they were not.
const WRITE_DOLLARS: f64 = 0.005 / 1000.0;
const READ_DOLLARS: f64 = 0.0004 / 1000.0;

/// Measures. No figure makes it fail: judging them is left to people.
pub(crate) fn run(layout: &Layout, args: &Args) -> anyhow::Result<ExitCode> {
    bench::optimized(layout)?;
    let servers = tools::provide(layout, &[])?;
    let postern = node::binary(layout, args.binary.as_deref())?;
    let dir = RunDir::create(layout)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start runtime")?;
    let tls = Identity::make(dir.path())?;
    let gc = "[gc]\ninterval = \"1s\"\ngrace = \"1s\"\norphans = false\n";
    let store = Store { dir: dir.path(), servers: &servers, postern: &postern, tls: &tls, more: gc };
    println!("requests to S3 for a million messages, and dollars for them");
    println!("{:<28} {:>10} {:>10} {:>10} {:>8}", "", "write", "read", "delete", "dollars");
    for (name, senders) in [("one sender", 1), ("8 senders", 8), ("64 senders", 64)] {
        runtime.block_on(traffic(&store, name, senders, args.messages))?;
    }
    let apart = Requests { writes: 1.0, reads: 0.0, deletes: 0.0 };
    apart.print("one object a message: come", 1.0);
    Requests { writes: 0.0, reads: 1.0, deletes: 0.0 }.print("read", 1.0);
    Requests { writes: 0.0, reads: 0.0, deletes: 1.0 }.print("deleted", 1.0);
    Ok(ExitCode::SUCCESS)
}

/// Mail by so many senders at once comes in, is read by the node it came to, by another, and is mostly deleted.
async fn traffic(store: &Store<'_>, name: &str, senders: usize, messages: u64) -> anyhow::Result<()> {
    let dir = store.dir.join(format!("from-{senders}"));
    std::fs::create_dir_all(&dir).context("create directory")?;
    let store = Store { dir: &dir, ..*store };
    let node = Node::start_on(&store).await?;
    let mailboxes: Arc<Vec<String>> =
        Arc::new((0..MAILBOXES).map(|number| format!("box{number:02}")).collect());
    node.create_mailboxes(mailboxes.iter().cloned()).await?;
    let mails = Arc::new(Mail::realistic(400, 2026));
    let count = messages as f64;

    let before = Requests::of(&[node.admin]).await?;
    let budget = Budget::new(LONG, messages);
    let work = |_| deliveries(node.ports, Arc::clone(&mailboxes), 1, Arc::clone(&mails), Arc::clone(&budget));
    let tally = drive(senders, work).await?;
    Requests::of(&[node.admin]).await?.since(&before).print(&format!("{name}: come"), count);
    let stored = |node: &Node| -> anyhow::Result<f64> {
        let octets = node.postgres.sql(
            "postern",
            "SELECT coalesce(sum(p.octets), 0) FROM packs p WHERE NOT EXISTS (SELECT FROM garbage_packs g
              WHERE g.tenant_id = p.tenant_id AND g.pack_id = p.pack_id AND g.deleted_at IS NOT NULL)",
        )?;
        octets.parse().context("read octets")
    };
    let held = stored(&node)?;

    let before = Requests::of(&[node.admin]).await?;
    read_all(&Door::Plain(node.ports.pop3), &mailboxes, None).await?;
    Requests::of(&[node.admin]).await?.since(&before).print("read where it came in", count);
    let other = node.another(&store, &node.seaweed.endpoint()).await?;
    let before = Requests::of(&[other.admin]).await?;
    read_all(&Door::Plain(other.ports.pop3), &mailboxes, None).await?;
    Requests::of(&[other.admin]).await?.since(&before).print("read elsewhere", count);

    let nodes = [node.admin, other.admin];
    let before = Requests::of(&nodes).await?;
    let deleted = read_all(&Door::Plain(other.ports.pop3), &mailboxes, Some(KEPT)).await?;
    collected(&node).await?;
    // Reading once more was from the cache.
    Requests::of(&nodes).await?.since(&before).print("deleted", deleted as f64);
    println!(
        "{:<28} {:.0} % of the messages' octets before, {:.1} % after deleting {:.1} %",
        "octets in the bucket",
        100.0 * held / tally.octets as f64,
        100.0 * stored(&node)? / tally.octets as f64,
        100.0 * deleted as f64 / count,
    );
    Ok(())
}

/// Reads every message of every mailbox, a session for each; where `kept` is given, deletes all but one of so many.
/// Gives how many were deleted.
async fn read_all(door: &Door, mailboxes: &[String], kept: Option<u64>) -> anyhow::Result<u64> {
    let mut deleted = 0;
    for local in mailboxes {
        interrupt::check()?;
        let mut wire = door.login(local).await?;
        let count = crate::load::clients::count(&mut wire).await?;
        for number in 1..=count {
            wire.fetch(&format!("RETR {number}\r\n")).await?;
            if kept.is_some_and(|kept| number % kept != 0) {
                wire.ask(&format!("DELE {number}\r\n"), "+OK").await?;
                deleted += 1;
            }
        }
        wire.ask("QUIT\r\n", "+OK").await?;
    }
    Ok(deleted)
}

/// Waits until nothing is left to be collected.
async fn collected(node: &Node) -> anyhow::Result<()> {
    for _ in 0..600 {
        interrupt::check()?;
        let left = node.postgres.sql(
            "postern",
            "SELECT (SELECT count(*) FROM pack_garbage)
                  + (SELECT count(*) FROM garbage_packs WHERE due OR dead_at IS NOT NULL AND deleted_at IS NULL)",
        )?;
        if left == "0" {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    bail!("garbage was not collected within 5 minutes")
}

/// Requests, as they are billed.
#[derive(Debug, Default)]
struct Requests {
    writes: f64,
    reads: f64,
    deletes: f64,
}

impl Requests {
    /// All that these nodes have made, by their own count of attempts.
    async fn of(nodes: &[SocketAddr]) -> anyhow::Result<Self> {
        let mut requests = Self::default();
        for admin in nodes {
            let answer = Http::connect(*admin).await?.request("GET", "/metrics", "", b"", true).await?;
            let text = String::from_utf8_lossy(&answer.good("/metrics")?.body).into_owned();
            let mut by_kind: BTreeMap<String, f64> = BTreeMap::new();
            for line in text.lines() {
                let Some(labels) = line.strip_prefix("postern_s3_attempts_total{kind=\"") else { continue };
                let (kind, rest) = labels.split_once('"').context("read a metric")?;
                let count: f64 = rest.rsplit(' ').next().context("read a metric")?.parse()?;
                *by_kind.entry(kind.to_owned()).or_default() += count;
            }
            for (kind, count) in by_kind {
                match kind.as_str() {
                    "get" | "size" | "ready" => requests.reads += count,
                    "delete" => requests.deletes += count,
                    "upload_abort" => {}
                    _ => requests.writes += count,
                }
            }
        }
        Ok(requests)
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            reads: self.reads - before.reads,
            deletes: self.deletes - before.deletes,
        }
    }

    /// For a million messages, where so many were measured.
    fn print(&self, name: &str, messages: f64) {
        let [writes, reads, deletes] =
            [self.writes, self.reads, self.deletes].map(|count| count * 1e6 / messages);
        // One object's deletion is free, many objects' is a POST.
        let charged = if self.deletes < messages { deletes } else { 0.0 };
        let dollars = (writes + charged) * WRITE_DOLLARS + reads * READ_DOLLARS;
        println!("{name:<28} {writes:>10.0} {reads:>10.0} {deletes:>10.0} {dollars:>8.2}");
    }
}
