//! Clients and MTAs at work on a cluster, and what they see.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::json;
use xtask::services::Cluster;

use crate::support::{Http, Lmtp, Pop3, message, tls, wait_for};

const PASSWORD: &str = "correct-horse";

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Good logins.
    pub(crate) logins: usize,
    /// Messages that were acknowledged.
    pub(crate) acked: usize,
    /// Messages that the MTA keeps and tries again.
    pub(crate) deferred: usize,
    /// Logins that came while the lock of the client's own last session was not given back yet, and were good a second later.
    pub(crate) again: usize,
    /// Logins that were not good.
    pub(crate) failed: Vec<String>,
    /// Sessions that broke off after a good login.
    pub(crate) cut: Vec<String>,
    sent: BTreeSet<String>,
    deleted: BTreeSet<String>,
    mailboxes: Vec<String>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} logins, {} good at the second attempt, {} failed, {} sessions broken off, {} messages acknowledged, {} to be sent again, {} deleted",
            self.logins,
            self.again,
            self.failed.len(),
            self.cut.len(),
            self.acked,
            self.deferred,
            self.deleted.len()
        )
    }
}

impl Told {
    /// Messages that were acknowledged, deleted by nobody, and are not there.
    pub(crate) fn lost(&self, cluster: &Cluster) -> Vec<String> {
        let clients = Clients::of(cluster);
        let mut there = BTreeSet::new();
        for mailbox in &self.mailboxes {
            let mut pop3 = clients.login(mailbox).unwrap();
            let count = pop3.list("LIST").len();
            there.extend((1..=count).map(|number| tag(&pop3.retr(number))));
            pop3.ok("QUIT");
        }
        self.sent.difference(&self.deleted).filter(|tag| !there.contains(*tag)).cloned().collect()
    }
}

/// The tag in a message's subject.
fn tag(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let subject = text.lines().find_map(|line| line.strip_prefix("Subject: "));
    subject.unwrap_or_default().trim().to_owned()
}

/// How clients get in: by POP3S through HAProxy.
#[derive(Clone)]
struct Clients {
    pop3s: SocketAddr,
    config: Arc<rustls::ClientConfig>,
}

impl Clients {
    fn of(cluster: &Cluster) -> Self {
        let config = tls::client_trusting(&cluster.secrets().join("tls.crt"), rustls::ALL_VERSIONS);
        Self { pop3s: cluster.doors.pop3s, config }
    }

    fn login(&self, address: &str) -> io::Result<Pop3> {
        let stream = std::net::TcpStream::connect(self.pop3s)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut pop3 = Pop3::over(Box::new(tls::encrypt(&self.config, stream)))?;
        pop3.command(&format!("USER {address}"))?;
        let reply = pop3.command(&format!("PASS {PASSWORD}"))?;
        if reply.starts_with("+OK") { Ok(pop3) } else { Err(io::Error::other(reply)) }
    }
}

