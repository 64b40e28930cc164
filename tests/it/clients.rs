//! Real clients and a real MTA.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration};

use crate::support::{Node, NodeOptions, deliver, login, message, run, wait_for, without_trace};

fn node_with_mail() -> (Node, String) {
    let options = NodeOptions { tls: true, ..NodeOptions::embedded() };
    let (node, a) = Node::start(&options).with_mailbox("a");
    for tag in ["first", "second", "third"] {
        deliver(node.lmtp, &a, &message(tag, 5000));
    }
    (node, a)
}

/// How many messages are left.
fn left(node: &Node, user: &str) -> usize {
    let mut pop3 = login(node.pop3, user, "pw");
    let left = pop3.list("LIST").len();
    pop3.ok("QUIT");
    left
}

#[test]
fn curl_reads_and_deletes() {
    let (node, a) = node_with_mail();
    let cert = node.dir.path().join("cert.pem");
    let curl = |url: String, args: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "-u", &format!("{a}:pw")]).arg("--cacert").arg(&cert).args(args).arg(url);
        run(&mut command).stdout
    };
    let plain = curl(format!("pop3://{}/1", node.pop3), &[]);
    assert_eq!(without_trace(&plain), message("first", 5000));
    assert_eq!(curl(format!("pop3s://localhost:{}/1", node.pop3s.port()), &[]), plain);
    assert_eq!(curl(format!("pop3://localhost:{}/1", node.pop3.port()), &["--ssl-reqd"]), plain);
    let list = String::from_utf8(curl(format!("pop3://{}/", node.pop3), &[])).unwrap();
    assert_eq!(list.lines().count(), 3);
    let uidl = String::from_utf8(curl(format!("pop3://{}/", node.pop3), &["-X", "UIDL"])).unwrap();
    assert_eq!(uidl.lines().count(), 3);
    curl(format!("pop3://{}/2", node.pop3), &["-X", "DELE", "-I"]);
    assert_eq!(left(&node, &a), 2);
}

#[test]
fn poplib_reads_and_deletes() {
    let (node, a) = node_with_mail();
    let script = format!(
        r#"
import poplib, ssl
context = ssl.create_default_context(cafile={cert:?})
for connect in (
    lambda: poplib.POP3("127.0.0.1", {pop3}),
    lambda: poplib.POP3_SSL("localhost", {pop3s}, context=context),
):
    p = connect()
    p.user({a:?}); p.pass_("pw")
    count, octets = p.stat()
    listing = [int(l.split()[1]) for l in p.list()[1]]
    assert sum(listing) == octets, (listing, octets)
    assert len(set(l.split()[1] for l in p.uidl()[1])) == count
    for i in range(count):
        lines = p.retr(i + 1)[1]
        assert sum(len(l) + 2 for l in lines) == listing[i]
        assert p.top(i + 1, 0)[1][-1] == b""
    assert "PIPELINING" in p.capa()
    p.dele(1); p.rset(); p.dele(1)
    p.quit()
p = poplib.POP3("localhost", {pop3})
p.stls(context)
p.user({a:?}); p.pass_("pw")
assert p.stat()[0] == 1
p.quit()
"#,
        cert = node.dir.path().join("cert.pem").display().to_string(),
        pop3 = node.pop3.port(),
        pop3s = node.pop3s.port(),
    );
    run(Command::new("python3").args(["-c", &script]));
    assert_eq!(left(&node, &a), 1);
}

#[test]
fn fetchmail_keeps_then_deletes() {
    let (node, a) = node_with_mail();
    let home = node.dir.path();
    let mailbox = home.join("fetched");
    let rc = home.join("fetchmailrc");
    for (keep, expected) in [("keep", 3), ("nokeep", 0)] {
        let text = format!(
            "poll 127.0.0.1 protocol pop3 port {} uidl user \"{a}\" password \"pw\" {keep} sslproto \"\" mda \"cat >> {}\"\n",
            node.pop3.port(),
            mailbox.display()
        );
        fs::write(&rc, text).unwrap();
        fs::set_permissions(&rc, fs::Permissions::from_mode(0o600)).unwrap();
        let mut fetchmail = Command::new("fetchmail");
        fetchmail.env("HOME", home).env("FETCHMAILHOME", home).args(["--silent", "--all", "-f"]).arg(&rc);
        run(&mut fetchmail);
        assert_eq!(left(&node, &a), expected, "{keep}");
    }
    let fetched = fs::read_to_string(mailbox).unwrap();
    assert_eq!(fetched.matches("Subject: second").count(), 2);
}

#[test]
fn mpop_pipelines_over_tls_and_deletes() {
    let (node, a) = node_with_mail();
    for i in 0..60 {
        deliver(node.lmtp, &a, &message(&format!("more{i}"), 600));
    }
    let path = |name: &str| node.dir.path().join(name).display().to_string();
    let mpop = |keep: &str, port: u16, starttls: &str| {
        run(Command::new("mpop").env("HOME", node.dir.path()).args([
            "--host=127.0.0.1",
            &format!("--port={port}"),
            "--tls=on",
            starttls,
            &format!("--tls-trust-file={}", path("cert.pem")),
            "--tls-host-override=localhost",
            "--auth=user",
            &format!("--user={a}"),
            "--passwordeval=echo pw",
            &format!("--keep={keep}"),
            "--pipelining=on",
            &format!("--delivery=mbox,{}", path("mbox")),
            &format!("--uidls-file={}", path("uidls")),
        ]))
    };
    mpop("on", node.pop3s.port(), "--tls-starttls=off");
    assert_eq!(left(&node, &a), 63);
    let mbox = fs::read_to_string(path("mbox")).unwrap();
    assert_eq!(mbox.matches("\nSubject: ").count(), 63);
    // Nothing is fetched twice, and what was fetched is deleted.
    mpop("off", node.pop3.port(), "--tls-starttls=on");
    assert_eq!(fs::read_to_string(path("mbox")).unwrap().matches("\nSubject: ").count(), 63);
    assert_eq!(left(&node, &a), 0);
}

