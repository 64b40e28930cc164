//! Master keys are rotated while nodes serve: `postern keys`.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Output,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    Database, Lmtp, MASTER_KEY, Node, NodeOptions, Pop3, Stores, login, message, run, wait_for, without_trace,
};

const PATIENCE: Duration = Duration::from_secs(60);
const SOON: &str = "[worker]\ninterval = \"200ms\"\n[cluster]\nnode_ttl = \"2s\"\n[manifest]\ninterval = \"200ms\"\n\
                    [pop3]\nmechanisms = [\"SCRAM-SHA-256\"]\n";

/// A new key of the product's own making.
fn new_key(node: &Node) -> String {
    let output = run(node.postern().args(["keys", "new"]));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A configuration like the node's with these master keys, beside it.
fn with_keys(node: &Node, name: &str, newest: &str, others: &[&str]) -> PathBuf {
    let dir = node.config_path().parent().unwrap();
    let write = |name: String, text: &str| {
        let path = dir.join(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        path.display().to_string()
    };
    let newest = write(format!("{name}-newest"), newest);
    let others: Vec<String> =
        others.iter().enumerate().map(|(n, key)| write(format!("{name}-other{n}"), key)).collect();
    let text = fs::read_to_string(node.config_path()).unwrap();
    let text = text
        .lines()
        .filter(|line| *line != "[keys]" && !line.contains("master_key"))
        .fold(String::new(), |text, line| text + line + "\n");
    let path = dir.join(format!("{name}.toml"));
    let keys = format!("[keys]\nmaster_key_file = {newest:?}\nother_master_key_files = {others:?}\n");
    fs::write(&path, text + &keys).unwrap();
    path
}

/// Restarts the node with these keys.
fn restart_with(node: &mut Node, newest: &str, others: &[&str]) {
    node.signal(15);
    assert!(node.wait().success());
    let config = with_keys(node, "keys", newest, others);
    fs::copy(config, node.config_path()).unwrap();
    node.up();
}

fn keys(node: &Node, verb: &str, config: &PathBuf) -> Output {
    node.postern().args(["keys", verb, "--json", "--config"]).arg(config).output().unwrap()
}

fn json_of(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap()
}

fn tenants_under(status: &Value, key: &str) -> u64 {
    let keys = status["keys"].as_array().unwrap();
    keys.iter().find(|used| used["key"] == key).map_or(0, |used| used["tenants"].as_u64().unwrap())
}

/// The mail of a mailbox, without what delivery put in front.
pub(crate) fn read(node: &Node, user: &str) -> Vec<Vec<u8>> {
    let mut pop3 = login(node.pop3, user, "pw");
    let count = pop3.list("LIST").len();
    let mail = (1..=count).map(|number| without_trace(&pop3.retr(number)).to_vec()).collect();
    pop3.ok("QUIT");
    mail
}

fn send(node: &Node, to: &str, tag: &str, octets: usize) {
    let replies = Lmtp::connect(node.lmtp).unwrap().deliver(&[to], &message(tag, octets)).unwrap();
    assert!(replies.iter().all(|reply| reply.starts_with("250")), "{replies:?}");
}

/// The salt that SCRAM gives for a name.
fn salt_of(node: &Node, user: &str) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    let first = BASE64_STANDARD.encode(format!("n,,n={user},r=clientnonce"));
    let reply = pop3.command(&format!("AUTH SCRAM-SHA-256 {first}")).unwrap();
    let reply = BASE64_STANDARD.decode(reply.strip_prefix("+ ").unwrap()).unwrap();
    let reply = String::from_utf8(reply).unwrap();
    reply.split(',').find(|field| field.starts_with("s=")).unwrap().to_owned()
}

#[test]
fn a_master_key_is_rotated_under_load_and_after_a_kill() {
    let mut options = NodeOptions::servers();
    options.extra = SOON.into();
    let mut first = Node::start(&options);
    let mut second = Node::start(&NodeOptions { extra: SOON.into(), ..NodeOptions::on(&options.stores) });
    let stores = options.stores.clone();
    let (old, new) = (MASTER_KEY, new_key(&first));
    let new = new.as_str();
    let mut expected: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for tenant in ["one", "two"] {
        first.tenant(tenant);
        let policy = json!({ "policy": { "login_mechanisms": ["USER", "SCRAM-SHA-256"] } });
        let (status, body) = first.http().json("PATCH", &format!("/v1/tenants/{tenant}"), &policy);
        assert_eq!(status, 200, "{body}");
        for local in ["a", "b"] {
            let user = first.mailbox(tenant, local, None);
            let mail: Vec<_> = (1..=5).map(|n| (format!("{tenant}{local}{n}"), 400 * n * n)).collect();
            for (tag, octets) in &mail {
                send(&first, &user, tag, *octets);
            }
            expected.insert(user, mail.iter().map(|(tag, octets)| message(tag, *octets)).collect());
        }
    }
    // So many that a rotation takes a while.
    for n in 0..160 {
        let (status, body) =
            first.http().json("POST", "/v1/tenants", &json!({ "name": format!("small{n}") }));
        assert_eq!(status, 201, "{body}");
    }
    let salts = |node: &Node| ["a@one.test", "nobody@one.test"].map(|user| salt_of(node, user));
    let salts_before = salts(&first);
    assert_eq!(salts_before, salts(&second));
    let all_right = |node: &Node| {
        for (user, mail) in &expected {
            assert!(&read(node, user) == mail, "{user} reads something else");
        }
    };
    all_right(&second);

    // Nobody may begin before all nodes can open what it makes.
    let rotating = with_keys(&first, "rotating", new, &[old]);
    let status = json_of(&keys(&first, "status", &rotating));
    let old_id = status["keys"][1]["key"].as_str().unwrap().to_owned();
    let new_id = status["newest"].as_str().unwrap().to_owned();
    assert_eq!((tenants_under(&status, &old_id), tenants_under(&status, &new_id)), (162, 0));
    assert_eq!(status["complete"], false);
    restart_with(&mut first, old, &[new]);
    let refused = keys(&first, "rotate", &rotating);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains(&new_id) && text.contains("pop.test"), "{text}");
    restart_with(&mut second, old, &[new]);
    assert_eq!(tenants_under(&json_of(&keys(&first, "status", &rotating)), &new_id), 0);

    // A storm at both nodes, a rotation that is killed in the middle, and another.
    let (over, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    let under_new = || {
        stores.number(&format!(
            "SELECT count(*) FROM tenants WHERE encode(substring(data_key FROM 3 FOR 8), 'hex') = '{new_id}'"
        ))
    };
    thread::scope(|scope| {
        for (n, user) in ["a@one.test", "b@one.test", "a@two.test", "b@two.test"].into_iter().enumerate() {
            let (nodes, over, rounds) = ([&first, &second], &over, &rounds);
            scope.spawn(move || {
                for round in 0.. {
                    let node = nodes[(n + round) % 2];
                    send(node, user, &format!("storm{n}r{round}"), 2000);
                    let mut pop3 = login(nodes[(n + round + 1) % 2].pop3, user, "pw");
                    let count = pop3.list("LIST").len();
                    assert_eq!(without_trace(&pop3.retr(count)), message(&format!("storm{n}r{round}"), 2000));
                    pop3.ok(&format!("DELE {count}"));
                    pop3.ok("QUIT");
                    rounds.fetch_add(1, Ordering::Relaxed);
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let mut killed = first.postern().args(["keys", "rotate", "--config"]).arg(&rotating).spawn().unwrap();
        wait_for("the rotation is under way", PATIENCE, || (under_new() > Some(20)).then_some(()));
        killed.kill().unwrap();
        killed.wait().unwrap();
        let done = under_new().unwrap();
        assert!((21..162).contains(&done), "{done} tenants were done when it was killed");
        // Half of them are under either: all of it goes on.
        let half_way = rounds.load(Ordering::Relaxed);
        wait_for("the storm goes on", PATIENCE, || {
            (rounds.load(Ordering::Relaxed) > half_way + 20).then_some(())
        });
        let rotated = json_of(&keys(&first, "rotate", &rotating));
        assert_eq!(rotated["rotated"]["tenants"], 162 - done);
        let after = rounds.load(Ordering::Relaxed);
        wait_for("the storm goes on", PATIENCE, || {
            (rounds.load(Ordering::Relaxed) > after + 20).then_some(())
        });
        over.store(true, Ordering::Relaxed);
    });
    println!("{} rounds of the storm", rounds.load(Ordering::Relaxed));
    // Again: nothing to do.
    assert_eq!(json_of(&keys(&first, "rotate", &rotating))["rotated"]["tenants"], 0);
    let status = wait_for("manifests follow", PATIENCE, || {
        let status = json_of(&keys(&first, "status", &rotating));
        (status["complete"] == true).then_some(status)
    });
    assert_eq!((tenants_under(&status, &old_id), tenants_under(&status, &new_id)), (0, 162), "{status}");
    all_right(&first);

    // With the new key alone, one after the other.
    let log = stores
        .text("SELECT string_agg(action, ' ' ORDER BY audit_id) FROM audit_log WHERE action LIKE 'keys.%'");
    assert!(log.starts_with("keys.rotate ") && log.ends_with("keys.rotated"), "{log}");
    restart_with(&mut second, new, &[]);
    assert_eq!(salts(&second), salts_before, "salts that change would tell who exists");
    all_right(&second);
    restart_with(&mut first, new, &[]);
    all_right(&first);
    let metrics = first.http().get("/metrics").1;
    assert!(metrics.contains("postern_keys_outdated_tenants 0\n"), "{metrics}");
    send(&first, "a@one.test", "late", 500);
    expected.get_mut("a@one.test").unwrap().push(message("late", 500));

    // The old one by itself is no good any more, and says which is.
    let refused = with_keys(&first, "old", old, &[]);
    let output = keys(&first, "status", &refused);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("this is not the master key") && text.contains(&new_id) && text.contains(&old_id),
        "{text}"
    );
    first.signal(15);
    assert!(first.wait().success());
    fs::copy(&refused, first.config_path()).unwrap();
    first.spawn();
    assert_eq!(first.wait().code(), Some(2));

    // The bucket and the new key are enough; the bucket and the old one are not.
    let due =
        "SELECT (SELECT count(*) FROM mailboxes WHERE manifest_due) + (SELECT count(*) FROM manifest_notes)";
    wait_for("manifests are written", PATIENCE, || (stores.number(due) == Some(0)).then_some(()));
    second.signal(15);
    assert!(second.wait().success());
    let mut rebuilt =
        Node::prepare(&NodeOptions::on(&Stores::Servers(Database::new(), stores.bucket().clone())));
    run(rebuilt.postern().args(["migrate", "--config"]).arg(rebuilt.config_path()));
    let rebuild =
        |node: &Node| node.postern().args(["rebuild", "--config"]).arg(node.config_path()).output().unwrap();
    let output = rebuild(&rebuilt);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("another master key") && text.contains(&new_id), "{text}");
    fs::copy(with_keys(&rebuilt, "keys", new, &[]), rebuilt.config_path()).unwrap();
    let output = rebuild(&rebuilt);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    rebuilt.up();
    for (user, mail) in &expected {
        assert!(&read(&rebuilt, user) == mail, "{user} reads something else after the rebuild");
    }
}

/// Embedded: the key that was made beside the data gives way to another, and back.
#[test]
fn an_embedded_master_key_is_rotated() {
    let mut node = Node::start(&NodeOptions::embedded());
    node.tenant("one");
    let user = node.mailbox("one", "a", None);
    send(&node, &user, "first", 3000);
    node.signal(15);
    assert!(node.wait().success());
    let made = fs::read_to_string(node.dir.path().join("data/master-key")).unwrap();
    let new = new_key(&node);
    // One that is missing is told before anything is touched.
    let missing = with_keys(&node, "missing", &new, &[]);
    let output = keys(&node, "rotate", &missing);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let rotated = json_of(&keys(&node, "rotate", &with_keys(&node, "there", &new, &[&made])));
    assert_eq!((&rotated["rotated"]["tenants"], &rotated["rotated"]["failed"]), (&json!(1), &json!(0)));
    fs::copy(&missing, node.config_path()).unwrap();
    node.up();
    assert_eq!(read(&node, &user), [message("first", 3000)]);
    node.signal(15);
    assert!(node.wait().success());
    let rotated = json_of(&keys(&node, "rotate", &with_keys(&node, "back", &made, &[&new])));
    assert_eq!(rotated["rotated"]["tenants"], 1);
    fs::copy(with_keys(&node, "made", &made, &[]), node.config_path()).unwrap();
    node.up();
    assert_eq!(read(&node, &user), [message("first", 3000)]);
    // A file that is no key is named.
    let bad = with_keys(&node, "bad", &made, &["c2hvcnQ="]);
    let output = node.postern().args(["check-config", "--config"]).arg(&bad).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("keys.other_master_key_files: ") && text.contains("bad-other0"), "{text}");
}
