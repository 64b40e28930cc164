//! `/metrics`: what is exported is what `docs/metrics.md` says, and Prometheus reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    Http, Lmtp, Node, NodeOptions, Pop3, deliver, login, message, run,
    tls::{client, connect, encrypt},
    wait_for,
};

/// A family of series: its type, and its labels with their values.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

type Families = BTreeMap<String, Family>;

/// What a node exports.
fn exported(text: &str) -> Families {
    let mut families = Families::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
        }
        if line.starts_with('#') {
            continue;
        }
        let (sample, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let name = base.filter(|base| families.contains_key(*base)).unwrap_or(name);
        let family = families.get_mut(name).unwrap_or_else(|| panic!("{line} has no type"));
        for pair in labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty()) {
            let (label, value) = pair.split_once('=').unwrap();
            if label != "le" {
                let values = family.labels.entry(label.to_owned()).or_default();
                values.insert(value.trim_matches('"').to_owned());
            }
        }
    }
    families
}

/// What the tables of `docs/metrics.md` say. A label without values in brackets has an empty set.
fn documented() -> Families {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(file).unwrap();
    let mut families = Families::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells[..] else { panic!("{line}") };
        let mut family = Family { kind: kind.to_owned(), ..Family::default() };
        let (mut in_brackets, mut label) = (false, String::new());
        for (i, piece) in labels.split('`').enumerate() {
            // Between the backticks is a label or, in brackets, a value.
            if i % 2 == 0 {
                in_brackets = (in_brackets || piece.contains('(')) && !piece.contains(')');
            } else if in_brackets {
                family.labels.get_mut(&label).unwrap().insert(piece.to_owned());
            } else {
                piece.clone_into(&mut label);
                family.labels.insert(label.clone(), BTreeSet::new());
            }
        }
        let before = families.insert(name.trim_matches('`').to_owned(), family);
        assert_eq!(before, None, "{name} is there twice");
    }
    families
}

/// Does with a node whatever is counted.
fn drive(node: &Node) {
    node.tenant("one");
    let address = node.mailbox("one", "a", None);
    let small = node.mailbox("one", "small", Some(100));
    deliver(node.lmtp, &address, &message("first", 1000));
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    let replies = lmtp.deliver(&[&small, "nobody@one.test"], &message("too-large", 1000)).unwrap();
    assert!(replies[0].starts_with("452") && replies[1].starts_with("550"), "{replies:?}");
    lmtp.command("MAIL FROM:<a@b.test> SIZE=5000").unwrap();
    let reply = lmtp.command(&format!("RCPT TO:<{small}>")).unwrap();
    assert!(reply.starts_with("452") || reply.starts_with("552"), "{reply}");
    let mut wrong = Pop3::connect(node.pop3).unwrap();
    wrong.ok(&format!("USER {address}"));
    wrong.err("PASS wrong");
    let mut pop3 = login(node.pop3, &address, "pw");
    let mut second = Pop3::connect(node.pop3).unwrap();
    second.ok(&format!("USER {address}"));
    assert!(second.err("PASS pw").contains("[IN-USE]"));
    pop3.retr(1);
    pop3.err("RETR 2");
    pop3.ok("DELE 1");
    pop3.ok("QUIT");
    let config = client(node, &[&rustls::version::TLS13]);
    let mut tls = Pop3::over(Box::new(encrypt(&config, connect(node.pop3s)))).unwrap();
    tls.ok("QUIT");
}

#[track_caller]
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

