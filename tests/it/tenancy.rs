//! What a tenant and a mailbox may do, as their owners and their senders meet it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Lmtp, Node, NodeOptions, Pop3, deliver, login, message, unstuffed, wait_for};

/// A node whose housekeeping and heartbeats are quick.
fn quick() -> NodeOptions {
    NodeOptions {
        extra:
            "[cluster]\nnode_ttl = \"1500ms\"\n[worker]\ninterval = \"300ms\"\nexpiry_interval = \"300ms\"\n\
                deletion_grace = \"1s\"\n"
                .into(),
        ..NodeOptions::servers()
    }
}

#[track_caller]
fn call(node: &Node, method: &str, path: &str, body: &Value) -> Value {
    let (status, answer) = node.http().json(method, path, body);
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    answer
}

#[track_caller]
fn patch_tenant(node: &Node, body: &Value) {
    call(node, "PATCH", "/v1/tenants/one", body);
}

#[track_caller]
fn patch_mailbox(node: &Node, address: &str, body: &Value) {
    call(node, "PATCH", &format!("/v1/tenants/one/mailboxes/{address}"), body);
}

/// What PASS is answered.
fn pass(node: &Node, address: &str, password: &str) -> String {
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    pop3.ok(&format!("USER {address}"));
    let reply = pop3.command(&format!("PASS {password}")).unwrap();
    if reply.starts_with("+OK") {
        pop3.ok("QUIT");
    }
    reply
}

/// What one recipient of a message is answered, at RCPT or after the message.
fn rcpt_reply(node: &Node, to: &str) -> String {
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    lmtp.deliver(&[to], &message("x", 300)).unwrap().pop().unwrap()
}

fn items(node: &Node, path: &str) -> Vec<Value> {
    let (status, text) = node.http().get(path);
    assert_eq!(status, 200, "{text}");
    serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().clone()
}

#[test]
fn a_suspended_mailbox_or_tenant_is_closed_and_opens_again() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    let b = node.mailbox("one", "b", None);
    deliver(node.lmtp, &a, &message("before", 300));
    login(node.pop3, &a, "pw").ok("QUIT");
    let mut open = login(node.pop3, &b, "pw");
    call(&node, "POST", &format!("/v1/tenants/one/mailboxes/{a}/suspend"), &json!({}));
    assert!(pass(&node, &a, "pw").starts_with("-ERR [SYS/PERM]"), "the right password is told why");
    assert!(pass(&node, &a, "wrong").starts_with("-ERR [AUTH]"), "a wrong one learns nothing");
    let rcpt = |to: &str| rcpt_reply(&node, to);
    assert!(rcpt(&a).starts_with("550 5.2.1"), "{}", rcpt(&a));
    patch_mailbox(&node, &a, &json!({ "policy": { "suspended_reply": "temporary" } }));
    assert!(rcpt(&a).starts_with("450 4.2.1"), "{}", rcpt(&a));
    open.ok("NOOP");
    call(&node, "POST", &format!("/v1/tenants/one/mailboxes/{a}/resume"), &json!({}));
    let mut pop3 = login(node.pop3, &a, "pw");
    assert_eq!(pop3.ok("STAT").split(' ').nth(1), Some("1"), "its mail was kept");
    pop3.ok("QUIT");
    // The tenant as a whole: who is on is told to go.
    call(&node, "POST", "/v1/tenants/one/suspend", &json!({}));
    assert!(pass(&node, &a, "pw").starts_with("-ERR [SYS/PERM]"));
    assert!(rcpt(&b).starts_with("550 5.2.1"));
    let last = wait_for("the session is ended", Duration::from_secs(10), || {
        let reply = open.command("NOOP").unwrap();
        (!reply.starts_with("+OK")).then_some(reply)
    });
    assert!(last.starts_with("-ERR [SYS/PERM]"), "{last}");
    call(&node, "POST", "/v1/tenants/one/resume", &json!({}));
    login(node.pop3, &b, "pw").ok("QUIT");
}

