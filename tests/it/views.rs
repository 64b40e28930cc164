//! What a session sees of a maildrop where policy or its login leave something out.

use serde_json::{Value, json};

use crate::support::{Node, NodeOptions, Pop3, deliver, login, message};

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

/// `recent:` and `+recent` leave out what is older than the policy says, in whatever way somebody logs in.
#[test]
fn the_recent_view_is_asked_for_by_the_login_name() {
    let (node, a) = Node::start(&NodeOptions::servers()).with_mailbox("a");
    for tag in ["old", "older", "new"] {
        deliver(node.lmtp, &a, &message(tag, 1000));
    }
    let aged = |uid: u32, days: u32| {
        node.stores().execute(&format!(
            "UPDATE messages SET received_at = received_at - interval '{days} days' WHERE uid = {uid}"
        ));
    };
    aged(1, 31);
    aged(2, 8);
    let tagged = a.replace('@', "+recent@");
    let unique_ids = |name: &str| {
        let mut pop3 = login(node.pop3, name, "pw");
        let listed = pop3.list("UIDL");
        // A session that just goes gives its lock back by and by.
        pop3.ok("QUIT");
        listed
    };
    let all = unique_ids(&a);
    assert_eq!(all.len(), 3);
    for name in [format!("recent:{a}"), tagged.clone(), tagged.to_uppercase()] {
        let mut pop3 = login(node.pop3, &name, "pw");
        let stat = pop3.ok("STAT");
        let octets = pop3.retr(1).len() + pop3.retr(2).len();
        assert_eq!(stat, format!("+OK 2 {octets}"), "{name}");
        let unique_ids: Vec<_> = pop3.list("UIDL").iter().map(|line| line[2..].to_owned()).collect();
        assert_eq!(unique_ids, [&all[1][2..], &all[2][2..]], "{name}");
        pop3.ok("QUIT");
    }
    patch(&node, &a, &json!({ "recent_days": 7 }));
    let plain = |name: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("\0{name}\0pw"))
    };
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    pop3.ok(&format!("AUTH PLAIN {}", plain(&tagged)));
    assert_eq!(pop3.list("LIST").len(), 1);
    // Deleting in the view deletes what is seen and nothing else.
    pop3.ok("DELE 1");
    pop3.ok("QUIT");
    assert!(unique_ids(&tagged).is_empty());
    assert_eq!(unique_ids(&a), all[..2]);
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    pop3.ok(&format!("USER {tagged}"));
    assert!(pop3.err("PASS wrong").starts_with("-ERR [AUTH]"));
}
