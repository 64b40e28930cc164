//! Idle sessions: how much memory one takes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::task::JoinSet;

use super::human;
use crate::{
    interrupt,
    load::{clients::Door, meter, wire::Wire},
    node::{Node, address},
};

/// Logins at once while the sessions are opened.
const OPENING: usize = 64;
/// Sessions from one source address: each takes a port of it.
const PER_SOURCE: usize = 5000;

/// Makes the mailboxes in one statement, all with the password hash of the first: hashing thousands of
/// passwords would take minutes.
pub(super) fn create_mailboxes(node: &Node, count: usize) -> anyhow::Result<()> {
    let like = address(super::LARGE);
    let domain = address("");
    let sql = format!(
        "WITH made AS (
             INSERT INTO mailboxes (tenant_id, mailbox_id, address, created_at)
             SELECT m.tenant_id, gen_random_uuid(), 'idle' || n || '{domain}', m.created_at
               FROM mailboxes m, generate_series(0, {count} - 1) n WHERE m.address = '{like}'
          RETURNING tenant_id, mailbox_id)
         INSERT INTO credentials (tenant_id, mailbox_id, password_hash)
         SELECT made.tenant_id, made.mailbox_id, c.password_hash
           FROM made, credentials c JOIN mailboxes m USING (tenant_id, mailbox_id) WHERE m.address = '{like}'"
    );
    node.postgres.sql("postern", &sql).context("make mailboxes")?;
    Ok(())
}

/// Opens the sessions, logged in, looks at the memory, and closes them.
pub(super) async fn measure(node: &Node, name: &str, door: &Door, count: usize) -> anyhow::Result<()> {
    // What the first sessions allocate once and for all is not theirs.
    for _ in 0..3 {
        door.login("idle0").await?.ask("QUIT\r\n", "+OK").await?;
    }
    let pid = node.pid();
    let before = meter::pss(pid)?;
    let start = Instant::now();
    let mut open = Vec::with_capacity(count);
    let mut logins: JoinSet<anyhow::Result<Wire>> = JoinSet::new();
    for number in 0..count {
        interrupt::check()?;
        if logins.len() == OPENING {
            open.push(logins.join_next().await.context("login")?.context("login")??);
        }
        let door = door.clone();
        let octet = u8::try_from(2 + number / PER_SOURCE).context("too many sessions")?;
        let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, octet), 0));
        logins.spawn(async move { door.login_from(&format!("idle{number}"), Some(source)).await });
    }
    while let Some(login) = logins.join_next().await {
        open.push(login.context("login")??);
    }
    let took = start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let during = meter::pss(pid)?;
    for wire in &mut open {
        wire.ask("QUIT\r\n", "+OK").await?;
    }
    drop(open);
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
