//! A client whose network went away comes back (P3).

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Network, Node, NodeOptions, Pop3, deliver, login, message, wait_for, without_trace};

/// Two nodes that can be reached from other networks, and a mailbox whose sessions are taken over after `secs`.
fn two_nodes(secs: u32) -> (Node, Node, String) {
    let options = NodeOptions { from_elsewhere: true, tls: true, ..NodeOptions::servers() };
    let (first, a) = Node::start(&options).with_mailbox("a");
    let policy = json!({ "policy": { "takeover_after_secs": secs, "plaintext_login": true } });
    let (status, answer) = first.http().json("PATCH", "/v1/tenants/one", &policy);
    assert_eq!(status, 200, "{answer}");
    let second = Node::start(&options);
    (first, second, a)
}

fn log_in(pop3: &mut Pop3, user: &str, password: &str) -> String {
    pop3.ok(&format!("USER {user}"));
    pop3.command(&format!("PASS {password}")).unwrap()
}

/// Tries to log in until it is let in; how long that took.
fn log_in_at_last(node: &Node, user: &str) -> (Pop3, Duration) {
    let start = Instant::now();
    let pop3 = wait_for("the maildrop of a client that is gone", Duration::from_secs(30), || {
        let mut pop3 = Pop3::connect(node.pop3).unwrap();
        let reply = log_in(&mut pop3, user, "pw");
        if reply.starts_with("+OK") {
            return Some(pop3);
        }
        assert!(reply.starts_with("-ERR [IN-USE] "), "{reply}");
        std::thread::sleep(Duration::from_millis(200));
        None
    });
    (pop3, start.elapsed())
}

fn counted(node: &Node, series: &str) -> u64 {
    let (_, metrics) = node.http().get("/metrics");
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

#[test]
fn a_client_that_lost_its_network_takes_its_maildrop_over() {
    let (first, second, a) = two_nodes(5);
    deliver(first.lmtp, &a, &message("kept", 500));
    let network = Network::new();
    // As most do, over TLS: it is the connection below that tells.
    let mut old = network.connect_tls(first.pop3s.port());
    assert!(log_in(&mut old, &a, "pw").starts_with("+OK"));
    old.ok("DELE 1");
    network.cut();
    // By another node; not sooner than it was silent for so long.
    let (mut new, took) = log_in_at_last(&second, &a);
    println!("taken over {took:?} after the network went, with takeover_after_secs = 5");
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "{took:?}");
    assert_eq!(counted(&second, "pop3_lock_takeovers_total"), 1);
    assert!(new.ok("STAT").starts_with("+OK 1 "), "the old session's DELE is not committed");
    // One at a time: the new one is not silent.
    let mut third = Pop3::connect(first.pop3).unwrap();
    assert!(log_in(&mut third, &a, "pw").starts_with("-ERR [IN-USE] "));
    // The network comes back, and the old client goes on as if nothing had been.
    network.mend();
    let reply = old.command("QUIT").unwrap();
    assert!(reply.starts_with("-ERR [SYS/TEMP] a newer login took the maildrop over"), "{reply}");
    assert!(old.rest().is_empty());
    wait_for("the old session's end", Duration::from_secs(5), || {
        (counted(&first, "pop3_sessions_ended_total{reason=\"taken_over\"}") == 1).then_some(())
    });
    assert!(new.ok("STAT").starts_with("+OK 1 "));
    new.ok("DELE 1");
    new.ok("QUIT");
    assert!(login(first.pop3, &a, "pw").ok("STAT").starts_with("+OK 0 0"));
}

