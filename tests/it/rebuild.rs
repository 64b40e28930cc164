//! The index is lost, or set back: `postern rebuild` gives it back from the bucket and the keys (P8).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    Bucket, Database, Http, Lmtp, Node, NodeOptions, Stores, env, login, message, run, unstuffed, wait_for,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Everything in the background soon.
const SOON: &str = "[gc]\ninterval = \"200ms\"\ngrace = \"1s\"\n[worker]\ninterval = \"200ms\"\n\
                    [cluster]\nnode_ttl = \"1s\"\n[manifest]\ninterval = \"200ms\"\n";
/// The same, but no manifests.
const WITHOUT: &str = "[gc]\ninterval = \"200ms\"\ngrace = \"1s\"\n[worker]\ninterval = \"200ms\"\n\
                       [cluster]\nnode_ttl = \"1s\"\n[manifest]\ninterval = \"0s\"\n";

/// What a client sees: unique-ids, and octets of each message.
type Seen = BTreeMap<String, Vec<u8>>;

fn see(node: &Node, user: &str, password: &str) -> Seen {
    let mut pop3 = wait_for("the maildrop is free", PATIENCE, || {
        let mut pop3 = crate::support::Pop3::connect(node.pop3).ok()?;
        pop3.command(&format!("USER {user}")).ok()?;
        pop3.command(&format!("PASS {password}")).ok()?.starts_with("+OK").then_some(pop3)
    });
    let listed = pop3.list("UIDL");
    let seen = listed
        .iter()
        .map(|line| {
            let (number, id) = line.split_once(' ').unwrap();
            (id.to_owned(), pop3.retr(number.parse().unwrap()))
        })
        .collect();
    pop3.ok("QUIT");
    seen
}

fn see_all(node: &Node, users: &[String]) -> BTreeMap<String, Seen> {
    users.iter().map(|user| (user.clone(), see(node, user, "pw"))).collect()
}

fn send(node: &Node, to: &[&str], tag: &str, octets: usize) {
    let replies = Lmtp::connect(node.lmtp).unwrap().deliver(to, &message(tag, octets)).unwrap();
    assert!(replies.iter().all(|reply| reply.starts_with("250")), "{replies:?}");
}

fn delete(node: &Node, user: &str, which: impl Fn(usize) -> bool) {
    let mut pop3 = login(node.pop3, user, "pw");
    for number in (1..=pop3.list("LIST").len()).filter(|number| which(*number)) {
        pop3.ok(&format!("DELE {number}"));
    }
    pop3.ok("QUIT");
}

fn manifests_are_written(node: &Node) {
    let due = "SELECT (SELECT count(*) FROM mailboxes WHERE manifest_due) + (SELECT count(*) FROM manifest_notes)
                    + (SELECT count(*) FROM tenants t WHERE NOT EXISTS
                        (SELECT FROM manifest_rounds r WHERE r.tenant_id = t.tenant_id AND r.is_full AND r.finished))";
    wait_for("manifests are written", PATIENCE, || (node.stores().number(due) == Some(0)).then_some(()));
}

fn garbage_is_collected(node: &Node) {
    let left = "SELECT (SELECT count(*) FROM pack_garbage) + (SELECT count(*) FROM garbage_packs
                 WHERE due OR dead_at IS NOT NULL AND deleted_at IS NULL)";
    wait_for("garbage is collected", PATIENCE, || (node.stores().number(left) == Some(0)).then_some(()));
}

fn post(node: &Node, path: &str, body: &Value) -> Value {
    let (status, body) = node.http().json("POST", path, body);
    assert!(status < 300, "{path}: {status} {body}");
    body
}

fn rebuild(node: &Node, more: &[&str]) -> Output {
    let mut command = node.postern();
    command.args(["rebuild", "--config"]).arg(node.config_path()).args(more);
    command.output().unwrap()
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap()
}

fn sum(report: &Value, what: &str) -> u64 {
    report["tenants"].as_array().unwrap().iter().map(|tenant| tenant[what].as_u64().unwrap()).sum()
}

fn stop(node: &mut Node) {
    node.signal(15);
    assert!(node.wait().success());
}

