//! Parts that go away, and bytes that change (P1, P7).

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use xtask::services::{Postgres, PostgresOptions, Seaweed};

use crate::support::{
    Bucket, Database, Http, Lmtp, Node, NodeOptions, Pop3, Stores, deliver, env, login, message, try_deliver,
    wait_for, without_trace,
};

fn private_postgres(dir: &Path) -> Postgres {
    Postgres::start(PostgresOptions::new(env("POSTERN_TEST_PG_BIN"), dir.join("pg"))).unwrap()
}

/// A node that keeps nothing near: what it reads it reads from the store.
fn uncached(options: NodeOptions) -> NodeOptions {
    NodeOptions { extra: "[cache]\nmemory_octets = 0\n".into(), ..options }
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env("POSTERN_TEST_TMP")).unwrap()
}

#[test]
fn without_the_blob_store_everything_else_goes_on() {
    let dir = dir();
    let mut weed = Seaweed::start(env("POSTERN_TEST_WEED"), dir.path().join("s3")).unwrap();
    let stores = Stores::Servers(Database::new(), Bucket::on(&weed.endpoint()));
    let (mut node, a) = Node::start(&uncached(NodeOptions::on(&stores))).with_mailbox("a");
    for tag in ["one", "two", "three"] {
        deliver(node.lmtp, &a, &message(tag, 2000));
    }
    let mut open = login(node.pop3, &a, "pw");
    weed.kill9();
    // Login, STAT, LIST, UIDL, DELE and QUIT need no blob; RETR and TOP say that it is for now.
    assert!(open.err("RETR 1").starts_with("-ERR [SYS/TEMP] "));
    assert!(open.err("TOP 1 0").starts_with("-ERR [SYS/TEMP] "));
    assert_eq!(open.list("UIDL").len(), 3);
    open.ok("DELE 2");
    open.ok("QUIT");
    let mut pop3 = login(node.pop3, &a, "pw");
    assert!(pop3.ok("STAT").starts_with("+OK 2 "));
    // A delivery is put off, not lost and not acknowledged.
    let start = Instant::now();
    let replies = Lmtp::connect(node.lmtp).unwrap().deliver(&[&a], &message("later", 500)).unwrap();
    assert!(replies[0].starts_with("451 4.3.0"), "{replies:?}");
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    let (status, text) = Http::new(node.admin, "").get("/readyz");
    assert_eq!((status, text.as_str()), (200, "index ok\nblob unavailable\n"));
    weed.restart().unwrap();
    // Back without a restart of the node, and of the session. The server itself takes a while to find its
    // volumes again.
    wait_for("the message", Duration::from_secs(30), || {
        pop3.command("RETR 1").unwrap().starts_with("+OK").then_some(())
    });
    assert_eq!(without_trace(&crate::support::unstuffed(&pop3.body().unwrap())), message("one", 2000));
    wait_for("a delivery", Duration::from_secs(30), || {
        try_deliver(node.lmtp, &a, &message("later", 500)).then_some(())
    });
    assert!(node.is_running());
}

#[test]
fn a_node_starts_while_the_blob_store_is_away() {
    let dir = dir();
    let mut weed = Seaweed::start(env("POSTERN_TEST_WEED"), dir.path().join("s3")).unwrap();
    let stores = Stores::Servers(Database::new(), Bucket::on(&weed.endpoint()));
    let (mut node, a) = Node::start(&NodeOptions::on(&stores)).with_mailbox("a");
    node.kill9();
    weed.stop();
    node.up();
    login(node.pop3, &a, "pw").ok("QUIT");
    weed.up().unwrap();
    deliver(node.lmtp, &a, &message("one", 500));
}

