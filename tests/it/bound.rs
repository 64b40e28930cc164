//! Logins that rest on TLS: SCRAM with channel binding, and EXTERNAL by certificates, as others do them.

use std::{fs, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    certificates::{authority, certify},
    support::{Node, NodeOptions, Pop3, deliver, env, login, message, run},
};

/// SCRAM by scramp, TLS by Python's own OpenSSL, or by pyOpenSSL where something is exported. Says what the server said.
const CLIENT: &str = r#"
import base64, socket, ssl, sys
import scramp, scramp.core
from OpenSSL import SSL
scramp.core.CHANNEL_TYPES += ("tls-exporter",)
port, user, password, mechanism, name, version, spoil = sys.argv[1:8]
plain = socket.create_connection(("127.0.0.1", int(port)))
if name == "tls-exporter":
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    stream = SSL.Connection(context, plain)
    stream.set_connect_state(); stream.do_handshake()
    binding = name, stream.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
else:
    context = ssl.create_default_context(cafile="cert.pem")
    if version == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    stream = context.wrap_socket(plain, server_hostname="localhost")
    assert stream.version() == "TLSv" + version
    binding = scramp.make_channel_binding(name, stream)
if spoil == "spoil":
    binding = name, bytes(octet ^ 1 for octet in binding[1])
buffer = b""
def line():
    global buffer
    while b"\r\n" not in buffer:
        buffer += stream.recv(4096)
    got, buffer = buffer.split(b"\r\n", 1)
    return got.decode()
def say(text):
    stream.sendall(text.encode() + b"\r\n")
    return line()
b64 = lambda text: base64.b64encode(text.encode()).decode()
unb64 = lambda text: base64.b64decode(text).decode()
line()
client = scramp.ScramClient([mechanism], user, password, channel_binding=binding)
first = say("AUTH " + mechanism + " " + b64(client.get_client_first()))
client.set_server_first(unb64(first[2:]))
final = say(b64(client.get_client_final()))
if not final.startswith("+ "):
    print(final)
    sys.exit(0)
client.set_server_final(unb64(final[2:]))
print(say(""))
print(say("STAT"))
say("QUIT")
"#;

fn node(extra: &str) -> (Node, String) {
    let extra = format!(
        "[pop3]\nmechanisms = [\"PLAIN\", \"SCRAM-SHA-256\", \"SCRAM-SHA-1\", \"EXTERNAL\"]\n{extra}"
    );
    let node = Node::start(&NodeOptions { tls: true, extra, ..NodeOptions::servers() });
    node.tenant("one");
    let named =
        json!({ "policy": { "login_mechanisms": ["USER", "SCRAM-SHA-256", "SCRAM-SHA-1", "EXTERNAL"] } });
    let (status, answer) = node.http().json("PATCH", "/v1/tenants/one", &named);
    assert_eq!(status, 200, "{answer}");
    let a = node.mailbox("one", "a", None);
    deliver(node.lmtp, &a, &message("first", 500));
    (node, a)
}

#[test]
fn scram_is_bound_to_the_connection_and_to_the_certificate() {
    let (node, a) = node("");
    let log_in = |password: &str, mechanism: &str, binding: &str, version: &str, spoil: &str| {
        let mut client = Command::new(env("POSTERN_TEST_SASL"));
        client.args([
            "-c",
            CLIENT,
            &node.pop3s.port().to_string(),
            &a,
            password,
            mechanism,
            binding,
            version,
        ]);
        client.arg(spoil).current_dir(node.dir.path());
        String::from_utf8(run(&mut client).stdout).unwrap()
    };
    for mechanism in ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"] {
        for (binding, version) in
            [("tls-exporter", "1.3"), ("tls-server-end-point", "1.3"), ("tls-server-end-point", "1.2")]
        {
            let said = log_in("pw", mechanism, binding, version, "");
            assert!(said.starts_with("+OK") && said.contains("\n+OK 1 "), "{mechanism} {binding}: {said}");
            // Somebody in the middle, who has another connection, or another certificate.
            let said = log_in("pw", mechanism, binding, version, "spoil");
            assert!(said.starts_with("-ERR [AUTH]"), "{mechanism} {binding}: {said}");
            let said = log_in("wrong", mechanism, binding, version, "");
            assert!(said.starts_with("-ERR [AUTH]"), "{mechanism} {binding}: {said}");
        }
    }
}

/// A node that asks clients for certificates, and certificates of its authority's.
fn asking() -> (Node, String, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path());
    certify(dir.path(), "a", "/CN=a", "email:a@one.test", "1");
    certify(dir.path(), "ab", "/CN=ab", "email:a@one.test,email:b@one.test", "2");
    certify(dir.path(), "x", "/CN=x", "email:x@two.test", "3");
    certify(dir.path(), "old", "/emailAddress=a@one.test", "DNS:phone.test", "4");
    certify(dir.path(), "host", "/CN=a@one.test", "DNS:phone.test", "5");
    let ca = dir.path().join("ca.pem");
    let (node, a) =
        node(&format!("[tls]\nclient_auth = \"optional\"\nclient_ca_file = \"{}\"\n", ca.display()));
    node.mailbox("one", "b", None);
    (node, a, dir)
}

