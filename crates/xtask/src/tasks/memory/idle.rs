//! Idle sessions: how much memory one takes.

use std::time::{Duration, Instant};

use super::human;
use crate::{
    load::{clients::Door, idle, meter},
    node::Node,
};

/// Opens the sessions, logged in, looks at the memory, and closes them.
pub(super) async fn measure(node: &Node, name: &str, door: &Door, count: usize) -> anyhow::Result<()> {
    // What the first sessions allocate once and for all is not theirs.
    for _ in 0..3 {
        door.login("idle0").await?.ask("QUIT\r\n", "+OK").await?;
    }
    let pid = node.pid();
    let before = meter::pss(pid)?;
    let start = Instant::now();
    let open = idle::open(door, count).await?;
    let took = start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let during = meter::pss(pid)?;
    idle::close(open).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = meter::pss(pid)?;
    // The room that the password hashes of the logins took may be given back meanwhile, or not: the larger of
    // the two differences is the one to believe.
    let each = |without: u64| human((during as f64 - without as f64) / count as f64);
    println!("{count} idle sessions, {name} (opened in {took:.1} s): PSS {}", human(during as f64));
    println!("    before them {}: {} a session", human(before as f64), each(before));
    println!("    after them {}: {} a session", human(after as f64), each(after));
    Ok(())
}
