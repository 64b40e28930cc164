//! What is asked of a POP3 and LMTP server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    plan::{Plan, READERS, WORKERS, mailbox},
    report::{Report, Row},
};
use crate::{
    load::{
        clients::{Door, deliveries, fetches, poll, polls},
        drive::{Budget, Tally, drive},
        mail::Mail,
        meter::{self, Reading, Server},
    },
    node::Ports,
};

/// Longer than any scenario that is bounded by its operations.
pub(super) const LONG: Duration = Duration::from_mins(10);
const MANY: u64 = u64::MAX;

/// A server to be measured.
pub(super) struct Target {
    pub(super) name: &'static str,
    pub(super) ports: Ports,
    pub(super) plain: Door,
    pub(super) tls: Door,
    /// Whose CPU time counts.
    pub(super) servers: Vec<Server>,
    /// The process whose memory is looked at.
    pub(super) main: u32,
    /// Where its metrics are, if it is one of ours.
    pub(super) admin: Option<SocketAddr>,
}

/// Does everything.
pub(super) async fn all(target: &Target, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let (time, ports) = (plan.time, target.ports);
    for number in 0..WORKERS {
        // The first login costs a password hash, which the ones after it do not.
        poll(&target.plain, &mailbox("poll", number)).await?;
    }
    // A server that keeps processes starts them now.
    let budget = Budget::new(LONG, 8 * WORKERS as u64);
    let work = |worker| polls(target.plain.clone(), mailbox("poll", worker), Arc::clone(&budget));
    drive(WORKERS, work).await?;
    for (name, door) in [("poll", &target.plain), ("poll-tls", &target.tls)] {
        let budget = Budget::new(time, MANY);
        let work = |worker| polls(door.clone(), mailbox("poll", worker), Arc::clone(&budget));
        measure(target, report, name, drive(WORKERS, work)).await?;
    }
    let inboxes: Arc<Vec<String>> = Arc::new((0..WORKERS).map(|number| mailbox("in", number)).collect());
    // Before the first object the store makes room, and both open their connections.
    let budget = Budget::new(LONG, 4 * WORKERS as u64);
    let work = |_| deliveries(ports, Arc::clone(&inboxes), 1, Arc::clone(&plan.middle), Arc::clone(&budget));
    drive(WORKERS, work).await?;
    for (name, workers, width) in
        [("deliver-20k", WORKERS, 1), ("deliver-20k-to-10", WORKERS, 10), ("deliver-20k-alone", 1, 1)]
    {
        let budget = Budget::new(time, MANY);
        let work =
            |_| deliveries(ports, Arc::clone(&inboxes), width, Arc::clone(&plan.middle), Arc::clone(&budget));
        measure(target, report, name, drive(workers, work)).await?;
    }
    fill_and_fetch(target, plan, report, "real", READERS, &plan.realistic).await?;
    fill_and_fetch(target, plan, report, "small", WORKERS, &plan.small).await?;
    fill_and_fetch(target, plan, report, "middle", WORKERS, &plan.middle).await
}

async fn fill_and_fetch(
    target: &Target,
    plan: &Plan,
    report: &mut Report,
    kind: &'static str,
    workers: usize,
    mails: &Arc<Vec<Mail>>,
) -> anyhow::Result<()> {
    let (deliver, fetch) = match kind {
        "real" => ("deliver-realistic", "fetch-realistic"),
        "small" => ("deliver-2k", "fetch-2k"),
        _ => ("fill-20k", "fetch-20k"),
    };
    let recipients: Arc<Vec<String>> = Arc::new((0..workers).map(|number| mailbox(kind, number)).collect());
    let budget = Budget::new(LONG, plan.messages * workers as u64);
    let work =
        |_| deliveries(target.ports, Arc::clone(&recipients), 1, Arc::clone(mails), Arc::clone(&budget));
    measure(target, report, deliver, drive(workers, work)).await?;
    for recipient in recipients.iter() {
        poll(&target.plain, recipient).await?;
    }
    let budget = Budget::new(plan.time, MANY);
    let work = |worker: usize| fetches(target.plain.clone(), recipients[worker].clone(), Arc::clone(&budget));
    measure(target, report, fetch, drive(workers, work)).await
}

/// Does `work`, and adds what it took to the report.
pub(super) async fn measure(
    target: &Target,
    report: &mut Report,
    scenario: &'static str,
    work: impl Future<Output = anyhow::Result<Tally>>,
) -> anyhow::Result<()> {
    meter::reset_peak(target.main);
    let before = Reading::take(&target.servers)?;
    let tally = work.await?;
    let spent = Reading::take(&target.servers)?.since(&before);
    let peak = meter::memory(target.main, "VmHWM:")?;
    report.add(Row::new(target.name, scenario, tally, &spent, Some(peak)));
    Ok(())
}
