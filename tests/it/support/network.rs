//! A client on another machine, as it were: in a network namespace of its own, whose link can be cut.
//!
//! A connection whose other end is gone cannot be had on one host: whatever a program does, its kernel answers.

use std::{
    io::{Read, Write},
    net::Ipv4Addr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use super::{Pop3, run};

/// Connects, and carries octets both ways.
const CARRY: &str = "
import os, socket, ssl, sys, threading
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
if sys.argv[3] == 'tls':
    s = ssl._create_unverified_context().wrap_socket(s)
def down():
    while octets := s.recv(65536):
        os.write(1, octets)
    os._exit(0)
threading.Thread(target=down, daemon=True).start()
while octets := os.read(0, 65536):
    s.sendall(octets)
";

/// A network with one machine in it.
pub(crate) struct Network {
    name: String,
    host: Ipv4Addr,
}

impl Network {
    /// Lays a cable to a new one.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        // Several test processes may run at once, and one that was killed leaves its own behind: each has subnets by its
        // own number, in the range for benchmarks (RFC 2544), which nobody has, and takes the first that is free.
        let (process, count) = (std::process::id(), COUNT.fetch_add(8, Ordering::Relaxed));
        let first = (process as u16).wrapping_mul(64).wrapping_add(count);
        let added = |subnet: &u16| {
            Command::new("ip")
                .args(["netns", "add", &format!("pt{subnet}")])
                .output()
                .unwrap()
                .status
                .success()
        };
        let mut subnets = (0..64).map(|next| first.wrapping_add(next) & 0x3fff);
        let subnet = subnets.find(added).expect("a network namespace needs root");
        let at = |host: u16| {
            let [high, low] = (subnet << 2 | host).to_be_bytes();
            Ipv4Addr::new(198, 18, high, low)
        };
        let this = Self { name: format!("pt{subnet}"), host: at(1) };
        let name = &this.name;
        ip(&format!("link add {name}h type veth peer name {name}c netns {name}"));
        ip(&format!("address add {}/30 dev {name}h", this.host));
        ip(&format!("link set {name}h up"));
        ip(&format!("-n {name} address add {}/30 dev {name}c", at(2)));
        this.mend();
        this
    }

    /// From now on nothing goes through, either way, and nobody is told.
    pub(crate) fn cut(&self) {
        ip(&format!("-n {0} link set {0}c down", self.name));
    }

    pub(crate) fn mend(&self) {
        ip(&format!("-n {0} link set {0}c up", self.name));
    }

    /// Connects from there to this port of the host's.
    pub(crate) fn connect(&self, port: u16) -> Pop3 {
        self.connect_by(port, "plain")
    }

    /// The same, over TLS.
    pub(crate) fn connect_tls(&self, port: u16) -> Pop3 {
        self.connect_by(port, "tls")
    }

    fn connect_by(&self, port: u16, how: &str) -> Pop3 {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name, "python3", "-c", CARRY])
            .args([&self.host.to_string(), &port.to_string(), how])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Pop3::over(Box::new(Carried { child, stdin, stdout })).unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        let _ = Command::new("ip").args(["link", "delete", &format!("{}h", self.name)]).output();
    }
}

#[track_caller]
fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

/// A connection of a process in a network.
struct Carried {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Read for Carried {
    fn read(&mut self, octets: &mut [u8]) -> std::io::Result<usize> {
        self.stdout.read(octets)
    }
}

impl Write for Carried {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.stdin.write(octets)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stdin.flush()
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
