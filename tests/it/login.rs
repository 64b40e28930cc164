//! Logins that a tenant's own back end verifies: a directory, a service.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use xtask::process::Group;

use crate::support::{
    Node, NodeOptions, Pop3,
    ldap::{READER, Slapd},
    login, run, wait_for,
};

/// What tests may reach.
const LOOPBACK: &str = "[login_backends]\nallowed_networks = [\"127.0.0.0/8\"]\n";

fn node(extra: &str) -> Node {
    let mechanisms = "[pop3]\nmechanisms = [\"PLAIN\", \"LOGIN\", \"SCRAM-SHA-256\", \"CRAM-MD5\"]\n";
    let node = Node::start(&NodeOptions {
        extra: format!("{LOOPBACK}{extra}{mechanisms}"),
        ..NodeOptions::embedded()
    });
    node.tenant("one");
    node
}

/// Sets how the tenant's logins are verified.
#[track_caller]
fn set(node: &Node, tenant: &str, settings: &Value) {
    let (status, body) = node.http().json("PUT", &format!("/v1/tenants/{tenant}/login"), settings);
    assert_eq!(status, 200, "{body}");
}

/// What PASS is answered with; the session ends.
fn answer(node: &Node, user: &str, password: &str) -> String {
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    pop3.ok(&format!("USER {user}"));
    let reply = pop3.command(&format!("PASS {password}")).unwrap();
    pop3.command("QUIT").unwrap();
    reply
}

#[track_caller]
fn good(node: &Node, user: &str, password: &str) {
    let reply = answer(node, user, password);
    assert!(reply.starts_with("+OK"), "{user}: {reply}");
}

#[track_caller]
fn refused(node: &Node, user: &str, password: &str) {
    let reply = answer(node, user, password);
    assert!(reply.starts_with("-ERR [AUTH]"), "{user}: {reply}");
}

#[track_caller]
fn away(node: &Node, user: &str, password: &str) {
    let reply = answer(node, user, password);
    assert!(reply.starts_with("-ERR [SYS/TEMP]"), "{user}: {reply}");
}

