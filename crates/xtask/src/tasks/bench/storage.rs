//! What packs are for: many connections at once, and a store far away, beside one object a message.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    plan::{Plan, mailbox},
    raw,
    report::{Report, Row},
    scenarios::{LONG, Target, measure},
};
use crate::{
    load::{
        clients::{Door, deliveries, fetches, poll},
        drive::{Budget, Tally, drive},
        meter::Reading,
        slow::Slow,
    },
    node::{Another, Node, Store},
    process,
};

/// Connections at once.
pub(super) const CROWD: usize = 64;
/// What is added to each reply of the store far away.
const FAR: Duration = Duration::from_millis(30);
/// Messages of a first download.
const DOWNLOAD: u64 = 1000;

/// Everything about storage.
pub(super) async fn all(
    node: &Node,
    target: &Target,
    plan: &Plan,
    report: &mut Report,
    store: &Store<'_>,
) -> anyhow::Result<()> {
    let store_address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.seaweed.port()));
    let ports = target.ports;
    let crowd: Arc<Vec<String>> = Arc::new((0..CROWD).map(|number| mailbox("crowd", number)).collect());
    // Realistic mail from everywhere at once.
    let count = if plan.is_quick() { 4 * CROWD as u64 } else { 60 * CROWD as u64 };
    let budget = Budget::new(LONG, count);
    let work = |_| deliveries(ports, Arc::clone(&crowd), 1, Arc::clone(&plan.realistic), Arc::clone(&budget));
    counted(node, target, report, "deliver-realistic-64", drive(CROWD, work)).await?;
    raw::puts_of(node, report, "put-realistic-64", CROWD, &plan.realistic, count).await?;
    // One sender: what it waits for is a request and a commit.
    raw::puts_of(node, report, "put-20k-alone", 1, &plan.middle, if plan.is_quick() { 100 } else { 2000 })
        .await?;
    commits(node, report, store, plan)?;

    // What came in together is read by everybody at once.
    let wide: Arc<Vec<String>> = Arc::new((0..CROWD).map(|number| mailbox("wide", number)).collect());
    let budget = Budget::new(LONG, plan.messages * CROWD as u64);
    let work = |_| deliveries(ports, Arc::clone(&wide), 1, Arc::clone(&plan.middle), Arc::clone(&budget));
    counted(node, target, report, "fill-20k-64", drive(CROWD, work)).await?;
    for local in wide.iter() {
        poll(&target.plain, local).await?;
    }
    let budget = Budget::new(plan.time, u64::MAX);
    let work = |worker: usize| fetches(target.plain.clone(), wide[worker].clone(), Arc::clone(&budget));
    counted(node, target, report, "fetch-20k-64", drive(CROWD, work)).await?;
    raw::gets_of(node, report, "get-20k-64", CROWD, "put-20k", plan.middle.len(), plan.time).await?;

    // The same by a node that has none of it near, each message once.
    let cold = node.another(store, &node.seaweed.endpoint()).await?;
    let cold_target = target_of(node, &cold, store);
    for local in wide.iter() {
        poll(&cold_target.plain, local).await?;
    }
    let budget = Budget::new(LONG, plan.messages * CROWD as u64);
    let work = |worker: usize| fetches(cold_target.plain.clone(), wide[worker].clone(), Arc::clone(&budget));
    counted(node, &cold_target, report, "fetch-20k-64-cold", drive(CROWD, work)).await?;
    drop(cold);

    // A first download, of what came in by itself, and of what came in among others' mail.
    let messages = if plan.is_quick() { 100 } else { DOWNLOAD };
    let alone = Arc::new(vec![mailbox("alone", 0)]);
    let budget = Budget::new(LONG, messages);
    let work = |_| deliveries(ports, Arc::clone(&alone), 1, Arc::clone(&plan.middle), Arc::clone(&budget));
    drive(1, work).await?;
    let mut mixed = vec![mailbox("mixed", 0); 4];
    mixed.extend((0..12).map(|number| mailbox("crowd", number)));
    let mixed = Arc::new(mixed);
    let budget = Budget::new(LONG, messages * 4);
    let work = |_| deliveries(ports, Arc::clone(&mixed), 1, Arc::clone(&plan.middle), Arc::clone(&budget));
    drive(CROWD, work).await?;
    let slow = Slow::start(store_address, FAR).await?;
    let far = node.another(store, &format!("http://{}", slow.address)).await?;
    let far_target = target_of(node, &far, store);
    for (scenario, local) in [("first-download-apart", "alone00"), ("first-download-mixed", "mixed00")] {
        poll(&far_target.plain, local).await?;
        let budget = Budget::new(LONG, messages);
        let work = |_| fetches(far_target.plain.clone(), local.to_owned(), Arc::clone(&budget));
        counted(node, &far_target, report, scenario, drive(1, work)).await?;
    }
    raw::gets_from(node, slow.address, report, "get-far", "put-20k", plan.middle.len(), messages).await
}

