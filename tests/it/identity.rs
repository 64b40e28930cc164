//! Who somebody is by the name they give: with a domain or without, however it is composed, over whichever host.

use std::process::Command;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{
    Node, NodeOptions, Pop3, env,
    oidc::{Oidc, oauthbearer},
    run,
};

/// Tenants `one` and `two` with a host and a mailbox `a` each; names without a domain are `one.test`'s where no host
/// tells another.
struct World {
    node: Node,
    certificates: tempfile::TempDir,
}

impl World {
    fn create() -> Self {
        let extra = "[login_backends]\nallowed_networks = [\"127.0.0.0/8\", \"::1\"]\n[pop3]\n\
                     default_domain = \"one.test\"\nmechanisms = [\"PLAIN\", \"LOGIN\", \"SCRAM-SHA-256\", \"CRAM-MD5\", \
                     \"OAUTHBEARER\", \"APOP\"]\n[pop3s]\ndefault_domain = \"two.test\"\n";
        let node = Node::start(&NodeOptions { tls: true, extra: extra.into(), ..NodeOptions::servers() });
        let certificates = tempfile::tempdir_in(env("POSTERN_TEST_TMP")).unwrap();
        let world = Self { node, certificates };
        for tenant in ["one", "two"] {
            world.node.tenant(tenant);
            world.node.mailbox(tenant, "a", None);
            let path = format!("/v1/tenants/{tenant}/mailboxes/a@{tenant}.test/password");
            let body = json!({ "password": format!("pw-{tenant}") });
            assert_eq!(world.node.http().json("PUT", &path, &body).0, 204);
            let host = format!("pop.{tenant}.test");
            run(Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
                .args(["-days", "2", "-subj", "/CN=test", "-addext", &format!("subjectAltName=DNS:{host}")])
                .args([
                    "-keyout",
                    &world.at(&format!("{tenant}.key")),
                    "-out",
                    &world.at(&format!("{tenant}.pem")),
                ]));
            let read = |name: &str| std::fs::read_to_string(world.at(&format!("{tenant}.{name}"))).unwrap();
            let body = json!({ "chain": read("pem"), "key": read("key") });
            let path = format!("/v1/tenants/{tenant}/certificates/{host}");
            assert_eq!(world.node.http().json("PUT", &path, &body).0, 201);
        }
        world
    }

    fn at(&self, name: &str) -> String {
        self.certificates.path().join(name).display().to_string()
    }

    fn set(&self, tenant: &str, settings: &Value) {
        let (status, body) = self.node.http().json("PUT", &format!("/v1/tenants/{tenant}/login"), settings);
        assert_eq!(status, 200, "{body}");
    }

    /// Whether curl logs in at this tenant's host.
    fn curl(&self, tenant: &str, starttls: bool, options: &[&str]) -> bool {
        let (scheme, port) =
            if starttls { ("pop3", self.node.pop3.port()) } else { ("pop3s", self.node.pop3s.port()) };
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--ssl-reqd", "--cacert", &self.at(&format!("{tenant}.pem"))]).args(options);
        curl.args(["--resolve", &format!("pop.{tenant}.test:{port}:127.0.0.1")]);
        curl.arg(format!("{scheme}://pop.{tenant}.test:{port}/"));
        curl.output().unwrap().status.success()
    }

    /// What CAPA says at a host, behind its greeting.
    fn capa(&self, host: &str) -> String {
        let script = format!(
            "printf 'CAPA\\r\\nQUIT\\r\\n' | openssl s_client -quiet -servername {host} -connect {} 2>/dev/null",
            self.node.pop3s
        );
        String::from_utf8(run(Command::new("sh").args(["-c", &script])).stdout).unwrap()
    }
}

#[test]
fn names_without_a_domain_are_the_hosts() {
    let world = World::create();
    world.set("one", &json!({ "default_domain": "one.test" }));
    world.set("two", &json!({ "default_domain": "two.test" }));
    for starttls in [false, true] {
        for options in [
            &["--login-options", "AUTH=PLAIN"][..],
            &["--login-options", "AUTH=PLAIN", "--sasl-ir"],
            &["--login-options", "AUTH=LOGIN"],
            &["--sasl-authzid", "a", "--login-options", "AUTH=PLAIN"],
        ] {
            let logs_in = |tenant: &str, user: &str| {
                let options = [&["-u", user][..], options].concat();
                world.curl(tenant, starttls, &options)
            };
            assert!(logs_in("one", "a:pw-one") && logs_in("two", "a:pw-two"), "{starttls} {options:?}");
            assert!(!logs_in("one", "a:pw-two") && !logs_in("two", "a:pw-one"), "{starttls} {options:?}");
        }
        // A name with a domain is that one's, whatever the host.
        assert!(world.curl("one", starttls, &["-u", "a@two.test:pw-two"]));
        assert!(!world.curl("one", starttls, &["-u", "a@two.test:pw-one"]));
        // Nobody acts for another.
        let plain = ["-u", "a:pw-one", "--login-options", "AUTH=PLAIN", "--sasl-authzid"];
        assert!(!world.curl("one", starttls, &[&plain[..], &["a@two.test"]].concat()));
        assert!(!world.curl("one", starttls, &[&plain[..], &["b"]].concat()));
    }
    // Where no host tells, the listener does.
    let mut pop3 = Pop3::connect(world.node.pop3).unwrap();
    pop3.ok("USER a");
    pop3.ok("PASS pw-one");
    pop3.ok("QUIT");
    let cert = world.node.dir.path().join("cert.pem").display().to_string();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--cacert", &cert, "-u", "a:pw-two", "--login-options", "AUTH=PLAIN"]);
    run(curl.arg(format!("pop3s://localhost:{}/", world.node.pop3s.port())));
}

