//! A maildrop of very many messages: what login, STAT, UIDL and LIST take, and the plans of the statements.

use std::time::Instant;

use anyhow::Context as _;

use super::{MANY, human};
use crate::{
    load::{
        clients::{Door, deliver, lmtp, poll},
        mail::Mail,
        meter::{self, Reading},
    },
    node::{Node, address},
};

/// Fills the maildrop and looks at it.
pub(super) async fn measure(node: &Node, door: &Door, count: u64) -> anyhow::Result<()> {
    fill(node, count).await?;
    // A password hash is no matter of the maildrop's size; this login's is paid here.
    poll(door, "idle0").await?;
    poll(door, MANY).await?;
    println!("{count} messages in a maildrop (CPU: postern and PostgreSQL):");
    for round in ["first", "second"] {
        let start = Instant::now();
        let before = Reading::take(&node.servers())?;
        let mut wire = door.login(MANY).await?;
        wire.ask("STAT\r\n", "+OK").await?;
        step(node, &format!("{round} login and STAT"), start, &before, 0)?;
        for command in ["UIDL\r\n", "LIST\r\n"] {
            meter::reset_peak(node.pid());
            let resident = meter::memory(node.pid(), "VmRSS:")?;
            let start = Instant::now();
            let before = Reading::take(&node.servers())?;
            let body = wire.fetch(command).await?;
            step(node, &format!("{round} {}", command.trim_end()), start, &before, body.octets)?;
            let peak = meter::memory(node.pid(), "VmHWM:")?;
            println!("        peak RSS grew by {}", human(peak as f64 - resident as f64));
        }
        wire.ask("QUIT\r\n", "+OK").await?;
    }
    average(node, door).await?;
    explain(node)
}

/// One login is too little for a clock of hundredths of a second: many are.
async fn average(node: &Node, door: &Door) -> anyhow::Result<()> {
    const ROUNDS: u32 = 300;
    for mailbox in [MANY, "idle0"] {
        let before = Reading::take(&node.servers())?;
        let start = Instant::now();
        for _ in 0..ROUNDS {
            poll(door, mailbox).await?;
        }
        let wall = start.elapsed().as_secs_f64() * 1e3 / f64::from(ROUNDS);
        let spent = Reading::take(&node.servers())?.since(&before);
        let cpu: Vec<String> = spent
            .servers
            .iter()
            .filter(|(name, _)| **name != "s3")
            .map(|(name, seconds)| format!("{name} {:.3} ms", seconds * 1e3 / f64::from(ROUNDS)))
            .collect();
        println!(
            "    login, STAT, QUIT of {mailbox}, mean of {ROUNDS}: {wall:.2} ms, CPU {}",
            cpu.join(", ")
        );
    }
    Ok(())
}

fn step(node: &Node, what: &str, start: Instant, before: &Reading, octets: u64) -> anyhow::Result<()> {
    let wall = start.elapsed().as_secs_f64() * 1e3;
    let spent = Reading::take(&node.servers())?.since(before);
    let cpu = |name| spent.servers.get(name).copied().unwrap_or_default() * 1e3;
    println!(
        "    {what}: {wall:.1} ms, CPU {:.0} ms postern, {:.0} ms PostgreSQL{}",
        cpu("postern"),
        cpu("postgres"),
        if octets > 0 { format!(", {octets} octets") } else { String::new() },
    );
    Ok(())
}

/// One delivery, and then rows that point at the same extent: what a listing reads is the same as if each had
/// been delivered.
async fn fill(node: &Node, count: u64) -> anyhow::Result<()> {
    let mut wire = lmtp(node.ports).await?;
    deliver(&mut wire, &[MANY.to_owned()], &Mail::sized(1, 2_000, 3)[0].message(1)).await?;
    wire.ask("QUIT\r\n", "221").await?;
    let address = address(MANY);
    let sql = format!(
        "INSERT INTO messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets,
                               header_octets, received_at, digest, delivered_to, unique_id)
         SELECT m.tenant_id, m.mailbox_id, m.uid + n, m.pack_id, m.pack_offset, m.pack_length, m.octets,
                m.header_octets, m.received_at, m.digest, m.delivered_to, NULL
           FROM messages m JOIN mailboxes b USING (tenant_id, mailbox_id), generate_series(1, {count} - 1) n
          WHERE b.address = '{address}' AND m.uid = 1;
         UPDATE mailboxes b
            SET next_uid = s.uid + 1, message_count = s.messages, octets = s.octets
           FROM (SELECT mailbox_id, max(m.uid) AS uid, count(*) AS messages, sum(m.octets) AS octets
                   FROM messages m GROUP BY mailbox_id) s
          WHERE b.mailbox_id = s.mailbox_id AND b.address = '{address}';
         ANALYZE;"
    );
    node.postgres.sql("postern", &sql).context("fill maildrop")?;
    Ok(())
}

