//! `postern fsck` and the scrub: index and packs are compared, damage is found, told, and never served.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{Http, Lmtp, Node, NodeOptions, login, message, wait_for, without_trace};

const PATIENCE: Duration = Duration::from_secs(60);

fn fsck(node: &Node, more: &[&str]) -> Output {
    let mut command = node.postern();
    command.args(["fsck", "--json", "--config"]).arg(node.config_path()).args(more);
    command.output().unwrap()
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[track_caller]
fn clean(node: &Node, more: &[&str]) -> Value {
    let output = fsck(node, more);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["counts"], serde_json::json!({}));
    report
}

/// What it finds, by kind.
#[track_caller]
fn finds(node: &Node, more: &[&str], kinds: &[&str]) -> Value {
    let output = fsck(node, more);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    let found: Vec<&String> = report["counts"].as_object().unwrap().keys().collect();
    assert_eq!(found, kinds, "{report}");
    report
}

fn send(node: &Node, to: &[&str], tag: &str, octets: usize) {
    let replies = Lmtp::connect(node.lmtp).unwrap().deliver(to, &message(tag, octets)).unwrap();
    assert!(replies.iter().all(|reply| reply.starts_with("250")), "{replies:?}");
}

fn stop(node: &mut Node) {
    node.signal(15);
    assert!(node.wait().success());
}

/// Files of packs, oldest first, by tenant.
fn packs(node: &Node) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                walk(&entry, found);
            } else if entry.components().any(|part| part.as_os_str() == "p") {
                found.push(entry);
            }
        }
    }
    let mut found = Vec::new();
    walk(&node.dir.path().join("data/packs"), &mut found);
    found.sort_by_key(|path| path.file_name().unwrap().to_owned());
    found
}

fn with_flipped<T>(path: &Path, at: usize, run: impl FnOnce() -> T) -> T {
    let good = fs::read(path).unwrap();
    let mut flipped = good.clone();
    flipped[at] ^= 0x40;
    fs::write(path, flipped).unwrap();
    let result = run();
    fs::write(path, good).unwrap();
    result
}

#[test]
fn a_flipped_octet_is_found_told_and_never_served() {
    let mut node = Node::start(&NodeOptions::embedded());
    node.tenant("one");
    let a = node.mailbox("one", "a", None);
    send(&node, &[&a], "first", 400);
    send(&node, &[&a], "second", 150_000);
    stop(&mut node);
    clean(&node, &["--deep"]);
    let files = packs(&node);
    let second = fs::read(&files[1]).unwrap();
    let end = second.len();
    // Of each region: header, prefix, envelope's header and octets, body frames, summary, footer, trailer.
    let places = [
        (0, false),
        (20, false),
        (50, false),
        (66, true),
        (80, true),
        (110, true),
        (130, true),
        (end / 3, true),
        (end / 2, true),
        (end - 72 - 40, true),
        (end - 72 - 84 + 2, true),
        (end - 70, false),
        (end - 50, false),
        (end - 30, false),
        (end - 2, false),
    ];
    for (at, within) in places {
        with_flipped(&files[1], at, || {
            let kinds: &[&str] = if within { &["entry_damaged", "pack_damaged"] } else { &["pack_damaged"] };
            let report = finds(&node, &["--deep"], kinds);
            let lost = report["findings"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|found| found["kind"] == "entry_damaged");
            assert_eq!(
                lost.map(|found| found["uid"].clone()).collect::<Vec<_>>(),
                if within { vec![2] } else { vec![] }
            );
        });
    }
    // Served it is not, in whole or in part past what was verified.
    for at in [80, 130, end / 2, end - 72 - 40] {
        with_flipped(&files[1], at, || {
            node.up();
            let mut pop3 = login(node.pop3, &a, "pw");
            assert_eq!(without_trace(&pop3.retr(1)), message("first", 400));
            let reply = pop3.command("RETR 2").unwrap();
            if reply.starts_with("+OK") {
                // What is in the first chunks is good; the rest is never sent.
                assert!(pop3.body().is_err(), "octet {at}");
            } else {
                assert!(reply.starts_with("-ERR [SYS/PERM]"), "octet {at}: {reply}");
            }
            drop(pop3);
            stop(&mut node);
        });
    }
    clean(&node, &["--deep"]);
    // Given up: it is taken out of the mailbox, with its row kept, and all is in order.
    let mut flipped = second;
    flipped[end / 2] ^= 1;
    fs::write(&files[1], flipped).unwrap();
    finds(&node, &["--deep"], &["entry_damaged", "pack_damaged"]);
    let output = fsck(&node, &["--deep", "--quarantine"]);
    assert_eq!(report(&output)["repaired"], 1);
    clean(&node, &["--deep"]);
    node.up();
    let mut pop3 = login(node.pop3, &a, "pw");
    assert_eq!(pop3.ok("STAT").split(' ').nth(1), Some("1"));
    assert_eq!(without_trace(&pop3.retr(1)), message("first", 400));
}

