//! POP3 as clients see it (RFC 1939; the corners of the field).

use std::time::{Duration, Instant};

use crate::support::{Http, Node, NodeOptions, Pop3, deliver, login, message, without_trace};

#[test]
fn listings_and_octets_agree_with_what_is_sent() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let messages: Vec<Vec<u8>> = [
        message("one", 2000),
        b"From: x\r\n\r\n".to_vec(),
        b"From: no blank line\r\n".to_vec(),
        b"From: x\r\n\r\n.\r\n..\r\n...x\r\n.".to_vec(),
        [b"From: x\r\n\r\n".as_slice(), &vec![b'x'; 1_000_000], b"\r\n"].concat(),
        b"From: x\r\n\r\nbare \r cr, nul \0, eight bit \xff\xfe\r\n".to_vec(),
        message("large", 3_000_000),
    ]
    .into();
    for m in &messages {
        deliver(node.lmtp, &a, m);
    }
    let mut pop3 = login(node.pop3, &a, "pw");
    let stat = pop3.ok("STAT");
    let list = pop3.list("LIST");
    assert_eq!(list.len(), messages.len());
    let octets: Vec<u64> = list.iter().map(|l| l.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    assert_eq!(stat, format!("+OK {} {}", octets.len(), octets.iter().sum::<u64>()));
    for (i, sent) in messages.iter().enumerate() {
        let got = pop3.retr(i + 1);
        assert_eq!(got.len() as u64, octets[i], "message {}", i + 1);
        let mut expected = sent.clone();
        if !expected.ends_with(b"\r\n") {
            expected.extend_from_slice(b"\r\n");
        }
        assert_eq!(without_trace(&got), expected, "message {}", i + 1);
        let head = String::from_utf8_lossy(&got[..200.min(got.len())]).into_owned();
        assert!(head.starts_with(&format!("Delivered-To: {a}\r\nReturn-Path: <sender@example.org>\r\nReceived: from client.example ([127.0.0.1])\r\n\tby pop.test (Postern) with LMTP id ")), "{head}");
        assert_eq!(pop3.ok(&format!("LIST {}", i + 1)), format!("+OK {} {}", i + 1, octets[i]));
    }
    // TOP: the header and so many lines, never more than there are.
    pop3.ok("TOP 1 0");
    let top = pop3.body().unwrap();
    assert!(top.ends_with(b"\r\n\r\n") && top.windows(4).filter(|w| *w == b"\r\n\r\n").count() == 1);
    pop3.ok("TOP 1 2");
    let two = pop3.body().unwrap();
    assert_eq!(two[top.len()..].iter().filter(|b| **b == b'\n').count(), 2);
    pop3.ok("TOP 4 99999999");
    let whole = pop3.body().unwrap();
    assert_eq!(without_trace(&crate::support::unstuffed(&whole)), b"From: x\r\n\r\n.\r\n..\r\n...x\r\n.\r\n");
    pop3.ok("TOP 7 3");
    assert!(pop3.body().unwrap().len() < 2000);
    // Unique-ids: one each, stable over sessions and deletions.
    let unique_ids = pop3.list("UIDL");
    pop3.ok("DELE 2");
    pop3.ok("QUIT");
    let mut pop3 = login(node.pop3, &a, "pw");
    let after = pop3.list("UIDL");
    let ids =
        |list: &[String]| list.iter().map(|l| l.split(' ').nth(1).unwrap().to_owned()).collect::<Vec<_>>();
    let mut expected = ids(&unique_ids);
    expected.remove(1);
    assert_eq!(ids(&after), expected);
}

