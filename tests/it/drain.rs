//! Going down in order.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::support::{Http, Lmtp, Node, NodeOptions, Stores, deliver, login, message};

fn node(timeout: &str) -> (Node, String) {
    let mut options = NodeOptions::embedded();
    options.extra = format!("[node]\ndrain_timeout = \"{timeout}\"\n");
    Node::start(&options).with_mailbox("a")
}

#[test]
fn sessions_may_finish_and_then_the_node_is_down() {
    let (mut node, a) = node("30s");
    deliver(node.lmtp, &a, &message("one", 500));
    let mut pop3 = login(node.pop3, &a, "pw");
    pop3.ok("DELE 1");
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    lmtp.command("MAIL FROM:<>").unwrap();
    node.signal(libc::SIGTERM);
    crate::support::wait_for("listeners close", Duration::from_secs(20), || {
        TcpStream::connect(node.pop3).is_err().then_some(())
    });
    let (status, text) = Http::new(node.admin, "").get("/readyz");
    assert_eq!((status, text.as_str()), (503, "draining\n"));
    assert_eq!(Http::new(node.admin, "").get("/livez").0, 200);
    // Both go on as if nothing were.
    assert!(lmtp.command(&format!("RCPT TO:<{a}>")).unwrap().starts_with("250"));
    assert!(lmtp.command("DATA").unwrap().starts_with("354"));
    lmtp.send(b"From: x\r\n\r\nlate\r\n.\r\n").unwrap();
    assert!(lmtp.reply().unwrap().starts_with("250"));
    lmtp.command("QUIT").unwrap();
    pop3.ok("QUIT");
    let start = Instant::now();
    assert!(node.wait().success());
    assert!(start.elapsed() < Duration::from_secs(10));
    node.up();
    assert!(
        login(node.pop3, &a, "pw").list("LIST").len() == 1,
        "the DELE was committed, the late one is there"
    );
}

#[test]
fn a_node_says_that_it_leaves_before_its_listeners_close() {
    let mut options = NodeOptions::embedded();
    options.extra = "[node]\ndrain_delay = \"3s\"\ndrain_timeout = \"30s\"\n".into();
    let (mut node, a) = Node::start(&options).with_mailbox("a");
    node.signal(libc::SIGTERM);
    let told = Instant::now();
    crate::support::wait_for("readiness falls", Duration::from_secs(2), || {
        (Http::new(node.admin, "").get("/readyz") == (503, "draining\n".to_owned())).then_some(())
    });
    // Whoever is still sent here is served.
    login(node.pop3, &a, "pw").ok("QUIT");
    deliver(node.lmtp, &a, &message("late", 500));
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}: too slow to tell anything", told.elapsed());
    assert!(node.wait().success());
    assert!(told.elapsed() >= Duration::from_secs(3), "{:?}", told.elapsed());
}

#[test]
fn past_the_deadline_sessions_end_between_commands_and_delete_nothing() {
    let (mut node, a) = node("1s");
    deliver(node.lmtp, &a, &message("one", 500));
    let mut pop3 = login(node.pop3, &a, "pw");
    pop3.ok("DELE 1");
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    node.signal(libc::SIGTERM);
    let last = String::from_utf8(pop3.rest()).unwrap();
    assert!(last.starts_with("-ERR [SYS/TEMP] ") && last.lines().count() == 1, "{last}");
    assert!(lmtp.reply().unwrap().starts_with("421 4.3.2"));
    assert!(node.wait().success());
    node.up();
    assert_eq!(login(node.pop3, &a, "pw").list("LIST").len(), 1, "never an UPDATE");
}

#[test]
fn a_node_that_went_down_in_order_holds_no_locks() {
    let mut options = NodeOptions::servers();
    options.extra = "[cluster]\nnode_ttl = \"10m\"\n[node]\ndrain_timeout = \"0s\"\n".into();
    let (mut first, a) = Node::start(&options).with_mailbox("a");
    let second = Node::start(&options);
    let pop3 = login(first.pop3, &a, "pw");
    first.signal(libc::SIGTERM);
    assert!(first.wait().success());
    drop(pop3);
    login(second.pop3, &a, "pw").ok("QUIT");
    let Stores::Servers(database, _) = &options.stores else { unreachable!() };
    assert_eq!(database.sql("SELECT count(*) FROM nodes"), "1");
}
