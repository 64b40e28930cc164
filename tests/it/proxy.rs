//! Proxies in front of a node: the PROXY protocol by hand here, by HAProxy, nginx and curl in `proxy/programs.rs`; XCLIENT
//! and XOIP in `proxy/xclient.rs`.

mod programs;
mod xclient;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use serde_json::{Value, json};

use crate::support::{
    Lmtp, Node, NodeOptions, Pop3, connect_from, deliver, message, run,
    tls::{client, encrypt, line},
    wait_for,
};

/// Nobody's address (RFC 5737 §3), so that nothing but a header can have brought it.
const CLIENT: &str = "203.0.113.7";

/// A node with this configuration, whose proxies are on this machine.
fn node(extra: &str) -> (Node, String) {
    let extra = format!("[proxy]\ntrusted_networks = [\"127.0.0.1\"]\nheader_timeout = \"2s\"\n{extra}");
    Node::start(&NodeOptions { tls: true, extra, ..NodeOptions::embedded() }).with_mailbox("a")
}

/// A header of version 1 for a client.
fn version_1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 10.0.0.1 40000 110\r\n").into_bytes()
}

/// A header of version 2: command, family, and what comes behind the length.
fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, block].concat()
}

/// One of a client that speaks TLS with its proxy.
fn version_2_with_tls(client: &str) -> Vec<u8> {
    let client: Ipv4Addr = client.parse().unwrap();
    let tlv = |kind: u8, value: &[u8]| [&[kind, 0, u8::try_from(value.len()).unwrap()][..], value].concat();
    let ssl = [&[1, 0, 0, 0, 0][..], &tlv(0x21, b"TLSv1.3"), &tlv(0x23, b"TLS_AES_256_GCM_SHA384")].concat();
    let address =
        [&client.octets()[..], &[10, 0, 0, 1], &40000_u16.to_be_bytes(), &110_u16.to_be_bytes()].concat();
    version_2(
        0x21,
        0x11,
        &[&address[..], &tlv(0x20, &ssl), &tlv(0x05, b"conn-1"), &tlv(0x02, b"mail.test")].concat(),
    )
}

/// A connection that begins with these octets, sent as one.
fn begun_with(to: SocketAddr, octets: &[u8]) -> TcpStream {
    let mut stream = connect_from([127, 0, 0, 1], to);
    stream.set_nodelay(true).unwrap();
    stream.write_all(octets).unwrap();
    stream
}

fn pop3(to: SocketAddr, header: &[u8]) -> std::io::Result<Pop3> {
    Pop3::over(Box::new(begun_with(to, header)))
}

/// The clients' addresses in the list of sessions.
fn peers(node: &Node) -> Vec<String> {
    let (status, body) = node.http().get("/v1/sessions");
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let items = body["items"].as_array().unwrap();
    items.iter().map(|session| session["peer"].as_str().unwrap().to_owned()).collect()
}

