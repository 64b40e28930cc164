//! What logins cost, by mechanism and by TLS.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    plan::{Plan, WORKERS, mailbox},
    report::Report,
    scenarios::{Target, measure},
};
use crate::{
    load::{
        clients::Door,
        drive::{Budget, Tally, drive},
        sasl::{Mechanism, login},
    },
    node::{PASSWORD, address},
};

/// Each is a connection, a login, and QUIT.
pub(super) async fn all(target: &Target, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let resuming = match &target.tls {
        Door::Tls(address, identity) => Door::Tls(*address, identity.resuming()),
        Door::Plain(address) => Door::Plain(*address),
    };
    let scenarios = [
        ("login-user", &target.plain, Mechanism::User),
        ("login-plain", &target.plain, Mechanism::Plain),
        ("login-cram-md5", &target.plain, Mechanism::CramMd5),
        ("login-scram-sha-1", &target.plain, Mechanism::ScramSha1),
        ("login-scram-sha-256", &target.plain, Mechanism::ScramSha256),
        ("login-plain-tls", &target.tls, Mechanism::Plain),
        ("login-plain-tls-resumed", &resuming, Mechanism::Plain),
        ("login-scram-sha-256-tls", &target.tls, Mechanism::ScramSha256),
        ("login-scram-sha-256-tls-resumed", &resuming, Mechanism::ScramSha256),
    ];
    // Half as long as others: there are many of them.
    let time: Duration = plan.time / 2;
    for (name, door, mechanism) in scenarios {
        for worker in 0..WORKERS {
            // The first login by a way may cost what the others do not.
            once(door, mechanism, worker).await?;
        }
        let budget = Budget::new(time, u64::MAX);
        let work = |worker| logins(door.clone(), mechanism, worker, Arc::clone(&budget));
        measure(target, report, name, drive(WORKERS, work)).await?;
    }
    Ok(())
}

async fn once(door: &Door, mechanism: Mechanism, worker: usize) -> anyhow::Result<()> {
    let mut wire = door.enter(None).await?;
    login(&mut wire, mechanism, &address(&mailbox("poll", worker)), PASSWORD).await?;
    wire.ask("QUIT\r\n", "+OK").await
}

async fn logins(
    door: Door,
    mechanism: Mechanism,
    worker: usize,
    budget: Arc<Budget>,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    while budget.next().is_some() {
        let start = Instant::now();
        once(&door, mechanism, worker).await?;
        tally.add(start, 0);
    }
    Ok(tally)
}
