//! Sessions that are logged in and say nothing.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::task::JoinSet;

use super::{clients::Door, wire::Wire};
use crate::{
    interrupt,
    node::{Node, address},
};

/// Logins at once while the sessions are opened.
const OPENING: usize = 64;
/// Sessions from one source address: each takes a port of it.
const PER_SOURCE: usize = 5000;

/// The mailbox of the session with this number.
pub(crate) fn mailbox(number: usize) -> String {
    format!("idle{number}")
}

/// Makes the mailboxes in one statement, all with the password hash of the mailbox `like`: hashing thousands of
/// passwords would take minutes.
pub(crate) fn create_mailboxes(node: &Node, like: &str, count: usize) -> anyhow::Result<()> {
    let like = address(like);
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

/// Opens so many sessions, each of a mailbox of its own.
pub(crate) async fn open(door: &Door, count: usize) -> anyhow::Result<Vec<Wire>> {
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
        logins.spawn(async move { door.login_from(&mailbox(number), Some(source)).await });
    }
    while let Some(login) = logins.join_next().await {
        open.push(login.context("login")??);
    }
    Ok(open)
}

/// Closes them in good order.
pub(crate) async fn close(mut open: Vec<Wire>) -> anyhow::Result<()> {
    for wire in &mut open {
        wire.ask("QUIT\r\n", "+OK").await?;
    }
    Ok(())
}