#[test]
fn sessions_are_shown_and_ended() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    deliver(node.lmtp, &a, &message("kept", 300));
    let mut pop3 = login(node.pop3, &a, "pw");
    pop3.ok("DELE 1");
    let sessions = items(&node, "/v1/tenants/one/sessions");
    assert_eq!(sessions.len(), 1);
    let (id, greeting) = (sessions[0]["id"].as_str().unwrap(), &pop3.greeting);
    assert!(greeting.contains(id), "{id} is in the greeting: {greeting}");
    assert_eq!(sessions[0]["address"], json!(a));
    assert_eq!(sessions[0]["node"], json!("pop.test"));
    assert_eq!(sessions[0]["peer"], json!("127.0.0.1"));
    let path = format!("/v1/tenants/one/sessions/{id}");
    assert_eq!(node.http().json("DELETE", &path, &json!(null)).0, 204);
    // The maildrop is free at once; the session learns of it within a heartbeat, and deletes nothing.
    let mut next = login(node.pop3, &a, "pw");
    assert_eq!(next.ok("STAT").split(' ').nth(1), Some("1"));
    let said = pop3.line().unwrap();
    assert!(said.starts_with("-ERR [SYS/PERM]"), "{said}");
    assert_eq!(next.ok("STAT").split(' ').nth(1), Some("1"));
    next.ok("QUIT");
    assert_eq!(node.http().json("DELETE", &path, &json!(null)).0, 404);
}

#[test]
fn a_login_delay_is_announced_and_kept() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    let b = node.mailbox("one", "b", None);
    patch_mailbox(&node, &a, &json!({ "policy": { "login_delay_secs": 2, "expire_days": 30 } }));
    let mut pop3 = login(node.pop3, &a, "pw");
    let capabilities = pop3.list("CAPA");
    assert!(capabilities.contains(&"LOGIN-DELAY 2".to_owned()), "{capabilities:?}");
    assert!(capabilities.contains(&"EXPIRE 30".to_owned()), "{capabilities:?}");
    pop3.ok("QUIT");
    let start = Instant::now();
    assert!(pass(&node, &a, "pw").starts_with("-ERR [LOGIN-DELAY]"));
    login(node.pop3, &b, "pw").ok("QUIT");
    wait_for("the delay is over", Duration::from_secs(10), || {
        pass(&node, &a, "pw").starts_with("+OK").then_some(())
    });
    assert!(start.elapsed() > Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn switches_close_the_door() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    login(node.pop3, &a, "pw").ok("QUIT");
    patch_tenant(&node, &json!({ "policy": { "pop3": false } }));
    assert!(pass(&node, &a, "pw").starts_with("-ERR [SYS/PERM]"));
    patch_tenant(&node, &json!({ "policy": { "pop3": null, "login_mechanisms": ["SCRAM-SHA-256"] } }));
    assert!(pass(&node, &a, "pw").starts_with("-ERR [SYS/PERM]"));
    patch_tenant(&node, &json!({ "policy": { "login_mechanisms": null, "plaintext_login": false } }));
    let reply = pass(&node, &a, "pw");
    assert!(reply.starts_with("-ERR [SYS/PERM]") && reply.contains("TLS"), "{reply}");
    assert!(pass(&node, &a, "wrong").starts_with("-ERR [AUTH]"));
    // A mailbox may be let off what holds for its tenant.
    patch_mailbox(&node, &a, &json!({ "policy": { "plaintext_login": true } }));
    login(node.pop3, &a, "pw").ok("QUIT");
}

#[test]
fn limits_hold_and_are_told() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    let b = node.mailbox("one", "b", None);
    patch_tenant(&node, &json!({ "limits": { "sessions_max": 1 } }));
    let mut pop3 = login(node.pop3, &a, "pw");
    assert!(pass(&node, &b, "pw").starts_with("-ERR [SYS/TEMP]"));
    pop3.ok("QUIT");
    login(node.pop3, &b, "pw").ok("QUIT");
    // Logins: three a minute, then no more; another mailbox has its own.
    patch_tenant(&node, &json!({ "limits": { "sessions_max": null }, "policy": { "logins_per_minute": 3 } }));
    let logins = |address: &str| (0..6).filter(|_| pass(&node, address, "pw").starts_with("+OK")).count();
    assert_eq!((logins(&a), logins(&b)), (3, 3));
    assert!(pass(&node, &a, "pw").starts_with("-ERR [SYS/TEMP]"));
    // Mail: so many recipients, and no larger than so.
    let policy = json!({ "logins_per_minute": null, "deliveries_per_minute": 2, "message_octets_max": 2000 });
    patch_tenant(&node, &json!({ "policy": policy }));
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    let mut send = |octets| lmtp.deliver(&[&a], &message("x", octets)).unwrap().pop().unwrap();
    assert!(send(300).starts_with("250"));
    let large = send(5000);
    assert!(large.starts_with("552 5.2.3"), "{large}");
    let third = send(300);
    assert!(third.starts_with("451 4.7.1"), "{third}");
    let said = lmtp.command("MAIL FROM:<x@example.org> SIZE=3000").unwrap();
    assert!(said.starts_with("250"));
    let said = lmtp.command(&format!("RCPT TO:<{b}>")).unwrap();
    assert!(said.starts_with("552 5.2.3"), "{said}");
}

