//! The S3 server by itself: the same octets at the same concurrency, without Postern in between.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    plan::{Plan, READERS, WORKERS},
    report::{Report, Row},
};
use crate::{
    load::{
        drive::{Budget, Tally, drive},
        mail::Mail,
        meter::Reading,
        s3::{Payload, S3},
    },
    node::Node,
};

const BUCKET: &str = "raw";

/// Puts and gets of every size.
pub(super) async fn all(node: &Node, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.seaweed.port()));
    let mut s3 = S3::connect(address).await?;
    s3.create_bucket(BUCKET).await?;
    // Before a bucket's first object the store makes room.
    s3.put(&format!("/{BUCKET}/first"), &Payload::new(Vec::new())).await?;
    let sets = [
        ("put-realistic", "get-realistic", READERS, &plan.realistic),
        ("put-2k", "get-2k", WORKERS, &plan.small),
        ("put-20k", "get-20k", WORKERS, &plan.middle),
    ];
    for (put, get, workers, mails) in sets {
        let payloads: Arc<Vec<Payload>> = Arc::new(objects(mails));
        // At least one of each, for the gets; for 20 KB as long as the deliveries went on.
        let (time, operations) = if put == "put-20k" {
            (plan.time, u64::MAX)
        } else {
            (Duration::from_mins(10), (plan.messages * workers as u64).max(payloads.len() as u64))
        };
        let budget = Budget::new(time, operations);
        let work = |_| puts(address, put, Arc::clone(&payloads), Arc::clone(&budget));
        measure(node, report, put, drive(workers, work)).await?;
        let budget = Budget::new(plan.time, u64::MAX);
        let work = |_| gets(address, put, payloads.len(), Arc::clone(&budget));
        measure(node, report, get, drive(workers, work)).await?;
    }
    Ok(())
}

/// So many objects at so many connections.
pub(super) async fn puts_of(
    node: &Node,
    report: &mut Report,
    scenario: &'static str,
    workers: usize,
    mails: &[Mail],
    operations: u64,
) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.seaweed.port()));
    let payloads: Arc<Vec<Payload>> = Arc::new(objects(mails));
    let budget = Budget::new(Duration::from_mins(10), operations);
    let work = |_| puts(address, scenario, Arc::clone(&payloads), Arc::clone(&budget));
    measure(node, report, scenario, drive(workers, work)).await
}

/// Objects that were put as `prefix`, read for so long.
pub(super) async fn gets_of(
    node: &Node,
    report: &mut Report,
    scenario: &'static str,
    workers: usize,
    prefix: &'static str,
    objects: usize,
    time: Duration,
) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.seaweed.port()));
    let budget = Budget::new(time, u64::MAX);
    let work = |_| gets(address, prefix, objects, Arc::clone(&budget));
    measure(node, report, scenario, drive(workers, work)).await
}

/// The same, one after the other, from a store at another address.
pub(super) async fn gets_from(
    node: &Node,
    address: SocketAddr,
    report: &mut Report,
    scenario: &'static str,
    prefix: &'static str,
    objects: usize,
    operations: u64,
) -> anyhow::Result<()> {
    let budget = Budget::new(Duration::from_mins(10), operations);
    let work = |_| gets(address, prefix, objects, Arc::clone(&budget));
    measure(node, report, scenario, drive(1, work)).await
}

fn objects(mails: &[Mail]) -> Vec<Payload> {
    mails.iter().zip(0..).map(|(mail, number)| Payload::new(mail.message(number))).collect()
}

/// An object a message. As many names as payloads, so that any of them can be read afterwards.
async fn puts(
    address: SocketAddr,
    prefix: &str,
    payloads: Arc<Vec<Payload>>,
    budget: Arc<Budget>,
) -> anyhow::Result<Tally> {
    let mut s3 = S3::connect(address).await?;
    let mut tally = Tally::default();
    while let Some(number) = budget.next() {
        // The numbers count down from a multiple of nothing in particular: each remainder comes up.
        let which = number as usize % payloads.len();
        let start = Instant::now();
        s3.put(&format!("/{BUCKET}/{prefix}/{which}"), &payloads[which]).await?;
        tally.add(start, payloads[which].octets.len() as u64);
    }
    Ok(tally)
}

async fn gets(
    address: SocketAddr,
    prefix: &str,
    objects: usize,
    budget: Arc<Budget>,
) -> anyhow::Result<Tally> {
    let mut s3 = S3::connect(address).await?;
    let mut tally = Tally::default();
    while let Some(number) = budget.next() {
        let start = Instant::now();
        let octets = s3.get(&format!("/{BUCKET}/{prefix}/{}", number as usize % objects)).await?;
        tally.add(start, octets);
    }
    Ok(tally)
}

async fn measure(
    node: &Node,
    report: &mut Report,
    scenario: &'static str,
    work: impl Future<Output = anyhow::Result<Tally>>,
) -> anyhow::Result<()> {
    let servers: Vec<_> = node.servers().into_iter().filter(|server| server.name == "s3").collect();
    let before = Reading::take(&servers)?;
    let tally = work.await?;
    let spent = Reading::take(&servers)?.since(&before);
    report.add(Row::new("raw-s3", scenario, tally, &spent, None));
    Ok(())
}
