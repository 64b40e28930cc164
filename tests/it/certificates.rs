//! What is negotiated and presented, as OpenSSL sees it: resumption on another node, ALPN, OCSP, certificates that
//! change while we serve.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::json;

use crate::support::{
    Node, NodeOptions, Pop3, run,
    tls::{client, connect, encrypt},
    wait_for, write_certificate,
};

/// What `openssl s_client` says of a POP3S connection that begins and ends.
fn s_client(node: &Node, options: &[&str]) -> String {
    let mut command = Command::new("sh");
    // The greeting comes behind the tickets of TLS 1.3, so that these are there by the end of a QUIT.
    command.args(["-c", r#"printf 'QUIT\r\n' | openssl s_client -ign_eof "$@" 2>&1; true"#, "s_client"]);
    command.args(["-connect", &node.pop3s.to_string()]).args(options);
    String::from_utf8_lossy(&run(&mut command).stdout).into_owned()
}

fn tls(extra: &str) -> NodeOptions {
    NodeOptions { tls: true, extra: extra.into(), ..NodeOptions::servers() }
}

/// Has `to` present the certificate of `from`.
fn share_certificate(from: &Node, to: &Node) {
    for name in ["cert.pem", "key.pem"] {
        fs::copy(from.dir.path().join(name), to.dir.path().join(name)).unwrap();
    }
}

#[test]
fn a_session_is_resumed_on_another_node_and_for_no_other_host() {
    let options = tls("");
    let first = Node::start(&options);
    first.tenant("one");
    let mut second = Node::prepare(&options);
    share_certificate(&first, &second);
    second.up();
    let (key, chain) = {
        let dir = tempfile::tempdir().unwrap();
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=x", "-addext", "subjectAltName=DNS:pop.one.test"])
            .args(["-keyout", "k.pem", "-out", "c.pem"])
            .current_dir(dir.path()));
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        (read("k.pem"), read("c.pem"))
    };
    let path = "/v1/tenants/one/certificates/pop.one.test";
    let (status, answer) = first.http().json("PUT", path, &json!({ "chain": chain, "key": key }));
    assert!(status == 200 || status == 201, "{answer}");
    for (version, word) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let kept = |name: &str| first.dir.path().join(format!("{name}{version}")).display().to_string();
        let session = |node: &Node, host: &str, option: &str, file: &str| {
            s_client(node, &[version, "-servername", host, option, file])
        };
        let (own, theirs) = (kept("own"), kept("theirs"));
        assert!(session(&first, "localhost", "-sess_out", &own).contains(&format!("New, {word}")));
        assert!(session(&first, "pop.one.test", "-sess_out", &theirs).contains(&format!("New, {word}")));
        for node in [&first, &second] {
            let again = session(node, "localhost", "-sess_in", &own);
            assert!(again.contains(&format!("Reused, {word}")) && again.contains("+OK"), "{again}");
            let again = session(node, "pop.one.test", "-sess_in", &theirs);
            assert!(again.contains(&format!("Reused, {word}")) && again.contains("CN = x"), "{again}");
            // Neither way, nor from one certificate to the other.
            for (file, host) in [(&own, "pop.one.test"), (&theirs, "localhost"), (&theirs, "nobody.test")] {
                let other = session(node, host, "-sess_in", file);
                assert!(other.contains(&format!("New, {word}")) && other.contains("+OK"), "{host}: {other}");
            }
        }
    }
    // Another certificate, another ticket.
    let own = first.dir.path().join("own-tls1_3").display().to_string();
    write_certificate(second.dir.path());
    second.signal(libc::SIGHUP);
    wait_for("the new certificate", Duration::from_secs(10), || {
        let again = s_client(&second, &["-servername", "localhost", "-sess_in", &own]);
        again.contains("New, TLSv1.3").then_some(())
    });
}