#[test]
fn bandwidth_is_rationed() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    let sent = message("slow", 300_000);
    deliver(node.lmtp, &a, &sent);
    let fetch = |node: &Node| {
        let mut pop3 = login(node.pop3, &a, "pw");
        let start = Instant::now();
        pop3.ok("RETR 1");
        let body = pop3.body().unwrap();
        pop3.ok("QUIT");
        (start.elapsed(), unstuffed(&body).len())
    };
    let (fast, octets) = fetch(&node);
    patch_mailbox(&node, &a, &json!({ "policy": { "octets_out_per_second": 150_000 } }));
    let (slow, same) = fetch(&node);
    assert_eq!(octets, same, "every octet comes, later");
    assert!(slow > Duration::from_millis(900) && slow > 2 * fast, "{fast:?}, then {slow:?}");
    // A day's worth: what is over is refused, and a login with it.
    patch_mailbox(
        &node,
        &a,
        &json!({ "policy": { "octets_out_per_second": null, "octets_out_per_day": 350_000 } }),
    );
    let mut pop3 = login(node.pop3, &a, "pw");
    pop3.ok("RETR 1");
    pop3.body().unwrap();
    pop3.ok("RETR 1");
    pop3.body().unwrap();
    let refused = pop3.err("RETR 1");
    assert!(refused.starts_with("-ERR [SYS/TEMP]"), "{refused}");
    pop3.ok("STAT");
    pop3.ok("QUIT");
    assert!(pass(&node, &a, "pw").starts_with("-ERR [SYS/TEMP]"));
    // The API is no way around it, and what it sends counts.
    let http = node.http();
    let raw = format!("/v1/tenants/one/mailboxes/{a}/messages/1/raw");
    let (status, problem) = http.get(&raw);
    let problem: Value = serde_json::from_str(&problem).unwrap();
    assert_eq!(
        (status, problem["type"].as_str()),
        (429, Some("urn:postern:problem:daily-limit")),
        "{problem}"
    );
    patch_mailbox(&node, &a, &json!({ "policy": { "octets_out_per_day": 800_000 } }));
    assert_eq!((http.get(&raw).0, http.get(&raw).0), (200, 429));
    assert!(pass(&node, &a, "pw").starts_with("-ERR [SYS/TEMP]"));
}

#[test]
fn quotas_of_mailbox_and_tenant_are_told_at_rcpt() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    patch_tenant(&node, &json!({ "quota_octets": 10_000, "quota_messages": 3, "mailbox_quota_messages": 2 }));
    deliver(node.lmtp, &a, &message("1", 300));
    deliver(node.lmtp, &a, &message("2", 300));
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    let mut rcpt = |to: &str| {
        lmtp.command("RSET").unwrap();
        lmtp.command("MAIL FROM:<x@example.org>").unwrap();
        lmtp.command(&format!("RCPT TO:<{to}>")).unwrap()
    };
    assert!(rcpt(&a).starts_with("452 4.2.2"), "{}", rcpt(&a));
    let b = node.mailbox("one", "b", None);
    deliver(node.lmtp, &b, &message("3", 300));
    assert!(rcpt(&b).starts_with("452 4.2.2"), "the tenant's pool of messages: {}", rcpt(&b));
    let usage = node.http().get("/v1/tenants/one/usage").1;
    let usage: Value = serde_json::from_str(&usage).unwrap();
    assert_eq!((usage["mailboxes"].as_u64(), usage["messages"].as_u64()), (Some(2), Some(3)), "{usage}");
    // What is deleted makes room.
    let mut pop3 = login(node.pop3, &b, "pw");
    pop3.ok("DELE 1");
    pop3.ok("QUIT");
    assert!(rcpt(&b).starts_with("250"));
}

#[test]
fn mail_reaches_aliases_and_catch_alls() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    let b = node.mailbox("one", "b", None);
    for (address, mailbox) in [("sales@one.test", &a), ("@one.test", &b)] {
        let body = json!({ "address": address, "mailbox": mailbox });
        call(&node, "POST", "/v1/tenants/one/aliases", &body);
    }
    let domain = json!({ "name": "uno.test", "alias_of": "one.test" });
    call(&node, "POST", "/v1/tenants/one/domains", &domain);
    for to in ["sales@one.test", "nobody@one.test", "a@uno.test"] {
        deliver(node.lmtp, to, &message(&to.replace('@', "-"), 300));
    }
    let heads = |address: &str| {
        let mut pop3 = login(node.pop3, address, "pw");
        let count: usize = pop3.ok("STAT").split(' ').nth(1).unwrap().parse().unwrap();
        let head = |i: usize| {
            pop3.ok(&format!("TOP {} 0", i + 1));
            String::from_utf8(pop3.body().unwrap()).unwrap().lines().next().unwrap().to_owned()
        };
        let heads: Vec<_> = (0..count).map(head).collect();
        pop3.ok("QUIT");
        heads
    };
    assert_eq!(heads(&a), ["Delivered-To: sales@one.test", "Delivered-To: a@uno.test"]);
    assert_eq!(heads(&b), ["Delivered-To: nobody@one.test"]);
    login(node.pop3, "a@uno.test", "pw").ok("QUIT");
}

