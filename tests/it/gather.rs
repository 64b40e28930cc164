//! Deliveries at once are stored together: fewer requests than messages, and nobody pays for another's trouble.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use xtask::services::Seaweed;

use crate::support::{
    Bucket, Database, Http, Lmtp, Node, NodeOptions, Stores, env, login, message, run, wait_for,
    without_trace,
};

/// The value of a series, or 0.
fn metric(node: &Node, series: &str) -> u64 {
    let (_, text) = Http::new(node.admin, "").get("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or(0)
}

fn puts(node: &Node) -> u64 {
    metric(node, "postern_object_requests_total{kind=\"put\",result=\"ok\"}")
}

#[test]
fn deliveries_at_once_share_requests_and_stay_apart() {
    const SENDERS: usize = 24;
    const EACH: usize = 12;
    let node = Node::start(&NodeOptions::servers());
    for tenant in ["one", "two"] {
        node.tenant(tenant);
    }
    let mailboxes: Vec<String> = (0..6)
        .flat_map(|i| ["one", "two"].map(|tenant| node.mailbox(tenant, &format!("m{i}"), None)))
        .collect();
    let (lmtp, mailboxes) = (node.lmtp, &mailboxes);
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            scope.spawn(move || {
                let mut client = Lmtp::connect(lmtp).unwrap();
                for i in 0..EACH {
                    // Two of one tenant and one of the other, of all sizes.
                    let to = [sender + i, sender + i + 2, sender + i + 5].map(|n| &*mailboxes[n % 12]);
                    let octets = 300 + 3000 * ((sender + i) % 12);
                    let replies = client.deliver(&to, &message(&format!("s{sender}i{i}"), octets)).unwrap();
                    assert!(replies.iter().all(|reply| reply.starts_with("250")), "{replies:?}");
                }
            });
        }
    });
    // Each was stored once for each of the two tenants.
    let (stored, puts) = ((SENDERS * EACH * 2) as u64, puts(&node));
    println!("{stored} stored messages by {puts} PUTs");
    assert!(puts * 2 < stored, "{puts} PUTs for {stored} messages");
    assert_eq!(node.stores().object_count(), puts);
    let mut seen = 0;
    for (n, mailbox) in mailboxes.iter().enumerate() {
        let mut pop3 = login(node.pop3, mailbox, "pw");
        let count = pop3.list("LIST").len();
        for number in 1..=count {
            let read = pop3.retr(number);
            let tag = String::from_utf8_lossy(&read);
            let (_, tag) = tag.split_once("Subject: s").unwrap();
            let (sender, i) = tag.lines().next().unwrap().split_once('i').unwrap();
            let (sender, i): (usize, usize) = (sender.parse().unwrap(), i.parse().unwrap());
            let octets = 300 + 3000 * ((sender + i) % 12);
            assert_eq!(without_trace(&read), message(&format!("s{sender}i{i}"), octets));
            assert!([0, 2, 5].iter().any(|add| (sender + i + add) % 12 == n), "s{sender}i{i} for {mailbox}");
        }
        seen += count;
    }
    assert_eq!(seen, SENDERS * EACH * 3);
}

