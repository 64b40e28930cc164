//! Master keys in a key service: what is sealed there, and what goes on while it does not answer.

use std::{
    fs,
    path::PathBuf,
    process::Output,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    keys::read,
    support::{
        Lmtp, MASTER_KEY, Node, NodeOptions, Pop3,
        kms::{Kms, Weather},
        login, message, run, try_deliver, wait_for,
    },
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The node's configuration with these master keys instead.
fn with_keys(node: &Node, name: &str, keys: &str) -> PathBuf {
    let text = fs::read_to_string(node.config_path()).unwrap();
    let text = text
        .lines()
        .filter(|line| *line != "[keys]" && !line.contains("master_key") && !line.contains("kms_"))
        .fold(String::new(), |text, line| text + line + "\n");
    let path = node.config_path().with_file_name(format!("{name}.toml"));
    fs::write(&path, format!("{text}[keys]\n{keys}\n")).unwrap();
    path
}

fn configure(node: &Node, keys: &str) {
    fs::copy(with_keys(node, "keys", keys), node.config_path()).unwrap();
}

fn send(node: &Node, to: &str, tag: &str) {
    let replies = Lmtp::connect(node.lmtp).unwrap().deliver(&[to], &message(tag, 3000)).unwrap();
    assert!(replies.iter().all(|reply| reply.starts_with("250")), "{replies:?}");
}

fn create(node: &Node, tenant: &str) -> (u16, String) {
    let (status, body) = node.http().json("POST", "/v1/tenants", &json!({ "name": tenant }));
    (status, body.to_string())
}

fn keys(node: &Node, verb: &str, config: &PathBuf) -> Output {
    node.postern().args(["keys", verb, "--json", "--config"]).arg(config).output().unwrap()
}

#[test]
fn what_is_open_goes_on_while_the_key_service_is_away() {
    let kms = Kms::start();
    let of_kms = format!(
        "kms_key = \"{}\"\nkms_endpoint = \"http://{}\"\nkms_timeout = \"500ms\"",
        Kms::key("one"),
        kms.address
    );
    let options = NodeOptions::servers();
    let prepare = || {
        let mut node = Node::prepare(&options);
        configure(&node, &of_kms);
        run(node.postern().args(["migrate", "--config"]).arg(node.config_path()));
        node.up();
        node
    };
    let (first, second) = (prepare(), prepare());
    first.tenant("one");
    let user = first.mailbox("one", "a", None);
    send(&first, &user, "fair");
    assert_eq!(read(&first, &user), [message("fair", 3000)]);
    // It takes its time, and refuses every second request: slower, and good.
    kms.set(Weather::Slow(200));
    assert_eq!(create(&first, "slow").0, 201);
    kms.set(Weather::Throttling);
    for n in 0..5 {
        assert_eq!(create(&first, &format!("throttled{n}")).0, 201);
    }
    // Away: what the first node has open goes on, what the second has not waits for better days; nobody waits long.
    kms.set(Weather::Silent);
    let asked = kms.count("Decrypt");
    for n in 0..20 {
        send(&first, &user, &format!("away{n}"));
        assert_eq!(read(&first, &user).len(), n + 2);
    }
    assert_eq!(kms.count("Decrypt"), asked);
    let begun = Instant::now();
    let (status, body) = create(&first, "new");
    assert_eq!(status, 503, "{body}");
    let mut pop3 = login(second.pop3, &user, "pw");
    assert_eq!(pop3.list("LIST").len(), 21);
    assert!(pop3.err("RETR 1").starts_with("-ERR [SYS/TEMP]"));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    pop3.ok("QUIT");
    assert!(!try_deliver(second.lmtp, &user, &message("late", 500)));
    // Back, without a restart.
    kms.set(Weather::Fair);
    wait_for("the second node reads", PATIENCE, || {
        let mut pop3 = login(second.pop3, &user, "pw");
        let good = pop3.command("RETR 1").unwrap().starts_with("+OK");
        if good {
            pop3.body().unwrap();
        }
        pop3.ok("QUIT");
        good.then_some(())
    });
    assert_eq!(create(&first, "new").0, 201);
    assert_eq!(kms.faults(), Vec::<String>::new());
    // The key is disabled there: a node that has nothing open serves no mail, and says why.
    kms.set(Weather::Disabled);
    let (status, body) = create(&second, "disabled");
    assert!(status >= 500, "{status} {body}");
    assert!(second.log().contains("DisabledException"), "{}", second.log());
    kms.set(Weather::Fair);
}

/// A tenant's sealed key is bound to the tenant: the service itself refuses another's.
#[test]
fn a_key_service_is_told_whose_key_it_is() {
    let kms = Kms::start();
    let mut node = Node::prepare(&NodeOptions::servers());
    let endpoint = format!("kms_endpoint = \"http://{}\"", kms.address);
    configure(&node, &format!("kms_key = \"{}\"\n{endpoint}", Kms::key("one")));
    run(node.postern().args(["migrate", "--config"]).arg(node.config_path()));
    node.up();
    for tenant in ["one", "two"] {
        node.tenant(tenant);
        let user = node.mailbox(tenant, "a", None);
        send(&node, &user, tenant);
    }
    node.signal(15);
    assert!(node.wait().success());
    node.stores().execute(
        "UPDATE tenants SET data_key = (SELECT data_key FROM tenants WHERE name = 'one') WHERE name = 'two'",
    );
    node.up();
    assert_eq!(read(&node, "a@one.test"), [message("one", 3000)]);
    let mut pop3: Pop3 = login(node.pop3, "a@two.test", "pw");
    assert!(pop3.err("RETR 1").starts_with("-ERR [SYS/"));
    drop(pop3);
    // Another key of the service is another master key.
    node.signal(15);
    assert!(node.wait().success());
    let other = with_keys(&node, "other", &format!("kms_key = \"{}\"\n{endpoint}", Kms::key("two")));
    let output = keys(&node, "status", &other);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("this is not the master key"), "{text}");
}