#[test]
fn app_passwords_and_imported_hashes_log_in() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    deliver(node.lmtp, &a, &message("kept", 300));
    let path = format!("/v1/tenants/one/mailboxes/{a}/app-passwords");
    let made = call(&node, "POST", &path, &json!({ "label": "phone", "scope": "read_only" }));
    let password = made["password"].as_str().unwrap();
    let mut pop3 = login(node.pop3, &a, password);
    let refused = pop3.err("DELE 1");
    assert!(refused.starts_with("-ERR [SYS/PERM]"), "{refused}");
    pop3.ok("RETR 1");
    pop3.body().unwrap();
    pop3.ok("QUIT");
    login(node.pop3, &a, "pw").ok("QUIT");
    let used = wait_for("its use is noted", Duration::from_secs(10), || {
        Some(items(&node, &path)[0].clone()).filter(|item| item["last_used_at"].is_string())
    });
    assert!(used.get("password").is_none(), "{used}");
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    assert_eq!(node.http().json("DELETE", &one, &json!(null)).0, 204);
    assert!(pass(&node, &a, password).starts_with("-ERR [AUTH]"), "good no longer, on any node");
    let expired = json!({ "label": "old", "expires_at": "2020-01-01T00:00:00Z" });
    assert_eq!(node.http().json("POST", &path, &expired).0, 422);
    // "correct horse", as OpenLDAP keeps it.
    let hash = "{SSHA}9/n6OBTGSyu+bYEM05BnchZP0KH+Jtgo";
    let body = json!({ "address": "b@one.test", "password_hash": hash });
    call(&node, "POST", "/v1/tenants/one/mailboxes", &body);
    assert!(pass(&node, "b@one.test", "wrong horse").starts_with("-ERR [AUTH]"));
    assert!(pass(&node, "b@one.test", "correct horse").starts_with("+OK"));
    assert!(pass(&node, "b@one.test", "correct horse").starts_with("+OK"));
    let body = json!({ "address": "c@one.test", "password_hash": "{ROT13}x" });
    assert_eq!(node.http().json("POST", "/v1/tenants/one/mailboxes", &body).0, 422);
    // Without a password nobody logs in.
    call(&node, "POST", "/v1/tenants/one/mailboxes", &json!({ "address": "d@one.test" }));
    for password in ["", " ", "x"] {
        assert!(pass(&node, "d@one.test", password).starts_with("-ERR"), "{password:?}");
    }
}

#[test]
fn deleted_mail_is_restored_under_a_new_unique_id() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    patch_tenant(&node, &json!({ "policy": { "undelete_days": 7 } }));
    let sent = message("precious", 3000);
    deliver(node.lmtp, &a, &sent);
    let mut pop3 = login(node.pop3, &a, "pw");
    let unique_id = pop3.list("UIDL");
    pop3.ok("RETR 1");
    let before = pop3.body().unwrap();
    pop3.ok("DELE 1");
    pop3.ok("QUIT");
    let messages = format!("/v1/tenants/one/mailboxes/{a}/messages");
    assert!(items(&node, &messages).is_empty());
    let deleted = items(&node, &format!("{messages}?deleted=true"));
    assert_eq!(deleted.len(), 1);
    let uid = deleted[0]["uid"].as_u64().unwrap();
    call(&node, "POST", &format!("{messages}/{uid}/restore"), &json!({}));
    let mut pop3 = login(node.pop3, &a, "pw");
    assert_ne!(pop3.list("UIDL"), unique_id);
    pop3.ok("RETR 1");
    assert_eq!(pop3.body().unwrap(), before, "octet by octet");
    pop3.ok("QUIT");
    // An administrator's deletion is in the audit log, with what it took.
    let uid = items(&node, &messages)[0]["uid"].as_u64().unwrap();
    assert_eq!(node.http().json("DELETE", &format!("{messages}/{uid}"), &json!(null)).0, 204);
    let entries = items(&node, "/v1/tenants/one/audit?action=message.delete");
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["before"]["uids"], json!([uid]));
    assert_eq!(entries[0]["target"], json!(a));
}