fn count(node: &Node, by: &str, outcome: &str) -> u64 {
    let series = format!("login_verifications_total{{by=\"{by}\",outcome=\"{outcome}\"}} ");
    let (_, metrics) = node.http().get("/metrics");
    metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

/// How many answers were made to wait.
fn delayed(node: &Node) -> u64 {
    let (_, metrics) = node.http().get("/metrics");
    let counts = metrics.lines().filter(|line| line.starts_with("pop3_login_delays_total{"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn a_directory_verifies_passwords() {
    let slapd = Slapd::start(&[
        ("a", "a@one.test", "ldap-pw"),
        ("b*)(", "b*)(@one.test", "b-pw"),
        ("c1", "c@one.test", "c-pw"),
        ("c2", "c@one.test", "c-pw"),
        ("nobox", "nobox@one.test", "n-pw"),
    ]);
    let node = node("");
    let a = node.mailbox("one", "a", None);
    node.mailbox("one", "c", None);
    node.mailbox("one", "d", None);
    node.mailbox("one", "b*)(", None);
    let (status, app) = node.http().json(
        "POST",
        "/v1/tenants/one/mailboxes/a@one.test/app-passwords",
        &json!({ "label": "phone" }),
    );
    assert_eq!(status, 201, "{app}");
    let app = app["password"].as_str().unwrap().to_owned();
    good(&node, &a, "pw");
    let ca = slapd.certificate();
    let template = json!({ "bind_dn": "uid={local},dc=one,dc=test" });
    let search = json!({ "search": { "base": "dc=one,dc=test", "filter": "(&(objectClass=inetOrgPerson)(mail={address}))",
        "bind_dn": READER.0, "password": { "value": READER.1 } } });
    for (whom, url, starttls) in [
        (&template, format!("ldaps://127.0.0.1:{}", slapd.tls_port), true),
        (&template, format!("ldap://localhost:{}", slapd.port), true),
        (&search, format!("ldaps://localhost:{}", slapd.tls_port), true),
        (&search, format!("ldap://127.0.0.1:{}", slapd.port), false),
    ] {
        let mut ldap = json!({ "urls": [url], "starttls": starttls, "ca_pem": ca });
        ldap.as_object_mut().unwrap().extend(whom.as_object().unwrap().clone());
        set(&node, "one", &json!({ "passwords": "ldap", "ldap": ldap }));
        good(&node, &a, "ldap-pw");
        good(&node, "A@ONE.test", "ldap-pw");
        // What is kept here is the password no more, though it was remembered a moment ago; app passwords are.
        refused(&node, &a, "pw");
        good(&node, &a, &app);
        refused(&node, &a, "wrong");
        // A bind without a password would be good.
        let mut pop3 = Pop3::connect(node.pop3).unwrap();
        pop3.err(&format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{a}\0"))));
        pop3.ok(&format!("USER {a}"));
        pop3.err("PASS ");
        // Characters that mean something to a filter and a DN are a name's like any other.
        good(&node, "b*)(@one.test", "b-pw");
        refused(&node, "*@one.test", "ldap-pw");
        refused(&node, "a@one.test)(uid=*", "ldap-pw");
        // Nobody there, no mailbox here, several of them there.
        refused(&node, "d@one.test", "pw");
        refused(&node, "nobox@one.test", "n-pw");
        refused(&node, "c@one.test", "c-pw");
    }
    // Remembered: the directory is not asked of each poll.
    let before = (count(&node, "ldap", "good"), count(&node, "remembered", "good"));
    for _ in 0..5 {
        good(&node, &a, "ldap-pw");
    }
    assert_eq!((count(&node, "ldap", "good"), count(&node, "remembered", "good")), (before.0, before.1 + 5));
    // Taken back, what the directory said counts no longer.
    assert_eq!(node.http().json("DELETE", "/v1/tenants/one/login", &Value::Null).0, 204);
    refused(&node, &a, "ldap-pw");
    good(&node, &a, "pw");
    let log = node.log();
    assert!(!log.contains("ldap-pw") && !log.contains(READER.1), "a secret in the log");
}

#[test]
fn mechanisms_that_need_a_verifier_are_refused_where_passwords_are_elsewhere() {
    let slapd = Slapd::start(&[("a", "a@one.test", "ldap-pw")]);
    let node = node("");
    let policy = json!({ "policy": { "login_mechanisms": ["USER", "PLAIN", "CRAM-MD5"] } });
    assert_eq!(node.http().json("PATCH", "/v1/tenants/one", &policy).0, 200);
    let a = node.mailbox("one", "a", None);
    let cram = |password: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-u", &format!("{a}:{password}"), "--login-options", "AUTH=CRAM-MD5"]);
        curl.arg(format!("pop3://{}/", node.pop3)).output().unwrap().status.success()
    };
    assert!(cram("pw"));
    let ldap = json!({ "urls": [format!("ldaps://127.0.0.1:{}", slapd.tls_port)], "ca_pem": slapd.certificate(),
        "bind_dn": "uid={local},dc=one,dc=test" });
    set(&node, "one", &json!({ "passwords": "ldap", "ldap": ldap }));
    assert!(!cram("pw") && !cram("ldap-pw"));
    good(&node, &a, "ldap-pw");
    // Only app passwords.
    set(&node, "one", &json!({ "passwords": "none" }));
    assert!(!cram("pw"));
    refused(&node, &a, "pw");
    refused(&node, &a, "ldap-pw");
}

#[test]
fn a_directory_that_is_away_is_no_wrong_password() {
    let mut slapd = Slapd::start(&[("a", "a@one.test", "ldap-pw"), ("b", "b@one.test", "b-pw")]);
    let node = node("");
    let (a, b) = (node.mailbox("one", "a", None), node.mailbox("one", "b", None));
    let [nobody] = xtask::services::free_ports().unwrap();
    let port = slapd.port;
    let settings = |offline: u32| {
        json!({ "passwords": "ldap", "remember_secs": 0, "offline_secs": offline, "ldap": {
            "urls": [format!("ldap://127.0.0.1:{nobody}"), format!("ldap://127.0.0.1:{port}")],
            "starttls": false, "timeout_secs": 2, "bind_dn": "uid={local},dc=one,dc=test" } })
    };
    set(&node, "one", &settings(60));
    // The first server is away, the second is asked.
    good(&node, &a, "ldap-pw");
    slapd.kill();
    // The password that was good last is good for a while; no other is, and nobody is told that it is wrong.
    good(&node, &a, "ldap-pw");
    assert_eq!(count(&node, "offline", "good"), 1);
    // Who guesses at it waits as for a wrong one, and as for a mailbox that nobody has.
    let before = delayed(&node);
    away(&node, &a, "wrong");
    away(&node, &b, "b-pw");
    away(&node, "nobody@one.test", "x");
    assert_eq!(delayed(&node), before + 3);
    // Under other settings nothing is left of it.
    set(&node, "one", &settings(0));
    let before = delayed(&node);
    away(&node, &a, "ldap-pw");
    assert_eq!(delayed(&node), before, "where nothing is taken nobody can guess");
    slapd.up();
    good(&node, &a, "ldap-pw");
    good(&node, &b, "b-pw");
    refused(&node, &a, "wrong");
    // A connection that was kept and is dead is noticed, and there is another.
    slapd.kill();
    slapd.up();
    good(&node, &a, "ldap-pw");
}

/// A server that takes connections and says nothing.
fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn one_tenants_slow_directory_holds_nobody_elses_logins() {
    let node = node("concurrent_max = 2\nwaiting_max = 4\n");
    node.tenant("two");
    let b = node.mailbox("two", "b", None);
    let (_listener, port) = silent();
    let a = node.mailbox("one", "a", None);
    set(
        &node,
        "one",
        &json!({ "passwords": "ldap", "ldap": { "urls": [format!("ldaps://127.0.0.1:{port}")],
        "timeout_secs": 3, "bind_dn": "uid={local},dc=x" } }),
    );
    std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    let start = Instant::now();
                    (answer(&node, &a, "x"), start.elapsed())
                })
            })
            .collect();
        // The other tenant's logins go on, while those of the first wait.
        for _ in 0..10 {
            let start = Instant::now();
            good(&node, &b, "pw");
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        }
        let answers: Vec<_> = crowd.into_iter().map(|one| one.join().unwrap()).collect();
        assert!(answers.iter().all(|(reply, _)| reply.starts_with("-ERR [SYS/TEMP]")), "{answers:?}");
        // Two ask, four wait, the others are told at once.
        let at_once = answers.iter().filter(|(_, took)| *took < Duration::from_secs(2)).count();
        assert!((10..=14).contains(&at_once), "{at_once}: {answers:?}");
        let longest = answers.iter().map(|(_, took)| *took).max().unwrap();
        assert!(longest < Duration::from_secs(20), "{longest:?}");
    });
}

