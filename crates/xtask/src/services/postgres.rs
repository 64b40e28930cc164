//! A private PostgreSQL server.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{account::Account, free_ports};
use crate::{
    interrupt,
    process::{self, Group},
};

/// What server to start.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The directory of `initdb` and `postgres` (`POSTERN_TEST_PG_BIN` under `cargo xtask test`).
    pub bin: PathBuf,
    /// Where its data and log go; made if need be.
    pub dir: PathBuf,
    /// Whether a commit waits for the disk. Only without it may a crash of the machine lose data; a killed
    /// server loses nothing either way.
    pub fsync: bool,
    /// Connections at most.
    pub max_connections: u32,
    /// More settings, `name=value`.
    pub settings: Vec<String>,
}

impl PostgresOptions {
    /// Settings for tests: no waiting for the disk, 300 connections.
    pub fn new(bin: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        Self { bin: bin.into(), dir: dir.into(), fsync: false, max_connections: 300, settings: Vec::new() }
    }
}

/// A PostgreSQL server of our own, with the superuser `postgres` and no password. Dropping it stops it.
#[derive(Debug)]
pub struct Postgres {
    options: PostgresOptions,
    account: Option<Account>,
    port: u16,
    server: Option<Group>,
}

impl Postgres {
    /// Makes a cluster under `options.dir` and brings it up.
    pub fn start(options: PostgresOptions) -> anyhow::Result<Self> {
        let account = Account::unprivileged()?;
        fs::create_dir_all(&options.dir).with_context(|| format!("create {}", options.dir.display()))?;
        if let Some(account) = account {
            account.own(&options.dir)?;
        }
        let mut postgres = Self { options, account, port: 0, server: None };
        let mut initdb = postgres.command("initdb");
        initdb
            .arg("-D")
            .arg(postgres.data())
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"])
            .args(["--no-sync", "--no-instructions"]);
        process::run_logged(&mut initdb, &postgres.options.dir.join("initdb.log"))?;
        let mut tries = 0;
        loop {
            [postgres.port] = free_ports()?;
            tries += 1;
            match postgres.up() {
                // Someone may have taken the port meanwhile.
                Err(_) if tries < 3 && interrupt::caught().is_none() => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(postgres),
            }
        }
    }

    /// Brings it up again after [`Self::stop`] or [`Self::kill9`], on the same port. Does nothing if it is up.
    pub fn up(&mut self) -> anyhow::Result<()> {
        if self.server.is_some() {
            return Ok(());
        }
        let mut command = self.command("postgres");
        let durable = if self.options.fsync { "on" } else { "off" };
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-h", "127.0.0.1"]);
        let own = [
            // No socket file: its path may be too long, and TCP is all that is used.
            "unix_socket_directories=".to_owned(),
            format!("fsync={durable}"),
            // A commit reaches the kernel before it is answered: else a killed server would lose it.
            "synchronous_commit=on".to_owned(),
            format!("full_page_writes={durable}"),
            format!("max_connections={}", self.options.max_connections),
        ];
        for setting in own.iter().chain(&self.options.settings) {
            command.args(["-c", setting]);
        }
        let log = self.log_path();
        let file = OpenOptions::new().create(true).append(true).open(&log).context("open log")?;
        command.stdout(file.try_clone().context("share log")?).stderr(file);
        // SIGQUIT is PostgreSQL's immediate shutdown: should we be killed, nothing of it stays behind.
        let mut server = Group::spawn(&mut command, libc::SIGQUIT, libc::SIGQUIT)?;
        let deadline = Instant::now() + Duration::from_mins(1);
        while !self.answers() {
            if let Some(status) = server.ended()? {
                let text = fs::read_to_string(&log).unwrap_or_default();
                bail!(
                    "PostgreSQL did not start ({}):\n{}",
                    process::describe(status),
                    process::tail(&text, 20)
                );
            }
            if Instant::now() > deadline {
                bail!("PostgreSQL was not ready after a minute (its log: {})", log.display());
            }
            interrupt::check()?;
            thread::sleep(Duration::from_millis(20));
        }
        self.server = Some(server);
        Ok(())
    }

    /// Stops it in order: sessions are cut, what is committed is written.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // SIGINT is the fast shutdown.
            server.signal(libc::SIGINT);
            let deadline = Instant::now() + Duration::from_secs(10);
            while matches!(server.ended(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Kills all of it at once.
    pub fn kill9(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
        }
    }

    /// Stops it and brings it up again.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.stop();
        self.up()
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process, while it is up.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Group::pid)
    }

    /// Its log.
    pub fn log_path(&self) -> PathBuf {
        self.options.dir.join("postgres.log")
    }

    /// Runs SQL in a database with `psql`; the rows, one a line, columns parted by `|`.
    pub fn sql(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let output = Command::new(self.options.bin.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database), "-c", sql])
            .output()
            .context("run psql")?;
        if !output.status.success() {
            bail!("psql failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn data(&self) -> PathBuf {
        self.options.dir.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.options.bin.join(program));
        // Our own working directory may be closed to its user.
        command.current_dir(Path::new("/")).env("LC_ALL", "C").env_remove("PGDATA").env_remove("PGPORT");
        if let Some(account) = self.account {
            account.apply(&mut command);
        }
        command
    }

    /// Whether it takes a session: the start of the protocol is answered with an authentication request.
    fn answers(&self) -> bool {
        let greet = || -> std::io::Result<u8> {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let parameters = b"user\0postgres\0database\0postgres\0\0";
            let mut startup = ((8 + parameters.len()) as u32).to_be_bytes().to_vec();
            startup.extend_from_slice(&0x0003_0000_u32.to_be_bytes());
            startup.extend_from_slice(parameters);
            stream.write_all(&startup)?;
            let mut kind = [0];
            stream.read_exact(&mut kind)?;
            stream.write_all(b"X\0\0\0\x04")?;
            Ok(kind[0])
        };
        greet().is_ok_and(|kind| kind == b'R')
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its data are not wanted any more than itself: no checkpoint, no waiting.
        if let Some(server) = &mut self.server {
            server.stop();
        }
    }
}
