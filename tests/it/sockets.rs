//! Sockets that a supervisor opens, with systemd's own `systemd-socket-activate`.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    process::{Child, Command},
    time::Duration,
};

use crate::support::{Node, NodeOptions, wait_for};

/// A supervisor that listens and starts a node when somebody connects. Dropping it ends both.
struct Supervisor(Child);

impl Supervisor {
    fn start(node: &Node, listen: &[String]) -> Self {
        let log = fs::File::create(node.dir.path().join("supervisor.log")).unwrap();
        let mut command = Command::new("systemd-socket-activate");
        for addr in listen {
            command.args(["--listen", addr]);
        }
        command.arg(node.postern().get_program()).args(["serve", "--config"]).arg(node.config_path());
        Self(command.current_dir(node.dir.path()).stderr(log).spawn().unwrap())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // It executes the node in its own place.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn greeting(mut stream: impl std::io::Read) -> String {
    let mut octets = [0; 128];
    let count = stream.read(&mut octets).unwrap();
    String::from_utf8_lossy(&octets[..count]).into_owned()
}

#[test]
fn a_node_takes_over_the_sockets_it_is_handed_and_binds_the_rest() {
    let node = Node::prepare(&NodeOptions::embedded());
    let unix = node.dir.path().join("lmtp.sock");
    let listen = [node.pop3.to_string(), unix.display().to_string(), node.admin.to_string()];
    let mut supervisor = Supervisor::start(&node, &listen);
    // Who comes first waits until the node is there, and is served: nobody is refused.
    let first =
        wait_for("the supervisor listens", Duration::from_secs(10), || TcpStream::connect(node.pop3).ok());
    first.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert!(greeting(&first).starts_with("+OK "));
    assert!(greeting(UnixStream::connect(&unix).unwrap()).starts_with("220 "));
    assert_eq!(node.http().get("/livez").0, 200);
    // Not handed over, so bound.
    assert!(greeting(TcpStream::connect(node.lmtp).unwrap()).starts_with("220 "));
    drop(first);
    crate::support::run(Command::new("kill").arg(supervisor.0.id().to_string()));
    assert!(supervisor.0.wait().unwrap().success());
    assert!(unix.exists(), "the file is the supervisor's");
}

#[test]
fn a_socket_that_nothing_is_configured_for_is_told_at_the_start() {
    let node = Node::prepare(&NodeOptions::embedded());
    let [stray] = xtask::services::free_ports().unwrap();
    let addr = format!("127.0.0.1:{stray}");
    let mut supervisor = Supervisor::start(&node, std::slice::from_ref(&addr));
    let mut stream =
        wait_for("the supervisor listens", Duration::from_secs(10), || TcpStream::connect(&addr).ok());
    let _ = stream.write_all(b"\r\n");
    assert_eq!(supervisor.0.wait().unwrap().code(), Some(2));
    let _ = stream.read(&mut [0; 16]);
    let log = fs::read_to_string(node.dir.path().join("supervisor.log")).unwrap();
    assert!(log.contains("LISTEN_FDS: a socket at") && log.contains(&stray.to_string()), "{log}");
}