/// How often this became of a header.
fn count(node: &Node, listener: &str, outcome: &str) -> u64 {
    let (_, text) = node.http().get("/metrics");
    let series = format!("postern_proxy_headers_total{{listener=\"{listener}\",outcome=\"{outcome}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&series));
    line.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
}

/// The lines of the log about a session, once it has ended.
fn lines_of(node: &Node, greeting: &str) -> Vec<Value> {
    let (_, id) = greeting.rsplit_once('(').unwrap();
    let id = id.trim_end_matches(')');
    wait_for("the session's last line", Duration::from_secs(10), || {
        let lines = node.log().lines().filter_map(|l| serde_json::from_str(l).ok()).collect::<Vec<Value>>();
        let lines: Vec<_> = lines.into_iter().filter(|line| line["session"] == id).collect();
        lines.iter().any(|line| line["message"] == "session ended").then_some(lines)
    })
}

#[track_caller]
fn capabilities(pop3: &mut Pop3) -> String {
    pop3.ok("CAPA");
    String::from_utf8(pop3.body().unwrap()).unwrap()
}

#[test]
fn a_client_is_who_its_proxy_says_and_nothing_behind_the_header_is_lost() {
    let (node, a) = node("[pop3]\nplaintext_auth = \"always\"\nproxy_protocol = \"require\"\n");
    deliver(node.lmtp, &a, &message("proxied", 1000));
    let commands = format!("USER {a}\r\nPASS pw\r\nSTAT\r\n");
    for header in [version_1(CLIENT), version_2_with_tls(CLIENT)] {
        let mut pop3 = pop3(node.pop3, &[&header, commands.as_bytes()].concat()).unwrap();
        for _ in 0..2 {
            assert!(pop3.line().unwrap().starts_with("+OK"));
        }
        assert!(pop3.line().unwrap().starts_with("+OK 1 "));
        assert_eq!(peers(&node), [CLIENT]);
        pop3.ok("QUIT");
        for line in lines_of(&node, &pop3.greeting) {
            assert_eq!((&line["peer"], &line["proxy"]), (&json!(CLIENT), &json!("127.0.0.1")), "{line}");
        }
    }
    assert_eq!(count(&node, "pop3", "proxied"), 2);
}

#[test]
fn a_header_may_come_octet_by_octet() {
    let (node, a) = node("[pop3]\nplaintext_auth = \"always\"\nproxy_protocol = \"require\"\n");
    for header in [version_1(CLIENT), version_2_with_tls(CLIENT)] {
        let mut stream = begun_with(node.pop3, b"");
        for octet in header.iter().chain(format!("USER {a}\r\n").as_bytes()) {
            stream.write_all(&[*octet]).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut pop3 = Pop3::over(Box::new(stream)).unwrap();
        assert!(pop3.line().unwrap().starts_with("+OK"));
        pop3.ok("PASS pw");
        assert_eq!(peers(&node), [CLIENT]);
        pop3.ok("QUIT");
        wait_for("the session is gone", Duration::from_secs(10), || peers(&node).is_empty().then_some(()));
    }
}

#[test]
fn tls_that_ended_at_the_proxy_counts_as_tls() {
    let (node, a) = node("[pop3]\nplaintext_auth = \"never\"\nproxy_protocol = \"require\"\n");
    let policy = json!({ "policy": { "plaintext_login": false } });
    assert_eq!(node.http().json("PATCH", "/v1/tenants/one", &policy).0, 200);
    let mut sealed = pop3(node.pop3, &version_2_with_tls(CLIENT)).unwrap();
    let capabilities_sealed = capabilities(&mut sealed);
    assert!(
        capabilities_sealed.contains("USER\r\n") && !capabilities_sealed.contains("STLS"),
        "{capabilities_sealed}"
    );
    sealed.err("STLS");
    sealed.ok(&format!("USER {a}"));
    sealed.ok("PASS pw");
    let (_, metrics) = node.http().get("/metrics");
    assert!(metrics.contains("pop3_sessions_active{listener=\"pop3\",tls=\"proxy\"} 1"), "{metrics}");
    sealed.ok("QUIT");
    let ended = lines_of(&node, &sealed.greeting).pop().unwrap();
    for (key, value) in [
        ("proxy.tls", "TLSv1.3"),
        ("proxy.cipher", "TLS_AES_256_GCM_SHA384"),
        ("proxy.host", "mail.test"),
        ("proxy.id", "conn-1"),
    ] {
        assert_eq!(ended[key], value, "{key} in {ended}");
    }

    // Without a word about TLS the connection is what it looks like, and STLS helps.
    let mut plain = pop3(node.pop3, &version_1(CLIENT)).unwrap();
    assert!(capabilities(&mut plain).contains("STLS\r\n"));
    plain.err(&format!("USER {a}"));
    let mut stream = begun_with(node.pop3, &[&version_1(CLIENT), &b"STLS\r\n"[..]].concat());
    assert!(line(&mut stream).starts_with("+OK") && line(&mut stream).starts_with("+OK"));
    let mut tls = encrypt(&client(&node, &[&rustls::version::TLS13]), stream);
    tls.write_all(format!("USER {a}\r\n").as_bytes()).unwrap();
    let mut pop3 = Pop3::over(Box::new(tls)).unwrap();
    pop3.ok("PASS pw");
}

/// Nobody is on this machine because their proxy is.
#[test]
fn a_proxys_clients_are_not_local_unless_they_are() {
    let (node, a) = node("[pop3]\nproxy_protocol = \"require\"\n");
    let unknown = b"PROXY UNKNOWN\r\n".to_vec();
    let unspecified = version_2(0x21, 0x00, b"");
    for header in [version_1(CLIENT), unknown, unspecified] {
        pop3(node.pop3, &header).unwrap().err(&format!("USER {a}"));
    }
    // The proxy itself is, and so is a client of its that is.
    for header in [version_1("127.0.0.9"), version_2(0x20, 0x00, b""), version_2(0x20, 0xff, b"any")] {
        pop3(node.pop3, &header).unwrap().ok(&format!("USER {a}"));
    }
    assert_eq!(["proxied", "unknown", "local"].map(|outcome| count(&node, "pop3", outcome)), [2, 2, 2]);
}

/// A stream that sends these octets in front of the first it is given, and with them.
struct Begun(TcpStream, Vec<u8>);

impl Read for Begun {
    fn read(&mut self, octets: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(octets)
    }
}

impl Write for Begun {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        let begun = [&std::mem::take(&mut self.1), octets].concat();
        self.0.write_all(&begun)?;
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn a_handshake_comes_behind_the_header_on_pop3s() {
    let (node, a) = node("[pop3s]\nproxy_protocol = \"require\"\n");
    let config = client(&node, &[&rustls::version::TLS13]);
    for header in [version_1(CLIENT), version_2_with_tls(CLIENT)] {
        let name = ServerName::try_from("localhost").unwrap();
        let stream = Begun(begun_with(node.pop3s, b""), header);
        let tls = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), stream);
        let mut pop3 = Pop3::over(Box::new(tls)).unwrap();
        pop3.ok(&format!("USER {a}"));
        pop3.ok("PASS pw");
        assert_eq!(peers(&node), [CLIENT]);
        pop3.ok("QUIT");
        wait_for("the session is gone", Duration::from_secs(10), || peers(&node).is_empty().then_some(()));
    }
    // A handshake without a header is none, and the listener that wants none is not touched.
    let mut bare = encrypt(&config, begun_with(node.pop3s, b""));
    assert!(bare.write_all(b"CAPA\r\n").is_err());
    wait_for("the count", Duration::from_secs(10), || {
        (count(&node, "pop3s", "malformed") == 1).then_some(())
    });
    Pop3::connect(node.pop3).unwrap().ok("QUIT");
}

#[test]
fn mail_is_traced_to_whom_the_proxy_connects_for() {
    let (node, a) = node("[lmtp]\nproxy_protocol = \"require\"\n");
    let mut stream = begun_with(node.lmtp, &version_1(CLIENT));
    assert!(line(&mut stream).starts_with("220"));
    let from = message("traced", 500);
    let mut session =
        format!("LHLO mta.test\r\nMAIL FROM:<x@y.test>\r\nRCPT TO:<{a}>\r\nDATA\r\n").into_bytes();
    session.extend([&from[..], b".\r\nQUIT\r\n"].concat());
    stream.write_all(&session).unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).unwrap();
    assert!(replies.contains("250 2.0.0"), "{replies}");
    let mail = crate::support::login(node.pop3, &a, "pw").retr(1);
    assert!(String::from_utf8_lossy(&mail).contains(CLIENT), "{}", String::from_utf8_lossy(&mail));
    assert!(Lmtp::connect(node.lmtp).is_err(), "without a header");
    // A process of this machine is who it is.
    let mut unix = std::os::unix::net::UnixStream::connect(node.dir.path().join("lmtp.sock")).unwrap();
    let mut code = [0; 3];
    unix.read_exact(&mut code).unwrap();
    assert_eq!(&code, b"220");
}

