//! UTF8 and LANG (RFC 6856), with a client that knows them and one that decodes what others are sent.

use std::process::Command;

use crate::support::{Lmtp, Node, NodeOptions, deliver, login, message, run, without_trace};

const EIGHT_BIT: &str = "From: Jürgen Müller <j@example.org>\r\n\
    To: Åsa <åsa@example.org>, b@bücher.example\r\n\
    Subject: Grüße aus Köln, und ein sehr langer Betreff, der nicht in ein einziges Wort paßt\r\n\
    Content-Type: text/plain; charset=utf-8; name=\"Übersicht über alles.txt\"\r\n\
    X-Plain: plain\r\n\
    \r\n\
    Der Körper bleibt, wie er ist.\r\n";

#[test]
fn headers_are_ascii_unless_the_client_takes_utf8() {
    for options in [NodeOptions::embedded(), NodeOptions::servers()] {
        let (node, a) = Node::start(&options).with_mailbox("a");
        let latin = b"From: x\r\nSubject: gr\xfc\xdfe\r\n\r\n\xfc\r\n";
        let sent: [&[u8]; 3] = [&message("plain", 3000), EIGHT_BIT.as_bytes(), latin];
        for message in sent {
            deliver(node.lmtp, &a, message);
        }
        let script = format!(
            r#"
import email, email.policy, poplib
def session(utf8):
    p = poplib.POP3("127.0.0.1", {port})
    assert p.capa()["UTF8"] == ["USER"] and "LANG" in p.capa()
    if utf8: p.utf8()
    p.user({a:?}); p.pass_("pw")
    before = p.stat()
    listing = [int(l.split()[1]) for l in p.list()[1]]
    assert before == p.stat() == (3, sum(listing)), (before, listing, utf8)
    messages = []
    for i in range(3):
        message = b"".join(l + b"\r\n" for l in p.retr(i + 1)[1])
        assert len(message) == listing[i], (i, len(message), listing)
        top = b"".join(l + b"\r\n" for l in p.top(i + 1, 0)[1])
        assert message.startswith(top) and top.endswith(b"\r\n\r\n"), (message, top)
        messages.append(message)
    unique_ids = p.uidl()[1]
    p.quit()
    return messages, unique_ids
native, ids = session(True)
ascii, same = session(False)
assert ids == same
assert native[0] == ascii[0]
assert native[1].endswith({native:?}.encode()), native[1]
assert native[2].endswith(b"Subject: gr\xfc\xdfe\r\n\r\n\xfc\r\n")
for i in (1, 2):
    header, body = ascii[i].split(b"\r\n\r\n", 1)
    assert header.isascii() and native[i].endswith(b"\r\n\r\n" + body), header
    assert max(map(len, header.split(b"\r\n"))) < 120, header
m = email.message_from_bytes(ascii[1], policy=email.policy.default)
assert m["Subject"] == "Grüße aus Köln, und ein sehr langer Betreff, der nicht in ein einziges Wort paßt", m["Subject"]
assert m["From"].addresses[0].display_name == "Jürgen Müller" and m["From"].addresses[0].addr_spec == "j@example.org"
assert [str(a) for a in m["To"].addresses] == ["b@xn--bcher-kva.example"], m["To"]
assert m["To"].groups[0].display_name.split() == ["Åsa", "åsa@example.org"], m["To"].groups
assert m.get_filename() == "Übersicht über alles.txt"
assert m["X-Plain"] == "plain"
assert m.get_content() == "Der Körper bleibt, wie er ist.\r\n"
"#,
            port = node.pop3.port(),
            native = EIGHT_BIT,
        );
        run(Command::new("python3").args(["-c", &script]));
        // To administrators it is what came in.
        let http = node.http();
        let path = format!("/v1/tenants/one/mailboxes/{a}/messages/2/raw");
        let (status, raw) = http.get(&path);
        assert_eq!(status, 200, "{raw}");
        assert_eq!(without_trace(raw.as_bytes()), EIGHT_BIT.as_bytes());
    }
}

#[test]
fn a_mailbox_may_have_a_name_in_utf8() {
    let (node, _) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let user = node.mailbox("one", "åsa", None);
    let mut lmtp = Lmtp::connect(node.lmtp).unwrap();
    assert!(lmtp.command("MAIL FROM:<é@example.org> SMTPUTF8").unwrap().starts_with("250"));
    assert!(lmtp.command(&format!("RCPT TO:<{user}>")).unwrap().starts_with("250"));
    assert!(lmtp.command("DATA").unwrap().starts_with("354"));
    lmtp.send(b"Subject: x\r\n\r\ny\r\n.\r\n").unwrap();
    assert!(lmtp.reply().unwrap().starts_with("250"));
    let mut pop3 = login(node.pop3, &user, "pw");
    let stat = pop3.ok("STAT");
    let ascii = pop3.retr(1);
    assert_eq!(stat, format!("+OK 1 {}", ascii.len()));
    let ascii = String::from_utf8(ascii).unwrap();
    assert!(ascii.is_ascii(), "{ascii}");
    assert!(ascii.starts_with("Downgraded-Delivered-To: =?UTF-8?B?"), "{ascii}");
    assert!(ascii.contains("\r\nDowngraded-Return-Path: =?UTF-8?B?"), "{ascii}");
    assert!(ascii.ends_with("\r\nSubject: x\r\n\r\ny\r\n"), "{ascii}");
    pop3.ok("QUIT");
    let mut pop3 = crate::support::Pop3::connect(node.pop3).unwrap();
    pop3.ok("UTF8");
    pop3.ok(&format!("USER {user}"));
    pop3.ok("PASS pw");
    let stat = pop3.ok("STAT");
    let native = pop3.retr(1);
    assert_eq!(stat, format!("+OK 1 {}", native.len()));
    let native = String::from_utf8(native).unwrap();
    assert!(
        native.starts_with(&format!("Delivered-To: {user}\r\nReturn-Path: <é@example.org>\r\n")),
        "{native}"
    );
}

#[test]
fn texts_are_in_the_language_that_is_asked_for() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let mut pop3 = crate::support::Pop3::connect(node.pop3).unwrap();
    assert_eq!(pop3.list("LANG"), ["en English", "de Deutsch", "i-default Default language"]);
    assert_eq!(pop3.ok("LANG de-DE"), "+OK de Texte sind ab jetzt deutsch");
    pop3.ok(&format!("USER {a}"));
    assert_eq!(pop3.err("PASS wrong"), "-ERR [AUTH] Name oder Passwort ist falsch");
    pop3.ok(&format!("USER {a}"));
    assert_eq!(pop3.ok("PASS pw"), "+OK Postfach ist geoeffnet");
    assert_eq!(pop3.err("RETR 1"), "-ERR diese Nachricht gibt es nicht");
    assert_eq!(pop3.ok("QUIT"), "+OK auf Wiedersehen");
}
