//! XCLIENT and XOIP: a proxy that logs in for its client.

use super::*;

/// A node that takes XCLIENT from proxies on 127.0.0.1.
fn xclient_node(more: &str) -> (Node, String) {
    node(&format!("[pop3]\nxclient = true\n{more}"))
}

#[test]
fn a_trusted_proxy_logs_in_for_whom_it_says() {
    let (node, a) = xclient_node("plaintext_auth = \"always\"\n");
    // As Dovecot does: without waiting for the reply.
    let commands = format!("XCLIENT ADDR={CLIENT} PORT=40000 SESSION=bkEzB2oT/AAAB TTL=4\r\nUSER {a}\r\n");
    let mut by_xclient = pop3(node.pop3, commands.as_bytes()).unwrap();
    assert!(by_xclient.greeting.starts_with("+OK [XCLIENT] "), "{}", by_xclient.greeting);
    for _ in 0..2 {
        assert!(by_xclient.line().unwrap().starts_with("+OK"));
    }
    by_xclient.ok("PASS pw");
    assert_eq!(peers(&node), [CLIENT]);
    assert!(by_xclient.err("XCLIENT ADDR=127.0.0.1").contains("logged in already"));
    by_xclient.ok("QUIT");
    let ended = lines_of(&node, &by_xclient.greeting).pop().unwrap();
    for (key, value) in [("peer", CLIENT), ("proxy", "127.0.0.1"), ("proxy.id", "bkEzB2oT/AAAB")] {
        assert_eq!(ended[key], value, "{key} in {ended}");
    }

    let tls = client(&node, &[&rustls::version::TLS13]);
    let mut by_xoip = Pop3::over(Box::new(encrypt(&tls, begun_with(node.pop3s, b"")))).unwrap();
    assert!(capabilities(&mut by_xoip).contains("XCLIENT ADDR PORT SESSION\r\nXOIP\r\n"));
    by_xoip.ok("XOIP 2001:db8::7");
    by_xoip.ok(&format!("USER {a}"));
    by_xoip.ok("PASS pw");
    assert_eq!(peers(&node), ["2001:db8::7"]);
    by_xoip.ok("QUIT");
    // What cannot be is not taken, and shown nowhere.
    let mut odd = pop3(node.pop3, b"XCLIENT ADDR=\x1b[31mEVIL\r\n").unwrap();
    assert!(odd.line().unwrap().starts_with("-ERR"));
    odd.ok("XCLIENT LOGIN=\x1b[31mEVIL");
    odd.ok("QUIT");
    assert!(lines_of(&node, &odd.greeting).iter().all(|line| line["peer"] == "127.0.0.1"));
    assert!(!node.log().contains("EVIL"));
}

#[test]
fn a_client_that_is_forwarded_is_not_local_unless_it_is() {
    let (node, a) = xclient_node("connections_per_source_max = 2\n");
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    for (command, taken) in [
        ("NOOP", true),
        (&format!("XCLIENT ADDR={CLIENT}"), false),
        ("XCLIENT ADDR=[UNAVAILABLE]", false),
        ("XCLIENT ADDR=127.0.0.9", true),
    ] {
        let _ = pop3.command(command).unwrap();
        let reply = pop3.command(&format!("USER {a}")).unwrap();
        assert_eq!(reply.starts_with("+OK"), taken, "{command}: {reply}");
    }
    drop(pop3);
    // Seats are those of the clients.
    let forwarded = |client: &str| {
        let mut pop3 = Pop3::connect(node.pop3).ok()?;
        let reply = pop3.command(&format!("XOIP {client}")).ok()?;
        Some((pop3, reply))
    };
    let held = ["203.0.113.8", "203.0.113.8", "203.0.113.9"].map(|client| forwarded(client).unwrap());
    assert!(held.iter().all(|(_, reply)| reply.starts_with("+OK")));
    let (mut full, reply) = forwarded("203.0.113.8").unwrap();
    assert!(reply.starts_with("-ERR [SYS/TEMP]"), "{reply}");
    assert!(full.rest().is_empty());
}

#[test]
fn who_is_not_a_trusted_proxy_cannot_say_who_it_is() {
    // By address; by a proxy that is trusted, but is not who speaks; or nobody, by default.
    let refused = |mut pop3: Pop3, node: &Node, peer: &str| {
        assert!(!pop3.greeting.contains("XCLIENT") && !capabilities(&mut pop3).contains("XCLIENT"));
        for command in ["XCLIENT ADDR=198.51.100.1", "XOIP 198.51.100.1"] {
            pop3.err(command);
        }
        pop3.ok("QUIT");
        assert!(lines_of(node, &pop3.greeting).iter().all(|line| line["peer"] == peer));
        assert!(!node.log().contains("198.51.100.1"));
    };
    let (by_default, _) = node("");
    refused(Pop3::connect(by_default.pop3).unwrap(), &by_default, "127.0.0.1");
    let (trusting, _) = xclient_node("");
    let stranger = connect_from([127, 0, 0, 3], trusting.pop3);
    refused(Pop3::over(Box::new(stranger)).unwrap(), &trusting, "127.0.0.3");
    let (behind, _) = xclient_node("proxy_protocol = \"require\"\n");
    refused(pop3(behind.pop3, &version_1(CLIENT)).unwrap(), &behind, CLIENT);
    refused(pop3(behind.pop3, b"PROXY UNKNOWN\r\n").unwrap(), &behind, "127.0.0.1");
    // A proxy may itself come by a balancer.
    pop3(behind.pop3, &version_1("127.0.0.1")).unwrap().ok("XCLIENT ADDR=198.51.100.1");
}