/// A node on the same bucket and another database, with its schema.
fn on_new_database(bucket: &Bucket, extra: &str) -> Node {
    let mut options = NodeOptions::on(&Stores::Servers(Database::new(), bucket.clone()));
    options.extra = extra.into();
    let node = Node::prepare(&options);
    run(node.postern().args(["migrate", "--config"]).arg(node.config_path()));
    node
}

fn bucket(node: &Node) -> Bucket {
    let Stores::Servers(_, bucket) = node.stores() else { unreachable!() };
    bucket.clone()
}

/// Two tenants with mail to one and to several, deletions, aliases, a bulletin, and packs that were rewritten.
fn busy_node(extra: &str) -> (Node, Vec<String>) {
    let mut options = NodeOptions::servers();
    options.extra = extra.into();
    let node = Node::start(&options);
    node.tenant("one");
    node.tenant("two");
    let users: Vec<String> = [("one", "a"), ("one", "b"), ("one", "c"), ("two", "a")]
        .iter()
        .map(|(tenant, local)| node.mailbox(tenant, local, None))
        .collect();
    post(&node, "/v1/tenants/one/aliases", &json!({ "address": "sales@one.test", "mailbox": users[1] }));
    // At once, so that they share packs.
    thread::scope(|scope| {
        for sender in 0..8 {
            let (node, users) = (&node, &users);
            scope.spawn(move || {
                for n in 0..20 {
                    let to = &users[(sender + n) % 2];
                    send(node, &[to], &format!("s{sender}n{n}"), 300 + 90 * n);
                }
            });
        }
    });
    for n in 0..5 {
        send(&node, &[&users[0], &users[1], &users[2]], &format!("all{n}"), 2000);
        send(&node, &["sales@one.test"], &format!("sales{n}"), 500);
        send(&node, &[&users[3]], &format!("two{n}"), 700 + 80_000 * n);
    }
    (node, users)
}

fn post_bulletin(node: &Node, users: &[String]) {
    let before: Vec<usize> = users.iter().map(|user| see(node, user, "pw").len()).collect();
    let url = format!("http://{}/v1/tenants/one/bulletins?note=news", node.admin);
    let body = String::from_utf8(message("news", 900)).unwrap();
    run(Command::new("curl")
        .args(["-sS", "--fail-with-body", "-H", "Content-Type: message/rfc822"])
        .args(["-H", &format!("Authorization: Bearer {}", crate::support::TOKEN)])
        .args(["--data-binary", &body, &url]));
    for (user, before) in users.iter().zip(before).take(3) {
        wait_for("the bulletin is there", PATIENCE, || {
            (see(node, user, "pw").len() == before + 1).then_some(())
        });
    }
}

