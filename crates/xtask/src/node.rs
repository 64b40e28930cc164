//! A release Postern on a PostgreSQL and an S3 server of our own, with mailboxes in it.

use std::{
    fs,
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::{
    interrupt,
    layout::Layout,
    load::{http::Http, meter::Server, s3::S3, tls::Identity},
    process::{self, Group},
    services::{ADMIN_KEY, ADMIN_SECRET, Postgres, PostgresOptions, Seaweed, free_ports},
    tools::Servers,
};

/// The domain of every mailbox.
pub(crate) const DOMAIN: &str = "bench.test";
/// The password of every mailbox.
pub(crate) const PASSWORD: &str = "correct-horse-battery";
/// The tenant they belong to.
const TENANT: &str = "bench";
const BUCKET: &str = "mail";
/// Mailboxes have a quota, as most do, which no measurement reaches.
const QUOTA_OCTETS: u64 = 1 << 40;
/// Configuration for what measures other things than the worker's own requests.
pub(crate) const QUIET: &str = "[gc]\ninterval = \"1h\"\n";
const TOKEN: &str = "bench-token-0123456789abcdef0123456789abcdef";

/// Where a POP3 and LMTP server listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) pop3: SocketAddr,
    pub(crate) pop3s: SocketAddr,
    pub(crate) lmtp: SocketAddr,
}

/// A node and the servers under it.
pub(crate) struct Node {
    // In the order in which they are to end.
    group: Group,
    pub(crate) postgres: Postgres,
    pub(crate) seaweed: Seaweed,
    pub(crate) ports: Ports,
    pub(crate) admin: SocketAddr,
}

/// What a node is started from.
pub(crate) struct Store<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) servers: &'a Servers,
    /// The release binary.
    pub(crate) postern: &'a Path,
    pub(crate) tls: &'a Identity,
    /// What else is in the configuration.
    pub(crate) more: &'a str,
}

/// One more node, on the same index and bucket.
pub(crate) struct Another {
    group: Group,
    pub(crate) ports: Ports,
    pub(crate) admin: SocketAddr,
}

impl Another {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.group.pid()
    }
}

impl Node {
    /// Starts all three; `postern` is the release binary.
    pub(crate) async fn start(
        dir: &Path,
        servers: &Servers,
        postern: &Path,
        tls: &Identity,
    ) -> anyhow::Result<Self> {
        Self::start_on(&Store { dir, servers, postern, tls, more: QUIET }).await
    }

    /// The same, with more configuration.
    pub(crate) async fn start_on(store: &Store<'_>) -> anyhow::Result<Self> {
        let Store { dir, servers, .. } = store;
        let seaweed = Seaweed::start(&servers.weed, dir.join("s3"))?;
        // Measured as it is run: a commit waits for the disk.
        let mut options = PostgresOptions::new(&servers.postgres_bin, dir.join("pg"));
        options.fsync = true;
        options.settings.push("shared_buffers=256MB".to_owned());
        let postgres = Postgres::start(options)?;
        postgres.sql("postgres", "CREATE DATABASE postern")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, seaweed.port()));
        S3::connect(address).await?.create_bucket(BUCKET).await.context("create bucket")?;
        let Another { group, ports, admin } = spawn(store, "postern", &postgres, &seaweed.endpoint()).await?;
        Ok(Self { group, postgres, seaweed, ports, admin })
    }

    /// Starts one more node, which reaches the object store at `endpoint`.
    pub(crate) async fn another(&self, store: &Store<'_>, endpoint: &str) -> anyhow::Result<Another> {
        spawn(store, "another", &self.postgres, endpoint).await
    }

    /// Makes mailboxes, `local@bench.test` each.
    pub(crate) async fn create_mailboxes(
        &self,
        locals: impl IntoIterator<Item = String>,
    ) -> anyhow::Result<()> {
        let mut http = Http::connect(self.admin).await?;
        let base = format!("/v1/tenants/{TENANT}");
        post(&mut http, "/v1/tenants", &json!({ "name": TENANT })).await?;
        // Before their passwords are set: what each mechanism needs is made of them.
        let mechanisms = ["USER", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"];
        let policy = json!({ "policy": { "login_mechanisms": mechanisms } });
        ask(&mut http, "PATCH", &base, &policy).await?;
        post(&mut http, &format!("{base}/domains"), &json!({ "name": DOMAIN })).await?;
        for local in locals {
            interrupt::check()?;
            let mailbox =
                json!({ "address": address(&local), "password": PASSWORD, "quota_octets": QUOTA_OCTETS });
            post(&mut http, &format!("{base}/mailboxes"), &mailbox).await?;
        }
        Ok(())
    }

    /// Postern's process.
    pub(crate) fn pid(&self) -> u32 {
        self.group.pid()
    }

    /// What is measured, Postern first.
    pub(crate) fn servers(&self) -> Vec<Server> {
        let mut servers = vec![Server { name: "postern", pid: self.pid() }];
        servers.extend(self.postgres.pid().map(|pid| Server { name: "postgres", pid }));
        servers.extend(self.seaweed.pid().map(|pid| Server { name: "s3", pid }));
        servers
    }
}

