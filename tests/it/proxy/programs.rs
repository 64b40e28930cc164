//! HAProxy and nginx with the samples of their configuration, and curl behind them.

use super::*;

/// A server of ours, ended when dropped.
struct Server(Child);

impl Server {
    /// Starts it, and waits until it listens on these ports.
    fn start(command: &mut Command, dir: &Path, ports: &[u16]) -> Self {
        let log = fs::File::create(dir.join("proxy.log")).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut server = Self(child);
        for port in ports {
            wait_for("the proxy listens", Duration::from_secs(20), || {
                if let Some(status) = server.0.try_wait().unwrap() {
                    panic!("{status}: {}", fs::read_to_string(dir.join("proxy.log")).unwrap_or_default());
                }
                TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).ok()
            });
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // In order, so that it takes its workers with it.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// A sample of an operator's configuration, with what is peculiar to us in the place of what is to them.
fn sample(name: &str, changes: &[(&str, String)]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    changes.iter().fold(fs::read_to_string(file).unwrap(), |text, (from, to)| {
        assert!(text.contains(from), "{name} has no {from}");
        text.replace(from, to)
    })
}

/// HAProxy with the sample's configuration: ports of POP3, POP3S and LMTP.
fn haproxy(node: &Node, more: &[(&str, String)]) -> (Server, [SocketAddr; 3]) {
    let dir = node.dir.path();
    let pem = ["cert.pem", "key.pem"].map(|name| fs::read_to_string(dir.join(name)).unwrap());
    fs::write(dir.join("both.pem"), pem.concat()).unwrap();
    let [pop3, pop3s, lmtp] = xtask::services::free_ports().unwrap();
    let mut changes = vec![
        ("bind :110", format!("bind 127.0.0.1:{pop3}")),
        ("bind :995", format!("bind 127.0.0.1:{pop3s}")),
        ("bind 127.0.0.1:24\n", format!("bind 127.0.0.1:{lmtp}\n")),
        ("/etc/haproxy/postern.pem", dir.join("both.pem").display().to_string()),
        ("    server node2 10.0.0.12:1110\n", String::new()),
        ("    server node2 10.0.0.12:1024\n", String::new()),
        ("10.0.0.11:1110", node.pop3.to_string()),
        ("10.0.0.11:1024", node.lmtp.to_string()),
        ("maxconn 50000", "maxconn 500".to_owned()),
        ("inter 5s", "inter 200ms".to_owned()),
    ];
    changes.extend(more.iter().cloned());
    fs::write(dir.join("haproxy.cfg"), sample("haproxy/postern.cfg", &changes)).unwrap();
    let config = dir.join("haproxy.cfg");
    let checked = Command::new("/usr/sbin/haproxy").args(["-c", "-f"]).arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && !said.contains("WARNING"), "{said}");
    let mut command = Command::new("/usr/sbin/haproxy");
    let server = Server::start(command.args(["-db", "-f"]).arg(&config), dir, &[pop3, pop3s, lmtp]);
    (server, [pop3, pop3s, lmtp].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

const BEHIND_HAPROXY: &str = "[pop3]\nplaintext_auth = \"never\"\nproxy_protocol = \"require\"\n\
                              [lmtp]\nproxy_protocol = \"require\"\n";

#[test]
fn haproxy_ends_tls_and_tells_who_its_clients_are() {
    let (node, a) = node(BEHIND_HAPROXY);
    let (_haproxy, [plain, sealed, lmtp]) = haproxy(&node, &[]);
    deliver(lmtp, &a, &message("by-haproxy", 1000));
    let config = client(&node, &[&rustls::version::TLS13]);
    let mut pop3 = Pop3::over(Box::new(encrypt(&config, connect_from([127, 0, 0, 5], sealed)))).unwrap();
    assert!(!capabilities(&mut pop3).contains("STLS"));
    pop3.ok(&format!("USER {a}"));
    pop3.ok("PASS pw");
    assert_eq!(peers(&node), ["127.0.0.5"]);
    assert!(String::from_utf8_lossy(&pop3.retr(1)).contains("by-haproxy"));
    pop3.ok("QUIT");
    let ended = lines_of(&node, &pop3.greeting).pop().unwrap();
    for (key, value) in
        [("peer", "127.0.0.5"), ("proxy", "127.0.0.1"), ("proxy.tls", "TLSv1.3"), ("proxy.host", "localhost")]
    {
        assert_eq!(ended[key], value, "{key} in {ended}");
    }
    assert!(ended["proxy.cipher"].as_str().is_some_and(|cipher| cipher.starts_with("TLS_")), "{ended}");
    let id = ended["proxy.id"].as_str().unwrap();
    assert_eq!(id.len(), 36, "{ended}");

    // In the clear it is the node that speaks TLS, with whoever comes by HAProxy.
    let mut stream = connect_from([127, 0, 0, 6], plain);
    line(&mut stream);
    stream.write_all(format!("USER {a}\r\n").as_bytes()).unwrap();
    assert!(line(&mut stream).starts_with("-ERR"));
    stream.write_all(b"STLS\r\n").unwrap();
    assert!(line(&mut stream).starts_with("+OK"));
    let mut tls = encrypt(&config, stream);
    tls.write_all(format!("USER {a}\r\n").as_bytes()).unwrap();
    let mut by_stls = Pop3::over(Box::new(tls)).unwrap();
    by_stls.ok("PASS pw");
    assert_eq!(peers(&node), ["127.0.0.6"]);
    by_stls.ok("QUIT");
    wait_for("health checks", Duration::from_secs(10), || {
        ["pop3", "lmtp"].iter().all(|listener| count(&node, listener, "local") >= 2).then_some(())
    });
    let output = curl_over_tls(&node, &a, sealed);
    assert!(String::from_utf8_lossy(&output).contains("by-haproxy"));
}

/// The first message, by curl, over TLS and from another address than the proxy's.
fn curl_over_tls(node: &Node, user: &str, proxy: SocketAddr) -> Vec<u8> {
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "--max-time",
        "20",
        "--interface",
        "127.0.0.7",
        "-u",
        &format!("{user}:pw"),
        "--cacert",
    ]);
    curl.arg(node.dir.path().join("cert.pem"));
    curl.args(["--resolve", &format!("localhost:{}:127.0.0.1", proxy.port())]);
    run(curl.arg(format!("pop3s://localhost:{}/1", proxy.port()))).stdout
}

#[test]
fn haproxy_with_version_1() {
    let (node, a) = node(BEHIND_HAPROXY);
    let options = " proxy-v2-options ssl,cert-cn,ssl-cipher,authority,unique-id";
    let version_1 = [
        (options, String::new()),
        (" proxy-v2-options unique-id", String::new()),
        ("send-proxy-v2", "send-proxy".into()),
    ];
    let (_haproxy, [plain, ..]) = haproxy(&node, &version_1);
    let mut stream = connect_from([127, 0, 0, 5], plain);
    line(&mut stream);
    stream.write_all(b"STLS\r\n").unwrap();
    assert!(line(&mut stream).starts_with("+OK"));
    let mut tls = encrypt(&client(&node, &[&rustls::version::TLS12]), stream);
    tls.write_all(format!("USER {a}\r\n").as_bytes()).unwrap();
    let mut pop3 = Pop3::over(Box::new(tls)).unwrap();
    pop3.ok("PASS pw");
    assert_eq!(peers(&node), ["127.0.0.5"]);
    pop3.ok("QUIT");
    // By version 1 it checks our health as a client of its own.
    wait_for("health checks", Duration::from_secs(10), || {
        (count(&node, "pop3", "proxied") >= 3).then_some(())
    });
}

/// What nginx asks for the node of a user. It ends with the test.
fn auth_http(node: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut octet = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut octet).is_ok_and(|n| n > 0) {
                request.push(octet[0]);
            }
            let _ = stream.write_all(
                format!(
                    "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {}\r\nAuth-Port: {}\r\n\r\n",
                    node.ip(),
                    node.port()
                )
                .as_bytes(),
            );
        }
    });
    addr
}

