//! TLS: by STLS and by port, and what must not cross it.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::Command,
    time::Duration,
};

use crate::support::{
    Node, NodeOptions, Pop3, deliver, message, run,
    tls::{client, connect, encrypt, line},
    write_certificate,
};

fn node() -> (Node, String) {
    let options = NodeOptions {
        tls: true,
        extra: "[pop3]\nplaintext_auth = \"never\"\n".into(),
        ..NodeOptions::embedded()
    };
    Node::start(&options).with_mailbox("a")
}

#[test]
fn tls_1_2_and_1_3_by_port_and_by_stls() {
    let (node, a) = node();
    deliver(node.lmtp, &a, &message("sealed", 100_000));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = client(&node, &[version]);
        let mut pop3 = Pop3::over(Box::new(encrypt(&config, connect(node.pop3s)))).unwrap();
        pop3.ok(&format!("USER {a}"));
        pop3.ok("PASS pw");
        assert!(pop3.retr(1).len() > 100_000);
        pop3.err("STLS");
        pop3.ok("QUIT");

        let mut stream = connect(node.pop3);
        line(&mut stream);
        stream.write_all(b"STLS\r\n").unwrap();
        assert!(line(&mut stream).starts_with("+OK"));
        let mut tls = encrypt(&config, stream);
        // No second greeting: the client speaks.
        tls.write_all(b"CAPA\r\n").unwrap();
        let mut pop3 = Pop3::over(Box::new(tls)).unwrap();
        assert!(pop3.greeting.starts_with("+OK"), "{}", pop3.greeting);
        let capabilities = String::from_utf8(pop3.body().unwrap()).unwrap();
        assert!(capabilities.contains("USER\r\n") && !capabilities.contains("STLS"), "{capabilities}");
        pop3.err("STLS");
        pop3.ok(&format!("USER {a}"));
        pop3.ok("PASS pw");
        assert!(pop3.ok("STAT").starts_with("+OK 1 "));
    }
}

#[test]
fn passwords_do_not_cross_in_the_clear() {
    let (node, a) = node();
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    pop3.ok("CAPA");
    let capabilities = String::from_utf8(pop3.body().unwrap()).unwrap();
    let has = |tag| capabilities.lines().any(|line| line == tag);
    assert!(has("STLS") && !has("USER"), "{capabilities}");
    // Refused before the password is sent, and not as a wrong password.
    assert!(!pop3.err(&format!("USER {a}")).contains("[AUTH]"));
    pop3.err("PASS pw");
}

#[test]
fn plaintext_behind_stls_ends_the_session() {
    let (node, a) = node();
    let mut stream = connect(node.pop3);
    line(&mut stream);
    stream.write_all(format!("STLS\r\nUSER {a}\r\nPASS pw\r\n").as_bytes()).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("+OK"), "{rest:?}");
    // Nothing is remembered across the handshake.
    let mut stream = connect(node.pop3);
    line(&mut stream);
    stream.write_all(b"STLS\r\n").unwrap();
    line(&mut stream);
    let mut tls = encrypt(&client(&node, &[&rustls::version::TLS13]), stream);
    tls.write_all(b"PASS pw\r\n").unwrap();
    assert!(Pop3::over(Box::new(tls)).unwrap().greeting.starts_with("-ERR"));
}

#[test]
fn a_hang_up_signal_reloads_the_certificate_and_keeps_sessions() {
    let (node, a) = node();
    let old = client(&node, &[&rustls::version::TLS13]);
    let mut open = Pop3::over(Box::new(encrypt(&old, connect(node.pop3s)))).unwrap();
    open.ok(&format!("USER {a}"));
    open.ok("PASS pw");
    write_certificate(node.dir.path());
    node.signal(libc::SIGHUP);
    let new = client(&node, &[&rustls::version::TLS13]);
    crate::support::wait_for("the new certificate", Duration::from_secs(10), || {
        Pop3::over(Box::new(encrypt(&new, connect(node.pop3s)))).ok()
    });
    assert!(Pop3::over(Box::new(encrypt(&old, connect(node.pop3s)))).is_err(), "the old one is gone");
    open.ok("STAT");
    open.ok("QUIT");
    // A broken one is not taken.
    fs::write(node.dir.path().join("cert.pem"), "garbage").unwrap();
    node.signal(libc::SIGHUP);
    crate::support::wait_for("the refusal in the log", Duration::from_secs(10), || {
        node.log().contains("certificate stays as it was").then_some(())
    });
    Pop3::over(Box::new(encrypt(&new, connect(node.pop3s)))).unwrap();
}

/// A connection that ends without a word of TLS may have been cut by anybody (RFC 8314 §3.4).
#[test]
fn tls_is_closed_before_the_connection_is() {
    let (node, _) = node();
    let script = format!(
        "import socket, ssl, sys
context = ssl.create_default_context(cafile='{}')
raw = socket.create_connection(('127.0.0.1', {}))
tls = context.wrap_socket(raw, server_hostname='localhost', suppress_ragged_eofs=False)
assert tls.recv(100).startswith(b'+OK')
tls.sendall(b'QUIT\\r\\n')
said = b''
while octets := tls.recv(100):
    said += octets
assert said.startswith(b'+OK'), said
print('closed')
",
        node.dir.path().join("cert.pem").display(),
        node.pop3s.port()
    );
    let output = run(Command::new("python3").args(["-c", &script]));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "closed");
}

#[test]
fn openssl_shakes_hands_by_stls() {
    let (node, _) = node();
    let script = format!(
        "printf 'CAPA\\r\\nQUIT\\r\\n' | openssl s_client -quiet -verify_return_error -CAfile '{}' \
         -servername localhost -starttls pop3 -connect {}",
        node.dir.path().join("cert.pem").display(),
        node.pop3
    );
    let output = run(Command::new("sh").args(["-c", &script]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("PIPELINING"));
}
