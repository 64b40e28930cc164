//! Bulletins: an operator's message, stored once, shown once to every mailbox of a tenant.

use std::{fs, process::Command, thread, time::Duration};

use serde_json::{Value, json};

use crate::support::{Node, NodeOptions, Pop3, login, message, run, wait_for};

/// A housekeeping that nobody has to wait for.
const SOON: &str = "[worker]\ninterval = \"100ms\"\n";
const PATIENCE: Duration = Duration::from_secs(60);

fn bulletin(node: &Node, tenant: &str, id: &str) -> Value {
    let (status, text) = node.http().get(&format!("/v1/tenants/{tenant}/bulletins/{id}"));
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn wait_for_state(node: &Node, id: &str, state: &str) -> Value {
    wait_for(&format!("the bulletin is {state}"), PATIENCE, || {
        let bulletin = bulletin(node, "one", id);
        (bulletin["state"] == state).then_some(bulletin)
    })
}

/// Posts with curl, as a script would.
fn post(node: &Node, query: &str, message: &[u8]) -> Value {
    let file = node.dir.path().join("bulletin.eml");
    fs::write(&file, message).unwrap();
    let output = run(Command::new("curl")
        .args(["-sS", "--fail-with-body", "-H", "Content-Type: message/rfc822", "-H"])
        .arg(format!(
            "Authorization: Bearer {}",
            fs::read_to_string(node.dir.path().join("admin-token")).unwrap()
        ))
        .args(["--data-binary", &format!("@{}", file.display())])
        .arg(format!("http://{}/v1/tenants/one/bulletins{query}", node.admin)));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn id_of(bulletin: &Value) -> String {
    bulletin["id"].as_str().unwrap().to_owned()
}

/// What a client sees that has nothing to do with us.
fn by_poplib(node: &Node, user: &str, what: &str) -> String {
    let script = format!(
        "import poplib\np = poplib.POP3('127.0.0.1', {})\np.user({user:?}); p.pass_('pw')\n{what}\np.quit()\n",
        node.pop3.port()
    );
    let output = run(Command::new("python3").args(["-c", &script]));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn every_mailbox_sees_it_once() {
    let node = Node::start(&NodeOptions { extra: SOON.into(), ..NodeOptions::embedded() });
    node.tenant("one");
    node.tenant("two");
    let users: Vec<String> = ["a", "b", "c"].map(|local| node.mailbox("one", local, Some(1000))).into();
    let other = node.mailbox("two", "a", None);
    // Its header is not ASCII, and it is larger than the quotas.
    let text = String::from_utf8(message("Wartung am Samstag für alle", 5000)).unwrap();
    let posted = post(&node, "?note=Saturday&new_mailboxes=true", text.as_bytes());
    let id = id_of(&posted);
    assert_eq!((&posted["note"], &posted["new_mailboxes"]), (&json!("Saturday"), &json!(true)));
    let active = wait_for_state(&node, &id, "active");
    assert_eq!((&active["delivered"], &active["holding"]), (&json!(3), &json!(3)));

    for user in &users {
        let in_front = format!("Delivered-To: {user}\r\n");
        for utf8 in [false, true] {
            let mut pop3 = Pop3::connect(node.pop3).unwrap();
            if utf8 {
                pop3.ok("UTF8");
            }
            pop3.ok(&format!("USER {user}"));
            pop3.ok("PASS pw");
            let listed = pop3.list("LIST");
            let (_, octets) = listed[0].split_once(' ').unwrap();
            let sent = pop3.retr(1);
            assert_eq!((listed.len(), octets), (1, sent.len().to_string().as_str()), "UTF8 {utf8}");
            let sent = String::from_utf8(sent).unwrap();
            let rest = sent.strip_prefix(&in_front).unwrap_or_else(|| panic!("{sent}"));
            assert_eq!(rest == text, utf8);
            let (header, _) = rest.split_once("\r\n\r\n").unwrap();
            assert_eq!(header.is_ascii(), !utf8);
            pop3.ok("QUIT");
        }
    }
    assert_eq!(by_poplib(&node, &other, "print(p.stat()[0])"), "0", "another tenant's");

    // Who deletes it is not shown it again; the others have it.
    by_poplib(&node, &users[1], "assert b'Delivered-To: b@one.test' in p.retr(1)[1]; p.dele(1)");
    wait_for("it is deleted", PATIENCE, || (bulletin(&node, "one", &id)["holding"] == 2).then_some(()));
    thread::sleep(Duration::from_millis(500));
    for (user, messages) in users.iter().zip(["1", "0", "1"]) {
        assert_eq!(by_poplib(&node, user, "print(p.stat()[0])"), messages, "{user}");
    }
    // A mailbox created now has it at its first login.
    let late = node.mailbox("one", "late", None);
    let listed = run(Command::new("curl").args([
        "-sS",
        "-u",
        &format!("{late}:pw"),
        &format!("pop3://{}/1", node.pop3),
    ]));
    assert!(listed.stdout.starts_with(b"Delivered-To: late@one.test\r\n"));

    // Withdrawn on the command line, while somebody is logged in: numbers hold still (P4).
    let mut session = login(node.pop3, &users[0], "pw");
    let before = session.list("LIST");
    let token = node.dir.path().join("admin-token");
    let admin = |args: &[&str]| {
        let mut command = node.postern();
        command.args(["admin", "--json", "--url", &format!("http://{}", node.admin), "--token-file"]);
        let output = run(command.arg(&token).args(args));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(admin(&["bulletin", "withdraw", "one", &id])["state"], "withdrawing");
    let done = wait_for_state(&node, &id, "withdrawn");
    assert_eq!((&done["removed"], &done["holding"], &done["delivered"]), (&json!(3), &json!(0), &json!(4)));
    assert_eq!(session.list("LIST"), before);
    session.err("RETR 1");
    session.ok("DELE 1");
    session.ok("QUIT");
    for user in users.iter().chain([&late]) {
        assert_eq!(by_poplib(&node, user, "print(p.stat())"), "(0, 0)", "{user}");
    }
    assert_eq!(node.mailbox("one", "later", None), "later@one.test");
    assert_eq!(by_poplib(&node, "later@one.test", "print(p.stat()[0])"), "0");

    // The rest of the command line, and what the audit log says.
    let file = node.dir.path().join("second.eml");
    fs::write(&file, message("second", 500)).unwrap();
    let second = admin(&["bulletin", "post", "one", file.to_str().unwrap(), "--note", "2nd"]);
    wait_for_state(&node, second["id"].as_str().unwrap(), "ended");
    let listed = admin(&["bulletins", "list", "one"]);
    let notes: Vec<_> =
        listed.as_array().unwrap().iter().map(|item| item["note"].as_str().unwrap()).collect();
    assert_eq!(notes, ["2nd", "Saturday"]);
    assert_eq!(admin(&["bulletin", "show", "one", second["id"].as_str().unwrap()])["holding"], 5);
    let (_, audit) = node.http().get("/v1/tenants/one/audit");
    for action in ["bulletin.create", "bulletin.withdraw"] {
        assert!(audit.contains(action), "{audit}");
    }
}

/// The node is killed in the middle of steps, again and again, while another one would like to do them; and S3 is asked
/// for one PUT.
#[test]
fn a_killed_node_neither_loses_nor_repeats_it() {
    const MAILBOXES: usize = 3000;
    let options = NodeOptions { extra: SOON.into(), ..NodeOptions::servers() };
    let mut node = Node::start(&options);
    node.tenant("one");
    let lines: Vec<String> = (0..MAILBOXES)
        .map(|i| {
            format!(
                "{{\"address\":\"m{i:05}@one.test\"}}
"
            )
        })
        .collect();
    let lines = lines.concat();
    let bulk = "/v1/tenants/one/mailboxes/bulk";
    let (status, _, answers) = node.http().raw("POST", bulk, "application/x-ndjson", lines.as_bytes());
    assert_eq!((status, answers.matches("\"status\":201").count()), (200, MAILBOXES));
    let watched = node.mailbox("one", "watched", None);

    let stores = node.stores().clone();
    let number = |sql: &str| stores.number(sql).unwrap_or(-1);
    let hold = |place: usize| {
        // The mailbox of that place is held, so that the step that reaches it stands still in the middle.
        let stores = stores.clone();
        thread::spawn(move || {
            stores.execute(&format!(
                "BEGIN; SELECT FROM mailboxes WHERE mailbox_id = (SELECT mailbox_id FROM mailboxes
                  ORDER BY mailbox_id OFFSET {place} LIMIT 1) FOR UPDATE; SELECT pg_sleep(4); COMMIT"
            ));
        })
    };
    let puts = |node: &Node| {
        let (_, metrics) = node.http().get("/metrics");
        let of_put =
            |line: &&str| line.starts_with("postern_object_requests_total") && line.contains("kind=\"put\"");
        metrics
            .lines()
            .filter(of_put)
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum::<u64>()
    };
    let before = puts(&node);
    let mut holder = hold(700);
    thread::sleep(Duration::from_millis(300));
    let id = id_of(&post(&node, "", &message("news", 3000)));
    assert_eq!(puts(&node) - before, 1, "stored once");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR NO KEY UPDATE%'
                    AND datname = current_database()";
    let mut reached = Vec::new();
    for next in [Some(1700), Some(2600), None] {
        wait_for("a step stands still in the middle", PATIENCE, || (number(waiting) > 0).then_some(()));
        node.kill9();
        reached.push(number("SELECT delivered FROM bulletins"));
        assert_eq!(
            Some(&number("SELECT count(*) FROM messages")),
            reached.last(),
            "a step is done or it is not"
        );
        holder.join().unwrap();
        // Its lease would run out by itself, in half a minute.
        stores.execute("DELETE FROM tasks");
        if let Some(place) = next {
            holder = hold(place);
            thread::sleep(Duration::from_millis(300));
        } else {
            holder = thread::spawn(|| {});
        }
        node.up();
    }
    holder.join().unwrap();
    let other = Node::start(&NodeOptions { extra: SOON.into(), ..NodeOptions::on(&stores) });
    let done = wait_for_state(&other, &id, "ended");
    println!("killed after {reached:?} of {} mailboxes; then {}", MAILBOXES + 1, done["delivered"]);
    assert!(reached.windows(2).all(|pair| pair[0] < pair[1]), "{reached:?}");
    assert_eq!(done["delivered"], MAILBOXES + 1);
    let twice = "SELECT count(*) FROM (SELECT FROM messages GROUP BY mailbox_id HAVING count(*) <> 1) twice";
    assert_eq!(number(twice), 0);
    assert_eq!(number("SELECT count(*) FROM messages"), (MAILBOXES + 1) as i64);
    assert_eq!(number("SELECT sum(message_count) FROM mailboxes"), (MAILBOXES + 1) as i64);
    assert_eq!(puts(&node) + puts(&other), 0, "nothing more was stored");
    assert_eq!(stores.object_count(), 1);
    let read = run(Command::new("curl").args([
        "-sS",
        "-u",
        &format!("{watched}:pw"),
        &format!("pop3://{}/1", other.pop3),
    ]));
    assert_eq!(read.stdout, [b"Delivered-To: watched@one.test\r\n", &message("news", 3000)[..]].concat());

    // And back, with the node that does it killed as well.
    let holder = hold(1200);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(node.http().raw("DELETE", &format!("/v1/tenants/one/bulletins/{id}"), "", b"").0, 202);
    wait_for("a step stands still in the middle", PATIENCE, || (number(waiting) > 0).then_some(()));
    node.kill9();
    holder.join().unwrap();
    stores.execute("DELETE FROM tasks");
    let done = wait_for_state(&other, &id, "withdrawn");
    assert_eq!((&done["removed"], &done["holding"]), (&json!(MAILBOXES + 1), &json!(0)));
    assert_eq!(number("SELECT count(*) FROM messages"), 0);
    assert_eq!(number("SELECT sum(message_count) + sum(octets) FROM mailboxes"), 0);
}