#[test]
fn a_lost_database_comes_back() {
    let (mut node, users) = busy_node(SOON);
    post_bulletin(&node, &users);
    // Most of what shares packs with what is left.
    delete(&node, &users[0], |number| number % 5 != 0);
    delete(&node, &users[1], |number| number % 4 == 0);
    garbage_is_collected(&node);
    let (_, metrics) = Http::new(node.admin, "").get("/metrics");
    let rewritten = metrics.lines().find_map(|line| line.strip_prefix("postern_gc_packs_rewritten_total "));
    assert!(rewritten.unwrap().parse::<f64>().unwrap() > 0.0, "packs were rewritten");
    // Of several recipients one has no room: it refused the message, and shall not have it now.
    let small = node.mailbox("one", "small", Some(3000));
    let both = [users[2].as_str(), small.as_str()];
    let replies = Lmtp::connect(node.lmtp).unwrap().deliver(&both, &message("large", 9000)).unwrap();
    assert!(
        replies[0].starts_with("250") && replies[1].starts_with('4') || replies[1].starts_with('5'),
        "{replies:?}"
    );
    let gone = node.mailbox("one", "gone", None);
    send(&node, &[&gone], "gone", 400);
    let (status, body) = node.http().json("DELETE", &format!("/v1/tenants/one/mailboxes/{gone}"), &json!({}));
    assert!(status < 300, "{body}");
    manifests_are_written(&node);
    let expected = see_all(&node, &users);
    stop(&mut node);

    let mut new = on_new_database(&bucket(&node), WITHOUT);
    // Nothing is done, and the same is found, as often as is asked.
    let looked = report(&rebuild(&new, &["--dry-run", "--json"]));
    assert_eq!(new.stores().number("SELECT count(*) FROM tenants"), Some(0));
    let output = rebuild(&new, &["--json", "--verify"]);
    let done = report(&output);
    for what in ["mailboxes", "messages", "messages_found", "messages_gone"] {
        assert_eq!(sum(&looked, what), sum(&done, what), "{what}: {looked} {done}");
    }
    let live: usize = expected.values().map(BTreeMap::len).sum();
    assert_eq!(sum(&done, "messages") as usize, live, "{done}");
    assert_eq!((sum(&done, "messages_found"), sum(&done, "mailboxes")), (0, 5), "{done}");
    assert_eq!(sum(&done, "packs_read"), 0, "manifests tell all of it: {done}");
    println!(
        "{live} messages in 5 mailboxes restored from {} packs, of which {} were read",
        sum(&done, "packs"),
        sum(&done, "packs_read")
    );
    // Once more changes nothing.
    let again = report(&rebuild(&new, &["--json"]));
    assert_eq!((sum(&again, "messages"), sum(&again, "messages_found"), sum(&again, "mailboxes")), (0, 0, 0));
    new.up();
    assert_eq!(see_all(&new, &users), expected, "the same messages under the same unique-ids");
    assert!(see(&new, &small, "pw").is_empty(), "what was refused does not come back");
    let mut pop3 = crate::support::Pop3::connect(new.pop3).unwrap();
    pop3.ok(&format!("USER {gone}"));
    pop3.err("PASS pw");
    // It goes on: aliases, quotas, new unique-ids.
    send(&new, &["sales@one.test"], "after", 800);
    let after = see(&new, &users[1], "pw");
    let news: Vec<&String> = after.keys().filter(|id| !expected[&users[1]].contains_key(*id)).collect();
    assert_eq!((after.len(), news.len()), (expected[&users[1]].len() + 1, 1));
    let replies = Lmtp::connect(new.lmtp).unwrap().deliver(&[&small], &message("large", 9000)).unwrap();
    assert!(!replies[0].starts_with("250"), "{replies:?}");
    let counted = "SELECT count(*) FROM mailboxes b WHERE (message_count, octets) <>
                   (SELECT count(*), coalesce(sum(octets), 0) FROM messages m WHERE m.mailbox_id = b.mailbox_id)";
    assert_eq!(new.stores().number(counted), Some(0));
    let used = "SELECT sum(messages) FROM tenant_usage";
    assert_eq!(new.stores().number(used), new.stores().number("SELECT count(*) FROM messages"));
    garbage_is_collected(&new);
    assert_eq!(
        see_all(&new, &users[2..]),
        expected.into_iter().filter(|(user, _)| users[2..].contains(user)).collect()
    );
}

