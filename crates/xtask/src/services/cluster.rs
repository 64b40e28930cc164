//! What `docker-compose.yml` starts, as plain processes of this machine, from the same configuration files: two nodes
//! behind HAProxy, PostgreSQL, SeaweedFS, Postfix, Prometheus with the rules.
//!
//! The files name services and ports as they are inside of the composition (`node1:1110`). Here each is put in place by
//! the address that it has on this machine, and nothing else is changed but what a container's image would bring.

mod postfix;

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use self::postfix::Postfix;
use super::{ADMIN_KEY, ADMIN_SECRET, Postgres, PostgresOptions, Seaweed, free_ports};
use crate::{
    interrupt,
    process::{self, Group},
};

/// How many nodes there are.
const NODES: usize = 2;
/// Where the composition keeps what is secret.
const SECRETS: &str = "/etc/postern/secrets";
/// The composition's own network, which is believed.
const NETWORK: &str = "172.28.0.0/24";

/// What a cluster is started from.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The workspace's root, with `deploy/`.
    pub root: PathBuf,
    /// Where everything goes; made if need be.
    pub dir: PathBuf,
    /// The directory of PostgreSQL's programs.
    pub postgres_bin: PathBuf,
    /// SeaweedFS.
    pub weed: PathBuf,
    /// The binary of each node: an upgrade has two.
    pub postern: [PathBuf; NODES],
    /// Over the configuration of both nodes: `POSTERN__SECTION__KEY` and value.
    pub env: Vec<(String, String)>,
}

/// Where it is reached.
#[derive(Debug, Clone, Copy)]
pub struct Doors {
    /// POP3 through HAProxy.
    pub pop3: SocketAddr,
    /// POP3S, ended at HAProxy.
    pub pop3s: SocketAddr,
    /// LMTP through HAProxy.
    pub lmtp: SocketAddr,
    /// The admin API through HAProxy.
    pub admin: SocketAddr,
    /// Postfix.
    pub smtp: SocketAddr,
    /// Prometheus.
    pub prometheus: SocketAddr,
}

/// What a node listens on.
#[derive(Debug, Clone, Copy)]
struct NodePorts {
    pop3: SocketAddr,
    lmtp: SocketAddr,
    admin: SocketAddr,
}

/// A running cluster. Dropping it stops everything.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they are to end.
    postfix: Option<Postfix>,
    prometheus: Option<Group>,
    haproxy: Option<Group>,
    nodes: [Option<Group>; NODES],
    ports: [NodePorts; NODES],
    /// Where it is reached.
    pub doors: Doors,
    seaweed: Seaweed,
    /// Its database.
    pub postgres: Postgres,
    options: ClusterOptions,
}

