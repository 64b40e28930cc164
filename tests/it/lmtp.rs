//! LMTP as MTAs see it (RFC 2033).

use std::{io::Write as _, os::unix::net::UnixStream};

use crate::support::{Lmtp, Node, NodeOptions, Stores, deliver, login, message, without_trace};

#[test]
fn one_reply_for_each_recipient_and_one_copy_for_all() {
    let options = NodeOptions::servers();
    let Stores::Servers(database, _) = &options.stores else { unreachable!() };
    let (node, a) = Node::start(&options).with_mailbox("a");
    let b = node.mailbox("one", "b", None);
    let full = node.mailbox("one", "full", Some(1000));
    node.tenant("two");
    let c = node.mailbox("two", "c", None);
    deliver(node.lmtp, &full, &message("fills", 500));
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    let to = [a.as_str(), "nobody@one.test", &b, &full, &c, "x@nowhere.test"];
    let sent = message("to-many", 5000);
    let replies = lmtp.deliver(&to, &sent).unwrap();
    let codes: Vec<_> = replies.iter().map(|r| r[..9].to_owned()).collect();
    assert_eq!(codes, ["250 2.0.0", "550 5.1.1", "250 2.0.0", "452 4.2.2", "250 2.0.0", "550 5.1.1"]);
    for user in [&a, &b, &c] {
        let got = login(node.pop3, user, "pw").retr(1);
        assert!(got.starts_with(format!("Delivered-To: {user}\r\n").as_bytes()));
        assert_eq!(without_trace(&got), sent);
    }
    // Once for each tenant, under its own key: two packs hold what three read.
    let packs = database.sql("SELECT count(DISTINCT pack_id) FROM messages WHERE octets > 4000");
    let rows = database.sql("SELECT count(*) FROM messages WHERE octets > 4000");
    assert_eq!((packs.as_str(), rows.as_str()), ("2", "3"));
    // SIZE is checked before the message is sent; a full mailbox refuses at RCPT.
    assert!(lmtp.command("MAIL FROM:<> SIZE=600").unwrap().starts_with("250"));
    assert!(lmtp.command(&format!("RCPT TO:<{full}>")).unwrap().starts_with("452 4.2.2"));
    assert!(lmtp.command("RSET").unwrap().starts_with("250"));
    assert!(lmtp.command("MAIL FROM:<> SIZE=99999999999").unwrap().starts_with("552 5.3.4"));
    // Twice to one mailbox is one message.
    let replies = lmtp.deliver(&[&a, &a.to_uppercase()], &message("twice", 300)).unwrap();
    assert!(replies.iter().all(|r| r.starts_with("250")), "{replies:?}");
    assert_eq!(login(node.pop3, &a, "pw").list("LIST").len(), 2);
}

#[test]
fn only_crlf_dot_crlf_ends_a_message() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let smuggled =
        format!("MAIL FROM:<evil@example.org>\r\nRCPT TO:<{a}>\r\nDATA\r\nFrom: evil\r\n\r\nsmuggled");
    let endings = ["\n.\n", "\n.\r\n", "\r.\r", "\r\n.\n", "\r\n.\r", "\n.\r", "\r.\r\n", "\r\n\0.\r\n"];
    for (i, ending) in endings.iter().enumerate() {
        let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
        lmtp.command("MAIL FROM:<sender@example.org>").unwrap();
        lmtp.command(&format!("RCPT TO:<{a}>")).unwrap();
        assert!(lmtp.command("DATA").unwrap().starts_with("354"));
        lmtp.send(format!("From: x\r\n\r\nfirst{ending}{smuggled}\r\n.\r\n").as_bytes()).unwrap();
        assert!(lmtp.reply().unwrap().starts_with("250"), "{ending:?}");
        assert!(lmtp.command("NOOP").unwrap().starts_with("250"));
        let mut pop3 = login(node.pop3, &a, "pw");
        assert_eq!(pop3.list("LIST").len(), i + 1, "{ending:?}");
        let got = pop3.retr(i + 1);
        assert!(String::from_utf8_lossy(&got).ends_with("smuggled\r\n"));
        // Every line feed that is stored has its carriage return.
        assert!((1..got.len()).all(|i| got[i] != b'\n' || got[i - 1] == b'\r'));
        pop3.ok("QUIT");
    }
}

#[test]
fn bdat_pipelining_and_a_unix_socket() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let mut stream = UnixStream::connect(node.dir.path().join("lmtp.sock")).unwrap();
    let script = format!(
        "LHLO unix.example\r\nMAIL FROM:<s@example.org> BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<{a}>\r\n\
         BDAT 10\r\nFrom: x\r\n\rBDAT 9\r\n\nbody\r\nxyBDAT 0 LAST\r\nQUIT\r\n"
    );
    stream.write_all(script.as_bytes()).unwrap();
    let replies = std::io::read_to_string(&stream).unwrap();
    let codes: Vec<_> =
        replies.lines().filter(|l| l.as_bytes()[3] == b' ').map(|l| l[..3].to_owned()).collect();
    assert_eq!(codes, ["220", "250", "250", "250", "250", "250", "250", "221"], "{replies}");
    let got = login(node.pop3, &a, "pw").retr(1);
    assert_eq!(without_trace(&got), b"From: x\r\n\r\nbody\r\nxy\r\n");
    assert!(String::from_utf8_lossy(&got).contains("Received: from unix.example ([unix])\r\n"));
    assert!(String::from_utf8_lossy(&got).contains("with UTF8LMTP id"));
}

#[test]
fn bad_input_is_answered_and_the_session_goes_on() {
    let mut options = NodeOptions::embedded();
    options.extra = "[lmtp]\nmax_message_octets = 100000\nmax_recipients = 2\n".into();
    let (node, a) = Node::start(&options).with_mailbox("a");
    let b = node.mailbox("one", "b", None);
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    for (command, code) in [
        ("HELO x", "500"),
        ("EHLO x", "500"),
        ("RCPT TO:<a@one.test>", "503"),
        ("DATA", "503"),
        ("MAIL FROM:nobody", "501"),
        ("MAIL FROM:<a@b> FROB=1", "555"),
        ("FROB", "500"),
        ("VRFY a", "252"),
    ] {
        let reply = lmtp.command(command).unwrap();
        assert!(reply.starts_with(code), "{command}: {reply}");
    }
    assert!(lmtp.command(&format!("NOOP {}", "x".repeat(10_000))).unwrap().starts_with("500"));
    // A message that grows past the limit is drained, refused, and not stored.
    let replies = lmtp.deliver(&[&a], &message("too-large", 200_000)).unwrap();
    assert!(replies[0].starts_with("552 5.3.4"), "{replies:?}");
    let replies = lmtp.deliver(&[&a, &b, &a], &message("three", 300)).unwrap();
    assert!(replies[2].starts_with("452 4.5.3"), "{replies:?}");
    // A connection that breaks in the middle leaves nothing.
    let mut broken = Lmtp::connect(node.lmtp).unwrap();
    broken.command("MAIL FROM:<>").unwrap();
    broken.command(&format!("RCPT TO:<{a}>")).unwrap();
    broken.command("DATA").unwrap();
    broken.send(&b"half of a message\r\n".repeat(3000)).unwrap();
    drop(broken);
    std::thread::sleep(std::time::Duration::from_millis(200));
    let mut pop3 = login(node.pop3, &a, "pw");
    assert_eq!(pop3.list("LIST").len(), 1);
    let null_sender = Lmtp::connect(node.lmtp).unwrap().deliver(&[&b], b"").unwrap();
    assert!(null_sender[0].starts_with("250"), "an empty message: {null_sender:?}");
}
