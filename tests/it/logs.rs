//! What the log says of a session, and what it never says.

use serde_json::{Value, json};

use crate::support::{Lmtp, Node, NodeOptions, Pop3, login, message, wait_for};

/// The session's identifier, out of its greeting.
#[track_caller]
fn session_of(greeting: &str) -> String {
    let (_, rest) = greeting.rsplit_once('(').unwrap_or_else(|| panic!("{greeting}"));
    let id = rest.strip_suffix(')').unwrap().to_owned();
    assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{id}");
    id
}

/// The lines about a session, once it has ended.
fn lines_of(node: &Node, session: &str) -> Vec<Value> {
    wait_for("the session's last line", std::time::Duration::from_secs(10), || {
        let lines: Vec<Value> =
            node.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let lines: Vec<_> = lines.into_iter().filter(|line| line["session"] == session).collect();
        lines.iter().any(|line| line["message"] == "session ended").then_some(lines)
    })
}

#[test]
fn a_session_can_be_followed_from_its_greeting() {
    let (node, address) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    let session = session_of(&lmtp.greeting);
    lmtp.deliver(&[&address], &message("followed", 1000)).unwrap();
    lmtp.command("QUIT").unwrap();
    let lines = lines_of(&node, &session);
    let delivery = lines.iter().find(|line| line["message"] == "delivery ended").unwrap();
    assert_eq!(delivery["outcome"], "delivered", "{delivery}");
    assert_eq!(delivery["recipient"], address.as_str());
    let (tenant, mailbox) = (delivery["tenant.id"].clone(), delivery["mailbox.id"].clone());
    for id in [&tenant, &mailbox] {
        assert_eq!(id.as_str().unwrap().len(), 36, "{delivery}");
    }
    assert!(delivery["octets"].as_u64().unwrap() >= 1000, "{delivery}");
    let ended = lines.last().unwrap();
    assert_eq!((&ended["messages"], &ended["delivered"]), (&json!(1), &json!(1)), "{ended}");

    let mut wrong = Pop3::connect(node.pop3).unwrap();
    let session = session_of(&wrong.greeting);
    wrong.ok(&format!("USER {address}"));
    wrong.err("PASS no");
    drop(wrong);
    let lines = lines_of(&node, &session);
    let refused = lines.iter().find(|line| line["message"] == "login was refused").unwrap();
    assert_eq!((&refused["user"], &refused["outcome"]), (&json!(address), &json!("bad_credentials")));
    assert_eq!(lines.last().unwrap()["reason"], "gone");

    let mut pop3 = login(node.pop3, &address, "pw");
    let session = session_of(&pop3.greeting);
    assert!(!pop3.greeting.contains('<'), "an invitation to APOP: {}", pop3.greeting);
    let octets = pop3.retr(1).len();
    pop3.ok("DELE 1");
    pop3.ok("QUIT");
    let lines = lines_of(&node, &session);
    let ended = lines.last().unwrap();
    for (key, value) in [
        ("level", json!("INFO")),
        ("user", json!(address)),
        ("messages", json!(1)),
        ("octets", json!(octets)),
        ("deleted", json!(1)),
        ("reason", json!("quit")),
        ("peer", json!("127.0.0.1")),
        ("tenant.id", tenant),
        ("mailbox.id", mailbox),
    ] {
        assert_eq!(ended[key], value, "{key} in {ended}");
    }
    assert!(ended["duration_ms"].is_u64());
}

#[test]
fn addresses_are_left_out_where_that_is_wished() {
    let options =
        NodeOptions { extra: "[log]\nclient_addresses = false\n".to_owned(), ..NodeOptions::embedded() };
    let node = Node::start(&options);
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    let session = session_of(&pop3.greeting);
    pop3.ok("QUIT");
    assert!(lines_of(&node, &session).iter().all(|line| line.get("peer").is_none()));
}
