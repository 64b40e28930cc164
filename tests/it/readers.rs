//! Programs that people read their mail with: what they keep, fetch once, delete, and how they log in.
//!
//! docs/clients.md has the matrix; what is not here is in clients.rs, sasl.rs, oauth.rs and bound.rs.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::json;

use crate::{
    oauth,
    support::{Node, NodeOptions, deliver, env, login, message, oidc::Oidc, run},
};

/// A node that offers all mechanisms, and a mailbox that has kept what they need, with three messages.
fn node() -> (Node, String) {
    let options = NodeOptions {
        tls: true,
        extra:
            "[pop3]\nmechanisms = [\"PLAIN\", \"LOGIN\", \"SCRAM-SHA-256\", \"SCRAM-SHA-1\", \"CRAM-MD5\", \
                \"APOP\"]\n"
                .into(),
        ..NodeOptions::embedded()
    };
    let node = Node::start(&options);
    node.tenant("one");
    let policy = json!({ "login_mechanisms":
        ["USER", "PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "APOP"] });
    let (status, answer) = node.http().json("PATCH", "/v1/tenants/one", &json!({ "policy": policy }));
    assert_eq!(status, 200, "{answer}");
    let a = node.mailbox("one", "a", None);
    for tag in ["first", "second", "third"] {
        deliver(node.lmtp, &a, &message(tag, 5000));
    }
    (node, a)
}

/// The subjects that are left.
fn left(node: &Node, user: &str) -> Vec<String> {
    let mut pop3 = login(node.pop3, user, "pw");
    let count = pop3.list("LIST").len();
    let left = (1..=count).map(|number| subjects(&pop3.retr(number)).remove(0)).collect();
    pop3.ok("QUIT");
    left
}

/// The subjects in a message, or in several.
fn subjects(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().filter_map(|line| Some(line.strip_prefix("Subject: ")?.to_owned())).collect()
}

/// How many logins by this mechanism were let in.
fn logins(node: &Node, mechanism: &str) -> u64 {
    let (_, metrics) = node.http().get("/metrics");
    let series = format!("pop3_logins_total{{mechanism=\"{mechanism}\",outcome=\"ok\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse().unwrap())
}

fn at(node: &Node, name: &str) -> String {
    node.dir.path().join(name).display().to_string()
}

/// getmail6 with a home of its own; its retriever's options are given.
fn getmail(node: &Node, name: &str, kind: &str, port: u16, more: &str, delete: bool) -> Command {
    let home = node.dir.path().join(name);
    fs::create_dir_all(&home).unwrap();
    // As root it would hand mail to nobody else.
    let text = format!(
        "[retriever]\ntype = {kind}\nserver = localhost\nport = {port}\nusername = a@one.test\n{more}\
         [destination]\ntype = MDA_external\npath = /bin/sh\narguments = ('-c', 'cat >> {home}/mbox')\n\
         unixfrom = true\nallow_root_commands = true\n\
         [options]\ndelete = {delete}\nread_all = false\ndelivered_to = false\nreceived = false\n",
        home = home.display(),
    );
    fs::write(home.join("getmailrc"), text).unwrap();
    let mut getmail = Command::new(env("POSTERN_TEST_GETMAIL"));
    getmail.env("HOME", &home).arg("--getmaildir").arg(&home).args(["--rcfile", "getmailrc"]);
    getmail
}

/// The subjects of what getmail6 delivered.
fn got(node: &Node, name: &str) -> BTreeSet<String> {
    let subjects = subjects(&fs::read(node.dir.path().join(name).join("mbox")).unwrap());
    let distinct: BTreeSet<_> = subjects.iter().cloned().collect();
    assert_eq!(distinct.len(), subjects.len(), "fetched twice: {subjects:?}");
    distinct
}

fn set(subjects: &[&str]) -> BTreeSet<String> {
    subjects.iter().map(|subject| (*subject).to_owned()).collect()
}

#[test]
fn getmail_keeps_resumes_and_deletes_in_the_clear_and_over_tls() {
    let (node, a) = node();
    let verified = format!("ca_certs = {}\npassword = pw\n", at(&node, "cert.pem"));
    for (kind, port, more) in [
        ("SimplePOP3Retriever", node.pop3.port(), "password = pw\n"),
        ("SimplePOP3SSLRetriever", node.pop3s.port(), &*verified),
    ] {
        let getmail = |delete| getmail(&node, kind, kind, port, more, delete);
        let before = logins(&node, "USER");
        run(&mut getmail(false));
        assert_eq!(got(&node, kind), set(&["first", "second", "third"]));
        assert_eq!(left(&node, &a), ["first", "second", "third"], "kept");
        // Told by UIDL what is new.
        deliver(node.lmtp, &a, &message("fourth", 700));
        run(&mut getmail(false));
        assert_eq!(got(&node, kind), set(&["first", "second", "third", "fourth"]));
        run(&mut getmail(true));
        assert_eq!(left(&node, &a), Vec::<String>::new(), "deleted");
        assert_eq!(got(&node, kind).len(), 4);
        assert_eq!(logins(&node, "USER"), before + 5, "three of its, two of ours");
        for tag in ["first", "second", "third"] {
            deliver(node.lmtp, &a, &message(tag, 5000));
        }
    }
    // A certificate that it does not trust.
    let refused = getmail(
        &node,
        "untrusted",
        "SimplePOP3SSLRetriever",
        node.pop3s.port(),
        "password = pw\nca_certs = /etc/ssl/certs/ca-certificates.crt\n",
        true,
    );
    assert_fails(refused, &node, &a);
}

/// A client that fails takes nothing along.
#[track_caller]
fn assert_fails(mut client: Command, node: &Node, user: &str) {
    let output = client.output().unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!output.status.success() || said.to_lowercase().contains("error"), "{said}");
    assert_eq!(left(node, user), ["first", "second", "third"]);
}

#[test]
fn getmail_does_apop_and_xoauth2() {
    let (node, a) = node();
    run(&mut getmail(
        &node,
        "apop",
        "SimplePOP3Retriever",
        node.pop3.port(),
        "password = pw\nuse_apop = true\n",
        false,
    ));
    assert_eq!((logins(&node, "APOP"), got(&node, "apop").len()), (1, 3));
    let wrong = getmail(
        &node,
        "wrong",
        "SimplePOP3Retriever",
        node.pop3.port(),
        "password = other\nuse_apop = true\n",
        true,
    );
    assert_fails(wrong, &node, &a);

    let oidc = Oidc::start();
    let node = oauth::node();
    let a = node.mailbox("one", "a", None);
    deliver(node.lmtp, &a, &message("first", 500));
    oauth::set(&node, "one", &oauth::settings(&oidc));
    let token = oidc.token(&oauth::claims(), &json!({}));
    let more = format!("password = {token}\nuse_xoauth2 = true\nca_certs = {}\n", at(&node, "cert.pem"));
    run(&mut getmail(&node, "token", "SimplePOP3SSLRetriever", node.pop3s.port(), &more, false));
    assert_eq!((logins(&node, "XOAUTH2"), got(&node, "token")), (1, set(&["first"])));
}

/// Runs a program with node-pop3, where `pop3` makes a connection by port and `told` says what is found.
fn node_pop3(node: &Node, program: &str) -> String {
    let modules = PathBuf::from(env("POSTERN_TEST_NODE_POP3")).join("node_modules/node-pop3/src/Command.js");
    let text = format!(
        "import Pop3Command from {modules:?};\n\
         import {{ readFileSync }} from 'node:fs';\n\
         const ca = readFileSync({cert:?});\n\
         const pop3 = (tls, password = 'pw') => new Pop3Command({{ user: 'a@one.test', password,\n\
           host: '127.0.0.1', port: tls ? {pop3s} : {pop3}, tls, servername: 'localhost', tlsOptions: {{ ca }},\n\
           timeout: 20000 }});\n\
         const subject = text => /^Subject: (.*)$/m.exec(text)[1].trim();\n\
         {program}\n",
        modules = modules.display().to_string(),
        cert = at(node, "cert.pem"),
        pop3 = node.pop3.port(),
        pop3s = node.pop3s.port(),
    );
    let file = node.dir.path().join("client.mjs");
    fs::write(&file, text).unwrap();
    String::from_utf8(run(Command::new("node").arg(&file)).stdout).unwrap()
}

#[test]
fn node_pop3_keeps_resumes_and_deletes_in_the_clear_and_over_tls() {
    let (node, a) = node();
    for tls in [false, true] {
        let seen = format!("const seen = new Set(JSON.parse(readFileSync({:?})));", at(&node, "seen.json"));
        fs::write(node.dir.path().join("seen.json"), "[]").unwrap();
        let fetch = |delete: bool| {
            node_pop3(
                &node,
                &format!(
                    "{seen}\nimport {{ writeFileSync }} from 'node:fs';\n\
                     const client = pop3({tls});\n\
                     const listed = await client.UIDL();\n\
                     for (const [number, id] of listed) {{\n\
                       if (!seen.has(id)) console.log(subject(await client.RETR(number)));\n\
                       seen.add(id);\n\
                       if ({delete}) await client.command('DELE', number);\n\
                     }}\n\
                     const [status] = await client.command('STAT');\n\
                     if (Number(status.split(' ')[0]) !== ({delete} ? 0 : listed.length)) throw status;\n\
                     await client.QUIT();\n\
                     writeFileSync({:?}, JSON.stringify([...seen]));\n",
                    at(&node, "seen.json")
                ),
            )
        };
        assert_eq!(fetch(false), "first\nsecond\nthird\n");
        deliver(node.lmtp, &a, &message("fourth", 700));
        assert_eq!(fetch(false), "fourth\n");
        assert_eq!(left(&node, &a).len(), 4);
        assert_eq!(fetch(true), "");
        assert_eq!(left(&node, &a), Vec::<String>::new());
        for tag in ["first", "second", "third"] {
            deliver(node.lmtp, &a, &message(tag, 5000));
        }
    }
    // TOP, one LIST, RSET, and a wrong password, which is an error with our text in it.
    let said = node_pop3(
        &node,
        "const client = pop3(true);\n\
         const top = await client.TOP(2, 1);\n\
         console.log(subject(top), top.trimEnd().split('\\r\\n\\r\\n')[1].split('\\r\\n').length);\n\
         await client.command('DELE', 1); await client.command('RSET');\n\
         console.log((await client.LIST(1))[1] > 4000);\n\
         await client.QUIT();\n\
         try { await pop3(true, 'wrong').UIDL(); console.log('taken'); }\n\
         catch (error) { console.log(error.message); }\n",
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..2], ["second 1", "true"]);
    assert!(lines[2].starts_with("[AUTH] "), "{said}");
    assert_eq!(left(&node, &a).len(), 3);
}

/// Mutt on a terminal of its own: opens the maildrop as a folder, or fetches from it, does what `keys` say, and quits.
fn mutt(node: &Node, settings: &str, keys: &str) -> Output {
    let home = node.dir.path().join("mutt");
    fs::create_dir_all(home.join("cache")).unwrap();
    let text = format!(
        "set pop_authenticators=\"scram-sha-256\"\nset ssl_ca_certificates_file={:?}\nset ssl_verify_host=yes\n\
         set pop_user=\"a@one.test\"\nset pop_pass=\"pw\"\nset pop_checkinterval=60\n\
         set header_cache={cache:?}\nset message_cachedir={cache:?}\nset mbox_type=mbox\n\
         set spoolfile={home:?}/spool\nset folder={home:?}\nset record=\"\"\nset confirmappend=no\n\
         set confirmcreate=no\nset delete=yes\nset move=no\nset quit=yes\nset wait_key=no\n\
         set copy=no\nset beep=no\nset sleep_time=0\n{settings}\npush \"{keys}\"\n",
        at(node, "cert.pem"),
        cache = home.join("cache").display().to_string(),
        home = home.display().to_string(),
    );
    let text = text.replace(
        &format!("{:?}/spool", home.display().to_string()),
        &format!("\"{}/spool\"", home.display()),
    );
    let rc = home.join("muttrc");
    fs::write(&rc, text).unwrap();
    fs::File::options().create(true).append(true).open(home.join("spool")).unwrap();
    let inner = format!("mutt -n -F {}", rc.display());
    let mut script = Command::new("timeout");
    script.args(["60", "script", "--quiet", "--return", "--command", &inner, "/dev/null"]);
    script.env("HOME", &home).env("TERM", "xterm").stdin(std::process::Stdio::null());
    run(&mut script)
}

/// Runs Perl, which trusts the node's certificate.
fn perl(node: &Node, program: &str) -> String {
    let mut perl = Command::new("perl");
    perl.env("SSL_CERT_FILE", at(node, "cert.pem")).args(["-Mstrict", "-Mwarnings", "-e", program]);
    String::from_utf8(run(&mut perl).stdout).unwrap()
}

#[test]
fn net_pop3_keeps_resumes_and_deletes_in_the_clear_and_over_tls() {
    let (node, a) = node();
    let (pop3, pop3s, cert) = (node.pop3.port(), node.pop3s.port(), at(&node, "cert.pem"));
    for (how, mechanism) in [
        ("$p->login('a@one.test', 'pw')", "USER"),
        ("sasl($p, 'PLAIN')", "PLAIN"),
        ("sasl($p, 'LOGIN')", "LOGIN"),
        ("sasl($p, 'CRAM-MD5')", "CRAM-MD5"),
        ("$p->apop('a@one.test', 'pw')", "APOP"),
    ] {
        for connect in [
            format!("Net::POP3->new('127.0.0.1', Port => {pop3}, Timeout => 20)"),
            format!(
                "Net::POP3->new('localhost', Port => {pop3s}, SSL => 1, SSL_ca_file => '{cert}', Timeout => 20)"
            ),
            format!(
                "stls(Net::POP3->new('localhost', Port => {pop3}, SSL_ca_file => '{cert}', Timeout => 20))"
            ),
        ] {
            let before = logins(&node, mechanism);
            let said = perl(
                &node,
                &format!(
                    "use Net::POP3; use Authen::SASL;\n\
                     sub stls {{ my $p = shift; $p->starttls or die 'no TLS'; $p }}\n\
                     sub sasl {{ my ($p, $m) = @_; $p->auth(Authen::SASL->new(mechanism => $m, callback =>\n\
                       {{ user => 'a@one.test', pass => 'pw', authname => 'a@one.test' }})) }}\n\
                     my $p = {connect} or die \"no connection: $@\";\n\
                     defined({how}) or die 'no login: ' . $p->message;\n\
                     my %ids = %{{ $p->uidl }}; my %sizes = %{{ $p->list }};\n\
                     for my $n (sort keys %ids) {{\n\
                       my $text = join '', @{{ $p->get($n) }};\n\
                       my $octets = $text =~ s/\\r?\\n/\\r\\n/gr; length($octets) == $sizes{{$n}} or die 'size ' . length($octets) . \" is not $sizes{{$n}}\";\n\
                       $text =~ /^Subject: (.*?)\\r?$/m; print \"$1 $ids{{$n}}\\n\";\n\
                       scalar @{{ $p->top($n, 0) }} < 12 or die 'top';\n\
                     }}\n\
                     $p->delete(1); $p->reset; $p->quit or die 'no end';\n"
                ),
            );
            assert_eq!(logins(&node, mechanism), before + 1, "{mechanism} {connect}");
            assert_eq!(
                said.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(),
                ["first", "second", "third"]
            );
        }
    }
    // Told by UIDL what is new, and what was fetched is deleted.
    let fetch = |known: &str, delete: &str| {
        perl(
            &node,
            &format!(
                "use Net::POP3; my %known = map {{ $_ => 1 }} qw({known});\n\
                 my $p = Net::POP3->new('localhost', Port => {pop3s}, SSL => 1, SSL_ca_file => '{cert}') or die;\n\
                 defined($p->login('a@one.test', 'pw')) or die; my %ids = %{{ $p->uidl }};\n\
                 for my $n (sort keys %ids) {{ print \"$ids{{$n}} \" unless $known{{$ids{{$n}}}}; $p->delete($n) if {delete} }}\n\
                 $p->quit or die;\n"
            ),
        )
    };
    let first = fetch("", "0");
    assert_eq!(first.split_whitespace().count(), 3);
    deliver(node.lmtp, &a, &message("fourth", 700));
    let second = fetch(&first, "0");
    assert_eq!(second.split_whitespace().count(), 1);
    assert_eq!(fetch(&(first + &second), "1"), "");
    assert_eq!(left(&node, &a), Vec::<String>::new());
    // A certificate that it does not trust.
    let refused = Command::new("perl")
        .args(["-MNet::POP3", "-e"])
        .arg(format!("exit(Net::POP3->new('localhost', Port => {pop3s}, SSL => 1) ? 0 : 7)"))
        .status();
    assert_eq!(refused.unwrap().code(), Some(7));
}

#[test]
fn mail_pop3client_keeps_resumes_and_deletes_in_the_clear_and_over_tls() {
    let (node, a) = node();
    for (port, tls) in [(node.pop3.port(), 0), (node.pop3s.port(), 1)] {
        for mode in ["PASS", "APOP", "CRAM-MD5", "BEST"] {
            let client = |program: &str| {
                perl(
                    &node,
                    &format!(
                        "use Mail::POP3Client;\n\
                         my $p = Mail::POP3Client->new(USER => 'a@one.test', PASSWORD => 'pw', HOST => 'localhost',\n\
                           PORT => {port}, AUTH_MODE => '{mode}', USESSL => {tls}, TIMEOUT => 20);\n\
                         $p->Count >= 0 or die $p->Message;\n{program}\n$p->Close or die $p->Message;\n"
                    ),
                )
            };
            // BEST is the strongest it finds: APOP.
            let mechanism = match mode {
                "PASS" => "USER",
                "BEST" => "APOP",
                other => other,
            };
            let before = logins(&node, mechanism);
            let said = client(
                "for my $n (1 .. $p->Count) { (my $id) = $p->Uidl($n); $id =~ s/\\s+$//;\n\
                   $id = (split ' ', $id)[-1];\n\
                   my $text = $p->HeadAndBody($n); $text =~ /^Subject: (.*?)\\r?$/m; print \"$1 $id\\n\"; }",
            );
            assert_eq!(logins(&node, mechanism), before + 1, "{mode}");
            let ids: Vec<_> = said.lines().filter_map(|line| line.split(' ').nth(1)).collect();
            assert_eq!(subjects_told(&said), ["first", "second", "third"], "{mode}");
            deliver(node.lmtp, &a, &message("fourth", 700));
            let new = client(&format!(
                "my %known = map {{ $_ => 1 }} qw({});\n\
                 for my $n (1 .. $p->Count) {{ (my $id) = $p->Uidl($n); $id = (split ' ', $id)[-1];\n\
                   next if $known{{$id}}; $p->Head($n) =~ /^Subject: (.*?)\\r?$/m; print \"$1\\n\"; $p->Delete($n); }}",
                ids.join(" ")
            ));
            assert_eq!(new, "fourth\n", "{mode}");
            assert_eq!(left(&node, &a), ["first", "second", "third"], "{mode}");
        }
    }
    let refused = perl(
        &node,
        &format!(
            "use Mail::POP3Client; my $p = Mail::POP3Client->new(USER => 'a@one.test', PASSWORD => 'wrong',\n\
               HOST => 'localhost', PORT => {}, AUTH_MODE => 'PASS'); print $p->Count, ' ', $p->Message;",
            node.pop3.port()
        ),
    );
    assert!(refused.starts_with("-1 ") && refused.contains("[AUTH]"), "{refused}");
}

fn subjects_told(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.split(' ').next()).collect()
}

/// The subjects in a folder of Mutt's.
fn in_folder(node: &Node, name: &str) -> Vec<String> {
    subjects(&fs::read(node.dir.path().join("mutt").join(name)).unwrap_or_default())
}

#[test]
fn mutt_fetches_by_every_mechanism_it_has_and_keeps_or_deletes() {
    let (node, a) = node();
    let (pop3, pop3s) = (node.pop3.port(), node.pop3s.port());
    let mut fetched = 0;
    for (authenticator, mechanism) in [
        ("user", "USER"),
        ("apop", "APOP"),
        ("plain", "PLAIN"),
        ("login", "LOGIN"),
        ("cram-md5", "CRAM-MD5"),
        ("scram-sha-1", "SCRAM-SHA-1"),
        ("scram-sha-256", "SCRAM-SHA-256"),
    ] {
        for (host, tls) in [
            (format!("pop://localhost:{pop3}"), "set ssl_starttls=no\nset ssl_force_tls=no"),
            (format!("pop://localhost:{pop3}"), "set ssl_starttls=yes\nset ssl_force_tls=yes"),
            (format!("pops://localhost:{pop3s}"), ""),
        ] {
            let before = logins(&node, mechanism);
            let settings = format!(
                "set pop_host=\"{host}\"\nset pop_authenticators=\"{authenticator}\"\nset pop_delete=no\n{tls}"
            );
            mutt(&node, &settings, "<fetch-mail><quit>");
            assert_eq!(logins(&node, mechanism), before + 1, "{authenticator} {host} {tls}");
            fetched += 3;
            assert_eq!(in_folder(&node, "spool").len(), fetched, "{authenticator} {host} {tls}");
        }
    }
    assert_eq!(left(&node, &a).len(), 3, "kept");
    mutt(
        &node,
        &format!("set pop_host=\"pops://localhost:{pop3s}\"\nset pop_delete=yes"),
        "<fetch-mail><quit>",
    );
    assert_eq!(in_folder(&node, "spool").len(), fetched + 3);
    assert_eq!(left(&node, &a), Vec::<String>::new());
}

/// As a folder: listed by UIDL and TOP, read by RETR, resumed from its cache, and deleted from when it is left.
#[test]
fn mutt_opens_a_maildrop_as_a_folder() {
    let (node, a) = node();
    let settings = format!("set spoolfile=\"pops://localhost:{}\"", node.pop3s.port());
    let home = node.dir.path().join("mutt").display().to_string();
    let copy = |folder: &str| format!("<copy-message>{home}/{folder}<enter>");
    let (one, two) = (copy("one"), copy("two"));
    // How many messages were fetched meanwhile.
    let fetched = |keys: &str| {
        let count = || {
            let (_, metrics) = node.http().get("/metrics");
            let count = metrics.lines().find_map(|line| line.strip_prefix("pop3_retrieved_messages_total "));
            count.unwrap().parse::<u64>().unwrap()
        };
        let before = count();
        mutt(&node, &settings, keys);
        count() - before
    };
    assert_eq!(fetched(&format!("<first-entry>{one}<next-entry>{one}<quit>")), 2);
    assert_eq!(in_folder(&node, "one"), ["first", "second"]);
    assert_eq!(left(&node, &a).len(), 3, "kept");
    // What was read is in its cache, by unique-id: it is not fetched again.
    deliver(node.lmtp, &a, &message("fourth", 700));
    assert_eq!(fetched(&format!("<first-entry>{two}<last-entry>{two}<quit>")), 1);
    assert_eq!(in_folder(&node, "two"), ["first", "fourth"]);
    fetched("<first-entry><delete-message><last-entry><delete-message><sync-mailbox><quit>");
    assert_eq!(left(&node, &a), ["second", "third"]);
}

#[test]
fn fetchmail_resumes_and_deletes_in_the_clear_and_over_tls() {
    let (node, a) = node();
    let cert = at(&node, "cert.pem");
    for (name, port, tls) in [
        ("clear", node.pop3.port(), "sslproto \"\"".to_owned()),
        ("port", node.pop3s.port(), format!("ssl sslcertck sslcertfile \"{cert}\"")),
        ("stls", node.pop3.port(), format!("sslproto \"TLS1.2+\" sslcertck sslcertfile \"{cert}\"")),
    ] {
        let home = node.dir.path().join(name);
        fs::create_dir(&home).unwrap();
        let fetch = |options: &[&str]| {
            let text = format!(
                "poll localhost protocol pop3 port {port} uidl auth password user \"{a}\" password \"pw\" {tls} \
                 mda \"cat >> {}/mbox\"\n",
                home.display()
            );
            let rc = home.join("fetchmailrc");
            fs::write(&rc, text).unwrap();
            fs::set_permissions(&rc, fs::Permissions::from_mode(0o600)).unwrap();
            let mut fetchmail = Command::new("fetchmail");
            fetchmail.env("HOME", &home).env("FETCHMAILHOME", &home).args(options).arg("-f").arg(&rc);
            let output = fetchmail.output().unwrap();
            // 1: there was nothing new.
            assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
            subjects(&fs::read(home.join("mbox")).unwrap())
        };
        assert_eq!(fetch(&["--keep"]), ["first", "second", "third"], "{name}");
        deliver(node.lmtp, &a, &message("fourth", 700));
        assert_eq!(fetch(&["--keep"]), ["first", "second", "third", "fourth"], "{name}");
        assert_eq!(left(&node, &a).len(), 4, "{name}: kept");
        // What was seen before is flushed, and not fetched again.
        assert_eq!(fetch(&["--nokeep", "--flush"]).len(), 4, "{name}");
        assert_eq!(left(&node, &a), Vec::<String>::new(), "{name}");
        for tag in ["first", "second", "third"] {
            deliver(node.lmtp, &a, &message(tag, 5000));
        }
    }
}