#[test]
fn messages_go_in_and_out_over_the_api() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    let path = format!("/v1/tenants/one/mailboxes/{a}/messages");
    let sent = message("by-api", 5000);
    let (status, _, body) = node.http().raw("POST", &path, "message/rfc822", &sent);
    assert_eq!(status, 201, "{body}");
    let uid = serde_json::from_str::<Value>(&body).unwrap()["uid"].as_u64().unwrap();
    let mut pop3 = login(node.pop3, &a, "pw");
    pop3.ok("RETR 1");
    let read = unstuffed(&pop3.body().unwrap());
    let (status, head, raw) = node.http().raw("GET", &format!("{path}/{uid}/raw"), "", b"");
    assert_eq!((status, raw.as_bytes()), (200, read.as_slice()), "what RETR sends");
    assert!(head.contains("content-type: message/rfc822"), "{head}");
    assert!(read.ends_with(&sent));
    pop3.ok("QUIT");
    patch_mailbox(&node, &a, &json!({ "quota_octets": 6000 }));
    let (status, _, body) = node.http().raw("POST", &path, "message/rfc822", &sent);
    assert!(status >= 400 && body.contains("over-quota"), "{status} {body}");
    assert_eq!(items(&node, &path).len(), 1);
}

#[test]
fn old_mail_expires_and_is_audited() {
    let (node, a) = Node::start(&quick()).with_mailbox("a");
    deliver(node.lmtp, &a, &message("young", 300));
    deliver(node.lmtp, &a, &message("young too", 300));
    // Nothing is a day old yet: the first is made so.
    node.stores().execute("UPDATE messages SET received_at = received_at - interval '2 days' WHERE uid = 1");
    patch_tenant(&node, &json!({ "policy": { "expire_days": 1 } }));
    let messages = format!("/v1/tenants/one/mailboxes/{a}/messages");
    wait_for("the old one is gone", Duration::from_secs(20), || {
        (items(&node, &messages).len() == 1).then_some(())
    });
    let entries = items(&node, "/v1/tenants/one/audit?action=message.expire");
    assert_eq!((entries.len(), entries[0]["actor"].as_str()), (1, Some("retention")));
    assert_eq!(entries[0]["before"]["uids"], json!([1]));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(items(&node, &messages).len(), 1, "the young one stays");
}

#[test]
fn a_deleted_tenant_is_shredded_then_swept_and_the_work_survives_a_kill() {
    let (mut node, a) = Node::start(&quick()).with_mailbox("a");
    node.tenant("two");
    let other = node.mailbox("two", "x", None);
    for i in 0..30 {
        let local = format!("m{i}");
        let at = node.mailbox("one", &local, None);
        deliver(node.lmtp, &at, &message(&local, 2000));
    }
    deliver(node.lmtp, &other, &message("mine", 2000));
    let objects = |node: &Node| node.stores().object_count();
    let before = objects(&node);
    assert!(before >= 31, "{before}");
    let (status, answer) = node.http().json("DELETE", "/v1/tenants/one", &json!(null));
    assert_eq!(status, 202, "{answer}");
    node.kill9();
    let key = node.stores().number("SELECT octet_length(data_key)::bigint FROM tenants WHERE name = 'one'");
    assert_eq!(key, Some(0), "the key went first");
    node.up();
    assert_eq!(node.http().get("/v1/tenants/one").0, 404);
    assert!(pass(&node, &a, "pw").starts_with("-ERR [AUTH]"));
    let reply = rcpt_reply(&node, &a);
    assert!(reply.starts_with("550"), "{reply}");
    let done = wait_for("the deletion is finished", Duration::from_secs(60), || {
        let deletions = items(&node, "/v1/deletions");
        let own = deletions.iter().find(|deletion| deletion["tenant"] == json!("one"))?.clone();
        own["finished_at"].is_string().then_some(own)
    });
    assert!(done["rows_deleted"].as_u64().unwrap() >= 60, "{done}");
    assert_eq!(done["objects_deleted"].as_u64(), Some(before - 1), "{done}");
    assert_eq!(objects(&node), 1, "the other tenant's is left");
    for table in ["mailboxes", "messages", "packs"] {
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(node.stores().number(&sql), Some(1), "{table}");
    }
    let mut pop3 = login(node.pop3, &other, "pw");
    pop3.ok("RETR 1");
    pop3.body().unwrap();
    pop3.ok("QUIT");
    node.tenant("one");
}