#[test]
fn nothing_is_reached_that_the_operator_does_not_let_be() {
    let node = Node::start(&NodeOptions::embedded());
    node.tenant("one");
    let a = node.mailbox("one", "a", None);
    let (listener, port) = silent();
    listener.set_nonblocking(true).unwrap();
    let http =
        |url: String| json!({ "passwords": "http", "http": { "url": url, "secret": { "value": "s" } } });
    let ldap =
        |url: String| json!({ "passwords": "ldap", "ldap": { "urls": [url], "bind_dn": "uid={local}" } });
    for settings in [
        http(format!("https://127.0.0.1:{port}/")),
        http(format!("http://[::1]:{port}/")),
        http(format!("https://2130706433:{port}/")),
        http("http://169.254.169.254/latest/meta-data/".to_owned()),
        ldap(format!("ldaps://127.0.0.1:{port}")),
    ] {
        let (status, body) = node.http().json("PUT", "/v1/tenants/one/login", &settings);
        assert_eq!(
            (status, &body["type"]),
            (422, &json!("urn:postern:problem:invalid")),
            "{settings}: {body}"
        );
    }
    // A name is judged by where it leads, when it is used.
    for settings in [
        http(format!("http://localhost:{port}/")),
        http(format!("https://localhost:{port}/")),
        ldap(format!("ldap://localhost:{port}")),
        ldap(format!("ldaps://localhost:{port}")),
    ] {
        set(&node, "one", &settings);
        away(&node, &a, "pw");
    }
    let reached = listener.accept().err().map(|error| error.kind());
    assert_eq!(reached, Some(std::io::ErrorKind::WouldBlock), "somebody was there");
    assert!(node.log().contains("is not among what tenants' back ends may reach"), "{}", node.log());
}

