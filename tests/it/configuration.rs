//! The command line, the configuration, and what they say of bad input.

use std::{fs, process::Command};

use crate::support::{Database, Node, NodeOptions, Stores, env, run};

/// Runs the binary; gives exit code, standard output, standard error.
fn postern(node: &Node, args: &[&str]) -> (i32, String, String) {
    let output = node.postern().args(args).output().unwrap();
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_config_names_the_key() {
    let node = Node::prepare(&NodeOptions::embedded());
    let config = node.config_path().to_str().unwrap();
    let (code, out, _) = postern(&node, &["check-config", "--config", config]);
    assert_eq!((code, out.as_str()), (0, "configuration is good\n"));
    for (text, path) in [
        ("[pop3]\nlisten = [\"127.0.0.1:110\"]\nlisten_twice = 1\n", "pop3.listen_twice: "),
        ("[lmtp]\nlisten = [\"x\"]\n", "lmtp.listen: "),
        (
            "[admin]\nlisten = [\"127.0.0.1:1\"]\ntoken_file = \"/nonexistent\"\n",
            "admin.token_file: /nonexistent",
        ),
        ("[keys]\nmaster_key = \"c2hvcnQ=\"\n", "keys.master_key_file: "),
        ("[tls]\ncertificate_file = \"/nonexistent\"\nkey_file = \"/x\"\n", "tls.certificate_file: "),
        (
            "[blob]\nkind = \"s3\"\nbucket = \"b\"\nprefix = \"a//b\"\n[keys]\nmaster_key = \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"\n",
            "blob.prefix: ",
        ),
    ] {
        fs::write(node.dir.path().join("bad.toml"), text).unwrap();
        for command in ["check-config", "serve"] {
            let (code, _, err) = postern(&node, &[command, "--config", "bad.toml"]);
            assert_eq!(code, 2, "{command}: {err}");
            assert!(err.contains(path), "{command}: {err}");
        }
    }
    let (code, _, err) = postern(&node, &["serve", "--config", "/nonexistent.toml"]);
    assert_eq!(code, 2);
    assert!(err.contains("/nonexistent.toml"), "{err}");
    let (code, out, _) = postern(&node, &["version"]);
    assert!(code == 0 && out.starts_with("postern 0."), "{out}");
    assert_eq!(postern(&node, &["frobnicate"]).0, 2);
    assert_eq!(postern(&node, &[]).0, 2);
}

#[test]
fn the_environment_overrides_the_file() {
    let node = Node::prepare(&NodeOptions::embedded());
    let mut command = node.postern();
    command
        .args(["check-config", "--config"])
        .arg(node.config_path())
        .env("POSTERN__POP3__LISTEN", "nowhere");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("pop3.listen"));
}

#[test]
fn a_taken_port_is_told_at_the_start() {
    let node = Node::start(&NodeOptions::embedded());
    let mut second = Node::prepare(&NodeOptions::embedded());
    let text = fs::read_to_string(second.config_path()).unwrap();
    fs::write(second.config_path(), text.replace(&second.lmtp.to_string(), &node.lmtp.to_string())).unwrap();
    second.spawn();
    assert_eq!(second.wait().code(), Some(2));
    assert!(second.log().contains("lmtp.listen"), "{}", second.log());
}

#[test]
fn serve_does_not_migrate_and_refuses_a_newer_schema() {
    let options = NodeOptions::servers();
    let Stores::Servers(database, _) = &options.stores else { unreachable!() };
    let mut node = Node::prepare(&options);
    node.spawn();
    assert_eq!(node.wait().code(), Some(1));
    assert!(node.log().contains("run `postern migrate`"), "{}", node.log());
    run(node.postern().args(["migrate", "--config"]).arg(node.config_path()));
    node.up();
    node.kill9();
    database.sql("UPDATE schema_info SET version = 99, compatible_from = 99");
    node.spawn();
    assert_eq!(node.wait().code(), Some(1));
    assert!(node.log().contains("schema is newer than this binary"), "{}", node.log());
}

