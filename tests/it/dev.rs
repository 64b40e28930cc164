//! What a newcomer does first.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::support::{deliver, env, login, message, run};

struct Dev {
    child: Child,
    out: String,
}

impl Dev {
    fn start(data: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(env("POSTERN_TEST_BIN"))
            .arg("dev")
            .arg("--data")
            .arg(data)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        // What to try ends with a blank line, and comes only once everything serves.
        while !out.contains("Try:") || !out.ends_with("\n\n") {
            assert!(lines.read_line(&mut out).unwrap() > 0, "postern dev ended: {out}");
        }
        Self { child, out }
    }

    fn address(&self, what: &str) -> SocketAddr {
        let line = self.out.lines().find(|l| l.trim_start().starts_with(&format!("{what} "))).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn stop(mut self) {
        run(Command::new("kill").args(["-TERM", &self.child.id().to_string()]));
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ANY: [&str; 8] =
    ["--pop3", "127.0.0.1:0", "--pop3s", "127.0.0.1:0", "--lmtp", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

#[test]
fn a_newcomer_reads_and_deletes_and_finds_it_so_again() {
    let dir = tempfile::tempdir_in(env("POSTERN_TEST_TMP")).unwrap();
    let data = dir.path().join("data");
    let dev = Dev::start(&data, &ANY);
    let credentials = fs::read_to_string(data.join("dev-credentials")).unwrap();
    let mode = fs::metadata(data.join("dev-credentials")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (address, password) = credentials.lines().next().unwrap().split_once(' ').unwrap();
    assert_eq!(address, "alice@demo.test");
    assert!(dev.out.contains(password) && data.join("admin-token").exists());

    let mut pop3 = login(dev.address("POP3"), address, password);
    assert!(pop3.ok("STAT").starts_with("+OK 3 "));
    assert!(String::from_utf8(pop3.retr(1)).unwrap().contains("Subject: Welcome to Postern"));
    pop3.ok("DELE 1");
    pop3.ok("QUIT");
    deliver(dev.address("LMTP"), "bob@demo.test", &message("hello-bob", 500));
    // The certificate it made is good for curl, by implicit TLS and by STLS.
    for (url, more) in [
        (format!("pop3s://localhost:{}/1", dev.address("POP3S").port()), None),
        (format!("pop3://localhost:{}/1", dev.address("POP3").port()), Some("--ssl-reqd")),
    ] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-u", &format!("{address}:{password}"), &url]).args(more);
        let output = run(curl.arg("--cacert").arg(data.join("tls/cert.pem")));
        assert!(String::from_utf8(output.stdout).unwrap().contains("A message with an attachment"));
    }
    dev.stop();

    let dev = Dev::start(&data, &ANY);
    assert_eq!(fs::read_to_string(data.join("dev-credentials")).unwrap(), credentials);
    let mut pop3 = login(dev.address("POP3"), address, password);
    assert!(pop3.ok("STAT").starts_with("+OK 2 "), "what was deleted stays so");
    let bob = credentials.lines().nth(1).unwrap().split_once(' ').unwrap();
    let mut pop3 = login(dev.address("POP3"), bob.0, bob.1);
    assert!(String::from_utf8(pop3.retr(1)).unwrap().contains("Subject: hello-bob"));
    dev.stop();
}

#[test]
fn off_disables_a_listener() {
    let dir = tempfile::tempdir_in(env("POSTERN_TEST_TMP")).unwrap();
    let args = ["--pop3", "127.0.0.1:0", "--pop3s", "off", "--lmtp", "off", "--admin", "off"];
    let dev = Dev::start(&dir.path().join("data"), &args);
    assert!(dev.out.contains("  POP3     ") && !dev.out.contains("POP3S") && !dev.out.contains("LMTP"));
    dev.stop();
}
