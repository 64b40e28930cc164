//! Garbage is given back while readers and deliveries go on; nothing that anything points at is.
//!
//! A small seeded run by default; `POSTERN_TEST_GC_MESSAGES=100000` and `POSTERN_TEST_GC_ROUNDS=40` for the long ones.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;

use crate::support::{
    Bucket, Dice, Http, Lmtp, Node, NodeOptions, Pop3, Stores, login, message, wait_for, without_trace,
};

const SENDERS: usize = 8;
const SOON: &str =
    "[gc]\ninterval = \"200ms\"\ngrace = \"1s\"\n[worker]\ninterval = \"1s\"\n[cluster]\nnode_ttl = \"1s\"\n";

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |n| n.parse().unwrap())
}

/// Two nodes with fast collection of garbage on one database and one bucket.
fn two_nodes() -> (Node, Node) {
    let mut options = NodeOptions::on(&Stores::servers());
    options.extra = SOON.into();
    (Node::start(&options), Node::start(&options))
}

fn octets(bucket: &Bucket) -> u64 {
    bucket.packs().iter().map(|(_, octets)| octets).sum()
}

fn metric(node: &Node, name: &str) -> u64 {
    let (_, text) = Http::new(node.admin, "").get("/metrics");
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok();
    text.lines().find_map(value).unwrap_or(0.0) as u64
}

fn requests(nodes: [&Node; 2]) -> String {
    let of = |kind| {
        let name = format!("postern_object_requests_total{{kind=\"{kind}\",result=\"ok\"}}");
        nodes.iter().map(|node| metric(node, &name)).sum::<u64>()
    };
    let [put, get, delete, list] = ["put", "get", "delete", "list"].map(of);
    format!("{put} put, {get} get, {delete} delete, {list} list")
}

fn sum(nodes: [&Node; 2], name: &str) -> u64 {
    nodes.iter().map(|node| metric(node, name)).sum()
}

/// Delivers message `tag`s to mailboxes, `SENDERS` at once; the `n`th goes to `to(n)`.
fn deliver_all(node: &Node, count: usize, to: impl Fn(usize) -> (String, String, usize) + Sync) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                let mut client = Lmtp::connect(node.lmtp).unwrap();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed) as usize;
                    if n >= count {
                        return;
                    }
                    let (mailbox, tag, size) = to(n);
                    let replies = client.deliver(&[&mailbox], &message(&tag, size)).unwrap();
                    assert!(replies[0].starts_with("250"), "{replies:?}");
                }
            });
        }
    });
}

fn size(n: usize) -> usize {
    400 + 700 * (n % 17)
}

/// Reads the `number`th message of a session and compares it with what was sent by its subject, `n` in `m{n}`.
fn check(pop3: &mut Pop3, number: usize) -> usize {
    let read = pop3.retr(number);
    let text = String::from_utf8_lossy(&read);
    let (_, tag) = text.split_once("Subject: m").expect("a subject");
    let n: usize = tag.lines().next().unwrap().parse().unwrap();
    assert_eq!(without_trace(&read), message(&format!("m{n}"), size(n)));
    n
}

fn check_all(node: &Node, mailbox: &str) -> Vec<usize> {
    let mut pop3 = wait_for("the maildrop is free", Duration::from_secs(30), || {
        let mut pop3 = Pop3::connect(node.pop3).ok()?;
        pop3.command(&format!("USER {mailbox}")).ok()?;
        pop3.command("PASS pw").ok()?.starts_with("+OK").then_some(pop3)
    });
    let count = pop3.list("LIST").len();
    let mut all: Vec<usize> = (1..=count).map(|number| check(&mut pop3, number)).collect();
    pop3.ok("QUIT");
    all.sort_unstable();
    all
}

fn collected(node: &Node) -> bool {
    let nothing = "SELECT (SELECT count(*) FROM pack_garbage) + (SELECT count(*) FROM garbage_packs
                    WHERE due OR dead_at IS NOT NULL AND deleted_at IS NULL)";
    node.stores().number(nothing) == Some(0)
}