#[test]
fn deletions_are_bound_to_quit() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    for tag in ["one", "two", "three"] {
        deliver(node.lmtp, &a, &message(tag, 300));
    }
    let mut pop3 = login(node.pop3, &a, "pw");
    pop3.ok("DELE 2");
    for command in ["RETR 2", "TOP 2 0", "LIST 2", "UIDL 2", "DELE 2"] {
        pop3.err(command);
    }
    assert_eq!(pop3.list("LIST").len(), 2);
    assert!(pop3.ok("STAT").starts_with("+OK 2 "));
    pop3.ok("RSET");
    assert!(pop3.ok("STAT").starts_with("+OK 3 "));
    pop3.ok("DELE 1");
    pop3.ok("DELE 3");
    // The connection is lost: no UPDATE. The lock is free soon all the same.
    drop(pop3);
    let mut pop3 = wait_login(&node, &a);
    assert!(pop3.ok("STAT").starts_with("+OK 3 "));
    // Mail that arrives during a session is not seen before the next, whatever is listed first.
    deliver(node.lmtp, &a, &message("four", 300));
    assert_eq!(pop3.list("UIDL").len(), 3);
    pop3.err("RETR 4");
    pop3.ok("DELE 2");
    // What is pipelined behind QUIT is ignored.
    pop3.send(b"QUIT\r\nRSET\r\nNOOP\r\n").unwrap();
    assert!(pop3.line().unwrap().starts_with("+OK"));
    assert!(pop3.rest().is_empty());
    let mut pop3 = login(node.pop3, &a, "pw");
    let subjects: Vec<_> = (1..=3).map(|n| subject(&pop3.retr(n))).collect();
    assert_eq!(subjects, ["one", "three", "four"]);
}

fn wait_login(node: &Node, user: &str) -> Pop3 {
    crate::support::wait_for("lock is free", Duration::from_secs(20), || {
        let mut pop3 = Pop3::connect(node.pop3).unwrap();
        pop3.ok(&format!("USER {user}"));
        pop3.command("PASS pw").unwrap().starts_with("+OK").then_some(pop3)
    })
}

fn subject(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message).into_owned();
    text.lines().find_map(|l| l.strip_prefix("Subject: ")).unwrap().to_owned()
}

#[test]
fn logins_tell_nothing_of_who_exists() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let refuse = |user: &str, password: &str| {
        let mut pop3 = Pop3::connect(node.pop3).unwrap();
        let user = pop3.ok(&format!("USER {user}"));
        (user, pop3.err(&format!("PASS {password}")))
    };
    let wrong = refuse(&a, "wrong");
    assert!(wrong.1.starts_with("-ERR [AUTH] "), "{wrong:?}");
    for other in ["nobody@one.test", "a@nowhere.test", "a", "@", "a@one.test@", "\u{1F600}"] {
        assert_eq!(refuse(other, "pw"), wrong, "{other}");
    }
    // Three refusals, and the guesser has to connect again.
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    for _ in 0..3 {
        pop3.ok(&format!("USER {a}"));
        pop3.err("PASS wrong");
    }
    assert!(pop3.rest().is_empty());
    // In any case, upper or lower; and the other tenants' directory is not asked.
    login(node.pop3, "A@ONE.TEST", "pw").ok("QUIT");
}

#[test]
fn a_new_password_counts_at_once() {
    let options = NodeOptions::servers();
    let (node, a) = Node::start(&options).with_mailbox("a");
    let second = Node::start(&NodeOptions::on(&options.stores));
    // Both nodes remember the login…
    for _ in 0..2 {
        login(node.pop3, &a, "pw").ok("QUIT");
        login(second.pop3, &a, "pw").ok("QUIT");
    }
    let path = format!("/v1/tenants/one/mailboxes/{a}/password");
    let (status, _) = node.http().json("PUT", &path, &serde_json::json!({ "password": " new p\u{e4}ss " }));
    assert_eq!(status, 204);
    // …and neither takes the old password any more.
    for addr in [node.pop3, second.pop3] {
        let mut pop3 = Pop3::connect(addr).unwrap();
        pop3.ok(&format!("USER {a}"));
        assert!(pop3.err("PASS pw").starts_with("-ERR [AUTH]"));
        login(addr, &a, " new p\u{e4}ss ").ok("QUIT");
    }
}