/// The plans of what login with STAT and UIDL ask the database (`listing.rs` in
/// `crates/index/src/postgres/maildrops`, and the function `open_maildrops`).
fn explain(node: &Node) -> anyhow::Result<()> {
    let address = address(MANY);
    let mailbox = format!("SELECT mailbox_id FROM mailboxes WHERE address = '{address}'");
    let ids = node.postgres.sql(
        "postern",
        &format!(
            "SELECT b.tenant_id, b.mailbox_id, t.revision, b.credential_version \
               FROM mailboxes b JOIN tenants t ON t.tenant_id = b.tenant_id WHERE b.address = '{address}'"
        ),
    )?;
    let mut ids = ids.split('|').map(str::to_owned);
    let mut next = || ids.next().with_context(|| format!("read {mailbox}"));
    let (tenant, id, revision, version) = (next()?, next()?, next()?, next()?);
    let asked = format!(
        "unnest('{{{tenant}}}'::uuid[], '{{{id}}}'::uuid[], '{{{revision}}}'::bigint[], '{{{version}}}'::bigint[])"
    );
    let statements = [
        (
            "the whole call of login: lock and counters",
            format!(
                "SELECT * FROM open_maildrops((SELECT node_id FROM nodes ORDER BY expires_at DESC LIMIT 1), \
                 '{{{tenant}}}', '{{{id}}}', '{{{revision}}}', '{{{version}}}', ARRAY[gen_random_uuid()], \
                 '{{explained}}', '{{local}}', '{{0}}', '{{NULL}}', interval '10 s')"
            ),
        ),
        (
            "inside it: the lock",
            format!(
                "INSERT INTO maildrop_locks AS l (tenant_id, mailbox_id, token, node_id) \
                 SELECT r.tenant, r.mailbox, gen_random_uuid(), gen_random_uuid() \
                   FROM {asked} AS r (tenant, mailbox, revision, version) \
                   JOIN mailboxes b ON b.tenant_id = r.tenant AND b.mailbox_id = r.mailbox \
                                   AND b.credential_version = r.version \
                   JOIN tenants t ON t.tenant_id = r.tenant AND t.revision = r.revision \
                  ORDER BY r.tenant, r.mailbox \
                     ON CONFLICT (tenant_id, mailbox_id) DO UPDATE \
                    SET token = excluded.token, node_id = excluded.node_id \
                  WHERE NOT node_lives(l.node_id)"
            ),
        ),
        (
            "inside it: the counters that STAT answers with",
            format!(
                "SELECT l.token, b.message_count, b.octets, b.next_uid \
                   FROM {asked} AS r (tenant, mailbox, revision, version) \
                   LEFT JOIN mailboxes b ON b.tenant_id = r.tenant AND b.mailbox_id = r.mailbox \
                   LEFT JOIN tenants t ON t.tenant_id = r.tenant \
                   LEFT JOIN maildrop_locks l ON l.tenant_id = r.tenant AND l.mailbox_id = r.mailbox"
            ),
        ),
        (
            "UIDL and LIST: a page of the listing",
            format!(
                "SELECT coalesce(array_agg(uid), '{{}}'), coalesce(array_agg(octets), '{{}}') \
                   FROM (SELECT uid, octets, unique_id FROM messages \
                          WHERE tenant_id = '{tenant}' AND mailbox_id = '{id}' AND uid > 50000 AND uid < 1000000 \
                          ORDER BY uid LIMIT 10000) AS page"
            ),
        ),
    ];
    for (what, statement) in statements {
        // Nothing of it stays: a lock left behind would be in the way.
        let sql = format!("BEGIN; EXPLAIN (ANALYZE, BUFFERS) {statement}; ROLLBACK;");
        println!("\n-- {what}\n{}", node.postgres.sql("postern", &sql)?);
    }
    Ok(())
}