#[test]
fn what_is_exported_is_what_is_documented() {
    let options = NodeOptions {
        tls: true,
        extra: "[metrics]\ntenant_series = true\n".to_owned(),
        ..NodeOptions::embedded()
    };
    let node = Node::start(&options);
    drive(&node);
    assert_eq!(node.http().get("/v1/audit").0, 200);
    assert_eq!(node.http().get("/v1/tenants/one/bulletins").0, 200);
    let (status, text) = node.http().get("/metrics");
    assert_eq!(status, 200);
    let (exported, documented) = (exported(&text), documented());
    let names = |families: &Families| families.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&exported), names(&documented));
    for (name, family) in &exported {
        let told = &documented[name];
        assert_eq!(family.kind, told.kind, "{name}");
        let labels = |family: &Family| family.labels.keys().cloned().collect::<Vec<_>>();
        assert_eq!(labels(family), labels(told), "{name}");
        for (label, values) in &family.labels {
            let known = &told.labels[label];
            let strange: Vec<_> = values.difference(known).collect();
            assert!(known.is_empty() || strange.is_empty(), "{name}: {label}: {strange:?}");
        }
    }

    for (series, expected) in [
        ("pop3_logins_total{mechanism=\"USER\",outcome=\"ok\"}", 1.0),
        ("pop3_logins_total{mechanism=\"USER\",outcome=\"bad_credentials\"}", 1.0),
        ("pop3_logins_total{mechanism=\"USER\",outcome=\"in_use\"}", 1.0),
        ("pop3_login_duration_seconds_count{outcome=\"ok\"}", 1.0),
        ("pop3_lock_conflicts_total", 1.0),
        ("pop3_commands_total{command=\"pass\",result=\"ok\"}", 1.0),
        ("pop3_commands_total{command=\"pass\",result=\"err\"}", 2.0),
        ("pop3_commands_total{command=\"retr\",result=\"ok\"}", 1.0),
        ("pop3_commands_total{command=\"retr\",result=\"err\"}", 1.0),
        ("pop3_commands_total{command=\"quit\",result=\"ok\"}", 2.0),
        ("pop3_command_duration_seconds_count{command=\"retr\"}", 2.0),
        ("pop3_retrieved_messages_total", 1.0),
        ("pop3_deleted_messages_total", 1.0),
        ("pop3_tls_handshakes_total{listener=\"pop3s\",version=\"1.3\"}", 1.0),
        ("lmtp_deliveries_total{outcome=\"delivered\"}", 1.0),
        ("lmtp_deliveries_total{outcome=\"over_quota\"}", 1.0),
        ("lmtp_quota_refusals_total{stage=\"rcpt\"}", 1.0),
        ("lmtp_quota_refusals_total{stage=\"data\"}", 1.0),
        ("lmtp_recipients_total{outcome=\"unknown\"}", 1.0),
        ("postern_index_operations_total{operation=\"commit_update\",result=\"ok\"}", 1.0),
        ("postern_blob_operations_total{operation=\"read\",result=\"ok\"}", 1.0),
    ] {
        assert!((value(&text, series) - expected).abs() < 0.5, "{series}");
    }
    assert!(value(&text, "pop3_retrieved_octets_total") > 1000.0);
    assert!(value(&text, "postern_object_sent_octets_total") > 100.0);
    // What rules ask for by their bounds.
    for bound in [
        "pop3_login_duration_seconds_bucket{outcome=\"ok\",le=\"1\"}",
        "postern_blob_operation_duration_seconds_bucket{operation=\"read\",le=\"1\"}",
        "lmtp_delivery_duration_seconds_bucket{le=\"5\"}",
    ] {
        assert!(value(&text, bound) >= 1.0, "{bound}");
    }
    check_by_promtool(&text);
}

fn check_by_promtool(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// A Prometheus server of our own. Dropping it kills it.
struct Prometheus {
    child: Child,
    addr: SocketAddr,
}

impl Prometheus {
    fn start(dir: &Path, target: SocketAddr) -> Self {
        let [port] = xtask::services::free_ports().unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let config = dir.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: postern\n  \
             static_configs: [{{targets: [\"{target}\"]}}]\n"
        );
        fs::write(&config, text).unwrap();
        run(Command::new("promtool").args(["check", "config"]).arg(&config));
        let log = fs::File::create(dir.join("prometheus.log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={addr}"))
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, addr }
    }

    /// The values of an instant query, once there are any.
    fn query(&self, query: &str) -> Vec<String> {
        // It waits 5 seconds before it scrapes at all.
        wait_for(query, Duration::from_secs(30), || {
            std::net::TcpStream::connect(self.addr).ok()?;
            let (status, body) = Http::new(self.addr, "").get(&format!("/api/v1/query?query={query}"));
            let body: Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
            let results = body["data"]["result"].as_array()?.clone();
            let values: Vec<_> =
                results.iter().filter_map(|r| Some(r["value"][1].as_str()?.to_owned())).collect();
            (!values.is_empty()).then_some(values)
        })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn prometheus_scrapes_it() {
    let (node, address) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    login(node.pop3, &address, "pw").ok("QUIT");
    let prometheus = Prometheus::start(node.dir.path(), node.admin);
    assert_eq!(prometheus.query("pop3_logins_total%7Bmechanism=%22USER%22,outcome=%22ok%22%7D"), ["1"]);
    assert_eq!(prometheus.query("up"), ["1"]);
    assert_eq!(prometheus.query("count(postern_build_info)"), ["1"]);
}

#[test]
fn tenants_are_counted_only_where_that_was_asked_for() {
    let (node, address) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    login(node.pop3, &address, "pw").ok("QUIT");
    let (_, text) = node.http().get("/metrics");
    assert!(!text.contains("tenant="), "{text}");
}