/// A service as an operator would write it after our documentation.
const SERVICE: &str = r#"
import base64, hashlib, hmac, http.server, json, sys, time
class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        stamp = self.headers['Postern-Timestamp']
        signed = hmac.new(b's3cret', stamp.encode() + b'.' + body, hashlib.sha256).hexdigest()
        fresh = abs(time.time() - int(stamp)) < 300
        if not fresh or not hmac.compare_digest('v1=' + signed, self.headers['Postern-Signature']):
            return self.reply(403, b'{}')
        question = json.loads(body)
        assert question['version'] == 1 and len(question['id']) == 36
        password = question.get('password')
        if password is None:
            password = base64.b64decode(question['password_base64']).decode('latin-1')
        if password == 'sesame' and question['login'] == 'a@one.test':
            return self.reply(200, b'{"result":"good","more":"is ignored"}')
        if password == '\xe9':
            return self.reply(200, b'{"result":"good"}')
        special = {
            'status': (500, b'{"result":"good"}'), 'nonsense': (200, b'good'), 'other': (200, b'{"result":"yes"}'),
            'long': (200, b'{"result":"good","x":"' + b'x' * 100000 + b'"}'), 'no': (401, b'{"result":"refused"}'),
        }
        if password == 'elsewhere':
            self.send_response(302)
            self.send_header('Location', '/good')
            self.send_header('Content-Length', '0')
            return self.end_headers()
        if password == 'slow':
            time.sleep(5)
        self.reply(*special.get(password, (200, b'{"result":"refused"}')))
    def do_GET(self):
        self.reply(200, b'{"result":"good"}')
    def reply(self, status, body):
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Service).serve_forever()
"#;

#[test]
fn a_service_verifies_passwords_by_http() {
    let secrets = tempfile::tempdir().unwrap();
    fs::create_dir(secrets.path().join("one")).unwrap();
    fs::write(secrets.path().join("one/callback"), "s3cret\n").unwrap();
    fs::write(secrets.path().join("one/wrong"), "other").unwrap();
    let node = node(&format!("secrets_dir = \"{}\"\n", secrets.path().display()));
    let a = node.mailbox("one", "a", None);
    let [port] = xtask::services::free_ports().unwrap();
    let mut service = Command::new("python3");
    service.args(["-c", SERVICE, &port.to_string()]);
    let _service = Group::spawn(&mut service, libc::SIGTERM, libc::SIGKILL).unwrap();
    wait_for("the service", Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).ok());
    let settings = |secret: &Value| {
        json!({ "passwords": "http", "http": {
            "url": format!("http://127.0.0.1:{port}/auth?x=y"), "secret": secret, "timeout_secs": 2 } })
    };
    for secret in [json!({ "value": "s3cret" }), json!({ "file": "callback" })] {
        set(&node, "one", &settings(&secret));
        good(&node, &a, "sesame");
        refused(&node, &a, "pw");
        refused(&node, "b@one.test", "sesame");
        // Only the service's own word is one: no status, no nonsense, no redirect, nothing without an end.
        for password in ["status", "nonsense", "other", "long", "no", "elsewhere", "slow"] {
            away(&node, &a, password);
        }
    }
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    pop3.ok(&format!("USER {a}"));
    pop3.send(b"PASS \xe9\r\n").unwrap();
    assert!(pop3.line().unwrap().starts_with("+OK"), "a password that is not UTF-8");
    drop(pop3);
    // Signed by another secret, or by none that can be had, nothing is known.
    for file in ["wrong", "missing"] {
        set(&node, "one", &settings(&json!({ "file": file })));
        away(&node, &a, "sesame");
    }
    // A file is read when it is needed.
    fs::write(secrets.path().join("one/missing"), "s3cret").unwrap();
    good(&node, &a, "sesame");
    let log = node.log();
    assert!(!log.contains("s3cret") && !log.contains("sesame"), "a secret in the log");
}

