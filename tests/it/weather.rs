//! An object store that misbehaves in every way it can: nothing acknowledged is lost, nothing wrong is served (P1, P7).
//!
//! A short seeded run by default; `POSTERN_TEST_WEATHER_ROUNDS=100` for the long one.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Bucket, Database, Dice, Http, Lmtp, Node, NodeOptions, Pop3, Stores, deliver, env, login, message,
    try_deliver, unstuffed, wait_for,
    weather::{Chance, Fault, Weather},
    without_trace,
};

/// A node whose bucket is behind a proxy.
fn sheltered(seed: u64, extra: &str) -> (Weather, Node, String) {
    let weather = Weather::before(&env("POSTERN_TEST_S3_ENDPOINT"), seed);
    let mut bucket = Bucket::new();
    bucket.endpoint = weather.endpoint();
    let mut options = NodeOptions::on(&Stores::Servers(Database::new(), bucket));
    // What is cached is not read from the store.
    options.extra = format!("[cache]\nmemory_octets = 0\n{extra}");
    let (node, a) = Node::start(&options).with_mailbox("a");
    (weather, node, a)
}

fn metric(node: &Node, series: &str) -> f64 {
    let (_, text) = node.http().get("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn circuit(node: &Node) -> u8 {
    metric(node, "postern_s3_circuit") as u8
}

/// Whether the only message comes, right, within some tries.
fn comes(node: &Node, mailbox: &str, expected: &[u8]) {
    wait_for("the message", Duration::from_secs(20), || {
        let mut pop3 = Pop3::connect(node.pop3).unwrap();
        pop3.ok(&format!("USER {mailbox}"));
        // The session before may not have ended yet.
        pop3.command("PASS pw").unwrap().starts_with("+OK").then_some(())?;
        let reply = pop3.command("RETR 1").unwrap();
        let got = reply.starts_with("+OK").then(|| pop3.body());
        // A body that cannot go on is cut off.
        let Some(Ok(body)) = got else { return None };
        assert_eq!(without_trace(&unstuffed(&body)), expected);
        Some(())
    });
}

#[test]
fn each_fault_of_a_read_is_got_over() {
    let (weather, node, a) = sheltered(1, "");
    let expected = message("read", 400_000);
    deliver(node.lmtp, &a, &expected);
    for fault in [
        Fault::Reset,
        Fault::ResetInBody,
        Fault::Truncated,
        Fault::WrongOctet,
        Fault::Drip,
        Fault::Late(Duration::from_millis(300)),
        Fault::Stalled(Duration::from_secs(8)),
        Fault::Failed,
        Fault::SlowDown,
    ] {
        // Two of three: as often as not a try fails, and some later one does not.
        weather.by_chance(Chance { percent: 66, faults: vec![fault] });
        let before: u64 = weather.faults().values().sum();
        while weather.faults().values().sum::<u64>() < before + 2 {
            comes(&node, &a, &expected);
        }
        weather.clear();
    }
    println!("{:?}", weather.faults());
}

#[test]
fn a_wrong_octet_on_its_way_to_the_store_is_not_acknowledged() {
    let (weather, node, a) = sheltered(2, "");
    weather.always(Fault::WrongOctetSent, Some("PUT"));
    let replies = Lmtp::connect(node.lmtp).unwrap().deliver(&[&a], &message("bad", 20_000)).unwrap();
    assert!(replies[0].starts_with("451"), "{replies:?}");
    // In parts too.
    let replies = Lmtp::connect(node.lmtp).unwrap().deliver(&[&a], &noise(12_000_000)).unwrap();
    assert!(replies[0].starts_with("451"), "{replies:?}");
    weather.clear();
    let good = message("good", 20_000);
    wait_for("a delivery", Duration::from_secs(20), || try_deliver(node.lmtp, &a, &good).then_some(()));
    comes(&node, &a, &good);
}

/// A message that does not get smaller.
fn noise(octets: usize) -> Vec<u8> {
    let mut dice = Dice::new(7);
    let mut text = b"Subject: noise\r\n\r\n".to_vec();
    while text.len() < octets {
        text.extend((0..72).map(|_| b'0' + dice.roll(74) as u8));
        text.extend_from_slice(b"\r\n");
    }
    text
}

#[test]
fn a_store_that_stalls_is_given_up_on_at_once_and_comes_back_by_itself() {
    let (weather, mut node, a) = sheltered(3, "[blob]\nhedge = false\n");
    let expected = message("one", 2000);
    deliver(node.lmtp, &a, &expected);
    let mut pop3 = login(node.pop3, &a, "pw");
    assert_eq!(circuit(&node), 0);
    let mailboxes: Vec<_> = (0..6)
        .map(|i| {
            let mailbox = node.mailbox("one", &format!("m{i}"), None);
            deliver(node.lmtp, &mailbox, &expected);
            mailbox
        })
        .collect();
    weather.always(Fault::Late(Duration::from_mins(1)), None);
    // Those who come first wait for their deadlines; together they open the circuit.
    let began = Instant::now();
    let first: Vec<_> = mailboxes
        .into_iter()
        .map(|mailbox| {
            let addr = node.pop3;
            thread::spawn(move || {
                assert!(login(addr, &mailbox, "pw").err("RETR 1").starts_with("-ERR [SYS/TEMP] "));
            })
        })
        .collect();
    for one in first {
        one.join().unwrap();
    }
    println!("open after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(circuit(&node), 2);
    let before = weather.requests(None);
    let began = Instant::now();
    for _ in 0..20 {
        let replies = Lmtp::connect(node.lmtp).unwrap().deliver(&[&a], &message("no", 500)).unwrap();
        assert!(replies[0].starts_with("451 4.3.0"), "{replies:?}");
        assert!(pop3.err("RETR 1").starts_with("-ERR [SYS/TEMP] "));
    }
    let (status, text) = Http::new(node.admin, "").get("/readyz");
    assert_eq!((status, text.as_str()), (200, "index ok\nblob unavailable\n"));
    let (took, sent) = (began.elapsed(), weather.requests(None) - before);
    println!("20 deliveries and 20 RETR in {took:?}, {sent} requests sent");
    assert!(took < Duration::from_secs(5) && sent <= 10, "{took:?}, {sent}");
    weather.clear();
    let back = Instant::now();
    wait_for("a delivery", Duration::from_secs(15), || {
        try_deliver(node.lmtp, &a, &message("back", 500)).then_some(())
    });
    println!("back after {:?}", back.elapsed());
    assert_eq!(without_trace(&pop3.retr(1)), expected);
    assert_eq!(circuit(&node), 0);
    assert!(node.is_running());
}

#[test]
fn retries_are_within_the_budget_and_slow_down_lowers_the_limit() {
    let (weather, node, a) = sheltered(4, "[blob]\nbreaker_failures = 0\nretries_max = 5\nhedge = false\n");
    deliver(node.lmtp, &a, &message("one", 2000));
    assert!((metric(&node, "postern_s3_requests_limit") - 128.0).abs() < 0.1);
    weather.always(Fault::SlowDown, None);
    let before = weather.requests(Some("PUT"));
    for _ in 0..20 {
        assert!(!try_deliver(node.lmtp, &a, &message("no", 500)));
    }
    let attempts = weather.requests(Some("PUT")) - before;
    println!("20 deliveries, {attempts} attempts");
    assert!((20..=26).contains(&attempts), "{attempts}");
    let counted = metric(&node, "postern_s3_attempts_total{kind=\"put\",result=\"throttled\"}");
    assert!((counted - attempts as f64).abs() < 0.1, "{counted} counted, {attempts} came");
    assert!(metric(&node, "postern_s3_requests_limit") < 65.0);
    weather.clear();
    deliver(node.lmtp, &a, &message("two", 2000));
}

#[test]
fn slow_reads_are_hedged() {
    let (weather, node, a) = sheltered(5, "[read]\nahead_octets = 0\n");
    let expected = message("one", 2000);
    deliver(node.lmtp, &a, &expected);
    let mut pop3 = login(node.pop3, &a, "pw");
    for _ in 0..100 {
        pop3.retr(1);
    }
    weather.by_chance(Chance { percent: 3, faults: vec![Fault::Late(Duration::from_secs(1))] });
    for _ in 0..100 {
        assert_eq!(without_trace(&pop3.retr(1)), expected);
    }
    let won = metric(&node, "postern_s3_hedges_total{outcome=\"second\"}");
    println!("{:?}, {won} won by the second", weather.faults());
    assert!(won >= 1.0);
    assert!(weather.requests(Some("GET")) <= 220, "{}", weather.requests(Some("GET")));
}

#[test]
fn a_replica_answers_while_the_bucket_is_away() {
    // Replication is the operator's: here both names are one bucket, by two roads.
    let direct = env("POSTERN_TEST_S3_ENDPOINT");
    let weather = Weather::before(&direct, 6);
    let mut bucket = Bucket::new();
    bucket.endpoint = weather.endpoint();
    let mut options = NodeOptions::on(&Stores::Servers(Database::new(), bucket.clone()));
    options.extra = format!(
        "[cache]\nmemory_octets = 0\n[blob]\nreplica_bucket = \"{}\"\nreplica_endpoint = \"{direct}\"\n",
        bucket.name
    );
    let (node, a) = Node::start(&options).with_mailbox("a");
    let expected = message("one", 900_000);
    deliver(node.lmtp, &a, &expected);
    weather.always(Fault::Reset, None);
    let mut pop3 = login(node.pop3, &a, "pw");
    for _ in 0..5 {
        assert_eq!(without_trace(&pop3.retr(1)), expected);
    }
    assert!(metric(&node, "postern_s3_replica_reads_total{outcome=\"ok\"}") >= 5.0);
    assert!(!try_deliver(node.lmtp, &a, &message("two", 500)), "writes are not for the replica");
}

#[test]
fn in_all_weathers_every_acknowledged_message_is_there_once_and_right() {
    let rounds: u64 = std::env::var("POSTERN_TEST_WEATHER_ROUNDS").map_or(5, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("POSTERN_TEST_WEATHER_SEED").map_or(20_261_123, |n| n.parse().unwrap());
    let (weather, mut node, _) = sheltered(seed, "");
    let mailboxes: Vec<_> = (0..4).map(|i| node.mailbox("one", &format!("m{i}"), None)).collect();
    let (stop, counter) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (acked, sent) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(Mutex::new(BTreeSet::new())));
    let (served, cut) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut workers = Vec::new();
    for worker in 0..6_u64 {
        let (stop, counter, mailboxes) = (Arc::clone(&stop), Arc::clone(&counter), mailboxes.clone());
        let (acked, sent, lmtp) = (Arc::clone(&acked), Arc::clone(&sent), node.lmtp);
        workers.push(thread::spawn(move || {
            let mut dice = Dice::new(seed ^ (worker + 1));
            while !stop.load(Relaxed) {
                let mailbox = dice.roll(4) as usize;
                let octets = [400, 3000, 30_000, 1_500_000][dice.roll(20).saturating_sub(16) as usize];
                let tag = format!("m{mailbox}-t{}-{octets}", counter.fetch_add(1, Relaxed));
                sent.lock().unwrap().insert(tag.clone());
                if try_deliver(lmtp, &mailboxes[mailbox], &message(&tag, octets)) {
                    acked.lock().unwrap().insert(tag);
                } else {
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }));
    }
    for worker in 0..3_u64 {
        let (stop, mailboxes, pop3) = (Arc::clone(&stop), mailboxes.clone(), node.pop3);
        let (served, cut) = (Arc::clone(&served), Arc::clone(&cut));
        workers.push(thread::spawn(move || {
            let mut dice = Dice::new(seed ^ (worker + 100));
            while !stop.load(Relaxed) {
                match read_some(pop3, &mailboxes[dice.roll(4) as usize]) {
                    Ok(right) => drop(served.fetch_add(right, Relaxed)),
                    Err(_) => drop(cut.fetch_add(1, Relaxed)),
                }
                thread::sleep(Duration::from_millis(20));
            }
        }));
    }
    let faults = vec![
        Fault::Reset,
        Fault::ResetInRequest,
        Fault::AnswerLost,
        Fault::ResetInBody,
        Fault::Truncated,
        Fault::WrongOctet,
        Fault::WrongOctetSent,
        Fault::Late(Duration::from_millis(400)),
        Fault::Late(Duration::from_secs(10)),
        Fault::Stalled(Duration::from_secs(8)),
        Fault::Drip,
        Fault::Failed,
        Fault::SlowDown,
    ];
    let mut dice = Dice::new(seed);
    let mut peak = 0;
    for _ in 0..rounds {
        let percent = [5, 20, 40, 90][dice.roll(4) as usize];
        weather.by_chance(Chance { percent, faults: faults.clone() });
        thread::sleep(Duration::from_millis(1500 + dice.roll(1500)));
        weather.clear();
        thread::sleep(Duration::from_millis(500));
        peak = peak.max(resident_kib(node.pid()));
        assert!(node.is_running(), "the node ended by itself");
    }
    wait_for("the circuit is closed", Duration::from_secs(20), || (circuit(&node) == 0).then_some(()));
    stop.store(true, Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    let mut there = Vec::new();
    for mailbox in &mailboxes {
        let mut pop3 = wait_for("the maildrop is free", Duration::from_secs(30), || {
            let mut pop3 = Pop3::connect(node.pop3).ok()?;
            pop3.command(&format!("USER {mailbox}")).ok()?;
            pop3.command("PASS pw").ok()?.starts_with("+OK").then_some(pop3)
        });
        for number in 1..=pop3.list("LIST").len() {
            there.push(check(&pop3.retr(number)));
        }
        pop3.ok("QUIT");
    }
    let (acked, sent) = (acked.lock().unwrap(), sent.lock().unwrap());
    println!(
        "seed {seed}, {rounds} rounds, faults {:?} of {} requests: {} messages sent, {} acknowledged, {} there; {} served right meanwhile, {} sessions broken; {peak} KiB",
        weather.faults(),
        weather.requests(None),
        sent.len(),
        acked.len(),
        there.len(),
        served.load(Relaxed),
        cut.load(Relaxed),
    );
    let once: BTreeSet<_> = there.iter().cloned().collect();
    assert_eq!(once.len(), there.len(), "some are there twice");
    assert!(acked.is_subset(&once), "lost: {:?}", acked.difference(&once));
    assert!(once.is_subset(&sent), "nobody sent: {:?}", once.difference(&sent));
    assert!(acked.len() > 20 && served.load(Relaxed) > 20 && !weather.faults().is_empty());
    assert!(peak < 700 * 1024, "{peak} KiB");
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

/// A session that reads what comes first; gives how many messages came, all of them right.
fn read_some(addr: std::net::SocketAddr, mailbox: &str) -> std::io::Result<u64> {
    let mut pop3 = Pop3::connect(addr)?;
    pop3.command(&format!("USER {mailbox}"))?;
    if !pop3.command("PASS pw")?.starts_with("+OK") {
        return Ok(0);
    }
    let stat = pop3.command("STAT")?;
    let count: u64 = stat.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut right = 0;
    for number in (1..=count).rev().take(6) {
        if pop3.command(&format!("RETR {number}"))?.starts_with("+OK") {
            check(&unstuffed(&pop3.body()?));
            right += 1;
        }
    }
    pop3.command("QUIT")?;
    Ok(right)
}

/// Compares a message with the one that was sent, which its subject names, and gives its tag.
#[track_caller]
fn check(stored: &[u8]) -> String {
    let text = String::from_utf8_lossy(stored);
    let tag = text.lines().find_map(|l| l.strip_prefix("Subject: ")).expect("a subject").to_owned();
    let octets = tag.rsplit('-').next().unwrap().parse().unwrap();
    assert!(without_trace(stored) == message(&tag, octets), "{tag} is not what was sent");
    tag
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
