//! What sessions cost that are logged in and say nothing.

use std::time::Duration;

use super::{
    plan::Plan,
    report::{Idle, Report},
    scenarios::Target,
};
use crate::load::{
    idle,
    meter::{self, Reading},
};

/// Opens sessions, plaintext and TLS, looks at the memory of the server's processes and at the CPU time that they take
/// while nothing happens, and closes them. The server has done nothing before: what others left in its memory would
/// hide theirs.
pub(super) async fn all(target: &Target, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let count = plan.idle();
    for door in [&target.plain, &target.tls] {
        // What the first sessions allocate once and for all is not theirs.
        idle::close(idle::open(door, 3).await?).await?;
    }
    settle().await;
    let (fresh, _) = meter::pss_of_tree(target.main);
    for (name, door) in [("TLS", &target.tls), ("plaintext", &target.plain)] {
        let open = idle::open(door, count).await?;
        settle().await;
        let (octets, processes) = meter::pss_of_tree(target.main);
        let from = Reading::take(&target.servers)?;
        tokio::time::sleep(plan.time).await;
        let spent = Reading::take(&target.servers)?.since(&from);
        idle::close(open).await?;
        settle().await;
        let cpus = spent.servers.values().sum::<f64>() / plan.time.as_secs_f64();
        report.add_idle(Idle::new(target.name, name, count, [fresh, octets], processes, cpus));
    }
    Ok(())
}

async fn settle() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}