#[test]
fn swaks_delivers_by_lmtp() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let body = node.dir.path().join("body");
    fs::write(&body, message("by-swaks", 3000)).unwrap();
    let mut swaks = Command::new("swaks");
    swaks.args(["--protocol", "LMTP", "--server", "127.0.0.1", "--port", &node.lmtp.port().to_string()]);
    swaks.args(["--from", "sender@example.org", "--to", &a, "--data"]).arg(format!("@{}", body.display()));
    run(&mut swaks);
    let got = login(node.pop3, &a, "pw").retr(1);
    let got = String::from_utf8(without_trace(&got).to_vec()).unwrap();
    // swaks adds an empty line at the end of what it is given.
    assert_eq!(got.trim_end(), String::from_utf8(message("by-swaks", 3000)).unwrap().trim_end());
}

#[test]
fn postfix_delivers_and_it_is_read_back_byte_for_byte() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let full = node.mailbox("one", "full", Some(10));
    let postfix = Postfix::start(node.dir.path(), node.lmtp.port());
    let sent = message("by-postfix", 300_000);
    let body = node.dir.path().join("body");
    fs::write(&body, &sent).unwrap();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--url", &format!("smtp://127.0.0.1:{}", postfix.port)]);
    curl.args(["--mail-from", "sender@example.org", "--mail-rcpt", &a, "--mail-rcpt", &full, "-T"])
        .arg(&body);
    run(&mut curl);
    wait_for("mail arrives", Duration::from_secs(60), || (left(&node, &a) == 1).then_some(()));
    let got = login(node.pop3, &a, "pw").retr(1);
    assert_eq!(without_trace(&got), sent);
    let head = String::from_utf8_lossy(&got[..600]).into_owned();
    assert!(
        head.contains("Return-Path: <sender@example.org>")
            && head.contains("by pop.test (Postern) with LMTP")
    );
    // The recipient that was over quota was told apart from the other.
    wait_for("the refusal in Postfix's log", Duration::from_secs(60), || {
        let log = fs::read_to_string(node.dir.path().join("postfix.log")).unwrap_or_default();
        (log.contains("452 4.2.2") && log.contains("status=sent")).then_some(())
    });
}

/// A Postfix of our own, which hands everything to LMTP.
struct Postfix {
    dir: std::path::PathBuf,
    port: u16,
}

impl Postfix {
    fn start(base: &Path, lmtp: u16) -> Self {
        // Its daemons run as user postfix, which must get at the queue: /root and private directories are
        // out of its reach.
        let dir = tempfile::Builder::new().prefix("postern-postfix").tempdir_in("/tmp").unwrap().keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let [port] = xtask::services::free_ports().unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        for name in ["etc", "queue", "data"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        run(Command::new("chown").args(["postfix", &at("data")]));
        let log = base.join("postfix.log").display().to_string();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {}\ndata_directory = {}\n\
             command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\n\
             myhostname = mta.test\nmydestination =\ninet_interfaces = loopback-only\ninet_protocols = ipv4\n\
             mynetworks = 127.0.0.0/8\nrelay_domains = one.test\nrelay_transport = lmtp:inet:127.0.0.1:{lmtp}\n\
             relay_recipient_maps =\nsmtpd_relay_restrictions = permit_mynetworks, reject\n\
             minimal_backoff_time = 2s\nqueue_run_delay = 2s\nmaillog_file = {log}\n\
             maillog_file_prefixes = /\nalias_maps =\nalias_database =\nlocal_recipient_maps =\n",
            at("queue"),
            at("data"),
        );
        fs::write(dir.join("etc/main.cf"), main).unwrap();
        let dist =
            ["/usr/share/postfix/master.cf.dist", "/etc/postfix/master.cf.proto", "/etc/postfix/master.cf"];
        let dist = dist.iter().find_map(|path| fs::read_to_string(path).ok()).expect("Postfix's master.cf");
        let master = dist
            .lines()
            .map(|line| {
                let mut fields: Vec<&str> = line.split_whitespace().collect();
                let is_service = !line.starts_with(['#', ' ', '\t']) && fields.len() >= 8;
                if !is_service {
                    return line.to_owned();
                }
                // Nothing is chrooted: the queue has no copies of the system's files.
                fields[4] = "n";
                let port = format!("127.0.0.1:{port}");
                if fields[0] == "smtp" && fields[1] == "inet" {
                    fields[0] = &port;
                }
                fields.join(" ")
            })
            .fold(String::new(), |text, line| text + &line + "\n");
        fs::write(dir.join("etc/master.cf"), master).unwrap();
        run(Command::new("/usr/sbin/postfix").args(["-c", &at("etc"), "start"]));
        Self { dir, port }
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let etc = self.dir.join("etc").display().to_string();
        let _ = Command::new("/usr/sbin/postfix").args(["-c", &etc, "stop"]).output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