#[test]
fn what_came_after_the_last_manifest_comes_back_too() {
    let (mut node, users) = busy_node(SOON);
    manifests_are_written(&node);
    stop(&mut node);
    let mut options = NodeOptions::on(node.stores());
    options.extra = WITHOUT.into();
    let mut node = Node::start(&options);
    // Deleted since: mail comes back rather than being lost. Delivered since: to one, to several, to a new mailbox.
    let before = see_all(&node, &users);
    delete(&node, &users[2], |number| number == 1);
    send(&node, &[&users[0]], "late", 700);
    send(&node, &[&users[0], &users[3]], "late both", 90_000);
    let late = node.mailbox("one", "late", None);
    send(&node, &[&late], "first", 400);
    post_bulletin(&node, &users);
    // Packs that messages were moved to, and that no manifest names.
    delete(&node, &users[1], |number| number % 3 != 0);
    garbage_is_collected(&node);
    let expected = see_all(&node, &users);
    stop(&mut node);

    let mut new = on_new_database(&bucket(&node), WITHOUT);
    let done = report(&rebuild(&new, &["--json"]));
    assert_eq!(sum(&done, "mailboxes_found"), 1, "{done}");
    assert_eq!(sum(&done, "bulletins_found"), 1, "{done}");
    assert_eq!(sum(&done, "messages_found"), 4, "{done}");
    // One that is broken off anywhere, again and again, comes to the same.
    let again = on_new_database(&bucket(&node), WITHOUT);
    println!("{} rebuilds were killed", rebuild_with_kills(&again));
    let all =
        "SELECT md5(string_agg(concat(mailbox_id, encode(digest, 'hex')), ',' ORDER BY mailbox_id, digest))
                 FROM messages";
    let rows = |node: &Node| {
        let Stores::Servers(database, _) = node.stores() else { unreachable!() };
        database.sql(all)
    };
    assert_eq!(rows(&again), rows(&new));
    new.up();
    wait_for("the bulletin is rolled out", PATIENCE, || {
        let rows = "SELECT count(*) FROM bulletins WHERE state <> 'rolling_out'";
        (new.stores().number(rows) == Some(1)).then_some(())
    });
    let seen = see_all(&new, &users);
    for user in &users {
        let (was, is) = (&before[user], &seen[user]);
        // Octets of what is live are there, and what a unique-id stood for it stands for now, or nothing.
        for (id, octets) in &expected[user] {
            let there = if was.contains_key(id) {
                is.get(id) == Some(octets)
            } else {
                is.values().any(|o| o == octets)
            };
            assert!(there, "{user} {id}");
            assert!(is.get(id).is_none_or(|now| now == octets), "{user} {id} is another message");
        }
    }
    let all = |user: &str| seen[user].len() as i64 - expected[user].len() as i64;
    assert_eq!((all(&users[0]), all(&users[3])), (0, 0));
    assert_eq!(all(&users[2]), 1, "what was deleted after the last manifest");
    // A mailbox of after the last manifest has its mail, and a password once it is given one.
    let path = format!("/v1/tenants/one/mailboxes/{late}/password");
    let (status, body) = new.http().json("PUT", &path, &json!({ "password": "new" }));
    assert!(status < 300, "{status} {body}");
    assert_eq!(see(&new, &late, "new").len(), 2, "its message, and the bulletin");
}

#[test]
fn a_database_that_was_set_back_is_completed() {
    let (mut node, users) = busy_node(SOON);
    manifests_are_written(&node);
    let dump = dump(&node);
    let backup = see_all(&node, &users);
    // After the backup: some is deleted, some comes, a mailbox is created.
    delete(&node, &users[2], |number| number == 1);
    for n in 0..6 {
        send(&node, &[&users[0], &users[2]], &format!("after{n}"), 600);
    }
    let new_user = node.mailbox("one", "new", None);
    send(&node, &[&new_user], "for the new one", 600);
    manifests_are_written(&node);
    let expected = see_all(&node, &[users.clone(), vec![new_user.clone()]].concat());
    stop(&mut node);

    let mut back = on_restored_database(&dump, &bucket(&node));
    // A node on it takes mail, under uids that were given before, and does not write over what the bucket knows.
    back.up();
    send(&back, &[&users[0]], "meanwhile", 800);
    wait_for("the node notices", PATIENCE, || {
        let (_, metrics) = Http::new(back.admin, "").get("/metrics");
        metrics.contains("postern_manifest_set_back_tenants 1").then_some(())
    });
    // It may run on meanwhile.
    let output = rebuild(&back, &["--json"]);
    let done = report(&output);
    assert_eq!(sum(&done, "mailboxes"), 1, "{done}");
    assert_eq!(sum(&done, "renumbered"), 1, "the one that the new message has the unique-id of: {done}");
    let seen = see_all(&back, &[users.clone(), vec![new_user.clone()]].concat());
    for (user, was) in &expected {
        let is = &seen[user];
        let missing: Vec<_> = was.values().filter(|octets| !is.values().any(|o| o == *octets)).collect();
        assert!(missing.is_empty(), "{user}: {} messages are missing", missing.len());
        let same = was.iter().filter(|(id, octets)| is.get(*id) == Some(octets)).count();
        assert!(same + usize::from(*user == users[0]) >= was.len(), "{user}: unique-ids are the old ones");
    }
    assert_eq!(seen[&users[0]].len(), expected[&users[0]].len() + 1, "and what came meanwhile");
    assert_eq!(seen[&users[2]].len(), backup[&users[2]].len() + 6, "rows that the backup has are left");
    // Manifests are written again, and hold all of it.
    manifests_are_written(&back);
    let seen = see_all(&back, &users);
    stop(&mut back);
    let mut new = on_new_database(&bucket(&back), WITHOUT);
    report(&rebuild(&new, &["--json"]));
    new.up();
    assert_eq!(see_all(&new, &users), seen);
}