#[test]
fn a_wrong_master_key_is_noticed_before_it_does_harm() {
    for options in [NodeOptions::embedded(), NodeOptions::servers()] {
        let mut node = Node::start(&options);
        node.kill9();
        let other = "[keys]\nmaster_key = \"ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=\"\n";
        let text = fs::read_to_string(node.config_path()).unwrap();
        let text = text
            .lines()
            .filter(|l| *l != "[keys]" && !l.starts_with("master_key"))
            .fold(String::new(), |text, line| text + line + "\n");
        fs::write(node.config_path(), text + other).unwrap();
        node.spawn();
        assert_eq!(node.wait().code(), Some(2));
        assert!(node.log().contains("this is not the master key"), "{}", node.log());
    }
}

#[test]
fn a_bucket_that_does_not_exist_stops_the_start() {
    let database = Database::new();
    let bucket =
        crate::support::Bucket { endpoint: env("POSTERN_TEST_S3_ENDPOINT"), name: "no-such-bucket".into() };
    let mut node = Node::prepare(&NodeOptions::on(&Stores::Servers(database, bucket)));
    run(node.postern().args(["migrate", "--config"]).arg(node.config_path()));
    node.spawn();
    assert_eq!(node.wait().code(), Some(1));
    assert!(node.log().contains("open the blob store: blob store is misconfigured"), "{}", node.log());
}

#[test]
fn the_admin_command_line_manages_what_the_api_does() {
    // A tenant's deletion is waited for.
    let extra = "[worker]\ninterval = \"200ms\"\ndeletion_grace = \"0s\"\n".to_owned();
    let node = Node::start(&NodeOptions { extra, ..NodeOptions::embedded() });
    let token = node.dir.path().join("admin-token").display().to_string();
    let url = format!("http://{}", node.admin);
    let admin = |args: &[&str], input: &str| {
        let mut command = Command::new("sh");
        let quoted: Vec<_> = args.iter().map(|a| format!("'{a}'")).collect();
        command.env("POSTERN_ADMIN_URL", &url).args([
            "-c",
            &format!(
                "printf '%s' '{input}' | '{}' admin --token-file '{token}' {}",
                env("POSTERN_TEST_BIN"),
                quoted.join(" ")
            ),
        ]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap(), text, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(admin(&["tenant", "create", "acme"], "").0, 0);
    assert_eq!(admin(&["domain", "create", "acme", "acme.test"], "").0, 0);
    assert_eq!(
        admin(&["mailbox", "create", "acme", "a@acme.test", "--quota-octets", "1000"], "secret\n").0,
        0
    );
    let (code, out, _) = admin(&["mailbox", "list", "acme", "--json"], "");
    let list: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert_eq!(
        (list[0]["address"].as_str(), list[0]["quota_octets"].as_u64()),
        (Some("a@acme.test"), Some(1000))
    );
    crate::support::login(node.pop3, "a@acme.test", "secret").ok("QUIT");
    assert_eq!(admin(&["mailbox", "password", "acme", "a@acme.test"], "other").0, 0);
    crate::support::login(node.pop3, "a@acme.test", "other").ok("QUIT");
    let (code, _, err) = admin(&["tenant", "create", "acme"], "");
    assert_eq!(code, 1);
    assert!(err.contains("409") && err.contains("name: the name is taken"), "{err}");
    assert_eq!(admin(&["mailbox", "delete", "acme", "a@acme.test"], "").0, 0);
    assert_eq!(admin(&["domain", "delete", "acme", "acme.test"], "").0, 0);
    assert_eq!(admin(&["tenant", "delete", "acme"], "").0, 0);
    assert_eq!(admin(&["tenant", "show", "acme"], "").0, 1);
    assert_eq!(admin(&["tenant", "frob"], "").0, 2);
}
