//! Guessing at passwords, and what it costs whom.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{Node, NodeOptions, Pop3, login, run};

/// How long the answer to a wrong password takes.
fn guess(node: &Node, user: &str) -> Duration {
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    pop3.ok(&format!("USER {user}"));
    let start = Instant::now();
    assert!(pop3.err("PASS wrong").starts_with("-ERR [AUTH]"));
    start.elapsed()
}

#[test]
fn guessers_wait_on_every_node_and_owners_do_not() {
    let stores = crate::support::Stores::servers();
    let options = || NodeOptions { failure_delay: ("200ms", "2s"), ..NodeOptions::on(&stores) };
    let (one, a) = Node::start(&options()).with_mailbox("a");
    let two = Node::start(&options());
    let ms = Duration::from_millis;
    // Whether there is such a mailbox or not.
    for (user, delays) in [(a.as_str(), [200, 400, 800]), ("nobody@one.test", [1600, 2000, 2000])] {
        for delay in delays {
            let took = guess(&one, user);
            // While it waits, what failed before is worth a little less.
            let expected = ms(delay * 9 / 10)..ms(delay + 700);
            assert!(expected.contains(&took), "{user}: {took:?}, not {delay} ms");
        }
    }
    // The right password has its answer at once, in the middle of all that.
    let start = Instant::now();
    login(one.pop3, &a, "pw").ok("QUIT");
    assert!(start.elapsed() < ms(200), "{:?}", start.elapsed());
    // Another node hears of the source, and of the account's good one.
    std::thread::sleep(Duration::from_secs(5));
    let took = guess(&two, "nobody@one.test");
    assert!((ms(1500)..ms(2700)).contains(&took), "{took:?}");
    for _ in 0..2 {
        let took = guess(&two, &a);
        assert!((ms(200)..ms(400)).contains(&took), "a known source waits for its own mistakes: {took:?}");
    }
    let (_, metrics) = one.http().get("/metrics");
    let delayed = |by: &str| {
        let series = format!("pop3_login_delays_total{{by=\"{by}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((delayed("account"), delayed("source")), (3, 3));
}

#[test]
fn fail2ban_reads_the_log() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    for user in [a.as_str(), "x\",\"peer\":\"192.0.2.1\",\"protocol\":\"pop3\",\"y@one.test"] {
        guess(&node, user);
    }
    login(node.pop3, &a, "pw").ok("QUIT");
    let log = node.dir.path().join("postern.log");
    fs::write(&log, node.log()).unwrap();
    let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/fail2ban/filter.d/postern.conf");
    let found = run(Command::new("fail2ban-regex").args(["--out", "ip"]).arg(&log).arg(filter)).stdout;
    assert_eq!(String::from_utf8(found).unwrap().split_whitespace().collect::<Vec<_>>(), ["127.0.0.1"; 2]);
}