/// A further node as what is measured.
fn target_of(node: &Node, another: &Another, store: &Store<'_>) -> Target {
    let mut servers = node.servers();
    servers[0].pid = another.pid();
    Target {
        name: "postern",
        ports: another.ports,
        plain: Door::Plain(another.ports.pop3),
        tls: Door::Tls(another.ports.pop3s, store.tls.clone()),
        servers,
        main: another.pid(),
        admin: Some(another.admin),
    }
}

/// As [`measure`], with the requests to the object store.
async fn counted(
    node: &Node,
    target: &Target,
    report: &mut Report,
    scenario: &'static str,
    work: impl Future<Output = anyhow::Result<Tally>>,
) -> anyhow::Result<()> {
    let admin = target.admin.unwrap_or(node.admin);
    let before = crate::node::store_requests(admin).await?;
    measure(target, report, scenario, work).await?;
    report.requests(crate::node::store_requests(admin).await? - before);
    Ok(())
}

/// Commits of a row, one after the other, by PostgreSQL's own measure of itself.
fn commits(node: &Node, report: &mut Report, store: &Store<'_>, plan: &Plan) -> anyhow::Result<()> {
    node.postgres.sql("postern", "CREATE TABLE commits (id bigserial PRIMARY KEY, octets bytea)")?;
    let script = store.dir.join("commit.sql");
    std::fs::write(&script, "INSERT INTO commits (octets) VALUES (decode(repeat('ab', 200), 'hex'));\n")
        .context("write script")?;
    let log = store.dir.join("commits");
    let servers: Vec<_> = node.servers().into_iter().filter(|server| server.name == "postgres").collect();
    let before = Reading::take(&servers)?;
    let mut pgbench = Command::new(store.servers.postgres_bin.join("pgbench"));
    pgbench.args(["-n", "-c", "1", "-M", "prepared", "-T"]).arg(if plan.is_quick() { "1" } else { "5" });
    pgbench.arg("-l").arg(format!("--log-prefix={}", log.display())).arg("-f").arg(&script);
    pgbench.arg(node.postgres.url("postern"));
    let start = Instant::now();
    process::run_logged(&mut pgbench, &store.dir.join("pgbench.log"))?;
    let elapsed = start.elapsed();
    let spent = Reading::take(&servers)?.since(&before);
    let mut tally = Tally::default();
    for entry in std::fs::read_dir(store.dir).context("read directory")? {
        let path = entry.context("read directory")?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("commits.")) {
            // Client, transaction, and microseconds it took (pgbench(1), Per-Transaction Logging).
            let text = std::fs::read_to_string(&path).context("read pgbench's log")?;
            let took = text.lines().filter_map(|line| line.split(' ').nth(2)?.parse().ok());
            took.map(Duration::from_micros).for_each(|took| tally.took(took));
        }
    }
    tally.elapsed = elapsed;
    report.add(Row::new("postgres", "commit-alone", tally, &spent, None));
    Ok(())
}