#[test]
fn whoever_comes_without_a_good_header_is_closed_without_a_word() {
    let (node, _) = node("[pop3]\nproxy_protocol = \"require\"\n");
    let closed = |octets: &[u8]| {
        let start = Instant::now();
        let mut said = Vec::new();
        // Closing over octets that were not read resets the connection, which is as silent.
        let _ = begun_with(node.pop3, octets).read_to_end(&mut said);
        assert!(said.is_empty(), "{:?}", String::from_utf8_lossy(&said));
        start.elapsed()
    };
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    for (octets, outcome) in [
        (b"USER a\r\nPASS b\r\n".to_vec(), "malformed"),
        (b"\x16\x03\x01\x02\x00".to_vec(), "malformed"),
        (version_2(0x21, 0x41, &[0; 12]), "malformed"),
        (version_2(0x21, 0x11, &[0; 11]), "malformed"),
        (endless, "too_long"),
        (version_2(0x21, 0x11, &[0; 5000]), "too_long"),
    ] {
        let before = count(&node, "pop3", outcome);
        assert!(closed(&octets) < Duration::from_millis(1900), "{outcome}");
        wait_for(outcome, Duration::from_secs(10), || {
            (count(&node, "pop3", outcome) == before + 1).then_some(())
        });
    }
    for octets in [&b""[..], b"PROXY TCP4 203", &version_2(0x21, 0x11, &[0; 12])[..20]] {
        assert!(closed(octets) >= Duration::from_millis(1900));
    }
    assert_eq!(count(&node, "pop3", "timeout"), 3);
    drop(begun_with(node.pop3, b"PROXY "));
    wait_for("the count", Duration::from_secs(10), || (count(&node, "pop3", "gone") == 1).then_some(()));
    let refused = "connection without a PROXY header to be trusted was closed";
    assert!(node.log().contains(refused), "{}", node.log());
}