impl Cluster {
    /// Starts everything, and waits until both nodes serve.
    pub fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        fs::create_dir_all(&options.dir).with_context(|| format!("create {}", options.dir.display()))?;
        let postgres = Postgres::start(PostgresOptions::new(&options.postgres_bin, options.dir.join("pg")))?;
        let seaweed = Seaweed::start(&options.weed, options.dir.join("s3"))?;
        let addr = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let node = || -> anyhow::Result<_> {
            let [pop3, lmtp, admin] = free_ports()?.map(addr);
            Ok(NodePorts { pop3, lmtp, admin })
        };
        let [pop3, pop3s, lmtp, admin, smtp, prometheus] = free_ports()?.map(addr);
        let mut cluster = Self {
            postfix: None,
            prometheus: None,
            haproxy: None,
            nodes: [None, None],
            ports: [node()?, node()?],
            doors: Doors { pop3, pop3s, lmtp, admin, smtp, prometheus },
            seaweed,
            postgres,
            options,
        };
        cluster.make_secrets()?;
        cluster.make_stores()?;
        cluster.migrate(0)?;
        for node in 0..NODES {
            cluster.up(node)?;
        }
        cluster.haproxy = Some(cluster.start_haproxy()?);
        cluster.prometheus = Some(cluster.start_prometheus()?);
        let main = cluster.placed("deploy/compose/postfix/main.cf", None)?;
        cluster.postfix = Some(Postfix::start(&cluster.options.dir, cluster.doors.smtp, &main)?);
        let doors = cluster.doors;
        let log = cluster.options.dir.join("haproxy.log");
        let haproxy = &mut cluster.haproxy;
        let found = wait("HAProxy finds the nodes", || {
            let ended = haproxy.as_mut().is_none_or(|haproxy| !matches!(haproxy.ended(), Ok(None)));
            let found = [doors.pop3, doors.lmtp].iter().all(|door| greets(*door));
            (ended || found).then_some(found)
        })?;
        if !found {
            let said = fs::read_to_string(log).unwrap_or_default();
            bail!("HAProxy did not start:\n{}", process::tail(&said, 10));
        }
        Ok(cluster)
    }

    /// `deploy/smoke.sh`, told where everything is.
    pub fn smoke(&self) -> Command {
        let mut command = Command::new(self.options.root.join("deploy/smoke.sh"));
        command
            .env("SMOKE_ADMIN", format!("http://{}", self.doors.admin))
            .env("SMOKE_POP3", self.doors.pop3.to_string())
            .env("SMOKE_POP3S", self.doors.pop3s.to_string())
            .env("SMOKE_SMTP", self.doors.smtp.to_string())
            .env("SMOKE_PROMETHEUS", format!("http://{}", self.doors.prometheus))
            .env("SMOKE_SECRETS", self.secrets());
        command
    }

    /// Where what is secret lies: `admin-token`, `tls.crt` among it.
    pub fn secrets(&self) -> PathBuf {
        self.options.dir.join("secrets")
    }

    /// A node's admin API.
    pub fn admin_of(&self, node: usize) -> SocketAddr {
        self.ports[node].admin
    }

    /// A node's log.
    pub fn log_of(&self, node: usize) -> PathBuf {
        self.options.dir.join(format!("node{}.log", node + 1))
    }

    /// Tells a node to end in order, and waits until it has.
    pub fn drain(&mut self, node: usize) -> anyhow::Result<ExitStatus> {
        let mut group = self.nodes[node].take().context("the node is down")?;
        group.signal(libc::SIGTERM);
        group.wait()
    }

    /// Starts a node by this binary from now on.
    pub fn set_binary(&mut self, node: usize, postern: &Path) {
        postern.clone_into(&mut self.options.postern[node]);
    }

    /// Starts a node, and waits until it is ready.
    pub fn up(&mut self, node: usize) -> anyhow::Result<()> {
        let config = self.node_config(node)?;
        let log = File::options().create(true).append(true).open(self.log_of(node)).context("open log")?;
        let mut command = self.postern(node);
        command.args(["serve", "--config"]).arg(config).stderr(log);
        let mut group = Group::spawn(&mut command, libc::SIGTERM, libc::SIGKILL)?;
        let admin = self.ports[node].admin;
        let text = self.log_of(node);
        wait("a node is ready", || {
            if let Ok(Some(status)) = group.ended() {
                let said = fs::read_to_string(&text).unwrap_or_default();
                eprintln!("postern ended ({}):\n{}", process::describe(status), process::tail(&said, 10));
                return Some(false);
            }
            ready(admin).then_some(true)
        })?
        .then_some(())
        .context("start a node")?;
        self.nodes[node] = Some(group);
        Ok(())
    }

    /// Brings the schema up to date by a node's binary.
    pub fn migrate(&self, node: usize) -> anyhow::Result<()> {
        let config = self.node_config(node)?;
        let mut command = self.postern(node);
        process::run_logged(
            command.args(["migrate", "--config"]).arg(config),
            &self.options.dir.join("migrate.log"),
        )
    }

    fn postern(&self, node: usize) -> Command {
        let mut command = Command::new(&self.options.postern[node]);
        command
            .current_dir(&self.options.dir)
            .env("AWS_ACCESS_KEY_ID", ADMIN_KEY)
            .env("AWS_SECRET_ACCESS_KEY", ADMIN_SECRET)
            .env("POSTERN__NODE__NAME", format!("node{}", node + 1))
            .envs(self.options.env.iter().cloned());
        command
    }

    fn node_config(&self, node: usize) -> anyhow::Result<PathBuf> {
        let text = self.placed("deploy/compose/postern.toml", Some(node))?;
        let path = self.options.dir.join(format!("node{}.toml", node + 1));
        fs::write(&path, text).context("write a node's configuration")?;
        Ok(path)
    }

    /// A file of the composition, with the addresses of this machine; `node` is whose `0.0.0.0` is meant, or HAProxy's.
    fn placed(&self, file: &str, node: Option<usize>) -> anyhow::Result<String> {
        let path = self.options.root.join(file);
        let mut text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let mut places = Vec::new();
        for (i, ports) in self.ports.iter().enumerate() {
            let name = format!("node{}", i + 1);
            for (port, addr) in [(1110, ports.pop3), (1024, ports.lmtp)] {
                // HAProxy asks another port whether the node is ready.
                let checked = format!("{name}:{port} check port 8080");
                places.push((checked, format!("{addr} check port {}", ports.admin.port())));
            }
            places.push((format!("{name}:8080"), ports.admin.to_string()));
        }
        let own = node.map_or([self.doors.pop3, self.doors.lmtp, self.doors.admin], |node| {
            [self.ports[node].pop3, self.ports[node].lmtp, self.ports[node].admin]
        });
        for (port, addr) in [1110, 1024, 8080].into_iter().zip(own) {
            places.push((format!("0.0.0.0:{port}"), addr.to_string()));
        }
        let (secrets, rules) = (self.secrets(), self.options.root.join("deploy/prometheus/rules"));
        places.extend([
            ("0.0.0.0:1995".to_owned(), self.doors.pop3s.to_string()),
            ("haproxy:1024".to_owned(), self.doors.lmtp.to_string()),
            ("http://seaweedfs:8333".to_owned(), self.seaweed.endpoint()),
            ("@postgres:5432".to_owned(), format!("@127.0.0.1:{}", self.postgres.port())),
            (SECRETS.to_owned(), secrets.display().to_string()),
            ("/etc/prometheus/rules".to_owned(), rules.display().to_string()),
            (NETWORK.to_owned(), "127.0.0.0/8".to_owned()),
        ]);
        for (name, place) in &places {
            text = text.replace(name, place);
        }
        Ok(text)
    }

    fn make_secrets(&self) -> anyhow::Result<()> {
        let mut setup = Command::new(self.options.root.join("deploy/compose/setup.sh"));
        process::run_logged(setup.arg(self.secrets()), &self.options.dir.join("setup.log"))?;
        let url = self.secrets().join("index-url");
        let text = fs::read_to_string(&url).context("read index-url")?;
        let place = format!("@127.0.0.1:{}", self.postgres.port());
        fs::write(&url, text.replace("@postgres:5432", &place)).context("write index-url")
    }

    fn make_stores(&self) -> anyhow::Result<()> {
        // No superuser, and not allowed to make roles: the one that migrations want is there already (ADR 9).
        self.postgres.sql("postgres", "CREATE ROLE postern_tenant NOLOGIN")?;
        self.postgres.sql("postgres", "CREATE ROLE postern LOGIN IN ROLE postern_tenant")?;
        self.postgres.sql("postgres", "CREATE DATABASE postern OWNER postern")?;
        let mut create = Command::new("curl");
        create
            .args(["-sfS", "--retry", "5", "--retry-all-errors", "--aws-sigv4", "aws:amz:us-east-1:s3"])
            .args(["-u", &format!("{ADMIN_KEY}:{ADMIN_SECRET}"), "-X", "PUT"])
            .arg(format!("{}/mail", self.seaweed.endpoint()));
        process::run_logged(&mut create, &self.options.dir.join("bucket.log"))
    }

    fn start_haproxy(&self) -> anyhow::Result<Group> {
        let config = self.options.dir.join("haproxy.cfg");
        fs::write(&config, self.placed("deploy/compose/haproxy.cfg", None)?)
            .context("write HAProxy's configuration")?;
        let log = File::create(self.options.dir.join("haproxy.log")).context("open HAProxy's log")?;
        let mut command = Command::new(program("haproxy")?);
        command.arg("-f").arg(config).stdout(log.try_clone().context("share log")?).stderr(log);
        Group::spawn(&mut command, libc::SIGUSR1, libc::SIGKILL)
    }

    fn start_prometheus(&self) -> anyhow::Result<Group> {
        let config = self.options.dir.join("prometheus.yml");
        // A container is scraped every 15 seconds; who waits for it here is in a hurry.
        let text = self.placed("deploy/compose/prometheus.yml", None)?.replace("15s", "1s");
        fs::write(&config, text).context("write Prometheus' configuration")?;
        let log = File::create(self.options.dir.join("prometheus.log")).context("open Prometheus' log")?;
        let mut command = Command::new(program("prometheus")?);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", self.options.dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={}", self.doors.prometheus))
            .stderr(log);
        Group::spawn(&mut command, libc::SIGTERM, libc::SIGKILL)
    }
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    crate::tools::find(name).with_context(|| format!("find {name}"))
}

fn wait<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(done) = done() {
            return Ok(done);
        }
        interrupt::check()?;
        if Instant::now() > deadline {
            bail!("{what}: not within a minute");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Whether a node says that it is ready.
fn ready(admin: SocketAddr) -> bool {
    ask(admin, "GET /readyz HTTP/1.0\r\n\r\n").is_some_and(|answer| answer.contains(" 200 "))
}

/// Whether a mail server says something good.
fn greets(door: SocketAddr) -> bool {
    ask(door, "QUIT\r\n").is_some_and(|answer| answer.starts_with("+OK") || answer.starts_with("220"))
}

fn ask(addr: SocketAddr, question: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(6))).ok()?;
    stream.write_all(question.as_bytes()).ok()?;
    let mut answer = [0; 256];
    let octets = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..octets]).into_owned())
}