#[test]
fn certificates_log_in_by_mpop_and_curl() {
    let (node, a, dir) = asking();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let own = node.dir.path().join("cert.pem").display().to_string();
    for (certificate, good) in [("a", true), ("ab", true), ("old", true), ("x", false), ("host", false)] {
        let mut mpop = Command::new("mpop");
        mpop.env("HOME", dir.path()).args([
            "--host=127.0.0.1",
            &format!("--port={}", node.pop3s.port()),
            "--tls=on",
            "--tls-starttls=off",
            &format!("--tls-trust-file={own}"),
            "--tls-host-override=localhost",
            &format!("--tls-cert-file={}", at(&format!("{certificate}.pem"))),
            &format!("--tls-key-file={}", at(&format!("{certificate}-key.pem"))),
            "--auth=external",
            &format!("--user={a}"),
            "--passwordeval=echo unused",
            "--keep=on",
            &format!("--delivery=mbox,{}", at("mbox")),
            &format!("--uidls-file={}", at(&format!("uidls-{certificate}"))),
        ]);
        let output = mpop.output().unwrap();
        assert_eq!(output.status.success(), good, "mpop, {certificate}: {output:?}");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-u", &format!("{a}:"), "--login-options", "AUTH=EXTERNAL", "--cacert", &own]);
        curl.args([
            "--cert",
            &at(&format!("{certificate}.pem")),
            "--key",
            &at(&format!("{certificate}-key.pem")),
        ]);
        let output = curl.arg(format!("pop3s://localhost:{}/1", node.pop3s.port())).output().unwrap();
        assert_eq!(output.status.success(), good, "curl, {certificate}: {output:?}");
    }
    assert_eq!(fs::read_to_string(at("mbox")).unwrap().matches("\nSubject: first").count(), 3);
}

#[test]
fn a_certificate_opens_what_it_names_where_the_tenant_lets_it() {
    let (node, a, dir) = asking();
    let talk = |certificate: &str, commands: &str| {
        let mut command = Command::new("sh");
        let script = r#"printf '%b' "$0" | openssl s_client -quiet -ign_eof "$@" 2>/dev/null; true"#;
        command.args(["-c", script, &format!("{commands}QUIT\\r\\n"), "-connect", &node.pop3s.to_string()]);
        if !certificate.is_empty() {
            command.args(["-cert", &format!("{certificate}.pem"), "-key", &format!("{certificate}-key.pem")]);
        }
        String::from_utf8(run(command.current_dir(dir.path())).stdout).unwrap()
    };
    let external = |certificate: &str, authzid: &str| {
        let authzid = if authzid.is_empty() { "=".to_owned() } else { STANDARD.encode(authzid) };
        talk(certificate, &format!("AUTH EXTERNAL {authzid}\\r\\nSTAT\\r\\n"))
    };
    assert!(talk("", "CAPA\\r\\n").contains("SASL SCRAM-SHA-256-PLUS"), "not offered without one");
    assert!(talk("host", "CAPA\\r\\n").contains("SASL SCRAM-SHA-256-PLUS"), "nor with one for no mailbox");
    assert!(talk("a", "CAPA\\r\\n").contains("SASL EXTERNAL SCRAM-SHA-256-PLUS"));
    for (certificate, authzid) in [("a", ""), ("a", a.as_str()), ("a", "A@ONE.test"), ("ab", "a@one.test")] {
        assert!(external(certificate, authzid).contains("+OK 1 "), "{certificate} as {authzid:?}");
    }
    assert!(external("ab", "b@one.test").contains("+OK 0 "));
    assert!(talk("a", "AUTH EXTERNAL\\r\\n\\r\\nSTAT\\r\\n").contains("+OK 1 "), "in two lines");
    for (certificate, authzid) in
        [("ab", ""), ("a", "b@one.test"), ("x", "a@one.test"), ("x", ""), ("a", "a\0")]
    {
        let said = external(certificate, authzid);
        assert!(
            said.contains("-ERR [AUTH] ") && !said.contains("+OK 1 "),
            "{certificate} as {authzid:?}: {said}"
        );
    }
    // None at all: there is no such mechanism then.
    assert!(external("", &a).contains("-ERR"));
    let (_, metrics) = node.http().get("/metrics");
    assert!(
        metrics.contains("pop3_logins_total{mechanism=\"EXTERNAL\",outcome=\"bad_credentials\"} 5\n"),
        "{metrics}"
    );
    // A tenant that does not name it is not opened by it.
    let unnamed = json!({ "policy": { "login_mechanisms": null } });
    assert_eq!(node.http().json("PATCH", "/v1/tenants/one", &unnamed).0, 200);
    assert!(external("a", "").contains("-ERR [SYS/PERM]"));
    login(node.pop3, &a, "pw").ok("QUIT");
    let mut plain = Pop3::connect(node.pop3).unwrap();
    plain.err("AUTH EXTERNAL =");
}