#[test]
fn bad_input_is_answered_and_bounded() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    deliver(node.lmtp, &a, &message("one", 300));
    let mut pop3 = login(node.pop3, &a, "pw");
    for number in ["0", "-1", "+1", "01", "1x", "4294967296", "18446744073709551616", "", "2", "1 2"] {
        for command in ["RETR", "DELE", "TOP", "LIST", "UIDL"] {
            if number.is_empty() && ["LIST", "UIDL"].contains(&command) {
                continue;
            }
            let line = if command == "TOP" && number != "1 2" {
                format!("TOP {number} 1")
            } else {
                format!("{command} {number}")
            };
            if line == "TOP 1 2" {
                continue;
            }
            let mut pop3_of_line = Pop3::connect(node.pop3).unwrap();
            pop3_of_line.err(&line);
            assert!(pop3.command(&line).unwrap().starts_with("-ERR"), "{line}");
            pop3.ok("NOOP");
        }
        // The bad-command limit is per session.
        pop3.ok("QUIT");
        pop3 = login(node.pop3, &a, "pw");
    }
    // An over-long line is skipped whole and answered once; what it holds is not a command.
    pop3.send(format!("{}\r\nNOOP\r\n", "DELE 1 ".repeat(10_000)).as_bytes()).unwrap();
    assert!(pop3.line().unwrap().starts_with("-ERR"));
    assert!(pop3.line().unwrap().starts_with("+OK"));
    assert!(pop3.ok("STAT").starts_with("+OK 1 "));
    pop3.ok("QUIT");
    // After twenty bad commands the server hangs up.
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    pop3.send(&b"FROB\r\n".repeat(25)).unwrap();
    let rest = String::from_utf8(pop3.rest()).unwrap();
    assert_eq!(rest.lines().count(), 20, "{rest}");
    // TLS or HTTP on the plain port end the connection at once, without a word.
    for foreign in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]
    {
        let mut pop3 = Pop3::connect(node.pop3).unwrap();
        let start = Instant::now();
        pop3.send(foreign).unwrap();
        assert!(pop3.rest().is_empty());
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    // And the process goes on serving.
    login(node.pop3, &a, "pw").ok("QUIT");
}

#[test]
fn pipelining_and_lower_case_and_bare_line_feeds() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    for i in 0..100 {
        deliver(node.lmtp, &a, &message(&format!("m{i}"), 400));
    }
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    let mut all = format!("capa\nuser {a}\npass pw\nstat \nuidl\n");
    for i in 1..=100 {
        all += &format!("retr {i}\n");
    }
    all += "quit\n";
    pop3.send(all.as_bytes()).unwrap();
    assert!(pop3.line().unwrap().starts_with("+OK"));
    let capabilities = String::from_utf8(pop3.body().unwrap()).unwrap();
    for tag in [
        "TOP",
        "USER",
        "UIDL",
        "RESP-CODES",
        "AUTH-RESP-CODE",
        "PIPELINING",
        "UTF8 USER",
        "LANG",
        "IMPLEMENTATION Postern",
    ] {
        assert!(capabilities.lines().any(|l| l == tag), "{tag} in {capabilities}");
    }
    assert!(!capabilities.contains("STLS"), "there is no certificate");
    assert!(!capabilities.contains("EXPIRE"), "whose mail may expire is not known yet");
    for _ in 0..3 {
        assert!(pop3.line().unwrap().starts_with("+OK"));
    }
    assert!(pop3.line().unwrap().starts_with("+OK"));
    pop3.body().unwrap();
    for i in 0..100 {
        assert!(pop3.line().unwrap().starts_with("+OK"));
        assert_eq!(subject(&pop3.body().unwrap()), format!("m{i}"));
    }
    assert!(pop3.line().unwrap().starts_with("+OK"));
    assert!(pop3.rest().is_empty());
}

