//! AUTH and APOP, as independent clients do them.

use std::{fs, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::support::{Node, NodeOptions, Pop3, deliver, login, message, run, wait_for};

/// All that a node can offer, and a mailbox whose policy names it.
fn node() -> (Node, String) {
    let options = NodeOptions {
        tls: true,
        extra:
            "[pop3]\nmechanisms = [\"PLAIN\", \"LOGIN\", \"SCRAM-SHA-256\", \"SCRAM-SHA-1\", \"CRAM-MD5\", \
                \"APOP\"]\n"
                .into(),
        ..NodeOptions::servers()
    };
    let node = Node::start(&options);
    node.tenant("one");
    let policy = json!({ "login_mechanisms": ["USER", "PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "APOP"] });
    let (status, answer) = node.http().json("PATCH", "/v1/tenants/one", &json!({ "policy": policy }));
    assert_eq!(status, 200, "{answer}");
    let a = node.mailbox("one", "a", None);
    deliver(node.lmtp, &a, &message("first", 500));
    (node, a)
}

/// How many logins by this mechanism were let in.
fn logins(node: &Node, mechanism: &str, outcome: &str) -> u64 {
    let (_, metrics) = node.http().get("/metrics");
    let series = format!("pop3_logins_total{{mechanism=\"{mechanism}\",outcome=\"{outcome}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse().unwrap())
}

#[test]
fn mpop_logs_in_by_every_mechanism() {
    let (node, a) = node();
    let path = |name: &str| node.dir.path().join(name).display().to_string();
    for (auth, mechanism) in [
        ("plain", "PLAIN"),
        ("login", "LOGIN"),
        ("scram-sha-1", "SCRAM-SHA-1"),
        ("scram-sha-256", "SCRAM-SHA-256"),
        ("cram-md5", "CRAM-MD5"),
        ("apop", "APOP"),
    ] {
        for (port, starttls) in [(node.pop3s.port(), "off"), (node.pop3.port(), "on")] {
            // With STLS the greeting's timestamp is not to be believed, and mpop does not.
            if auth == "apop" && starttls == "on" {
                continue;
            }
            let mpop = |password: &str| {
                let mut mpop = Command::new("mpop");
                mpop.env("HOME", node.dir.path()).args([
                    "--host=127.0.0.1",
                    &format!("--port={port}"),
                    "--tls=on",
                    &format!("--tls-starttls={starttls}"),
                    &format!("--tls-trust-file={}", path("cert.pem")),
                    "--tls-host-override=localhost",
                    &format!("--auth={auth}"),
                    &format!("--user={a}"),
                    &format!("--passwordeval=echo {password}"),
                    "--keep=on",
                    &format!("--delivery=mbox,{}", path("mbox")),
                    &format!("--uidls-file={}", path(&format!("uidls-{auth}-{starttls}"))),
                ]);
                mpop
            };
            let before = logins(&node, mechanism, "ok");
            run(&mut mpop("pw"));
            assert_eq!(logins(&node, mechanism, "ok"), before + 1, "{auth}");
            let refused = mpop("wrong").output().unwrap();
            assert!(!refused.status.success(), "{auth}");
        }
        assert!(logins(&node, mechanism, "bad_credentials") >= 1, "{auth}");
    }
    let mbox = fs::read_to_string(path("mbox")).unwrap();
    assert_eq!(mbox.matches("\nSubject: first").count(), 11);
}

#[test]
fn curl_logs_in_with_an_initial_response_and_without() {
    let (node, a) = node();
    let cert = node.dir.path().join("cert.pem");
    for (options, mechanism) in [
        (&["--login-options", "AUTH=PLAIN"][..], "PLAIN"),
        (&["--login-options", "AUTH=PLAIN", "--sasl-ir"], "PLAIN"),
        (&["--login-options", "AUTH=LOGIN"], "LOGIN"),
        (&["--login-options", "AUTH=LOGIN", "--sasl-ir"], "LOGIN"),
        (&["--login-options", "AUTH=CRAM-MD5"], "CRAM-MD5"),
        (&["--login-options", "AUTH=+APOP"], "APOP"),
    ] {
        let before = logins(&node, mechanism, "ok");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-u", &format!("{a}:pw")]).arg("--cacert").arg(&cert).args(options);
        let read = run(curl.arg(format!("pop3s://localhost:{}/1", node.pop3s.port()))).stdout;
        assert!(String::from_utf8(read).unwrap().contains("Subject: first"), "{options:?}");
        assert_eq!(logins(&node, mechanism, "ok"), before + 1, "{options:?}");
    }
}

#[test]
fn poplib_and_net_pop3_do_apop() {
    let (node, a) = node();
    let script = format!(
        "import poplib\np = poplib.POP3('127.0.0.1', {})\np.apop({a:?}, 'pw')\nassert p.stat()[0] == 1\np.quit()\n",
        node.pop3.port()
    );
    run(Command::new("python3").args(["-c", &script]));
    let script = format!(
        "use Net::POP3; my $p = Net::POP3->new('127.0.0.1', Port => {}) or die; \
         my $n = $p->apop('{}', 'pw'); die $p->message unless defined $n && $n == 1; $p->quit;",
        node.pop3.port(),
        a
    );
    run(Command::new("perl").args(["-e", &script]));
    assert_eq!(logins(&node, "APOP", "ok"), 2);
}

/// What is kept beside a hash is kept from the first good login under a policy that asks for it, is forgotten
/// with the password, and is made for no other mailbox.
#[test]
fn verifiers_are_made_where_a_policy_asks_for_them() {
    let (node, a) = node();
    let before = json!({ "policy": { "login_mechanisms": null } });
    let patch = |body: &serde_json::Value| node.http().json("PATCH", "/v1/tenants/one", body).0;
    assert_eq!(patch(&before), 200);
    let b = node.mailbox("one", "b", None);
    // curl does CRAM-MD5 by a password that is kept for it, and by no other.
    let cram = |user: &str, password: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-u", &format!("{user}:{password}"), "--login-options", "AUTH=CRAM-MD5"]);
        curl.arg(format!("pop3://{}/", node.pop3)).output().unwrap().status.success()
    };
    assert!(!cram(&b, "pw"), "nothing is kept for a policy that names no mechanism");
    assert_eq!(patch(&json!({ "policy": { "login_mechanisms": ["USER", "CRAM-MD5"] } })), 200);
    assert!(!cram(&b, "pw"));
    login(node.pop3, &b, "pw").ok("QUIT");
    wait_for("the password to be kept", Duration::from_secs(20), || cram(&b, "pw").then_some(()));
    let path = format!("/v1/tenants/one/mailboxes/{b}/password");
    assert_eq!(node.http().json("PUT", &path, &json!({ "password": "new" })).0, 204);
    assert!(!cram(&b, "pw"));
    assert!(cram(&b, "new"));
    // A hash that is brought along is no password.
    let hash = json!({ "password_hash": "{SSHA}9/n6OBTGSyu+bYEM05BnchZP0KH+Jtgo" });
    assert_eq!(node.http().json("PUT", &path, &hash).0, 204);
    assert!(!cram(&b, "new"));
    // Named no longer, it is taken no longer.
    assert_eq!(patch(&json!({ "policy": { "login_mechanisms": ["USER"] } })), 200);
    assert!(!cram(&a, "pw"));
}

/// An unknown name is asked for the same as one that somebody has, and its salt is always the same.
#[test]
fn scram_does_not_tell_who_exists() {
    let (node, a) = node();
    let first = |name: &str| {
        let mut pop3 = Pop3::connect(node.pop3).unwrap();
        let message = STANDARD.encode(format!("n,,n={name},r=abcdef"));
        let challenge = pop3.command(&format!("AUTH SCRAM-SHA-256 {message}")).unwrap();
        let challenge = STANDARD.decode(challenge.strip_prefix("+ ").unwrap().trim_end()).unwrap();
        let challenge = String::from_utf8(challenge).unwrap();
        let parts: Vec<_> = challenge.split(',').map(str::to_owned).collect();
        assert!(parts[0].starts_with("r=abcdef") && parts[0].len() > 20, "{challenge}");
        pop3.command("*").unwrap();
        (parts[1].clone(), parts[2].clone())
    };
    let (salt, iterations) = first("nobody@one.test");
    assert_eq!(first("nobody@one.test"), (salt.clone(), iterations.clone()));
    let (of_a, of_a_iterations) = first(&a);
    assert_eq!((of_a.len(), &of_a_iterations), (salt.len(), &iterations));
    assert_ne!(of_a, salt);
}

#[test]
fn capabilities_name_what_is_offered() {
    let (node, _) = node();
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    let greeting = pop3.greeting.clone();
    assert!(greeting.contains(" <") && greeting.trim_end().ends_with("@pop.test>"), "{greeting}");
    pop3.ok("CAPA");
    let lines = String::from_utf8(pop3.body().unwrap()).unwrap();
    assert!(lines.contains("SASL SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN\r\n"), "{lines}");
    pop3.ok("AUTH");
    assert_eq!(pop3.body().unwrap(), b"SCRAM-SHA-256\r\nSCRAM-SHA-1\r\nCRAM-MD5\r\nPLAIN\r\nLOGIN\r\n");
    let over_tls = run(Command::new("sh").arg("-c").arg(format!(
        "printf 'CAPA\\r\\nQUIT\\r\\n' | openssl s_client -quiet -connect {} 2>/dev/null",
        node.pop3s
    )));
    let text = String::from_utf8(over_tls.stdout).unwrap();
    assert!(
        text.contains(
            "SASL SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN"
        ),
        "{text}"
    );
}

/// RFC 5034 §4: each side waits for its turn. An exchange that fails so is a refused login like any other.
#[test]
fn who_speaks_out_of_turn_is_refused() {
    let (node, a) = node();
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    let early = STANDARD.encode(format!("{a} 00000000000000000000000000000000"));
    assert!(pop3.err(&format!("AUTH CRAM-MD5 {early}")).starts_with("-ERR [AUTH]"));
    // The client of SCRAM is asked for what it did not say; more than that it cannot say twice.
    assert_eq!(pop3.command("AUTH SCRAM-SHA-256").unwrap(), "+ ");
    let first = STANDARD.encode(format!("n,,n={a},r=abc"));
    assert!(pop3.command(&first).unwrap().starts_with("+ "));
    assert!(pop3.err(&first).starts_with("-ERR [AUTH]"));
    pop3.ok("USER a@one.test");
    pop3.ok("PASS pw");
}