#[test]
fn without_the_database_nobody_is_told_a_wrong_password() {
    let dir = dir();
    let mut postgres = private_postgres(dir.path());
    let stores = Stores::Servers(Database::on(&postgres.url("postgres")), Bucket::new());
    let mut options = NodeOptions::on(&stores);
    options.extra = "[index]\nacquire_timeout = \"1s\"\n".into();
    let (mut node, a) = Node::start(&options).with_mailbox("a");
    for tag in ["one", "two"] {
        deliver(node.lmtp, &a, &message(tag, 2000));
    }
    let b = node.mailbox("one", "b", None);
    deliver(node.lmtp, &b, &message("unread", 2000));
    let mut open = login(node.pop3, &a, "pw");
    assert_eq!(open.list("LIST").len(), 2);
    open.retr(1);
    open.ok("DELE 1");
    let mut unread = login(node.pop3, &b, "pw");
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    lmtp.command("MAIL FROM:<>").unwrap();
    assert!(lmtp.command(&format!("RCPT TO:<{a}>")).unwrap().starts_with("250"));
    postgres.kill9();
    // A session that has not read its listing yet knows its totals, and cannot read more for now.
    assert!(unread.ok("STAT").starts_with("+OK 1 "));
    for command in ["LIST", "UIDL", "RETR 1", "TOP 1 0", "DELE 1"] {
        let reply = unread.err(command);
        assert!(reply.starts_with("-ERR [SYS/TEMP] "), "{command}: {reply}");
    }
    // A message on its way in is stored, finds no rows to be made, and is put off.
    assert!(lmtp.command("DATA").unwrap().starts_with("354"));
    lmtp.send(b"From: x\r\n\r\non its way\r\n.\r\n").unwrap();
    let reply = lmtp.reply().unwrap();
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
    // A login, known a moment ago or not, is refused for now.
    for (user, password) in [(a.as_str(), "pw"), (&a, "wrong"), ("nobody@one.test", "pw")] {
        let mut pop3 = Pop3::connect(node.pop3).unwrap();
        pop3.ok(&format!("USER {user}"));
        let reply = pop3.err(&format!("PASS {password}"));
        assert!(reply.starts_with("-ERR [SYS/TEMP] "), "{reply}");
    }
    // The session that was open goes on with what it knows…
    open.ok("STAT");
    assert_eq!(open.list("LIST").len(), 1);
    open.retr(2);
    // …a delivery is put off…
    let replies = Lmtp::connect(node.lmtp).unwrap().deliver(&[&a], &message("later", 500)).unwrap();
    assert!(replies[0].starts_with("451 4.3.0"), "{replies:?}");
    assert_eq!(Http::new(node.admin, "").get("/readyz").0, 503);
    assert_eq!(node.http().get("/v1/tenants").0, 503);
    // …and what cannot be committed is not said to be.
    let reply = open.command("QUIT").unwrap();
    assert!(reply.starts_with("-ERR [SYS/TEMP] "), "{reply}");
    // Where nothing was to be deleted there is nothing that could fail.
    unread.ok("QUIT");
    postgres.up().unwrap();
    // Back without a restart; the crash emptied the locks, and nothing was deleted.
    let mut pop3 = wait_for("a login", Duration::from_secs(20), || {
        let mut pop3 = Pop3::connect(node.pop3).unwrap();
        pop3.ok(&format!("USER {a}"));
        let reply = pop3.command("PASS pw").unwrap();
        assert!(!reply.contains("[AUTH]"), "{reply}");
        reply.starts_with("+OK").then_some(pop3)
    });
    assert!(pop3.ok("STAT").starts_with("+OK 2 "));
    deliver(node.lmtp, &a, &message("later", 500));
    assert!(node.is_running());
}

#[test]
fn a_restart_of_the_database_is_hardly_noticed() {
    let dir = dir();
    let mut postgres = private_postgres(dir.path());
    let stores = Stores::Servers(Database::on(&postgres.url("postgres")), Bucket::new());
    let (node, a) = Node::start(&NodeOptions::on(&stores)).with_mailbox("a");
    deliver(node.lmtp, &a, &message("one", 2000));
    for _ in 0..3 {
        postgres.restart().unwrap();
        // The pool's connections are dead; the first statement of each finds out and is repeated.
        deliver(node.lmtp, &a, &message("more", 500));
        let mut pop3 = login(node.pop3, &a, "pw");
        pop3.retr(1);
        pop3.ok("QUIT");
    }
    // A lock that was held over a stop in good order is there afterwards: the commit is found out about
    // and done.
    let mut pop3 = login(node.pop3, &a, "pw");
    pop3.ok("DELE 1");
    postgres.restart().unwrap();
    pop3.ok("QUIT");
    assert!(login(node.pop3, &a, "pw").ok("STAT").starts_with("+OK 3 "));
}

fn packs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if fs::metadata(&path).unwrap().len() > 300 {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn a_flipped_byte_is_never_served() {
    let (node, a) = Node::start(&uncached(NodeOptions::embedded())).with_mailbox("a");
    deliver(node.lmtp, &a, &message("flipped", 3000));
    let paths = packs(&node.dir.path().join("data/packs"));
    let [path] = &paths[..] else { panic!("{paths:?}") };
    let good = fs::read(path).unwrap();
    let expected = message("flipped", 3000);
    let (mut refused, mut served) = (0, 0);
    for at in (0..good.len()).step_by(37) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(path, &bad).unwrap();
        let mut pop3 = login(node.pop3, &a, "pw");
        let reply = pop3.command("RETR 1").unwrap();
        if reply.starts_with("-ERR [SYS/PERM]") {
            refused += 1;
            pop3.ok("QUIT");
        } else {
            // What frames the pack is not read for a message, whose own octets must then be right.
            assert!(reply.starts_with("+OK"), "{reply}");
            let body = crate::support::unstuffed(&pop3.body().unwrap());
            assert_eq!(without_trace(&body), expected, "octet {at}");
            served += 1;
            pop3.ok("QUIT");
        }
    }
    assert!(refused > 10 && served > 0, "{refused} refused, {served} served");
    assert!(node.log().contains("message could not be read"));
    // A pack that is gone altogether: its message is refused, the rest of the maildrop is not.
    fs::remove_file(path).unwrap();
    deliver(node.lmtp, &a, &message("whole", 3000));
    let mut pop3 = login(node.pop3, &a, "pw");
    assert!(pop3.err("RETR 1").starts_with("-ERR [SYS/PERM] "));
    assert_eq!(without_trace(&pop3.retr(2)), message("whole", 3000));
}

#[test]
fn a_large_message_with_a_flipped_byte_is_cut_off() {
    let (node, a) = Node::start(&uncached(NodeOptions::embedded())).with_mailbox("a");
    deliver(node.lmtp, &a, &message("flipped", 8_000_000));
    let path = &packs(&node.dir.path().join("data/packs"))[0];
    let mut octets = fs::read(path).unwrap();
    let at = octets.len() * 3 / 4;
    octets[at] ^= 1;
    fs::write(path, octets).unwrap();
    let mut pop3 = login(node.pop3, &a, "pw");
    pop3.ok("RETR 1");
    // There is no way to say so in the middle of a message: the connection is cut before its end.
    assert!(pop3.body().is_err());
}
