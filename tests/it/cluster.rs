//! Two nodes on one database and one bucket (P3).

use std::time::{Duration, Instant};

use crate::support::{Node, NodeOptions, Pop3, deliver, login, message, wait_for, without_trace};

fn two_nodes() -> (Node, Node, String) {
    let mut options = NodeOptions::servers();
    options.extra = "[cluster]\nnode_ttl = \"2s\"\n".into();
    let (first, a) = Node::start(&options).with_mailbox("a");
    let second = Node::start(&options);
    (first, second, a)
}

#[test]
fn delivered_through_one_and_read_through_the_other() {
    let (first, second, a) = two_nodes();
    for octets in [500, 50_000, 6_000_000] {
        let sent = message("crossing", octets);
        deliver(first.lmtp, &a, &sent);
        let mut pop3 = login(second.pop3, &a, "pw");
        assert_eq!(without_trace(&pop3.retr(1)), sent);
        pop3.ok("DELE 1");
        pop3.ok("QUIT");
        assert!(login(first.pop3, &a, "pw").ok("STAT").starts_with("+OK 0 0"));
    }
}

#[test]
fn a_maildrop_is_open_once_and_a_dead_holder_frees_it() {
    let (mut first, second, a) = two_nodes();
    deliver(first.lmtp, &a, &message("kept", 500));
    let mut holder = login(first.pop3, &a, "pw");
    holder.ok("DELE 1");
    let mut other = Pop3::connect(second.pop3).unwrap();
    other.ok(&format!("USER {a}"));
    assert!(other.err("PASS pw").starts_with("-ERR [IN-USE] "));
    first.kill9();
    let died = Instant::now();
    let mut pop3 = wait_for("the lock of a dead node", Duration::from_secs(10), || {
        let mut pop3 = Pop3::connect(second.pop3).unwrap();
        pop3.ok(&format!("USER {a}"));
        pop3.command("PASS pw").unwrap().starts_with("+OK").then_some(pop3)
    });
    println!("free {:?} after the holder was killed, with a lease of 2 s", died.elapsed());
    // The lease, at most, and what a poll of ours adds.
    assert!(died.elapsed() < Duration::from_secs(5), "{:?}", died.elapsed());
    assert!(pop3.ok("STAT").starts_with("+OK 1 "), "the dead session's DELE is not committed");
    pop3.ok("QUIT");
    // A node that comes back is another one, and serves.
    first.up();
    login(first.pop3, &a, "pw").ok("QUIT");
}

#[test]
fn a_stopped_node_is_fenced_when_it_goes_on() {
    let (first, second, a) = two_nodes();
    deliver(first.lmtp, &a, &message("kept", 500));
    let mut stopped = login(first.pop3, &a, "pw");
    stopped.ok("DELE 1");
    first.signal(libc::SIGSTOP);
    let mut taken = wait_for("the lock of a stopped node", Duration::from_secs(10), || {
        let mut pop3 = Pop3::connect(second.pop3).unwrap();
        pop3.ok(&format!("USER {a}"));
        pop3.command("PASS pw").unwrap().starts_with("+OK").then_some(pop3)
    });
    first.signal(libc::SIGCONT);
    // It lost its lock: it may not commit, and says so.
    let reply = stopped.command("QUIT").unwrap();
    assert!(reply.starts_with("-ERR [SYS/TEMP] "), "{reply}");
    assert_eq!(taken.list("LIST").len(), 1);
    taken.ok("DELE 1");
    taken.ok("QUIT");
    assert!(login(first.pop3, &a, "pw").ok("STAT").starts_with("+OK 0 0"));
}