#[test]
fn seats_are_those_of_the_clients() {
    let limits = "plaintext_auth = \"always\"\nconnections_per_source_max = 1\nconnections_max = 4\n";
    let (node, _) = node(&format!("[pop3]\nproxy_protocol = \"require\"\n{limits}"));
    let one = pop3(node.pop3, &version_1(CLIENT)).unwrap();
    let refused = pop3(node.pop3, &version_1(CLIENT)).unwrap();
    assert!(refused.greeting.starts_with("-ERR [SYS/TEMP]"), "{}", refused.greeting);
    let other = pop3(node.pop3, &version_1("203.0.113.8")).unwrap();
    assert!(other.greeting.starts_with("+OK"));
    drop(one);
    wait_for("the seat", Duration::from_secs(10), || {
        let again = pop3(node.pop3, &version_1(CLIENT)).ok()?;
        again.greeting.starts_with("+OK").then_some(())
    });
    // Who has not said yet who it is has a place all the same, so that those that wait are bounded.
    let waiting: Vec<_> = (0..3).map(|_| begun_with(node.pop3, b"PROXY ")).collect();
    wait_for("all places are taken", Duration::from_secs(10), || {
        let full = pop3(node.pop3, b"").ok()?;
        full.greeting.starts_with("-ERR [SYS/TEMP]").then_some(())
    });
    drop(waiting);
    wait_for("a place", Duration::from_secs(10), || {
        let again = pop3(node.pop3, &version_1("203.0.113.9")).ok()?;
        again.greeting.starts_with("+OK").then_some(())
    });
}

#[test]
fn a_source_that_is_not_trusted_cannot_say_who_it_is() {
    let (node, a) = node("[pop3]\nplaintext_auth = \"always\"\nproxy_protocol = \"require\"\n");
    deliver(node.lmtp, &a, &message("one", 500));
    let curl = |from: &str, header: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "-u", &format!("{a}:pw"), "--interface", from]);
        curl.args(header).arg(format!("pop3://{}/1", node.pop3)).output().unwrap()
    };
    let good = curl("127.0.0.1", &["--haproxy-protocol"]);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    for header in [&["--haproxy-protocol"][..], &[]] {
        let refused = curl("127.0.0.3", header);
        assert!(!refused.status.success() && refused.stdout.is_empty());
    }
    assert_eq!(count(&node, "pop3", "untrusted"), 2);
    let spoofed = [&version_1(CLIENT)[..], b"CAPA\r\n"].concat();
    let mut stream = connect_from([127, 0, 0, 3], node.pop3);
    let _ = stream.write_all(&spoofed);
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    assert!(said.is_empty() && !node.log().contains(CLIENT));
}

#[test]
fn without_the_protocol_a_header_is_a_command_that_is_not_known() {
    let node = Node::start(&NodeOptions::embedded());
    let mut pop3 = pop3(node.pop3, &version_1(CLIENT)).unwrap();
    assert!(pop3.line().unwrap().starts_with("-ERR"));
    pop3.ok("QUIT");
    assert!(lines_of(&node, &pop3.greeting).iter().all(|line| line["peer"] == "127.0.0.1"));
}