/// Migrates and starts a node, and waits until it is ready.
async fn spawn(
    store: &Store<'_>,
    name: &str,
    postgres: &Postgres,
    endpoint: &str,
) -> anyhow::Result<Another> {
    let [pop3, pop3s, lmtp, admin] =
        free_ports()?.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let ports = Ports { pop3, pop3s, lmtp };
    let config = store.dir.join(format!("{name}.toml"));
    fs::write(&config, configuration(store, name, ports, admin, postgres, endpoint)?)
        .context("write config")?;
    let log = store.dir.join(format!("{name}.log"));
    process::run_logged(&mut command(store.postern, "migrate", &config), &store.dir.join("migrate.log"))?;
    let file = File::create(&log).context("create log")?;
    let mut serve = command(store.postern, "serve", &config);
    serve.stdout(file.try_clone().context("share log")?).stderr(file);
    let mut group = Group::spawn(&mut serve, libc::SIGTERM, libc::SIGKILL)?;
    wait_ready(&mut group, admin, &log).await?;
    Ok(Another { group, ports, admin })
}

async fn wait_ready(group: &mut Group, admin: SocketAddr, log: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(status) = group.ended()? {
            let text = fs::read_to_string(log).unwrap_or_default();
            bail!("postern did not start ({}):\n{}", process::describe(status), process::tail(&text, 20));
        }
        if let Ok(mut http) = Http::connect(admin).await
            && http.request("GET", "/readyz", "", b"", true).await.is_ok_and(|answer| answer.status == 200)
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("postern was not ready after a minute (its log: {})", log.display());
        }
        interrupt::check()?;
        thread::sleep(Duration::from_millis(50));
    }
}

/// Requests that a node has made to the object store, by its own count.
pub(crate) async fn store_requests(admin: SocketAddr) -> anyhow::Result<u64> {
    let answer = Http::connect(admin).await?.request("GET", "/metrics", "", b"", true).await?;
    let text = String::from_utf8_lossy(&answer.good("/metrics")?.body).into_owned();
    let counts = text
        .lines()
        .filter(|line| line.starts_with("postern_object_requests_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

/// A mailbox's address.
pub(crate) fn address(local: &str) -> String {
    format!("{local}@{DOMAIN}")
}

/// The binary to measure: this one, or the release build of the workspace.
pub(crate) fn binary(layout: &Layout, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return given.canonicalize().with_context(|| format!("find {}", given.display()));
    }
    let status = process::run(layout.cargo().args(["build", "--release", "--package", "postern"]))?;
    if !status.success() {
        bail!("building postern failed ({})", process::describe(status));
    }
    Ok(layout.target.join("release/postern"))
}

async fn post(http: &mut Http, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
    ask(http, "POST", path, body).await
}

async fn ask(http: &mut Http, method: &str, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
    let headers = format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n");
    let answer = http.request(method, path, &headers, body.to_string().as_bytes(), true).await?;
    answer.good(path)?;
    Ok(())
}

fn command(postern: &Path, verb: &str, config: &Path) -> Command {
    let mut command = Command::new(postern);
    command
        .arg(verb)
        .arg("--config")
        .arg(config)
        .env("AWS_ACCESS_KEY_ID", ADMIN_KEY)
        .env("AWS_SECRET_ACCESS_KEY", ADMIN_SECRET);
    command
}

fn configuration(
    store: &Store<'_>,
    node: &str,
    ports: Ports,
    admin: SocketAddr,
    postgres: &Postgres,
    endpoint: &str,
) -> anyhow::Result<String> {
    let Store { dir, tls, .. } = store;
    let write = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    };
    let token = write("admin-token", TOKEN)?;
    // 32 octets of no importance.
    let key = write("master-key", "UG9zdGVybiBiZW5jaG1hcmsgbWFzdGVyIGtleSAzMiE=\n")?;
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    Ok(format!(
        "[pop3]\nlisten = [\"{pop3}\"]\nmechanisms = [\"PLAIN\", \"SCRAM-SHA-256\", \"SCRAM-SHA-1\", \"CRAM-MD5\"]\n\n\
         [pop3s]\nlisten = [\"{pop3s}\"]\n\n[lmtp]\nlisten = [\"{lmtp}\"]\n\n\
         [admin]\nlisten = [\"{admin}\"]\ntoken_file = {token}\n\n\
         [tls]\ncertificate_file = {certificate}\nkey_file = {private}\n\n\
         [index]\nurl = \"{index}\"\n\n\
         [blob]\nkind = \"s3\"\nbucket = \"{BUCKET}\"\nregion = \"us-east-1\"\nendpoint = \"{endpoint}\"\n\n\
         [keys]\nmaster_key_file = {key}\n\n[node]\nname = \"{node}\"\ndata_dir = {data}\n\n\
         [log]\nformat = \"text\"\nfilter = \"warn\"\n\n{more}",
        more = store.more,
        pop3 = ports.pop3,
        pop3s = ports.pop3s,
        lmtp = ports.lmtp,
        token = quoted(&token),
        certificate = quoted(&tls.certificate),
        private = quoted(&tls.key),
        index = postgres.url("postern"),
        key = quoted(&key),
        data = quoted(&dir.join(format!("data-{node}"))),
    ))
}