/// Clients and MTAs at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many clients, each with a mailbox and a sender of its own.
    pub(crate) fn start(cluster: &Cluster, clients: usize) -> Self {
        let token = fs::read_to_string(cluster.secrets().join("admin-token")).unwrap();
        let http = Http::new(cluster.doors.admin, token.trim());
        assert_eq!(http.json("POST", "/v1/tenants", &json!({"name": "rolling"})).0, 201);
        assert_eq!(http.json("POST", "/v1/tenants/rolling/domains", &json!({"name": "rolling.test"})).0, 201);
        let names = (0..clients).map(|i| format!("client{i}")).chain((0..2).map(|i| format!("long{i}")));
        let mut mailboxes: Vec<_> = names.map(|name| format!("{name}@rolling.test")).collect();
        for address in &mailboxes {
            let body = json!({"address": address, "password": PASSWORD});
            assert_eq!(http.json("POST", "/v1/tenants/rolling/mailboxes", &body).0, 201);
        }
        mailboxes.truncate(clients);
        let told = Arc::new(Mutex::new(Told { mailboxes: mailboxes.clone(), ..Told::default() }));
        let mut load = Self { stop: Arc::default(), told, threads: Vec::new() };
        for address in mailboxes {
            let (clients, told, stop) =
                (Clients::of(cluster), Arc::clone(&load.told), Arc::clone(&load.stop));
            let to = address.clone();
            load.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    visit(&clients, &to, &told);
                    thread::sleep(Duration::from_millis(30));
                }
            }));
            let (lmtp, told, stop) = (cluster.doors.lmtp, Arc::clone(&load.told), Arc::clone(&load.stop));
            load.threads.push(thread::spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    send(lmtp, &address, &format!("{address}/{number}"), &told);
                    thread::sleep(Duration::from_millis(60));
                }
            }));
        }
        load
    }

    /// Ends it, and tells what was seen.
    pub(crate) fn stop(mut self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

/// Logs in, reads the last message, deletes the first of many.
fn visit(clients: &Clients, address: &str, told: &Mutex<Told>) {
    let login = clients.login(address).or_else(|error| {
        // QUIT is answered before its lock is given back, which a busy database may take a moment for.
        if !error.to_string().contains("[IN-USE]") {
            return Err(error);
        }
        thread::sleep(Duration::from_secs(1));
        let again = clients.login(address)?;
        told.lock().unwrap().again += 1;
        Ok(again)
    });
    let mut pop3 = match login {
        Ok(pop3) => pop3,
        Err(error) => {
            told.lock().unwrap().failed.push(format!("{address}: {error}"));
            return;
        }
    };
    told.lock().unwrap().logins += 1;
    let mut session = || -> io::Result<Option<String>> {
        let stat = pop3.command("STAT")?;
        let count: usize = stat.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        let mut deleted = None;
        if count > 0 {
            let reply = pop3.command("RETR 1")?;
            if !reply.starts_with("+OK") {
                return Err(io::Error::other(reply));
            }
            let body = pop3.body()?;
            if count > 5 {
                deleted = Some(tag(&body));
                pop3.command("DELE 1")?;
            }
        }
        let reply = pop3.command("QUIT")?;
        if reply.starts_with("+OK") { Ok(deleted) } else { Err(io::Error::other(reply)) }
    };
    match session() {
        Ok(deleted) => told.lock().unwrap().deleted.extend(deleted),
        Err(error) => told.lock().unwrap().cut.push(format!("{address}: {error}")),
    }
}

/// As an MTA does: what is not acknowledged is sent again later.
fn send(lmtp: SocketAddr, to: &str, tag: &str, told: &Mutex<Told>) {
    let replies = Lmtp::connect(lmtp).and_then(|mut lmtp| lmtp.deliver(&[to], &message(tag, 4000)));
    let mut told = told.lock().unwrap();
    match replies {
        Ok(replies) if replies.iter().all(|reply| reply.starts_with("250")) => {
            told.acked += 1;
            told.sent.insert(tag.to_owned());
        }
        _ => told.deferred += 1,
    }
}

/// A client that does not let go.
pub(crate) struct Long {
    address: String,
    session: Pop3,
}

impl Long {
    /// Logs in until it is on this node. (HAProxy decides where it gets.)
    pub(crate) fn on(cluster: &Cluster, _load: &Load, node: usize) -> Self {
        let clients = Clients::of(cluster);
        let address = format!("long{node}@rolling.test");
        let name = format!("node{}", node + 1);
        let session = wait_for("a session on the node", Duration::from_secs(30), || {
            let mut session = clients.login(&address).ok()?;
            // The log says whose it is: the greeting has the session's name.
            let id = session.greeting.rsplit_once('(')?.1.trim_end_matches(')').to_owned();
            let here = session.greeting.contains(&name)
                || fs::read_to_string(cluster.log_of(node)).is_ok_and(|log| log.contains(&id));
            if here {
                return Some(session);
            }
            session.command("QUIT").ok()?;
            None
        });
        Self { address, session }
    }

    /// It was told that the node ends, between two commands.
    pub(crate) fn was_told(&mut self) {
        let last = self.session.line().unwrap();
        assert!(last.starts_with("-ERR [SYS/TEMP]"), "{last}");
    }

    /// It is let in at once: its lock was given back.
    pub(crate) fn comes_again(&self, cluster: &Cluster) {
        Clients::of(cluster).login(&self.address).unwrap().ok("QUIT");
    }
}