#[test]
fn from_a_file_to_a_key_service_and_back() {
    let kms = Kms::start();
    let mut node = Node::start(&NodeOptions::embedded());
    node.tenant("one");
    let user = node.mailbox("one", "a", None);
    send(&node, &user, "first");
    let stop = |node: &mut Node| {
        node.signal(15);
        assert!(node.wait().success());
    };
    let rotate = |node: &Node, text: &str| {
        let output = keys(node, "rotate", &with_keys(node, "rotating", text));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["rotated"]["tenants"], 1);
    };
    stop(&mut node);
    let file = node.dir.path().join("data/master-key").display().to_string();
    let (key, endpoint) = (Kms::key("one"), format!("kms_endpoint = \"http://{}\"", kms.address));
    rotate(&node, &format!("kms_key = \"{key}\"\nother_master_key_files = [{file:?}]\n{endpoint}"));
    configure(&node, &format!("kms_key = \"{key}\"\n{endpoint}"));
    node.up();
    assert_eq!(read(&node, &user), [message("first", 3000)]);
    send(&node, &user, "second");
    stop(&mut node);
    rotate(&node, &format!("master_key_file = {file:?}\nother_kms_keys = [\"{key}\"]\n{endpoint}"));
    assert_eq!(kms.faults(), Vec::<String>::new());
    kms.set(Weather::Silent);
    configure(&node, &format!("master_key_file = {file:?}"));
    node.up();
    assert_eq!(read(&node, &user), [message("first", 3000), message("second", 3000)]);
    // What is no ARN is told before anything is touched.
    let alias = with_keys(&node, "alias", "kms_key = \"arn:aws:kms:us-east-1:111122223333:alias/mail\"");
    let output = node.postern().args(["check-config", "--config"]).arg(alias).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("keys.kms_key: ") && text.contains("alias"), "{text}");
}

#[test]
fn a_rotation_waits_for_nodes_that_may_not_use_the_key_yet() {
    let kms = Kms::start();
    let (mut node, user) = Node::start(&NodeOptions::servers()).with_mailbox("a");
    send(&node, &user, "first");
    let file = node.dir.path().join("old-key").display().to_string();
    fs::write(&file, MASTER_KEY).unwrap();
    let (key, endpoint) = (Kms::key("one"), format!("kms_endpoint = \"http://{}\"", kms.address));
    configure(&node, &format!("master_key_file = {file:?}\nother_kms_keys = [\"{key}\"]\n{endpoint}"));
    let rotating = with_keys(
        &node,
        "rotating",
        &format!("kms_key = \"{key}\"\nother_master_key_files = [{file:?}]\n{endpoint}"),
    );
    let restart = |node: &mut Node| {
        node.signal(15);
        assert!(node.wait().success());
        node.up();
    };
    // It has the key by its configuration, and is not let use it: mail goes on.
    kms.set(Weather::Disabled);
    restart(&mut node);
    assert_eq!(read(&node, &user), [message("first", 3000)]);
    kms.set(Weather::Fair);
    let output = keys(&node, "rotate", &rotating);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("do not have master key"), "{said}");
    send(&node, &user, "second");
    restart(&mut node);
    let output = keys(&node, "rotate", &rotating);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    send(&node, &user, "third");
    assert_eq!(read(&node, &user), ["first", "second", "third"].map(|tag| message(tag, 3000)));
}
