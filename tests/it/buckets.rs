//! Tenants with a bucket of their own: its packs, its credentials, and its failures are that tenant's alone.

use std::{
    process::Output,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use xtask::services::{
    ADMIN_KEY, GUEST_KEY, GUEST_KEY_NEXT, GUEST_SECRET, GUEST_SECRET_NEXT, READER_KEY, READER_SECRET, Seaweed,
};

use crate::support::{
    Bucket, Database, Dice, Lmtp, Node, NodeOptions, Pop3, Stores, deliver, env, login, message, try_deliver,
    wait_for,
    weather::{Fault, Weather},
    without_trace,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Everything in the background soon; buckets of tenants may be on this machine.
const SOON: &str = "[gc]\ninterval = \"200ms\"\ngrace = \"1s\"\n[worker]\ninterval = \"200ms\"\n\
                    [cluster]\nnode_ttl = \"1s\"\n[manifest]\ninterval = \"200ms\"\n\
                    [cache]\nmemory_octets = 0\n[tenant_buckets]\nallowed_networks = [\"127.0.0.0/8\"]\n";

const PATH: &str = "/v1/tenants/one/bucket";

/// A node with tenants `one` and `two`, and a mailbox in each.
fn two_tenants(extra: &str) -> (Node, String, String) {
    let mut options = NodeOptions::servers();
    options.extra = format!("{SOON}{extra}");
    let (node, one) = Node::start(&options).with_mailbox("a");
    node.tenant("two");
    let two = node.mailbox("two", "b", None);
    (node, one, two)
}

fn settings(bucket: &Bucket, key: (&str, &str)) -> Value {
    json!({
        "bucket": bucket.name, "prefix": "mail/of-one", "endpoint": bucket.endpoint,
        "access_key_id": key.0, "secret_access_key": key.1,
    })
}

#[track_caller]
fn put(node: &Node, settings: &Value) -> Value {
    let (status, body) = node.http().json("PUT", PATH, settings);
    assert_eq!(status, 200, "{body}");
    body
}

fn show(node: &Node) -> Value {
    serde_json::from_str(&node.http().get(PATH).1).unwrap()
}

fn own_packs(bucket: &Bucket) -> usize {
    bucket.objects("mail/of-one/t/").iter().filter(|key| key.contains("/p/")).count()
}

/// All messages of a mailbox.
fn see(node: &Node, user: &str) -> Vec<Vec<u8>> {
    let mut pop3 = wait_for("the maildrop is free", PATIENCE, || {
        let mut pop3 = Pop3::connect(node.pop3).ok()?;
        pop3.command(&format!("USER {user}")).ok()?;
        pop3.command("PASS pw").ok()?.starts_with("+OK").then_some(pop3)
    });
    let count = pop3.list("LIST").len();
    let all = (1..=count).map(|number| without_trace(&pop3.retr(number)).to_vec()).collect();
    pop3.ok("QUIT");
    all
}

fn run(node: &Node, what: &str, more: &[&str]) -> Output {
    let mut command = node.postern();
    command.args([what, "--json", "--config"]).arg(node.config_path()).args(more);
    command.output().unwrap()
}

#[track_caller]
fn is_clean(node: &Node) {
    let output = run(node, "fsck", &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// A message of that many octets that does not get smaller.
fn noise(tag: &str, octets: usize) -> Vec<u8> {
    let mut dice = Dice::new(7);
    let mut text = message(tag, 0);
    while text.len() < octets {
        text.extend((0..72).map(|_| b'0' + dice.roll(74) as u8));
        text.extend_from_slice(b"\r\n");
    }
    text
}

#[test]
fn packs_go_to_the_current_bucket_and_are_read_from_wherever_they_are() {
    let (mut node, a, b) = two_tenants("");
    let own = Bucket::new();
    let mut expected = vec![message("old", 3000), noise("oldlarge", 2_000_000)];
    for old in &expected {
        deliver(node.lmtp, &a, old);
    }
    assert_eq!(show(&node)["current"], Value::Null);
    let house = node.stores().object_count();
    // What cannot be used is said before anything is changed.
    let refused = |settings: &Value, kind: &str, says: &str| {
        let (status, body) = node.http().json("PUT", PATH, settings);
        assert_eq!((status, body["type"].as_str()), (422, Some(kind)), "{body}");
        assert!(body.to_string().contains(says), "{says}: {body}");
        assert!(!body.to_string().contains(GUEST_SECRET), "{body}");
    };
    let unusable = "urn:postern:problem:bucket-unusable";
    refused(&settings(&own, (GUEST_KEY, "wrong")), unusable, "write");
    refused(&settings(&own, (READER_KEY, READER_SECRET)), unusable, "write");
    let gone = Bucket { name: "nowhere".into(), ..own.clone() };
    refused(&settings(&gone, (GUEST_KEY, GUEST_SECRET)), unusable, "write");
    for inside in ["http://10.0.0.1:9000", "https://169.254.169.254", "https://[::1]", "file:///x"] {
        let inside = Bucket { endpoint: inside.into(), ..own.clone() };
        refused(&settings(&inside, (GUEST_KEY, GUEST_SECRET)), "urn:postern:problem:invalid", "endpoint");
    }
    assert_eq!(show(&node)["current"], Value::Null);
    let body = put(&node, &settings(&own, (GUEST_KEY, GUEST_SECRET)));
    assert_eq!((&body["current"]["number"], &body["packs_elsewhere"]), (&json!(1), &json!(2)), "{body}");
    assert!(own.objects("").is_empty(), "what tried it out is gone");
    for new in [message("new", 3000), noise("newlarge", 2_000_000), noise("parts", 12_000_000)] {
        deliver(node.lmtp, &a, &new);
        expected.push(new);
    }
    deliver(node.lmtp, &b, &message("other", 2000));
    assert_eq!(
        (node.stores().object_count(), own_packs(&own)),
        (house + 1, 3),
        "the other's is in the house"
    );
    assert!(see(&node, &a) == expected);
    let mut pop3 = login(node.pop3, &a, "pw");
    assert!(!pop3.list("TOP 3 2").is_empty());
    pop3.ok("DELE 3");
    pop3.ok("QUIT");
    expected.remove(2);
    wait_for("the dead pack is deleted", PATIENCE, || (own_packs(&own) == 2).then_some(()));
    is_clean(&node);
    // The same place is the same store, whoever asks.
    let body = put(&node, &settings(&own, (GUEST_KEY_NEXT, GUEST_SECRET_NEXT)));
    assert_eq!(body["current"]["number"], 1);
    assert_eq!(body["current"]["access_key_id"], GUEST_KEY_NEXT);
    let (_, audit) = node.http().get("/v1/tenants/one/audit");
    for secret in [GUEST_SECRET, GUEST_SECRET_NEXT] {
        assert!(
            !audit.contains(secret) && !body.to_string().contains(secret) && !node.log().contains(secret)
        );
    }
    assert!(audit.contains("tenant.set_bucket") && audit.contains(GUEST_KEY_NEXT), "{audit}");
    deliver(node.lmtp, &a, &message("rotated", 3000));
    expected.push(message("rotated", 3000));
    assert_eq!(own_packs(&own), 3);
    let forget = |number: u32| node.http().json("DELETE", &format!("{PATH}/stores/{number}"), &Value::Null);
    let (status, body) = forget(1);
    assert_eq!((status, body["type"].as_str()), (409, Some("urn:postern:problem:bucket-in-use")), "{body}");
    // Another bucket, and none.
    let second = Bucket::new();
    let body = put(&node, &settings(&second, (GUEST_KEY, GUEST_SECRET)));
    assert_eq!((&body["current"]["number"], &body["earlier"][0]["packs"]), (&json!(2), &json!(3)), "{body}");
    deliver(node.lmtp, &a, &message("second", 3000));
    expected.push(message("second", 3000));
    assert_eq!((own_packs(&own), own_packs(&second)), (3, 1));
    assert_eq!(node.http().json("DELETE", PATH, &Value::Null).0, 204);
    let house = node.stores().object_count();
    deliver(node.lmtp, &a, &message("back", 3000));
    expected.push(message("back", 3000));
    assert_eq!((node.stores().object_count(), own_packs(&second)), (house + 1, 1));
    assert_eq!(forget(1).0, 409);
    assert!(see(&node, &a) == expected);
    is_clean(&node);
    // And from nothing but the index.
    node.kill9();
    node.up();
    assert!(see(&node, &a) == expected);
    // A deleted tenant leaves nothing anywhere.
    assert_eq!(node.http().json("DELETE", "/v1/tenants/one", &Value::Null).0, 202);
    wait_for("its objects are gone", PATIENCE, || {
        (own.objects("").is_empty() && second.objects("").is_empty()).then_some(())
    });
    assert_eq!(see(&node, &b).len(), 1);
}

#[test]
fn a_lost_index_is_rebuilt_from_the_tenants_bucket_too() {
    let (mut node, a, b) = two_tenants("");
    let own = Bucket::new();
    deliver(node.lmtp, &a, &message("old", 3000));
    deliver(node.lmtp, &b, &message("other", 3000));
    put(&node, &settings(&own, (GUEST_KEY, GUEST_SECRET)));
    for n in 0..5 {
        deliver(node.lmtp, &a, &message(&format!("new{n}"), 3000));
    }
    let expected = (see(&node, &a), see(&node, &b));
    wait_for("manifests are written", PATIENCE, || {
        let due = "SELECT (SELECT count(*) FROM mailboxes WHERE manifest_due) + (SELECT count(*) FROM manifest_notes)";
        (node.stores().number(due) == Some(0)).then_some(())
    });
    node.kill9();
    // A bucket set, and mail delivered, after the last manifest.
    let mut late = NodeOptions::on(node.stores());
    late.extra = SOON.replace("[manifest]\ninterval = \"200ms\"", "[manifest]\ninterval = \"0s\"");
    let mut late = Node::start(&late);
    let second = Bucket::new();
    put(&late, &settings(&second, (GUEST_KEY, GUEST_SECRET)));
    deliver(late.lmtp, &a, &message("late", 3000));
    assert_eq!(own_packs(&second), 1);
    let mut expected = expected;
    expected.0.push(message("late", 3000));
    late.kill9();
    // The house's bucket, the keys, and an empty database.
    let mut options = NodeOptions::on(&Stores::Servers(Database::new(), node.stores().bucket().clone()));
    options.extra = SOON.into();
    let mut new = Node::prepare(&options);
    crate::support::run(new.postern().args(["migrate", "--config"]).arg(new.config_path()));
    let output = run(&new, "rebuild", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    new.up();
    assert!((see(&new, &a), see(&new, &b)) == expected);
    let body = show(&new);
    assert_eq!((&body["current"]["number"], &body["current"]["packs"]), (&json!(2), &json!(1)), "{body}");
    deliver(new.lmtp, &a, &message("after", 3000));
    assert_eq!(own_packs(&second), 2);
    is_clean(&new);
}

/// Delivers and reads as the other tenant until `end`; gives how long each took.
fn keep_busy(node: &Node, user: &str, end: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !end.load(Relaxed) {
        let began = Instant::now();
        deliver(node.lmtp, user, &message("busy", 4000));
        let mut pop3 = login(node.pop3, user, "pw");
        assert!(!pop3.retr(1).is_empty());
        pop3.ok("DELE 1");
        pop3.ok("QUIT");
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took
}

fn p99(took: &[Duration]) -> Duration {
    took[took.len() * 99 / 100]
}

#[test]
fn a_bucket_that_fails_is_its_tenants_trouble_alone() {
    let (node, a, b) = two_tenants("[pack]\nmemory_octets = 8388608\n");
    let dir = tempfile::tempdir_in(env("POSTERN_TEST_TMP")).unwrap();
    let mut weed = Seaweed::start(env("POSTERN_TEST_WEED"), dir.path().join("s3")).unwrap();
    let mut own = Bucket::on(&weed.endpoint());
    let weather = Weather::before(&weed.endpoint(), 5);
    own.endpoint = weather.endpoint();
    put(&node, &settings(&own, (GUEST_KEY, GUEST_SECRET)));
    let first = message("first", 3000);
    deliver(node.lmtp, &a, &first);
    deliver(node.lmtp, &b, &message("first", 3000));
    let busy = |span: Duration, trouble: &(dyn Fn(&AtomicBool) + Sync)| {
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let working = scope.spawn(|| keep_busy(&node, &b, &end));
            for _ in 0..12 {
                scope.spawn(|| trouble(&end));
            }
            thread::sleep(span);
            end.store(true, Relaxed);
            working.join().unwrap()
        })
    };
    let calm = busy(Duration::from_secs(4), &|_| {});
    for fault in [Fault::Late(Duration::from_secs(30)), Fault::Failed, Fault::SlowDown, Fault::Reset] {
        weather.always(fault, None);
        let big = noise("big", 900_000);
        let stormy = busy(Duration::from_secs(8), &|end| {
            let mut replies = Vec::new();
            while !end.load(Relaxed) {
                // Who waits longer than clients do has no answer.
                let answer = Lmtp::connect(node.lmtp).unwrap().deliver(&[&a], &big);
                replies.extend(answer.unwrap_or_default());
                thread::sleep(Duration::from_millis(20));
            }
            assert!(replies.iter().all(|reply| reply.starts_with("451")), "{replies:?}");
        });
        let mut pop3 = wait_for("the maildrop is free", PATIENCE, || {
            let mut pop3 = Pop3::connect(node.pop3).ok()?;
            pop3.command(&format!("USER {a}")).ok()?;
            pop3.command("PASS pw").ok()?.starts_with("+OK").then_some(pop3)
        });
        assert!(pop3.err("RETR 1").starts_with("-ERR [SYS/TEMP] "));
        pop3.ok("QUIT");
        // One message to both: each tenant's recipients hear of their own.
        let replies = Lmtp::connect(node.lmtp).unwrap().deliver(&[&a, &b], &message("both", 2000)).unwrap();
        assert!(replies[0].starts_with("451") && replies[1].starts_with("250"), "{replies:?}");
        let (status, text) = node.http().get("/readyz");
        assert_eq!((status, text.as_str()), (200, "index ok\nblob ok\n"));
        println!(
            "{fault:?}: p99 of the other {:?} of {} rounds, {:?} of {} in the calm",
            p99(&stormy),
            stormy.len(),
            p99(&calm),
            calm.len()
        );
        assert!(p99(&stormy) < 4 * p99(&calm) + Duration::from_millis(250), "{fault:?}");
        weather.clear();
        wait_for("it comes back", PATIENCE, || try_deliver(node.lmtp, &a, &first).then_some(()));
    }
    // The server itself is gone, and comes back.
    weed.kill9();
    let during = busy(Duration::from_secs(4), &|_| {
        thread::sleep(Duration::from_millis(100));
        let replies = Lmtp::connect(node.lmtp).unwrap().deliver(&[&a], &first).unwrap_or_default();
        assert!(replies.iter().all(|reply| reply.starts_with("451")), "{replies:?}");
    });
    println!("gone: p99 of the other {:?} of {} rounds", p99(&during), during.len());
    weed.up().unwrap();
    wait_for("it comes back", PATIENCE, || try_deliver(node.lmtp, &a, &first).then_some(()));
    assert!(see(&node, &a).iter().filter(|seen| **seen == first).count() >= 6);
    let log = node.log();
    assert!(!log.contains(ADMIN_KEY) && !log.contains(GUEST_SECRET));
    let (_, metrics) = node.http().get("/metrics");
    assert!(
        metrics.contains("postern_tenant_bucket_attempts_total{kind=\"put\",result=\"timeout\"}"),
        "{metrics}"
    );
    assert!(metrics.contains("postern_tenant_bucket_clients 1"), "{metrics}");
}