#[test]
fn space_comes_back_while_readers_and_deliveries_go_on() {
    let count = number("POSTERN_TEST_GC_MESSAGES", 1500);
    let (first, second) = two_nodes();
    first.tenant("one");
    let [a, b, live] = ["a", "b", "live"].map(|local| first.mailbox("one", local, None));
    // One of ten is of a mailbox whose session goes on all the time: its messages lie among the others'.
    let of = |n: usize| (if n.is_multiple_of(10) { &b } else { &a }.clone(), format!("m{n}"), size(n));
    deliver_all(&first, count, of);
    let before = (octets(first.stores().bucket()), first.stores().bucket().packs().len());
    let of_deliveries = requests([&first, &second]);
    let mut held = login(second.pop3, &b, "pw");
    let of_held = held.list("LIST").len();
    assert_eq!(of_held, count.div_ceil(10));
    check(&mut held, 1);

    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let delivered = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut n = count;
            let mut client = Lmtp::connect(first.lmtp).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let replies = client.deliver(&[&live], &message(&format!("m{n}"), size(n))).unwrap();
                assert!(replies[0].starts_with("250"), "{replies:?}");
                n += 1;
                thread::sleep(Duration::from_millis(20));
            }
            n
        });
        let reader = scope.spawn(|| {
            let mut sessions = 0;
            while !stop.load(Ordering::Relaxed) {
                check_all(&second, &live);
                sessions += 1;
            }
            sessions
        });
        let mut pop3 = login(first.pop3, &a, "pw");
        for number in 1..=pop3.list("LIST").len() {
            pop3.ok(&format!("DELE {number}"));
        }
        pop3.ok("QUIT");
        wait_for("garbage is collected", Duration::from_secs(60 + count as u64 / 50), || {
            // The session that began before it reads on, of packs that were rewritten and deleted since.
            check(&mut held, 1 + start.elapsed().as_millis() as usize % of_held);
            collected(&first).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
        sender.join().unwrap()
    });
    let after = (octets(first.stores().bucket()), first.stores().bucket().packs().len());
    println!(
        "{count} messages, 90 % deleted: {} octets in {} objects before, {} in {} after ({} of them delivered meanwhile), in {:.1} s",
        before.0,
        before.1,
        after.0,
        after.1,
        delivered - count,
        start.elapsed().as_secs_f64()
    );
    println!("requests: {of_deliveries} for deliveries; {} in all", requests([&first, &second]));
    let nodes = [&first, &second];
    let [deleted, rewritten, damaged] = ["packs_deleted", "packs_rewritten", "damaged_entries"]
        .map(|name| sum(nodes, &format!("postern_gc_{name}_total")));
    println!("{deleted} packs deleted, {rewritten} rewritten");
    assert!(deleted > 0 && rewritten > 0 && damaged == 0, "{deleted} {rewritten} {damaged}");
    // What is left, a little around it, and what came meanwhile.
    let new: u64 = (count..delivered).map(|n| size(n) as u64 + 1024).sum();
    assert!(after.0 < before.0 * 3 / 10 + new, "{} of {} octets are left, {new} are new", after.0, before.0);
    for number in 1..=of_held {
        check(&mut held, number);
    }
    held.ok("QUIT");
    assert_eq!(check_all(&first, &b), (0..count).step_by(10).collect::<Vec<_>>());
    assert_eq!(check_all(&first, &live), (count..delivered).collect::<Vec<_>>());
    assert!(check_all(&first, &a).is_empty());
    // Each object is a pack that the index knows, and the other way round.
    let known = "SELECT count(*) FROM packs p WHERE NOT EXISTS (SELECT FROM garbage_packs g
                  WHERE g.pack_id = p.pack_id AND g.deleted_at IS NOT NULL)";
    assert_eq!(first.stores().number(known), Some(first.stores().bucket().packs().len() as i64));
}

#[test]
fn objects_no_row_knows_are_swept_unless_the_index_may_have_known_them() {
    let mut options = NodeOptions::on(&Stores::servers());
    options.extra = SOON.into();
    let mut node = Node::start(&options);
    node.tenant("one");
    let mailbox = node.mailbox("one", "a", None);
    deliver_all(&node, 20, |n| (mailbox.clone(), format!("m{n}"), size(n)));
    let packs = node.stores().bucket().packs().len();
    let tenant = node.stores().bucket().packs()[0].0.split('/').nth(1).unwrap().to_owned();
    // A pack's name begins with its time in milliseconds, and its part is its last octet.
    let orphan = |age: Duration, nth: u8| {
        let at = SystemTime::now().checked_sub(age).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let millis = format!("{:012x}", at.as_millis());
        format!("t/{tenant}/p/{nth:02x}/{}-{}-7000-8000-0000000000{nth:02x}", &millis[..8], &millis[8..])
    };
    let there = |node: &Node, key: &str| node.stores().bucket().packs().iter().any(|(other, _)| other == key);
    let day = Duration::from_hours(24);
    let (old, young) = (orphan(day * 3, 0xa1), orphan(Duration::from_hours(23), 0x05));
    for key in [&old, &young] {
        node.stores().bucket().put(key, "lost");
    }
    // The first round of a node looks for orphans, where the last sweep was not just now.
    let swept_anew = |node: &mut Node, sql: &str| {
        node.kill9();
        node.stores().execute(&format!("DELETE FROM pack_sweeps; DELETE FROM tasks; {sql}"));
        node.up();
        let swept = "SELECT count(*) FROM pack_sweeps WHERE until IS NULL";
        let swept = || (node.stores().number(swept) == Some(1)).then_some(());
        wait_for("the sweep is over", Duration::from_secs(30), swept);
    };
    swept_anew(&mut node, "");
    assert!(!there(&node, &old));
    assert!(there(&node, &young), "a delivery may be about to make rows for it");
    assert_eq!(node.stores().number("SELECT count(*) FROM held_times"), Some(0));
    let (lost, older) = (orphan(day * 2, 0xa2), orphan(day * 4, 0xa3));
    for key in [&lost, &older] {
        node.stores().bucket().put(key, "lost");
    }
    // As after a restore of a state of two and a half days ago.
    let set_back = "UPDATE pack_beacons SET beacon = gen_random_uuid(), at = now() - interval '60 hours'";
    swept_anew(&mut node, set_back);
    assert!(!there(&node, &older), "it was no orphan then");
    assert!(there(&node, &lost), "the index may have known it");
    assert_eq!(metric(&node, "postern_gc_orphans_left_total"), 1);
    assert!(node.log().contains("the index may have been set back"), "{}", node.log());
    swept_anew(&mut node, "");
    assert!(there(&node, &lost), "and that is not forgotten");
    let held = "SELECT count(*) FROM held_times WHERE shard = (SELECT gc_shard(tenant_id) FROM tenants)
                   AND until_at - from_at BETWEEN '62 hours' AND '63 hours'";
    assert_eq!(node.stores().number(held), Some(1));
    assert_eq!(node.stores().bucket().packs().len(), packs + 2);
    assert_eq!(check_all(&node, &mailbox), (0..20).collect::<Vec<_>>());
}