#[test]
fn a_client_that_does_not_read_costs_little_and_disturbs_nobody() {
    let mut options = NodeOptions::embedded();
    options.extra = "[pop3]\nwrite_timeout = \"2s\"\n".into();
    let (node, a) = Node::start(&options).with_mailbox("a");
    let b = node.mailbox("one", "b", None);
    deliver(node.lmtp, &a, &message("big", 20_000_000));
    deliver(node.lmtp, &b, &message("small", 1000));
    let rss = |node: &Node| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = rss(&node);
    let mut lazy = login(node.pop3, &a, "pw");
    lazy.send(&b"RETR 1\r\n".repeat(300)).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    login(node.pop3, &b, "pw").retr(1);
    assert!(rss(&node) < before + 16 * 1024, "{} KiB before, {} KiB now", before, rss(&node));
    // A client that makes no progress at all is let go, and the maildrop is free.
    wait_login(&node, &a).ok("QUIT");
}

#[test]
fn strangers_do_not_stay_and_the_listener_is_not_overrun() {
    let mut options = NodeOptions::embedded();
    options.extra = "[pop3]\nlogin_timeout = \"1s\"\nconnections_max = 5\n".into();
    let node = Node::start(&options);
    let mut held: Vec<_> = (0..5).map(|_| Pop3::connect(node.pop3).unwrap()).collect();
    let refused = Pop3::connect(node.pop3).unwrap();
    assert!(refused.greeting.starts_with("-ERR [SYS/TEMP] "), "{}", refused.greeting);
    // Silence before login ends the connection, with a word.
    let rest = String::from_utf8(held[0].rest()).unwrap();
    assert!(rest.starts_with("-ERR") && rest.lines().count() == 1, "{rest}");
    drop(held);
    crate::support::wait_for("a seat is free", Duration::from_secs(20), || {
        Pop3::connect(node.pop3).ok().filter(|p| p.greeting.starts_with("+OK"))
    });
    // Nor does talking keep a stranger's seat: five login timeouts are the end of it.
    let mut talker = Pop3::connect(node.pop3).unwrap();
    let start = Instant::now();
    while talker.command("CAPA").is_ok_and(|reply| reply.starts_with("+OK")) && talker.body().is_ok() {
        assert!(start.elapsed() < Duration::from_secs(20), "a talker keeps its seat");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(start.elapsed() > Duration::from_secs(3), "{:?}", start.elapsed());
    let (status, metrics) = Http::new(node.admin, "").get("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("pop3_sessions_ended_total{reason=\"too_many_connections\"} "), "{metrics}");
}

#[test]
fn one_session_at_a_time_and_delivery_goes_on() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let mut first = login(node.pop3, &a, "pw");
    let mut second = Pop3::connect(node.pop3).unwrap();
    second.ok(&format!("USER {a}"));
    assert!(second.err("PASS pw").starts_with("-ERR [IN-USE] "));
    deliver(node.lmtp, &a, &message("while-open", 300));
    first.ok("QUIT");
    second.ok(&format!("USER {a}"));
    second.ok("PASS pw");
    assert_eq!(second.list("LIST").len(), 1);
    // QUIT before login is no UPDATE, and good.
    Pop3::connect(node.pop3).unwrap().ok("QUIT");
}

#[test]
fn mail_that_vanishes_is_refused_for_that_number_alone() {
    let options = NodeOptions::servers();
    let crate::support::Stores::Servers(database, _) = &options.stores else { unreachable!() };
    let (node, a) = Node::start(&options).with_mailbox("a");
    for tag in ["one", "two", "three"] {
        deliver(node.lmtp, &a, &message(tag, 300));
    }
    let mut pop3 = login(node.pop3, &a, "pw");
    assert_eq!(pop3.list("LIST").len(), 3);
    database.sql("DELETE FROM messages WHERE uid = 2");
    pop3.err("RETR 2");
    assert_eq!(subject(&pop3.retr(3)), "three");
    assert_eq!(subject(&pop3.retr(1)), "one");
    pop3.ok("DELE 2");
    pop3.ok("DELE 1");
    pop3.ok("QUIT");
    assert_eq!(subject(&login(node.pop3, &a, "pw").retr(1)), "three");
}
