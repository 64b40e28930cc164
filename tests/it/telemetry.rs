//! Traces: they reach a collector, and one that is away does no harm.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::support::{Node, NodeOptions, Pop3, login, wait_for};

/// A collector: what it was sent, heads and bodies.
#[derive(Clone)]
struct Collector {
    addr: SocketAddr,
    requests: Arc<Mutex<Vec<(String, Vec<u8>)>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let collector = Self { addr: listener.local_addr().unwrap(), requests: Arc::default() };
        let of_thread = collector.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let collector = of_thread.clone();
                std::thread::spawn(move || collector.serve(stream));
            }
        });
        collector
    }

    fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).unwrap_or(0) == 0 {
                    return;
                }
            }
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.trim().parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            self.requests.lock().unwrap().push((head, body));
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    }

    /// The head of the request that carried these octets.
    fn find(&self, octets: &[u8]) -> Option<String> {
        let requests = self.requests.lock().unwrap();
        let carries = |body: &[u8]| body.windows(octets.len()).any(|window| window == octets);
        requests.iter().find(|(_, body)| carries(body)).map(|(head, _)| head.clone())
    }
}

fn node(endpoint: &str, more: &str) -> (Node, String) {
    let extra = format!("[telemetry]\notlp_endpoint = \"{endpoint}\"\n{more}");
    Node::start(&NodeOptions { extra, ..NodeOptions::embedded() }).with_mailbox("a")
}

/// One session, from greeting to QUIT; its identifier.
fn session(node: &Node, address: &str) -> String {
    let mut pop3 = login(node.pop3, address, "pw");
    let (_, id) = pop3.greeting.rsplit_once('(').unwrap();
    let id = id.trim_end_matches(')').to_owned();
    pop3.ok("QUIT");
    id
}

#[test]
fn a_session_reaches_the_collector_at_the_latest_when_the_node_goes_down() {
    let collector = Collector::start();
    let more = "otlp_headers = \"x-scope=mail\"\nservice_name = \"mail-test\"\n";
    let (mut node, address) = node(&format!("http://{}", collector.addr), more);
    let first = session(&node, &address);
    // By itself, within the exporter's five seconds.
    let head = wait_for("the first session", Duration::from_secs(20), || collector.find(first.as_bytes()));
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nx-scope: mail\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/x-protobuf\r\n"), "{head}");
    for text in ["mail-test", "tenant.id", "mailbox.id", "pop.test"] {
        assert!(collector.find(text.as_bytes()).is_some(), "{text}");
    }
    let last = session(&node, &address);
    node.signal(15);
    assert!(node.wait().success());
    assert!(collector.find(last.as_bytes()).is_some(), "the last session's span is lost");
    // Lines of the log are not sent, and neither are names.
    assert!(collector.find(address.as_bytes()).is_none());
}

#[test]
fn a_collector_that_is_away_or_silent_does_no_harm() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let [nobody] = xtask::services::free_ports().unwrap().map(|port: u16| format!("127.0.0.1:{port}"));
    for endpoint in [nobody, silent.local_addr().unwrap().to_string()] {
        let (mut node, address) = node(&format!("http://{endpoint}"), "");
        let start = Instant::now();
        for _ in 0..20 {
            session(&node, &address);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        let open = Pop3::connect(node.pop3).unwrap();
        drop(open);
        node.signal(15);
        let start = Instant::now();
        assert!(node.wait().success());
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}