#[test]
fn one_alone_waits_for_nobody() {
    let mut options = NodeOptions::servers();
    options.extra = "[pack]\nlinger = \"20s\"\n".into();
    let (node, a) = Node::start(&options).with_mailbox("a");
    let start = Instant::now();
    for i in 0..10 {
        let mut client = Lmtp::connect(node.lmtp).unwrap();
        let replies = client.deliver(&[&a], &message(&format!("m{i}"), 500)).unwrap();
        assert!(replies[0].starts_with("250"), "{replies:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(puts(&node), 10);
}

#[test]
fn while_the_blob_store_stands_still_messages_wait_in_bounded_room() {
    const SENDERS: usize = 100;
    const OCTETS: usize = 1_000_000;
    let dir = tempfile::tempdir_in(env("POSTERN_TEST_TMP")).unwrap();
    let weed = Seaweed::start(env("POSTERN_TEST_WEED"), dir.path().join("s3")).unwrap();
    let mut options = NodeOptions::on(&Stores::Servers(Database::new(), Bucket::on(&weed.endpoint())));
    let spool = dir.path().join("spool");
    fs::create_dir(&spool).unwrap();
    options.extra = format!(
        "[pack]\nmemory_octets = 4194304\nmax_octets = 2097152\nspool_dir = \"{}\"\n\
",
        spool.display()
    );
    let (node, a) = Node::start(&options).with_mailbox("a");
    let status = || fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let kib = |field: &str| -> u64 {
        let status = status();
        let value = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        value.trim_matches([':', '\t', ' ']).trim_end_matches(" kB").parse().unwrap()
    };
    // What is read does not compress: the room is for sealed octets.
    let noise = |seed: usize| {
        let mut text = format!("From: a@b.test\r\nSubject: {seed}\r\n\r\n").into_bytes();
        let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed as u64 + 1);
        while text.len() < OCTETS {
            for _ in 0..70 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push(
                    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
                        [(state >> 58) as usize],
                );
            }
            text.extend_from_slice(b"\r\n");
        }
        text
    };
    let before = kib("VmRSS");
    let pid = weed.pid().unwrap().to_string();
    run(Command::new("kill").args(["-STOP", &pid]));
    let (lmtp, a, noise, node) = (node.lmtp, &a, &noise, &node);
    thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|i| {
                // As an MTA does: what is put off is tried again.
                scope.spawn(move || {
                    wait_for("delivery", Duration::from_secs(60), || {
                        let replies = Lmtp::connect(lmtp).unwrap().deliver(&[a], &noise(i)).unwrap();
                        assert!(
                            replies[0].starts_with("250") || replies[0].starts_with("451"),
                            "{replies:?}"
                        );
                        replies[0].starts_with("250").then_some(())
                    });
                })
            })
            .collect();
        // All of them are read, though memory has no room for a tenth of them, and none is acknowledged.
        let read = || metric(node, "lmtp_message_octets_total");
        wait_for("messages are read", Duration::from_secs(40), || {
            (read() >= (SENDERS * OCTETS) as u64).then_some(())
        });
        let grown = kib("VmHWM") - before;
        println!("{SENDERS} messages of {OCTETS} octets wait: {grown} KiB of memory");
        // Compressed they are more than 70 MiB.
        assert!(grown < 50 * 1024, "{grown} KiB");
        assert!(senders.iter().all(|sender| !sender.is_finished()));
        run(Command::new("kill").args(["-CONT", &pid]));
        for sender in senders {
            sender.join().unwrap();
        }
    });
    let mut pop3 = login(node.pop3, a, "pw");
    assert_eq!(pop3.list("LIST").len(), SENDERS);
    for number in 1..=SENDERS {
        let read = pop3.retr(number);
        let text = String::from_utf8_lossy(&read);
        let seed: usize = text.split_once("Subject: ").unwrap().1.lines().next().unwrap().parse().unwrap();
        assert!(without_trace(&read) == noise(seed), "message {seed}");
    }
    assert_eq!(fs::read_dir(&spool).unwrap().count(), 0);
}

#[test]
fn a_sender_that_goes_away_takes_nobody_along() {
    let node = Node::start(&NodeOptions::servers());
    node.tenant("one");
    let a = node.mailbox("one", "a", None);
    let (lmtp, a) = (node.lmtp, &*a);
    thread::scope(|scope| {
        for sender in 0..16 {
            scope.spawn(move || {
                for i in 0..8 {
                    let mut client = Lmtp::connect(lmtp).unwrap();
                    if sender % 2 == 0 {
                        let replies =
                            client.deliver(&[a], &message(&format!("kept{sender}i{i}"), 900)).unwrap();
                        assert!(replies[0].starts_with("250"), "{replies:?}");
                    } else {
                        client.command("MAIL FROM:<>").unwrap();
                        client.command(&format!("RCPT TO:<{a}>")).unwrap();
                        client.command("DATA").unwrap();
                        client.send(b"Subject: gone\r\n\r\nx\r\n.\r\n").unwrap();
                        // Before the answer.
                    }
                }
            });
        }
    });
    let mut pop3 = login(node.pop3, a, "pw");
    let mut kept = 0;
    for number in 1..=pop3.list("LIST").len() {
        let read = pop3.retr(number);
        kept += usize::from(String::from_utf8_lossy(&read).contains("Subject: kept"));
    }
    assert_eq!(kept, 64);
}
