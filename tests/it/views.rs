//! What a session sees of a maildrop where policy or its login leave something out.

use serde_json::{Value, json};

use crate::support::{Node, NodeOptions, deliver, login, message};

#[track_caller]
fn patch(node: &Node, address: &str, policy: &Value) {
    let path = format!("/v1/tenants/one/mailboxes/{address}");
    let (status, answer) = node.http().json("PATCH", &path, &json!({ "policy": policy }));
    assert_eq!(status, 200, "{answer}");
}

/// What policy says of the order and number of messages holds for numbers, totals and deletions alike.
#[test]
fn views_of_policy_leave_out_and_nothing_else() {
    for options in [NodeOptions::embedded(), NodeOptions::servers()] {
        let (node, a) = Node::start(&options).with_mailbox("a");
        for tag in ["one", "two", "three", "four"] {
            deliver(node.lmtp, &a, &message(tag, 2000));
        }
        patch(&node, &a, &json!({ "listed_max": 2, "message_order": "received" }));
        let mut pop3 = login(node.pop3, &a, "pw");
        let stat = pop3.ok("STAT");
        let octets = pop3.retr(1).len() + pop3.retr(2).len();
        assert_eq!(stat, format!("+OK 2 {octets}"));
        assert!(pop3.retr(1).windows(14).any(|w| w == b"Subject: three"));
        assert!(pop3.err("RETR 3").contains("no such message"));
        let unique_ids = pop3.list("UIDL");
        pop3.ok("DELE 1");
        pop3.ok("QUIT");
        // The others come into sight as these go.
        let mut pop3 = login(node.pop3, &a, "pw");
        assert_eq!(pop3.list("LIST").len(), 2);
        assert!(pop3.retr(1).windows(12).any(|w| w == b"Subject: two"));
        let id = |line: &String| line.split(' ').nth(1).unwrap().to_owned();
        assert_eq!(id(&pop3.list("UIDL")[1]), id(&unique_ids[1]));
        pop3.ok("QUIT");
        patch(&node, &a, &json!({ "listed_max": null }));
        let mut pop3 = login(node.pop3, &a, "pw");
        assert_eq!(pop3.list("LIST").len(), 3);
    }
}