#[test]
fn nginx_as_a_mail_proxy_tells_who_its_clients_are() {
    let (node, a) = node("[pop3]\nplaintext_auth = \"always\"\nproxy_protocol = \"require\"\n");
    deliver(node.lmtp, &a, &message("by-nginx", 1000));
    let dir = node.dir.path();
    let [plain, sealed] = xtask::services::free_ports().unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    let changes = [
        ("user www-data;", "user root;\ndaemon off;".to_owned()),
        ("worker_processes auto", "worker_processes 1".to_owned()),
        ("/run/nginx.pid", at("nginx.pid")),
        ("/var/log/nginx/mail.log", at("nginx.log")),
        ("modules/ngx_mail_module.so", "/usr/lib/nginx/modules/ngx_mail_module.so".to_owned()),
        ("worker_connections 10000", "worker_connections 100".to_owned()),
        ("127.0.0.1:9000", auth_http(node.pop3).to_string()),
        ("/etc/nginx/postern.crt", at("cert.pem")),
        ("/etc/nginx/postern.key", at("key.pem")),
        ("listen 110;", format!("listen 127.0.0.1:{plain};")),
        ("listen 995 ssl;", format!("listen 127.0.0.1:{sealed} ssl;")),
    ];
    let config = dir.join("nginx.conf");
    fs::write(&config, sample("nginx/nginx.conf", &changes)).unwrap();
    let mut command = Command::new("/usr/sbin/nginx");
    let _nginx = Server::start(command.arg("-c").arg(&config).arg("-p").arg(dir), dir, &[plain, sealed]);
    let tls = client(&node, &[&rustls::version::TLS13]);
    let sealed = SocketAddr::from((Ipv4Addr::LOCALHOST, sealed));
    let mut pop3 = Pop3::over(Box::new(encrypt(&tls, connect_from([127, 0, 0, 5], sealed)))).unwrap();
    pop3.ok(&format!("USER {a}"));
    pop3.ok("PASS pw");
    assert_eq!(peers(&node), ["127.0.0.5"]);
    assert!(String::from_utf8_lossy(&pop3.retr(1)).contains("by-nginx"));
    pop3.ok("QUIT");
    assert!(String::from_utf8_lossy(&curl_over_tls(&node, &a, sealed)).contains("by-nginx"));
    wait_for("curl's session in the log", Duration::from_secs(10), || {
        node.log().contains("\"peer\":\"127.0.0.7\"").then_some(())
    });
    // The node's word on a wrong password comes through.
    let mut wrong = Pop3::over(Box::new(encrypt(&tls, connect_from([127, 0, 0, 5], sealed)))).unwrap();
    wrong.ok(&format!("USER {a}"));
    assert!(wrong.err("PASS no").contains("[AUTH]"));
}