#[test]
fn what_was_deleted_is_restored_from_a_rewritten_pack() {
    let (first, second) = two_nodes();
    first.tenant("one");
    let [a, b] = ["a", "b"].map(|local| first.mailbox("one", local, None));
    let policy = json!({ "policy": { "undelete_days": 7 } });
    let path = format!("/v1/tenants/one/mailboxes/{b}");
    let (status, body) = first.http().json("PATCH", &path, &policy);
    assert_eq!(status, 200, "{body}");
    deliver_all(&first, 200, |n| {
        (if n.is_multiple_of(8) { &b } else { &a }.clone(), format!("m{n}"), size(n))
    });
    for mailbox in [&b, &a] {
        let mut pop3 = login(first.pop3, mailbox, "pw");
        for number in 1..=pop3.list("LIST").len() {
            pop3.ok(&format!("DELE {number}"));
        }
        pop3.ok("QUIT");
    }
    wait_for("garbage is collected", Duration::from_secs(60), || collected(&first).then_some(()));
    assert!(sum([&first, &second], "postern_gc_packs_rewritten_total") > 0);
    for uid in 1..=25 {
        let path = format!("/v1/tenants/one/mailboxes/{b}/messages/{uid}/restore");
        let (status, body) = first.http().json("POST", &path, &json!({}));
        assert!(status < 300, "{status} {body}");
    }
    assert_eq!(check_all(&second, &b), (0..200).step_by(8).collect::<Vec<_>>());
}

#[test]
fn nodes_killed_while_they_collect_lose_nothing() {
    let rounds = number("POSTERN_TEST_GC_ROUNDS", 4);
    let seed: u64 = std::env::var("POSTERN_TEST_GC_SEED").map_or(20_261_123, |n| n.parse().unwrap());
    let mut dice = Dice::new(seed);
    let (mut first, mut second) = two_nodes();
    first.tenant("one");
    let [kept, gone] = ["kept", "gone"].map(|local| first.mailbox("one", local, None));
    let (mut sent, mut expected, mut kills) = (0, Vec::new(), 0);
    for _ in 0..rounds {
        let keeps = |n: usize| n.is_multiple_of(5);
        deliver_all(&first, 120, |n| {
            let n = sent + n;
            (if keeps(n) { &kept } else { &gone }.clone(), format!("m{n}"), size(n))
        });
        expected.extend((sent..sent + 120).filter(|n| keeps(*n)));
        sent += 120;
        let mut pop3 = login(first.pop3, &gone, "pw");
        for number in 1..=pop3.list("LIST").len() {
            pop3.ok(&format!("DELE {number}"));
        }
        pop3.ok("QUIT");
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(dice.roll(700)));
            let node = if dice.roll(2) == 0 { &mut first } else { &mut second };
            node.kill9();
            node.up();
            kills += 1;
        }
        assert_eq!(check_all(&second, &kept), expected);
    }
    wait_for("garbage is collected", Duration::from_secs(120), || collected(&first).then_some(()));
    assert_eq!(check_all(&first, &kept), expected);
    println!(
        "seed {seed}: {rounds} rounds, {kills} kills, {sent} messages sent, {} left, all readable; {} objects",
        expected.len(),
        first.stores().bucket().packs().len()
    );
    for node in [&first, &second] {
        assert!(!node.log().contains("panicked") && !node.log().contains("is damaged"), "{}", node.log());
    }
}