#[test]
fn another_tenants_pack_opens_for_nobody() {
    let mut node = Node::start(&NodeOptions::embedded());
    node.tenant("one");
    node.tenant("two");
    let users = [node.mailbox("one", "a", None), node.mailbox("two", "a", None)];
    for (user, octets) in users.iter().zip([700, 1900]) {
        send(&node, &[user], "same", octets);
    }
    stop(&mut node);
    let files = packs(&node);
    let octets: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    fs::write(&files[0], &octets[1]).unwrap();
    fs::write(&files[1], &octets[0]).unwrap();
    let report = finds(&node, &[], &["entry_damaged", "pack_damaged", "pack_size"]);
    assert_eq!(report["counts"]["entry_damaged"], 2);
    node.up();
    for user in &users {
        let mut pop3 = login(node.pop3, user, "pw");
        let reply = pop3.err("RETR 1");
        assert!(reply.starts_with("-ERR [SYS/PERM]"), "{reply}");
        pop3.ok("QUIT");
    }
    stop(&mut node);
    fs::write(&files[0], &octets[0]).unwrap();
    fs::write(&files[1], &octets[1]).unwrap();
    clean(&node, &["--deep"]);
}

#[test]
fn what_index_and_bucket_disagree_about_is_found_and_mended() {
    let node = Node::start(&NodeOptions::servers());
    node.tenant("one");
    node.tenant("two");
    let [a, b] = ["a", "b"].map(|local| node.mailbox("one", local, None));
    let c = node.mailbox("two", "c", None);
    for n in 0..4 {
        send(&node, &[&a, &b], &format!("both{n}"), 900);
        send(&node, &[&c], &format!("c{n}"), 900);
    }
    let sql = |sql: &str| node.stores().execute(sql);
    // It may run beside nodes, and while mail comes in.
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for n in 0..40 {
                send(&node, &[&a], &format!("meanwhile{n}"), 500);
            }
        });
        while !sender.is_finished() {
            clean(&node, &[]);
        }
    });
    sql(
        "UPDATE mailboxes SET message_count = message_count + 3, octets = octets + 100 WHERE address LIKE 'a@%'",
    );
    sql("UPDATE mailboxes SET next_uid = 2 WHERE address LIKE 'b@%'");
    sql("UPDATE tenant_usage SET messages = messages + 7
          WHERE tenant_id = (SELECT tenant_id FROM tenants WHERE name = 'two')");
    finds(&node, &["--tenant", "one"], &["counters"]);
    let report = finds(&node, &[], &["counters", "usage"]);
    assert_eq!(report["counts"]["counters"], 2);
    let output = fsck(&node, &["--repair"]);
    assert_eq!(output.status.code(), Some(0), "all of it was mended");
    clean(&node, &[]);
    send(&node, &[&b], "after", 600);
    assert_eq!(login(node.pop3, &b, "pw").list("UIDL").len(), 5);

    // A pack that the index forgot.
    sql("DELETE FROM packs WHERE pack_id = (SELECT pack_id FROM messages ORDER BY received_at LIMIT 1)");
    finds(&node, &[], &["pack_not_known"]);
    assert_eq!(fsck(&node, &["--repair"]).status.code(), Some(0));
    clean(&node, &["--deep"]);

    // A row that tells of another message than the entry is; and an object that is gone.
    sql("UPDATE messages SET digest = decode(repeat('ab', 32), 'hex')
          WHERE (mailbox_id, uid) = (SELECT mailbox_id, max(uid) FROM messages GROUP BY mailbox_id
                                      HAVING mailbox_id = (SELECT mailbox_id FROM mailboxes WHERE address LIKE 'c@%'))");
    let row = node.stores().text(
        "SELECT tenant_id || '/p/' || right(pack_id::text, 2) || '/' || pack_id FROM messages
          WHERE mailbox_id = (SELECT mailbox_id FROM mailboxes WHERE address LIKE 'a@%') ORDER BY uid LIMIT 1",
    );
    node.stores().bucket().delete(&format!("t/{row}"));
    let report = finds(&node, &["--repair"], &["entry_differs", "pack_missing"]);
    assert_eq!(report["repaired"], 0, "nobody's mail is taken away unasked");
    let missing = report["findings"].as_array().unwrap().iter().find(|found| found["kind"] == "pack_missing");
    assert_eq!(missing.unwrap()["rows"], 2, "{report}");
    let before = node.stores().number("SELECT count(*) FROM messages").unwrap();
    assert_eq!(fsck(&node, &["--quarantine"]).status.code(), Some(0));
    assert_eq!(node.stores().number("SELECT count(*) FROM messages"), Some(before - 3));
    assert_eq!(
        node.stores().number("SELECT count(*) FROM message_quarantine WHERE row_was ? 'delivered_to'"),
        Some(3)
    );
    clean(&node, &["--deep"]);
    for user in [&a, &b, &c] {
        let mut pop3 = login(node.pop3, user, "pw");
        for number in 1..=pop3.list("LIST").len() {
            pop3.retr(number);
        }
        pop3.ok("QUIT");
    }
}

#[test]
fn a_check_is_gone_on_with() {
    let node = Node::start(&NodeOptions::servers());
    for tenant in ["one", "three", "two"] {
        node.tenant(tenant);
        let user = node.mailbox(tenant, "a", None);
        for n in 0..3 {
            send(&node, &[&user], &format!("n{n}"), 700);
        }
    }
    node.stores().execute("UPDATE mailboxes SET octets = octets + 1");
    let state = node.dir.path().join("state.json");
    let with_state = ["--state", state.to_str().unwrap()];
    // As a check leaves it that was broken off behind tenant one.
    let begun = r#"{"done":"one","pack":null,"report":{"tenants":1,"packs":3,"entries":3,"octets_read":9,"mailboxes":500,
                    "counts":{"counters":1},"repaired":0,"findings":[]}}"#;
    fs::write(&state, begun).unwrap();
    let report = finds(&node, &with_state, &["counters"]);
    assert_eq!(
        (report["tenants"].clone(), report["counts"]["counters"].clone()),
        (3.into(), 3.into()),
        "{report}"
    );
    assert!(!state.exists(), "it is done");
    fs::write(&state, "nonsense").unwrap();
    let output = fsck(&node, &with_state);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a state"));
    let wrong = fsck(&node, &["--tenant", "nobody"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no such tenant"));
}

#[test]
fn the_scrub_finds_damage_before_anybody_reads_it() {
    let mut options = NodeOptions::embedded();
    options.extra = "[scrub]\noctets_per_second = 100000000\n".into();
    let mut node = Node::start(&options);
    node.tenant("one");
    let a = node.mailbox("one", "a", None);
    for n in 0..5 {
        send(&node, &[&a], &format!("n{n}"), 3000);
    }
    stop(&mut node);
    let files = packs(&node);
    let octets = fs::read(&files[3]).unwrap();
    with_flipped(&files[3], octets.len() / 2, || {
        node.up();
        let metric = |node: &Node, name: &str| {
            let (_, text) = Http::new(node.admin, "").get("/metrics");
            let value =
                text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
            value.map_or(0.0, |value| value.parse::<f64>().unwrap())
        };
        wait_for("the scrub has seen it", PATIENCE * 2, || {
            (metric(&node, "postern_scrub_damaged_total") > 0.0).then_some(())
        });
        assert!(node.log().contains("a pack is damaged"), "{}", node.log());
        assert!(metric(&node, "postern_scrub_packs_total") > 0.0);
        // It touches nothing.
        let mut pop3 = login(node.pop3, &a, "pw");
        assert_eq!(pop3.list("LIST").len(), 5);
        pop3.ok("QUIT");
        stop(&mut node);
    });
}
