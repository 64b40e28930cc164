//! Tokens of a tenant's issuer: OAUTHBEARER and XOAUTH2, as independent clients do them, against a real OpenID provider.

use std::{fs, process::Command, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{
    Node, NodeOptions, Pop3, deliver, message,
    oidc::{Oidc, oauthbearer, xoauth2},
    run,
};

pub(crate) fn node() -> Node {
    let node = Node::start(&NodeOptions {
        tls: true,
        extra: "[login_backends]\nallowed_networks = [\"127.0.0.0/8\", \"::1\"]\n\
                [pop3]\nmechanisms = [\"PLAIN\", \"OAUTHBEARER\", \"XOAUTH2\"]\n"
            .into(),
        ..NodeOptions::servers()
    });
    node.tenant("one");
    node
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// What a good token for `a@one.test` claims.
pub(crate) fn claims() -> Value {
    json!({ "aud": "mail", "email": "a@one.test", "scope": "openid pop", "exp": now() + 600 })
}

/// Claims with some of them changed; `null` takes one away.
fn with(mut claims: Value, change: &Value) -> Value {
    claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    claims
}

#[track_caller]
pub(crate) fn set(node: &Node, tenant: &str, oauth: &Value) {
    let settings = json!({ "oauth": oauth });
    let (status, body) = node.http().json("PUT", &format!("/v1/tenants/{tenant}/login"), &settings);
    assert_eq!(status, 200, "{body}");
}

pub(crate) fn settings(oidc: &Oidc) -> Value {
    json!({ "issuer": oidc.issuer(), "audiences": ["mail"], "scopes": ["pop"] })
}

/// What an exchange comes to, and the error's JSON where there is one.
fn exchange(node: &Node, mechanism: &str, response: &str) -> (String, Value) {
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    let reply = pop3.command(&format!("AUTH {mechanism} {response}")).unwrap();
    let Some(challenge) = reply.strip_prefix("+ ") else {
        pop3.command("QUIT").unwrap();
        return (reply, Value::Null);
    };
    let error = serde_json::from_slice(&STANDARD.decode(challenge).unwrap()).unwrap();
    // The client's dummy answer: 0x01 in OAUTHBEARER, nothing in XOAUTH2.
    let dummy = if mechanism == "OAUTHBEARER" { "AQ==" } else { "" };
    (pop3.command(dummy).unwrap(), error)
}

#[track_caller]
fn good(node: &Node, user: &str, token: &str) {
    let (reply, _) = exchange(node, "OAUTHBEARER", &oauthbearer(user, token));
    assert!(reply.starts_with("+OK"), "{user}: {reply}");
}

#[track_caller]
fn refused(node: &Node, user: &str, token: &str) {
    let (reply, error) = exchange(node, "OAUTHBEARER", &oauthbearer(user, token));
    assert!(reply.starts_with("-ERR [AUTH]"), "{user}: {reply}");
    assert_eq!(error, json!({ "status": "invalid_token" }));
    let (reply, error) = exchange(node, "XOAUTH2", &xoauth2(user, token));
    assert!(reply.starts_with("-ERR [AUTH]"), "{user}: {reply}");
    assert_eq!(error["status"], "401");
}

#[test]
fn tokens_are_what_the_issuer_signed_for_us() {
    let oidc = Oidc::start();
    let node = node();
    let a = node.mailbox("one", "a", None);
    node.mailbox("one", "b", None);
    set(&node, "one", &settings(&oidc));
    let token = |change: Value| oidc.token(&with(claims(), &change), &json!({}));
    let whole = token(json!({}));
    good(&node, &a, &whole);
    good(&node, "A@ONE.TEST", &whole);
    // In two lines, and by XOAUTH2 in one.
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    assert_eq!(pop3.command("AUTH OAUTHBEARER").unwrap(), "+ ");
    pop3.ok(&oauthbearer(&a, &whole));
    pop3.ok("QUIT");
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    assert_eq!(pop3.command("AUTH XOAUTH2").unwrap(), "+ ");
    pop3.ok(&xoauth2(&a, &whole));
    pop3.ok("QUIT");
    good(&node, &a, &token(json!({ "aud": ["x", "mail"], "email_verified": true })));
    good(&node, &a, &token(json!({ "email": "a" })));
    good(&node, &a, &token(json!({ "exp": now() - 20 })));
    // Whose it is is what it says, and no other mailbox's.
    for user in ["b@one.test", "nobody@one.test", "a@two.test", "nobody"] {
        refused(&node, user, &whole);
    }
    for change in [
        json!({ "aud": "other" }),
        json!({ "aud": null }),
        json!({ "iss": "http://localhost:1" }),
        json!({ "exp": now() - 120 }),
        json!({ "exp": null }),
        json!({ "nbf": now() + 120 }),
        json!({ "scope": "openid" }),
        json!({ "email": "b@one.test" }),
        json!({ "email": "a@two.test" }),
        json!({ "email": "*" }),
        json!({ "email": null }),
        json!({ "email_verified": false }),
    ] {
        refused(&node, &a, &token(change));
    }
    // Nobody signed these, or somebody else.
    let mut parts: Vec<String> = whole.split('.').map(str::to_owned).collect();
    let encoded = |value: &Value| {
        STANDARD.encode(value.to_string()).trim_end_matches('=').replace('+', "-").replace('/', "_")
    };
    let unsigned = format!("{}.{}.", encoded(&json!({ "alg": "none" })), parts[1]);
    let (_, jwks) = {
        let port = oidc.issuer().rsplit(':').next().unwrap().parse::<u16>().unwrap();
        crate::support::Http::new(([127, 0, 0, 1], port).into(), "").get("/jwks")
    };
    let kid = serde_json::from_str::<Value>(&jwks).unwrap()["keys"][0]["kid"].clone();
    let confused = format!("{}.{}.{}", encoded(&json!({ "alg": "HS256", "kid": kid })), parts[1], parts[2]);
    let critical = oidc.token(&claims(), &json!({ "crit": ["b64"], "b64": true }));
    parts[2] = parts[2].chars().rev().collect();
    for bad in [&unsigned, &confused, &critical, &parts.join("."), &"x".repeat(40_000), "a.b.c", "e30.e30."] {
        refused(&node, &a, bad);
    }
    // A client may ask what is wanted of it, and say nothing more.
    let (reply, error) =
        exchange(&node, "OAUTHBEARER", &STANDARD.encode(format!("n,a={a},\u{1}auth=\u{1}\u{1}")));
    assert!(reply.starts_with("-ERR [AUTH]") && error["status"] == "invalid_token", "{reply} {error}");
    // Who gives up when it is refused is refused all the same.
    let refusals = || {
        let (_, metrics) = node.http().get("/metrics");
        let series = "pop3_logins_total{mechanism=\"XOAUTH2\",outcome=\"bad_credentials\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap().parse::<u64>().unwrap()
    };
    let before = refusals();
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    let challenge = pop3.command(&format!("AUTH XOAUTH2 {}", xoauth2(&a, "x.y.z"))).unwrap();
    assert!(challenge.starts_with("+ "), "{challenge}");
    pop3.err("*");
    assert_eq!(refusals(), before + 1);
    // A token longer than may be is told, and the session goes on.
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    pop3.err(&format!("AUTH OAUTHBEARER {}", "A".repeat(100_000)));
    pop3.ok("CAPA");
    let log = node.log();
    assert!(!log.contains(&whole) && !log.contains("eyJ"), "a token in the log");
}

#[test]
fn keys_change_and_outlive_an_outage() {
    let mut oidc = Oidc::start();
    let node = node();
    let a = node.mailbox("one", "a", None);
    let unknown = oidc.token(&claims(), &json!({ "kid": "never" }));
    let first = oidc.token(&claims(), &json!({}));
    // While the issuer is away nothing is known of any token, and nobody is told that one is bad.
    oidc.kill();
    set(&node, "one", &settings(&oidc));
    let (reply, _) = exchange(&node, "OAUTHBEARER", &oauthbearer(&a, &first));
    assert!(reply.starts_with("-ERR [SYS/TEMP]"), "{reply}");
    oidc.up();
    // It has another key now.
    let second = oidc.token(&claims(), &json!({}));
    set(&node, "one", &settings(&oidc));
    good(&node, &a, &second);
    refused(&node, &a, &first);
    let asked = jwks_asked(&node);
    // Keys that nobody knows are not asked for with each token.
    for _ in 0..20 {
        refused(&node, &a, &unknown);
    }
    assert!(jwks_asked(&node) <= asked + 1, "{} after {asked}", jwks_asked(&node));
    // One more key, of another kind: it is asked for when it is first seen.
    oidc.rotate();
    let third = oidc.token(&claims(), &json!({}));
    crate::support::wait_for("the new key", std::time::Duration::from_secs(30), || {
        let (reply, _) = exchange(&node, "XOAUTH2", &xoauth2(&a, &third));
        reply.starts_with("+OK").then_some(())
    });
    // Keys that are known are good while the issuer is away.
    oidc.kill();
    good(&node, &a, &second);
}

fn jwks_asked(node: &Node) -> u64 {
    let (_, metrics) = node.http().get("/metrics");
    let of = |outcome: &str| -> u64 {
        let series =
            format!("login_backend_duration_seconds_count{{backend=\"jwks\",outcome=\"{outcome}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    };
    of("answered") + of("failed")
}

/// P5: an issuer vouches for the mailboxes of the tenant that trusts it, whatever its tokens say.
#[test]
fn an_issuer_vouches_for_no_other_tenants_mailbox() {
    let (of_one, of_two) = (Oidc::start(), Oidc::start());
    let node = node();
    node.tenant("two");
    node.tenant("three");
    let boxes = ["one", "two", "three"].map(|tenant| node.mailbox(tenant, "a", None));
    set(&node, "one", &settings(&of_one));
    set(&node, "two", &settings(&of_two));
    for (i, issuer) in [&of_one, &of_two].into_iter().enumerate() {
        for (k, user) in boxes.iter().enumerate() {
            // It claims to be whoever is asked for, and the other issuer's, too.
            for iss in [of_one.issuer(), of_two.issuer()] {
                let token = issuer.token(&with(claims(), &json!({ "email": user, "iss": iss })), &json!({}));
                let (reply, _) = exchange(&node, "OAUTHBEARER", &oauthbearer(user, &token));
                let own = i == k && iss == issuer.issuer();
                assert_eq!(reply.starts_with("+OK"), own, "{i} {user} {iss}: {reply}");
            }
        }
    }
    // Both may trust the same one: it is the claim that tells whose a token is.
    set(&node, "two", &settings(&of_one));
    let token = of_one.token(&claims(), &json!({}));
    good(&node, &boxes[0], &token);
    refused(&node, &boxes[1], &token);
}

#[test]
fn the_issuer_can_be_asked_of_each_token() {
    let mut oidc = Oidc::start();
    let node = node();
    let a = node.mailbox("one", "a", None);
    let asked_with = |secret: &str, remember: u32| {
        json!({ "issuer": oidc.issuer(), "scopes": ["pop"], "introspection": {
            "url": format!("{}/introspect", oidc.issuer()), "client_id": "postern",
            "client_secret": { "value": secret }, "remember_secs": remember } })
    };
    let wrong = asked_with("wrong", 0);
    let (right, remembering) = (asked_with("client s\u{e9}cret", 0), asked_with("client s\u{e9}cret", 60));
    let token = oidc.token(&claims(), &json!({}));
    let revoked = oidc.token(&with(claims(), &json!({ "revoked": true })), &json!({}));
    let over = oidc.token(&with(claims(), &json!({ "exp": now() - 120 })), &json!({}));
    let scopeless = oidc.token(&with(claims(), &json!({ "scope": "x" })), &json!({}));
    set(&node, "one", &right);
    good(&node, &a, &token);
    for bad in [&revoked, &over, &scopeless, "nonsense"] {
        refused(&node, &a, bad);
    }
    refused(&node, "b@one.test", &token);
    // That we are not let in says nothing of the token.
    set(&node, "one", &wrong);
    let (reply, _) = exchange(&node, "OAUTHBEARER", &oauthbearer(&a, &token));
    assert!(reply.starts_with("-ERR [SYS/TEMP]"), "{reply}");
    set(&node, "one", &remembering);
    good(&node, &a, &token);
    oidc.kill();
    good(&node, &a, &token);
    let (reply, _) = exchange(&node, "OAUTHBEARER", &oauthbearer(&a, &revoked));
    assert!(reply.starts_with("-ERR [SYS/TEMP]"), "{reply}");
    assert!(!node.log().contains("cret"), "a secret in the log");
}

#[test]
fn curl_mpop_and_python_log_in_by_token() {
    let oidc = Oidc::start();
    let node = node();
    let a = node.mailbox("one", "a", None);
    deliver(node.lmtp, &a, &message("first", 500));
    set(&node, "one", &settings(&oidc));
    // As long as issuers make them that put all into one that a user may do.
    let token =
        oidc.token(&with(claims(), &json!({ "groups": vec!["staff-of-somewhere"; 1000] })), &json!({}));
    assert!(token.len() > 20_000);
    let bad = oidc.token(&with(claims(), &json!({ "aud": "other" })), &json!({}));
    let cert = node.dir.path().join("cert.pem").display().to_string();
    for mechanism in ["OAUTHBEARER", "XOAUTH2"] {
        for ir in [&["--sasl-ir"][..], &[]] {
            let curl = |token: &str| {
                let mut curl = Command::new("curl");
                curl.args(["-sS", "--cacert", &cert, "-u", &a, "--oauth2-bearer", token]).args(ir);
                curl.args(["--login-options", &format!("AUTH={mechanism}")]);
                curl.arg(format!("pop3s://localhost:{}/1", node.pop3s.port()));
                curl
            };
            let read = String::from_utf8(run(&mut curl(&token)).stdout).unwrap();
            assert!(read.contains("Subject: first"), "{mechanism} {ir:?}: {read}");
            assert!(!curl(&bad).output().unwrap().status.success(), "{mechanism} {ir:?}");
        }
        let path = |name: &str| node.dir.path().join(name).display().to_string();
        fs::write(path("token"), oidc.token(&claims(), &json!({}))).unwrap();
        let mut mpop = Command::new("mpop");
        mpop.env("HOME", node.dir.path()).args([
            "--host=127.0.0.1",
            &format!("--port={}", node.pop3s.port()),
            "--tls=on",
            "--tls-starttls=off",
            &format!("--tls-trust-file={cert}"),
            "--tls-host-override=localhost",
            &format!("--auth={}", mechanism.to_lowercase()),
            &format!("--user={a}"),
            &format!("--passwordeval=cat {}", path("token")),
            "--keep=on",
            &format!("--delivery=mbox,{}", path("mbox")),
            &format!("--uidls-file={}", path(&format!("uidls-{mechanism}"))),
        ]);
        run(&mut mpop);
    }
    let mbox = fs::read_to_string(node.dir.path().join("mbox")).unwrap();
    assert_eq!(mbox.matches("\nSubject: first").count(), 2);
    // A client that knows only what Python's library does: lines.
    let script = format!(
        "import base64, poplib, ssl\n\
         context = ssl.create_default_context(cafile={cert:?})\n\
         p = poplib.POP3_SSL('localhost', {}, context=context)\n\
         assert 'OAUTHBEARER' in p.capa()['SASL'] and 'XOAUTH2' in p.capa()['SASL']\n\
         said = base64.b64encode(('user={a}\\x01auth=Bearer ' + open({:?}).read() + '\\x01\\x01').encode())\n\
         print(p._shortcmd('AUTH XOAUTH2 ' + said.decode()))\n\
         assert p.stat()[0] == 1\n\
         p.quit()\n",
        node.pop3s.port(),
        node.dir.path().join("token"),
    );
    run(Command::new("python3").args(["-c", &script]));
}
