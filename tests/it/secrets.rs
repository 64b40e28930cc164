//! No secret is logged, at whatever level.

use std::io::Write as _;

use serde_json::json;

use crate::support::{
    Bucket, Database, Lmtp, MASTER_KEY, Node, NodeOptions, Pop3, Stores, TOKEN, deliver, login, message,
    tls::{client, connect, encrypt, line},
};

const PASSWORD: &str = "correct-Horse-9182";
const SECOND_PASSWORD: &str = "battery-Staple-7364";
const WRONG_PASSWORD: &str = "wrong-Guess-5546";
const WRONG_TOKEN: &str = "stolen-Token-3728-stolen";
const COLLECTOR_TOKEN: &str = "collector-Token-1910";
const BODY: &str = "the-body-says-this-2837";

/// Everything that has to do with secrets, on a node that logs all there is.
fn drive(stores: &Stores, format: &str) -> (Node, Vec<&'static str>) {
    let [nobody] = xtask::services::free_ports().unwrap().map(|port: u16| format!("127.0.0.1:{port}"));
    let extra = format!(
        "[log]\nfilter = \"trace\"\nformat = \"{format}\"\n[telemetry]\notlp_endpoint = \"http://{nobody}\"\n\
         otlp_headers = \"authorization=Bearer {COLLECTOR_TOKEN}\"\n[pack]\nsolo_octets = 100000\n"
    );
    let mut node = Node::start(&NodeOptions { extra, tls: true, ..NodeOptions::on(stores) });
    node.tenant("one");
    let address = "a@one.test";
    let path = "/v1/tenants/one/mailboxes";
    let http = node.http();
    let (status, _) = http.json("POST", path, &json!({ "address": address, "password": PASSWORD }));
    assert_eq!(status, 201);
    // A body that cannot be used, with a secret in it.
    http.json("POST", path, &json!({ "address": "b@one.test", "password": PASSWORD, "nope": 1 }));
    assert_eq!(http.with_token(WRONG_TOKEN).get("/v1/tenants").0, 401);
    // One that is small, and one that goes by multipart upload.
    for octets in [1000, 300_000] {
        deliver(node.lmtp, address, &message(BODY, octets));
    }
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    lmtp.command(&format!("{BODY} in the wrong place")).unwrap();

    let mut wrong = Pop3::connect(node.pop3).unwrap();
    wrong.ok(&format!("USER {address}"));
    wrong.err(&format!("PASS {WRONG_PASSWORD}"));
    wrong.err(&format!("AUTH PLAIN {WRONG_PASSWORD}"));
    wrong.err(&format!("PASSS {WRONG_PASSWORD}"));
    wrong.err(&format!("PASS {WRONG_PASSWORD}{}", "x".repeat(10_000)));
    let mut pop3 = login(node.pop3, address, PASSWORD);
    for number in [1, 2] {
        assert!(String::from_utf8_lossy(&pop3.retr(number)).contains(BODY));
    }
    pop3.ok("TOP 1 10");
    pop3.body().unwrap();
    pop3.ok("QUIT");

    let config = client(&node, &[&rustls::version::TLS13]);
    let mut stream = connect(node.pop3);
    line(&mut stream);
    stream.write_all(b"STLS\r\n").unwrap();
    assert!(line(&mut stream).starts_with("+OK"));
    let mut tls = encrypt(&config, stream);
    tls.write_all(format!("USER {address}\r\n").as_bytes()).unwrap();
    let mut pop3 = Pop3::over(Box::new(tls)).unwrap();
    pop3.ok(&format!("PASS {PASSWORD}"));
    pop3.retr(1);
    pop3.ok("DELE 1");
    pop3.ok("QUIT");
    let path = format!("{path}/{address}/password");
    assert_eq!(http.json("PUT", &path, &json!({ "password": SECOND_PASSWORD })).0, 204);
    login(node.pop3, address, SECOND_PASSWORD).ok("QUIT");
    node.signal(1);
    node.signal(15);
    assert!(node.wait().success());
    let secrets = vec![
        PASSWORD,
        SECOND_PASSWORD,
        WRONG_PASSWORD,
        TOKEN,
        WRONG_TOKEN,
        COLLECTOR_TOKEN,
        BODY,
        MASTER_KEY,
        xtask::services::ADMIN_SECRET,
    ];
    (node, secrets)
}

#[track_caller]
fn check(stores: &Stores, format: &str) {
    let (node, secrets) = drive(stores, format);
    let log = node.log();
    // The filter is in effect, and libraries that show the wire are still held back.
    assert!(log.lines().any(|line| line.contains("TRACE") && line.contains("hyper_util")));
    assert!(!log.lines().any(|line| line.contains("TRACE") && line.contains("rustls::")));
    for secret in secrets {
        // As text, and as the octets that some libraries show.
        let numbers = format!("{:?}", &secret.as_bytes()[..secret.len().min(12)]);
        let shown = [secret, numbers.trim_matches(['[', ']'])];
        let leak = log.lines().find(|line| shown.iter().any(|shown| line.contains(shown)));
        assert_eq!(leak, None, "{secret} is in the log");
    }
}

#[test]
fn none_is_logged_with_servers() {
    check(&Stores::Servers(Database::new(), Bucket::new()), "json");
}

#[test]
fn none_is_logged_when_embedded() {
    check(&Stores::Embedded, "text");
}