/// Compaction went on after the backup, and what it moved messages out of is gone.
#[test]
fn a_backup_older_than_the_grace_is_completed() {
    let (mut node, users) = busy_node(SOON);
    manifests_are_written(&node);
    let dump = dump(&node);
    let before = "SELECT count(*) FROM packs";
    let of_all = node.stores().number(before).unwrap();
    // Four of five go, so that packs are rewritten.
    for user in &users[..2] {
        delete(&node, user, |number| number % 5 != 0);
    }
    garbage_is_collected(&node);
    let rewritten = "SELECT count(*) FROM garbage_packs WHERE deleted_at IS NOT NULL";
    println!("{of_all} packs, {} gone since", node.stores().number(rewritten).unwrap());
    send(&node, &[&users[0]], "after", 700);
    manifests_are_written(&node);
    let expected = see_all(&node, &users);
    stop(&mut node);

    let mut back = on_restored_database(&dump, &bucket(&node));
    let gone = |node: &Node| {
        let output = fsck(node, &[]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["counts"]["pack_missing"]
            .as_u64()
            .unwrap_or(0)
    };
    let lost = gone(&back);
    // Putting in order what can be before the rebuild does no harm to what the rebuild needs.
    fsck(&back, &["--repair"]);
    assert!(lost > expected[&users[0]].len() as u64, "{lost} entries are not where the backup has them");
    let done = report(&rebuild(&back, &["--json"]));
    println!("{done}");
    back.up();
    // What is there is there octet for octet under its old unique-id; what was deleted since is there by its row alone.
    for user in &users {
        let mut pop3 = login(back.pop3, user, "pw");
        let mut found = 0;
        for line in pop3.list("UIDL") {
            let (number, id) = line.split_once(' ').unwrap();
            let reply = pop3.command(&format!("RETR {number}")).unwrap();
            let body = reply.starts_with("+OK").then(|| unstuffed(&pop3.body().unwrap()));
            match (expected[user].get(id), body) {
                (Some(was), Some(is)) => {
                    assert!(*was == is, "{user}: {id}");
                    found += 1;
                }
                (Some(_), None) => panic!("{user}: {id} cannot be read: {reply}"),
                // Deleted, and its pack is there still; or not.
                (None, Some(_)) => {}
                (None, None) => assert!(reply.starts_with("-ERR [SYS/PERM]"), "{user}: {id}: {reply}"),
            }
        }
        assert_eq!(found, expected[user].len(), "{user}");
        pop3.ok("QUIT");
    }
    stop(&mut back);
    // Rows of what is gone are taken out by whoever says so.
    let left = gone(&back);
    assert!(left < lost, "{left} of {lost}");
    let output = fsck(&back, &["--quarantine", "--all-missing"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(gone(&back), 0);
    back.up();
    for (user, was) in &expected {
        let is = see(&back, user, "pw");
        assert!(was.iter().all(|(id, octets)| is.get(id) == Some(octets)), "{user}");
    }
}

fn fsck(node: &Node, more: &[&str]) -> Output {
    let mut command = node.postern();
    command.args(["fsck", "--json", "--config"]).arg(node.config_path()).args(more);
    command.output().unwrap()
}

/// A backup of the node's database.
fn dump(node: &Node) -> PathBuf {
    let Stores::Servers(database, _) = node.stores() else { unreachable!() };
    let dump = node.dir.path().join("dump.sql");
    let bin = PathBuf::from(env("POSTERN_TEST_PG_BIN"));
    run(Command::new(bin.join("pg_dump")).arg(database.url()).arg("-f").arg(&dump));
    dump
}

/// A node, not started, on a database that was restored, and the bucket as it is now.
fn on_restored_database(dump: &Path, bucket: &Bucket) -> Node {
    let restored = Database::new();
    let bin = PathBuf::from(env("POSTERN_TEST_PG_BIN"));
    run(Command::new(bin.join("psql")).args([&restored.url(), "-q", "-X", "-f"]).arg(dump));
    let mut options = NodeOptions::on(&Stores::Servers(restored, bucket.clone()));
    options.extra = SOON.into();
    Node::prepare(&options)
}

#[test]
fn another_master_key_is_told() {
    let (mut node, _) = busy_node(SOON);
    manifests_are_written(&node);
    stop(&mut node);
    let new = on_new_database(&bucket(&node), WITHOUT);
    let config = std::fs::read_to_string(new.config_path()).unwrap();
    let other = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=";
    std::fs::write(new.config_path(), config.replace(crate::support::MASTER_KEY, other)).unwrap();
    let output = rebuild(&new, &[]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("another master key"), "{text}");
    assert_eq!(new.stores().number("SELECT count(*) FROM tenants"), Some(0));
    // The wrong key was not remembered: the right one still fits.
    std::fs::write(new.config_path(), config).unwrap();
    assert!(sum(&report(&rebuild(&new, &["--json"])), "messages") > 0);
}

#[test]
fn a_rebuild_that_is_killed_is_taken_up_again() {
    let (mut node, users) = busy_node(SOON);
    manifests_are_written(&node);
    let expected = see_all(&node, &users);
    stop(&mut node);
    let mut new = on_new_database(&bucket(&node), WITHOUT);
    println!("{} rebuilds were killed", rebuild_with_kills(&new));
    new.up();
    assert_eq!(see_all(&new, &users), expected);
}

/// Rebuilds, but for the last killed at some moment. Gives how many were.
fn rebuild_with_kills(node: &Node) -> usize {
    let mut kills = 0;
    for pause in [60, 90, 120, 150, 180, 220, 260, 320, 400, 500] {
        let mut command = node.postern();
        command.args(["rebuild", "--config"]).arg(node.config_path());
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(pause));
        if child.try_wait().unwrap().is_none() {
            kills += 1;
        }
        let _ = child.kill();
        child.wait().unwrap();
        // Whoever died had the task.
        node.stores().execute("DELETE FROM tasks");
    }
    assert!(kills > 0, "each was over before it could be killed");
    report(&rebuild(node, &["--json"]));
    kills
}

#[test]
fn an_embedded_index_comes_back() {
    let mut options = NodeOptions::embedded();
    options.extra = SOON.into();
    let mut node = Node::start(&options);
    node.tenant("one");
    let users: Vec<String> = ["a", "b"].iter().map(|local| node.mailbox("one", local, None)).collect();
    for n in 0..10 {
        send(&node, &[&users[0], &users[1]], &format!("n{n}"), 500);
    }
    delete(&node, &users[0], |number| number > 5);
    let expected = see_all(&node, &users);
    // There is nobody to ask how far it is.
    wait_for("manifests are written", PATIENCE, || {
        let (_, metrics) = Http::new(node.admin, "").get("/metrics");
        let rounds = metrics.lines().find_map(|line| line.strip_prefix("postern_manifest_rounds_total "));
        (rounds.unwrap().parse::<f64>().unwrap() > 0.0).then_some(())
    });
    thread::sleep(Duration::from_secs(1));
    stop(&mut node);
    let data = node.dir.path().join("data");
    for file in std::fs::read_dir(&data).unwrap().map(|file| file.unwrap().path()) {
        if file.file_name().unwrap().to_string_lossy().starts_with("index.sqlite") {
            std::fs::remove_file(file).unwrap();
        }
    }
    let done = report(&rebuild(&node, &["--json"]));
    assert_eq!((sum(&done, "mailboxes"), sum(&done, "messages")), (2, 15), "{done}");
    node.up();
    assert_eq!(see_all(&node, &users), expected);
}
