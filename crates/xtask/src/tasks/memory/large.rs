//! A very large message: the memory it takes to receive and to send it, and whether the first octet waits for
//! the last.

use std::time::{Duration, Instant};

use super::{LARGE, human};
use crate::{
    load::{
        clients::{Door, deliver, lmtp, poll},
        mail::Mail,
        meter,
    },
    node::Node,
};

const SMALL_OCTETS: usize = 100_000;

/// Delivers and fetches a large message and a small one.
pub(super) async fn measure(node: &Node, door: &Door, octets: usize) -> anyhow::Result<()> {
    let pid = node.pid();
    poll(door, LARGE).await?;
    let mut wire = lmtp(node.ports).await?;
    let recipient = [LARGE.to_owned()];
    deliver(&mut wire, &recipient, &Mail::large(SMALL_OCTETS, 1).message(1)).await?;
    let message = Mail::large(octets, 2).message(2);
    let before = peak_from_here(pid)?;
    let start = Instant::now();
    deliver(&mut wire, &recipient, &message).await?;
    println!(
        "{} octets by LMTP: {:.1} s, peak RSS grew by {}",
        message.len(),
        start.elapsed().as_secs_f64(),
        grown(pid, before)?,
    );
    wire.ask("QUIT\r\n", "221").await?;

    // Freed memory is given back after a while; what is kept would hide growth.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for (number, name) in [(1, "small"), (2, "large"), (2, "large, again"), (1, "small, again")] {
        let mut wire = door.login(LARGE).await?;
        let before = peak_from_here(pid)?;
        let start = Instant::now();
        let body = wire.fetch(&format!("RETR {number}\r\n")).await?;
        println!(
            "RETR of {} octets ({name}): first octet of the message after {:.1} ms, all after {:.3} s, peak RSS \
             grew by {}",
            body.octets,
            body.first_octet.as_secs_f64() * 1e3,
            start.elapsed().as_secs_f64(),
            grown(pid, before)?,
        );
        wire.ask("QUIT\r\n", "+OK").await?;
    }
    Ok(())
}

fn peak_from_here(pid: u32) -> anyhow::Result<u64> {
    meter::reset_peak(pid);
    meter::memory(pid, "VmRSS:")
}

fn grown(pid: u32, before: u64) -> anyhow::Result<String> {
    Ok(human(meter::memory(pid, "VmHWM:")? as f64 - before as f64))
}