#[test]
fn a_client_that_comes_back_in_time_goes_on() {
    let (first, second, a) = two_nodes(5);
    deliver(first.lmtp, &a, &message("kept", 500));
    let network = Network::new();
    let mut old = network.connect(first.pop3.port());
    assert!(log_in(&mut old, &a, "pw").starts_with("+OK"));
    old.ok("DELE 1");
    network.cut();
    // Silent for long enough, and noted: but nobody came meanwhile.
    std::thread::sleep(Duration::from_secs(8));
    network.mend();
    assert!(old.ok("STAT").starts_with("+OK 0 0"));
    let mut other = Pop3::connect(second.pop3).unwrap();
    assert!(log_in(&mut other, &a, "pw").starts_with("-ERR [IN-USE] "));
    old.ok("QUIT");
    let (_, metrics) = first.http().get("/metrics");
    assert!(metrics.contains("pop3_deleted_messages_total 1\n"));
    assert_eq!(counted(&second, "pop3_lock_takeovers_total"), 0);
}

/// Whoever answers is not silent, however long it says nothing, and however slowly it reads. Nor may another
/// credential take over, or anybody where the policy says never.
#[test]
fn a_client_that_is_there_keeps_its_maildrop() {
    let (first, second, a) = two_nodes(5);
    let sent = message("large", 12_000_000);
    deliver(first.lmtp, &a, &sent);
    let b = first.mailbox("one", "b", None);
    let c = first.mailbox("one", "c", None);
    let never = json!({ "policy": { "takeover_after_secs": 0 } });
    let (status, answer) = first.http().json("PATCH", &format!("/v1/tenants/one/mailboxes/{c}"), &never);
    assert_eq!(status, 200, "{answer}");
    let made = first.http().json(
        "POST",
        &format!("/v1/tenants/one/mailboxes/{b}/app-passwords"),
        &json!({ "label": "phone" }),
    );
    assert_eq!(made.0, 201, "{}", made.1);
    let phone = made.1["password"].as_str().unwrap().to_owned();
    // In the middle of a RETR that it does not read on.
    let mut slow = login(first.pop3, &a, "pw");
    slow.send(b"RETR 1\r\n").unwrap();
    assert!(slow.line().unwrap().starts_with("+OK"));
    let (gone, there) = (Network::new(), Network::new());
    let [mut of_b, mut of_c] = [&b, &c].map(|user| {
        let mut pop3 = gone.connect(first.pop3.port());
        assert!(log_in(&mut pop3, user, "pw").starts_with("+OK"), "{user}");
        pop3
    });
    let d = first.mailbox("one", "d", None);
    let mut idle = there.connect(first.pop3.port());
    assert!(log_in(&mut idle, &d, "pw").starts_with("+OK"));
    gone.cut();
    std::thread::sleep(Duration::from_secs(9));
    for (user, password) in [(&a, "pw"), (&b, phone.as_str()), (&c, "pw"), (&d, "pw")] {
        let mut other = Pop3::connect(second.pop3).unwrap();
        let reply = log_in(&mut other, user, password);
        assert!(reply.starts_with("-ERR [IN-USE] "), "{user}: {reply}");
    }
    // With the same one it is.
    let mut other = Pop3::connect(second.pop3).unwrap();
    assert!(log_in(&mut other, &b, "pw").starts_with("+OK"));
    let body = slow.body().unwrap();
    assert_eq!(without_trace(&crate::support::unstuffed(&body)), sent);
    slow.ok("QUIT");
    idle.ok("QUIT");
    gone.mend();
    assert!(of_b.err("NOOP").contains("[SYS/TEMP]"));
    of_c.ok("QUIT");
}

/// A client that goes in the middle of a RETR is as gone as one that says nothing.
#[test]
fn a_client_that_went_while_it_read_is_silent() {
    let (first, second, a) = two_nodes(5);
    deliver(first.lmtp, &a, &message("large", 12_000_000));
    let network = Network::new();
    let mut old = network.connect(first.pop3.port());
    assert!(log_in(&mut old, &a, "pw").starts_with("+OK"));
    old.send(b"RETR 1\r\n").unwrap();
    old.line().unwrap();
    network.cut();
    let (mut new, took) = log_in_at_last(&second, &a);
    println!("taken over {took:?} after the network went in the middle of RETR");
    assert!((Duration::from_secs(4)..Duration::from_secs(12)).contains(&took), "{took:?}");
    new.ok("QUIT");
}