#[test]
fn a_host_offers_what_its_tenant_can_use() {
    let world = World::create();
    let oauth = json!({ "issuer": "https://id.one.test", "audiences": ["x"] });
    world.set("one", &json!({ "passwords": "none", "oauth": oauth }));
    let policy = json!({ "policy": { "login_mechanisms": ["USER", "PLAIN", "SCRAM-SHA-256", "APOP"] } });
    for tenant in ["one", "two"] {
        assert_eq!(world.node.http().json("PATCH", &format!("/v1/tenants/{tenant}"), &policy).0, 200);
    }
    let one = world.capa("pop.one.test");
    assert!(one.contains("SASL PLAIN\r\n") && !one.lines().next().unwrap().contains('<'), "{one}");
    let two = world.capa("pop.two.test");
    let sasl = "SASL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN\r\n";
    assert!(two.contains(sasl) && two.lines().next().unwrap().contains('<'), "{two}");
    let nobody = world.capa("localhost");
    assert!(nobody.contains("SCRAM-SHA-256 CRAM-MD5 OAUTHBEARER PLAIN LOGIN\r\n"), "{nobody}");
}

#[test]
fn a_token_names_the_mailbox_where_the_client_does_not() {
    let oidc = Oidc::start();
    let world = World::create();
    let oauth = json!({ "issuer": oidc.issuer(), "audiences": ["mail"] });
    world.set("one", &json!({ "oauth": oauth }));
    let token = |email: &str| oidc.token(&json!({ "aud": "mail", "email": email }), &json!({}));
    let answer = |token: &str| {
        let mut pop3 = Pop3::connect(world.node.pop3).unwrap();
        let said = STANDARD.encode(format!("n,,\u{1}auth=Bearer {token}\u{1}\u{1}"));
        let reply = pop3.command(&format!("AUTH OAUTHBEARER {said}")).unwrap();
        let reply = if reply.starts_with('+') && !reply.starts_with("+OK") {
            pop3.command("AQ==").unwrap()
        } else {
            reply
        };
        let _ = pop3.command("QUIT");
        reply
    };
    assert!(answer(&token("a@one.test")).starts_with("+OK"));
    assert!(answer(&token("a")).starts_with("+OK"));
    // Of a tenant's several domains, a name without one is the default's.
    let http = world.node.http();
    assert_eq!(http.json("POST", "/v1/tenants/one/domains", &json!({ "name": "uno.test" })).0, 201);
    let body = json!({ "address": "a@uno.test" });
    assert_eq!(http.json("POST", "/v1/tenants/one/mailboxes", &body).0, 201);
    world.set("one", &json!({ "oauth": oauth, "default_domain": "one.test" }));
    for (user, claim, good) in [
        ("a@one.test", "a", true),
        ("a@uno.test", "a", false),
        ("a@uno.test", "a@uno.test", true),
        ("a@one.test", "a@uno.test", false),
    ] {
        let mut pop3 = Pop3::connect(world.node.pop3).unwrap();
        let reply = pop3.command(&format!("AUTH OAUTHBEARER {}", oauthbearer(user, &token(claim)))).unwrap();
        assert_eq!(reply.starts_with("+OK"), good, "{user} {claim}: {reply}");
        let _ = pop3.command(if good { "QUIT" } else { "AQ==" });
    }
    // Whose issuer it is, its tenant's mailboxes are.
    for other in ["a@two.test", "b@one.test", "", "*"] {
        assert!(answer(&token(other)).starts_with("-ERR [AUTH]"), "{other}");
    }
}

#[test]
fn letters_are_the_same_however_they_are_composed() {
    let world = World::create();
    let body = json!({ "address": "bjo\u{308}rn@one.test", "password": "pa\u{308}ss" });
    let (status, made) = world.node.http().json("POST", "/v1/tenants/one/mailboxes", &body);
    assert_eq!((status, &made["address"]), (201, &json!("bj\u{f6}rn@one.test")), "{made}");
    for name in ["bj\u{f6}rn", "BJ\u{d6}RN", "bjo\u{308}rn@one.test", "\u{ff42}jo\u{308}rn"] {
        for (password, good) in [("p\u{e4}ss", true), ("pa\u{308}ss", true), ("pass", false)] {
            let mut pop3 = Pop3::connect(world.node.pop3).unwrap();
            pop3.ok(&format!("USER {name}"));
            let reply = pop3.command(&format!("PASS {password}")).unwrap();
            assert_eq!(reply.starts_with("+OK"), good, "{name} {password}: {reply}");
            let _ = pop3.command("QUIT");
        }
    }
}