#[test]
fn sessions_are_not_resumed_where_tickets_are_off() {
    let node = Node::start(&NodeOptions {
        tls: true,
        extra: "[tls]\nsession_tickets = false\n".into(),
        ..NodeOptions::embedded()
    });
    let file = node.dir.path().join("session").display().to_string();
    for version in ["-tls1_3", "-tls1_2"] {
        let said = s_client(&node, &[version, "-sess_out", &file]);
        assert!(said.contains("+OK") && !said.contains("TLS session ticket:"), "{said}");
    }
}

#[test]
fn alpn_is_pop3_or_nothing_and_tls_is_1_2_at_least() {
    let node = Node::start(&NodeOptions { tls: true, ..NodeOptions::embedded() });
    for version in ["-tls1_3", "-tls1_2"] {
        let said = s_client(&node, &[version, "-alpn", "imap,pop3"]);
        assert!(said.contains("ALPN protocol: pop3") && said.contains("+OK"), "{said}");
        let said = s_client(&node, &[version, "-alpn", "http/1.1"]);
        assert!(said.contains("no application protocol") && !said.contains("+OK"), "{said}");
        let said = s_client(&node, &[version]);
        assert!(said.contains("No ALPN negotiated") && said.contains("+OK"), "{said}");
    }
    for version in ["-tls1", "-tls1_1"] {
        let said = s_client(&node, &[version, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(
            said.contains("SSL alert number") && said.contains("New, (NONE)") && !said.contains("+OK"),
            "{said}"
        );
    }
}

/// An authority of our own, in `dir`: `ca.pem`, `ca-key.pem`, and an index for its OCSP responses.
pub(crate) fn authority(dir: &Path) {
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=authority", "-keyout", "ca-key.pem", "-out", "ca.pem"])
        .current_dir(dir));
}

/// A certificate of that authority's: `NAME.pem`, `NAME-key.pem`.
pub(crate) fn certify(dir: &Path, name: &str, subject: &str, alternatives: &str, serial: &str) {
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args([
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca-key.pem",
            "-days",
            "2",
            "-set_serial",
            serial,
            "-subj",
            subject,
        ])
        .args(["-addext", &format!("subjectAltName={alternatives}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &format!("{name}-key.pem"), "-out", &format!("{name}.pem")])
        .current_dir(dir));
}

#[test]
fn an_ocsp_response_is_sent_while_it_is_fresh() {
    let options = NodeOptions {
        tls: true,
        extra: "[tls]\nreload_interval = \"200ms\"\n".into(),
        ..NodeOptions::embedded()
    };
    let mut node = Node::prepare(&options);
    let dir = node.dir.path().to_owned();
    authority(&dir);
    for (name, serial) in [("cert", "0x81"), ("other", "0x82")] {
        certify(&dir, name, "/CN=localhost", "DNS:localhost", serial);
    }
    fs::rename(dir.join("cert-key.pem"), dir.join("key.pem")).unwrap();
    fs::write(
        dir.join("index.txt"),
        "V\t491231235959Z\t\t81\tunknown\t/CN=localhost\nV\t491231235959Z\t\t82\tunknown\t/CN=other\n",
    )
    .unwrap();
    let respond = |name: &str, validity: &[&str]| {
        run(Command::new("openssl")
            .args(["ocsp", "-issuer", "ca.pem", "-cert", &format!("{name}.pem"), "-reqout", "request"])
            .current_dir(&dir));
        run(Command::new("openssl")
            .args([
                "ocsp",
                "-index",
                "index.txt",
                "-CA",
                "ca.pem",
                "-rsigner",
                "ca.pem",
                "-rkey",
                "ca-key.pem",
            ])
            .args(["-reqin", "request", "-respout", "cert.pem.ocsp"])
            .args(validity)
            .current_dir(&dir));
    };
    respond("cert", &["-ndays", "1"]);
    node.up();
    let status = |version: &str| s_client(&node, &[version, "-status"]);
    for version in ["-tls1_3", "-tls1_2"] {
        let said = status(version);
        assert!(
            said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good"),
            "{said}"
        );
        assert!(!s_client(&node, &[version]).contains("OCSP Response Status"), "only who asks");
    }
    // One for another certificate, and one without an end, are not sent, and the log says so.
    let withheld = |why: &str| {
        wait_for(why, Duration::from_secs(10), || {
            (status("-tls1_3").contains("OCSP response: no response sent") && node.log().contains(why))
                .then_some(())
        });
    };
    respond("other", &["-ndays", "1"]);
    withheld("is for another certificate");
    respond("cert", &[]);
    withheld("does not say for how long it is good");
    // As if it had been made years ago.
    respond("cert", &["-ndays", "1"]);
    let mut old = fs::read(dir.join("cert.pem.ocsp")).unwrap();
    for place in 0..old.len() - 6 {
        // GeneralizedTime of 15 octets, in this century.
        if old[place..].starts_with(b"\x18\x0f20") {
            old[place + 4..place + 6].copy_from_slice(b"20");
        }
    }
    fs::write(dir.join("cert.pem.ocsp"), old).unwrap();
    withheld("is not fresh, and is not sent");
    fs::write(dir.join("cert.pem.ocsp"), "garbage").unwrap();
    withheld("is no OCSP response in DER");
    respond("cert", &["-nmin", "1"]);
    wait_for("the new response", Duration::from_secs(10), || {
        status("-tls1_2").contains("OCSP Response Status: successful").then_some(())
    });
    fs::remove_file(dir.join("cert.pem.ocsp")).unwrap();
    wait_for("no response any longer", Duration::from_secs(10), || {
        status("-tls1_2").contains("OCSP response: no response sent").then_some(())
    });
}

/// A secret as Kubernetes mounts it: files that lead to `..data`, which leads to a directory that is swapped.
struct Mount {
    dir: PathBuf,
}

impl Mount {
    fn new(dir: PathBuf) -> Self {
        fs::create_dir(&dir).unwrap();
        for name in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{name}"), dir.join(name)).unwrap();
        }
        Self { dir }
    }

    /// Writes a new certificate for `host` into the mount; gives its serial number.
    fn swap(&self, version: &str, host: &str, serial: &str) {
        let data = self.dir.join(format!("..{version}"));
        fs::create_dir(&data).unwrap();
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args([
                "-days",
                "2",
                "-subj",
                &format!("/CN={serial}"),
                "-addext",
                &format!("subjectAltName=DNS:{host}"),
            ])
            .args(["-keyout", "tls.key", "-out", "tls.crt"])
            .current_dir(&data));
        let new = self.dir.join("..data_tmp");
        symlink(format!("..{version}"), &new).unwrap();
        fs::rename(&new, self.dir.join("..data")).unwrap();
    }
}

#[test]
fn secrets_that_kubernetes_swaps_are_presented_without_a_signal() {
    let options = NodeOptions { tls: true, ..NodeOptions::embedded() };
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(dir.path().join("pop"));
    mount.swap("1", "pop.example.test", "first");
    let extra = format!("[tls]\nreload_interval = \"200ms\"\ndirectories = [\"{}\"]\n", mount.dir.display());
    let (node, a) = Node::start(&NodeOptions { extra, ..options }).with_mailbox("a");
    let shown = |host: &str| s_client(&node, &["-servername", host]);
    assert!(
        shown("pop.example.test").contains("CN = first") && shown("localhost").contains("CN = localhost")
    );
    let trusting = client(&node, &[&rustls::version::TLS13]);
    let mut open = Pop3::over(Box::new(encrypt(&trusting, connect(node.pop3s)))).unwrap();
    open.ok(&format!("USER {a}"));
    open.ok("PASS pw");
    mount.swap("2", "pop.example.test", "second");
    wait_for("the swapped secret", Duration::from_secs(10), || {
        shown("pop.example.test").contains("CN = second").then_some(())
    });
    // One that cannot be used, for it lacks its key.
    let expires = |node: &Node| {
        let (_, metrics) = node.http().get("/metrics");
        let series = format!(
            "postern_tls_certificate_expires_seconds{{certificate=\"{}\"}} ",
            mount.dir.join("tls.crt").display()
        );
        let failed = metrics.contains("postern_tls_certificate_reloads_total{outcome=\"failed\"} 1\n");
        (metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse::<u64>().unwrap(), failed)
    };
    let (until, failed) = expires(&node);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((now + 86_400..now + 3 * 86_400).contains(&until) && !failed, "{until}");
    fs::remove_file(mount.dir.join("..2/tls.key")).unwrap();
    wait_for("the refusal in the log", Duration::from_secs(10), || {
        node.log().contains("certificate stays as it was").then_some(())
    });
    assert_eq!(expires(&node), (until, true));
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(node.log().matches("certificate stays as it was").count(), 1, "told once");
    assert!(shown("pop.example.test").contains("CN = second"));
    mount.swap("3", "pop.example.test", "third");
    wait_for("the mended secret", Duration::from_secs(10), || {
        shown("pop.example.test").contains("CN = third").then_some(())
    });
    open.ok("STAT");
    open.ok("QUIT");
}

#[test]
fn each_listener_has_its_own_certificate_and_clients() {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path());
    certify(dir.path(), "pop3", "/CN=by-stls", "DNS:localhost", "1");
    certify(dir.path(), "phone", "/CN=phone", "email:a@one.test", "2");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let extra = format!(
        "[tls]\nreload_interval = \"200ms\"\n[pop3]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n[pop3s]\nclient_auth = \"required\"\nclient_ca_file = \"{}\"\n",
        at("pop3.pem"),
        at("pop3-key.pem"),
        at("ca.pem")
    );
    let node = Node::start(&NodeOptions { tls: true, extra, ..NodeOptions::embedded() });
    let by_stls = s_client(&node, &["-connect", &node.pop3.to_string(), "-starttls", "pop3"]);
    assert!(
        by_stls.contains("CN = by-stls") && by_stls.contains("No client certificate CA names sent"),
        "{by_stls}"
    );
    for version in ["-tls1_2", "-tls1_3"] {
        let without = s_client(&node, &[version]);
        assert!(without.contains("CN = localhost") && !without.contains("+OK"), "{without}");
        let with = s_client(&node, &[version, "-cert", &at("phone.pem"), "-key", &at("phone-key.pem")]);
        assert!(with.contains("CN = authority") && with.contains("+OK"), "{with}");
        // Of another authority.
        let own = [&node.dir.path().join("cert.pem"), &node.dir.path().join("key.pem")]
            .map(|p| p.display().to_string());
        let other = s_client(&node, &[version, "-cert", &own[0], "-key", &own[1]]);
        assert!(!other.contains("+OK"), "{other}");
    }
    // Authorities change, too: whose tickets were good is asked again. Bad ones leave the former.
    let ticket = at("ticket");
    let phone = |more: &[&str]| {
        let (cert, key) = (at("phone.pem"), at("phone-key.pem"));
        s_client(&node, &[&["-tls1_3", "-cert", &cert, "-key", &key], more].concat())
    };
    assert!(phone(&["-sess_out", &ticket]).contains("New, TLSv1.3"));
    assert!(phone(&["-sess_in", &ticket]).contains("Reused, TLSv1.3"));
    let good = fs::read(at("ca.pem")).unwrap();
    fs::write(at("ca.pem"), "garbage").unwrap();
    wait_for("the refusal in the log", Duration::from_secs(10), || {
        node.log().contains("holds no certificate").then_some(())
    });
    assert!(phone(&[]).contains("+OK"));
    // Even where the certificate itself cannot be read at that moment, and the former one goes on.
    let own = fs::read(node.dir.path().join("cert.pem")).unwrap();
    fs::write(node.dir.path().join("cert.pem"), "garbage").unwrap();
    authority(dir.path());
    wait_for("other authorities", Duration::from_secs(10), || (!phone(&[]).contains("+OK")).then_some(()));
    assert!(!phone(&["-sess_in", &ticket]).contains("+OK"), "not by a ticket either");
    fs::write(node.dir.path().join("cert.pem"), own).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    assert!(!phone(&[]).contains("+OK"), "nor where it was read again");
    fs::write(at("ca.pem"), good).unwrap();
    wait_for("the former authorities", Duration::from_secs(10), || phone(&[]).contains("+OK").then_some(()));
}