#[test]
fn settings_are_kept_sealed_shown_without_secrets_and_audited() {
    let node = node("");
    let a = node.mailbox("one", "a", None);
    let file = node.dir.path().join("login.json");
    let settings = json!({ "passwords": "ldap", "ldap": { "urls": ["ldaps://ldap.example.org"], "search": {
        "base": "dc=x", "filter": "(mail={address})", "bind_dn": "cn=x", "password": { "value": "top-s3cret" } } } });
    fs::write(&file, settings.to_string()).unwrap();
    let cli = |args: &[&str]| {
        let mut command = node.postern();
        command
            .env("POSTERN_ADMIN_URL", format!("http://{}", node.admin))
            .env("POSTERN_ADMIN_TOKEN", crate::support::TOKEN);
        String::from_utf8(run(command.args(["admin", "--json", "login"]).args(args)).stdout).unwrap()
    };
    let set = cli(&["set", "one", "--file", &file.display().to_string()]);
    let shown = cli(&["show", "one"]);
    let (_, audit) = node.http().get("/v1/tenants/one/audit?limit=1");
    for text in [&set, &shown, &audit] {
        assert!(text.contains("ldap.example.org") && !text.contains("top-s3cret"), "{text}");
    }
    assert!(audit.contains("tenant.set_login"), "{audit}");
    let index = fs::read(node.dir.path().join("data/index.sqlite")).unwrap();
    let wal = fs::read(node.dir.path().join("data/index.sqlite-wal")).unwrap_or_default();
    assert!(
        ![index, wal].iter().any(|octets| octets.windows(10).any(|w| w == b"top-s3cret")),
        "in the clear"
    );
    // A change insists on what was read.
    let (_, headers, _) = node.http().raw("GET", "/v1/tenants/one/login", "", b"");
    assert!(headers.to_lowercase().contains("etag: \"1\""), "{headers}");
    cli(&["reset", "one"]);
    good(&node, &a, "pw");
    login(node.pop3, &a, "pw").ok("QUIT");
}

/// What a client sees of it is the same whether a mailbox exists or not, also in time.
#[test]
fn a_directory_is_asked_whether_there_is_a_mailbox_or_not() {
    let slapd = Slapd::start(&[("a", "a@one.test", "ldap-pw")]);
    let node = node("");
    node.mailbox("one", "a", None);
    set(
        &node,
        "one",
        &json!({ "passwords": "ldap", "ldap": { "starttls": false,
        "urls": [format!("ldap://127.0.0.1:{}", slapd.port)], "bind_dn": "uid={local},dc=one,dc=test" } }),
    );
    let binds = || slapd.log().matches(" BIND dn=\"uid=").count();
    for user in ["a@one.test", "nobody@one.test"] {
        let before = binds();
        refused(&node, user, "wrong");
        wait_for("a bind", Duration::from_secs(5), || (binds() > before).then_some(()));
    }
}
