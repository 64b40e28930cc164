//! How many may be connected from where, and who is no client at all.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::support::{Node, NodeOptions, Pop3, connect_from, wait_for};

fn node(pop3: &str, tls: bool, failure_delay: (&'static str, &'static str)) -> (Node, String) {
    let extra = format!("[pop3]\nuncapped_networks = []\n{pop3}");
    Node::start(&NodeOptions { extra, tls, failure_delay, ..NodeOptions::embedded() }).with_mailbox("a")
}

fn from(source: u8, to: SocketAddr) -> Option<Pop3> {
    let pop3 = Pop3::over(Box::new(connect_from([127, 0, 0, source], to))).ok()?;
    if pop3.greeting.starts_with("+OK") {
        return Some(pop3);
    }
    assert_eq!(pop3.greeting, "-ERR [SYS/TEMP] too many connections, please try later");
    None
}

fn refused(node: &Node, listener: &str, limit: &str) -> u64 {
    let (_, metrics) = node.http().get("/metrics");
    let series = format!("pop3_connections_refused_total{{limit=\"{limit}\",listener=\"{listener}\"}} ");
    let other = format!("pop3_connections_refused_total{{listener=\"{listener}\",limit=\"{limit}\"}} ");
    let value =
        metrics.lines().find_map(|line| line.strip_prefix(&series).or_else(|| line.strip_prefix(&other)));
    value.unwrap().parse().unwrap()
}

#[test]
fn strangers_from_a_source_are_few_until_somebody_logs_in() {
    let (node, a) =
        node("strangers_per_source_max = 3\nconnections_per_source_max = 8\n", true, ("1ms", "20ms"));
    let mut strangers: Vec<_> = (0..3).map(|_| from(1, node.pop3).unwrap()).collect();
    assert!(from(1, node.pop3).is_none());
    assert_eq!(refused(&node, "pop3", "strangers"), 1);
    // Others have theirs.
    let other: Vec<_> = (0..3).map(|_| from(2, node.pop3).unwrap()).collect();
    assert!(from(2, node.pop3).is_none());
    // On POP3S nothing is said before a handshake, and a refusal is not worth one.
    let silent: Vec<_> = (0..4).map(|_| connect_from([127, 0, 0, 1], node.pop3s)).collect();
    let mut last = &silent[3];
    assert_eq!(last.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(refused(&node, "pop3s", "strangers"), 1);
    // Who logs in is no stranger, and who comes from there neither; but no more come than may in all.
    strangers[0].ok(&format!("USER {a}"));
    strangers[0].ok("PASS pw");
    let more: Vec<_> = (0..5).map(|_| from(1, node.pop3).unwrap()).collect();
    assert!(from(1, node.pop3).is_none());
    assert_eq!(refused(&node, "pop3", "source"), 1);
    drop((strangers, more));
    wait_for("seats", Duration::from_secs(5), || from(1, node.pop3));
    // It is not known for having been refused.
    drop(other);
    wait_for("seats of the other", Duration::from_secs(5), || from(2, node.pop3));
}

/// Who asks for a wrong password and does not stay for the answer.
fn guess_and_go(node: &Node, user: &str, reset: bool) {
    // Those who just went may not be gone yet.
    let (stream, mut pop3) = wait_for("a seat", Duration::from_secs(5), || {
        let stream = connect_from([127, 0, 0, 1], node.pop3);
        let pop3 = Pop3::over(Box::new(stream.try_clone().unwrap())).ok()?;
        pop3.greeting.starts_with("+OK").then_some((stream, pop3))
    });
    pop3.ok(&format!("USER {user}"));
    // What is sent ahead is in the way of who would look for the end by reading.
    pop3.send(b"PASS wrong\r\nNOOP\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    if reset {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

#[test]
fn who_goes_before_its_answer_leaves_its_place_and_not_its_penalty() {
    let limits = "strangers_per_source_max = 2\nconnections_max = 2\n";
    let (node, a) = node(limits, false, ("6s", "6s"));
    for reset in [false, true] {
        let start = Instant::now();
        for _ in 0..2 {
            guess_and_go(&node, &a, reset);
        }
        // Both places are free long before the answers were due.
        let others =
            wait_for("a place", Duration::from_secs(3), || Some([from(2, node.pop3)?, from(3, node.pop3)?]));
        drop(others);
        wait_for("the places again", Duration::from_secs(2), || from(2, node.pop3));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        // The guesser's own are not.
        assert!(from(1, node.pop3).is_none(), "it would guess again too soon");
        wait_for("the end of the penalty", Duration::from_secs(10), || from(1, node.pop3));
        assert!(start.elapsed() > Duration::from_secs(6), "{:?}", start.elapsed());
        wait_for("both seats", Duration::from_secs(10), || Some([from(1, node.pop3)?, from(1, node.pop3)?]));
    }
}

/// The first octets of a ClientHello, with no line end; and a request that smuggles commands.
const FOREIGN: [&[u8]; 3] = [
    b"\x16\x03\x01\x02\x00\x01",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\nUSER a@one.test\r\nPASS pw\r\nMAIL FROM:<>\r\n",
    b"POST /x HTTP/1.1\r\nContent-Length: 40\r\n\r\nUSER a@one.test\r\n",
];

#[test]
fn tls_and_http_on_a_plain_port_end_the_connection_at_once() {
    for proxied in [false, true] {
        let extra = if proxied {
            "[pop3]\nproxy_protocol = \"require\"\n[lmtp]\nproxy_protocol = \"require\"\n\
             [proxy]\ntrusted_networks = [\"127.0.0.0/8\"]\n"
        } else {
            ""
        };
        let node = Node::start(&NodeOptions { extra: extra.into(), ..NodeOptions::embedded() });
        for (addr, greeting) in [(node.pop3, "+OK "), (node.lmtp, "220 ")] {
            for foreign in FOREIGN {
                let header: &[u8] =
                    if proxied { b"PROXY TCP4 203.0.113.7 203.0.113.1 40000 110\r\n" } else { b"" };
                let mut stream = TcpStream::connect(addr).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                stream.write_all(&[header, foreign].concat()).unwrap();
                let (start, mut said) = (Instant::now(), Vec::new());
                // Reset, where octets of its own were not read any more.
                let _ = stream.read_to_end(&mut said);
                assert!(start.elapsed() < Duration::from_secs(1), "{addr}: {:?}", start.elapsed());
                let said = String::from_utf8(said).unwrap();
                let rest: Vec<_> = said.lines().skip(1).collect();
                assert!(said.is_empty() || said.starts_with(greeting), "{said}");
                // LMTP says why, and nothing that a request smuggled is answered.
                assert!(
                    rest.is_empty() || rest == ["421 4.5.2 that is not LMTP with CRLF line ends"],
                    "{said}"
                );
            }
        }
    }
}
