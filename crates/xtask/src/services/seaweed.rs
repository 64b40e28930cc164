//! A private S3 server: SeaweedFS, all its parts in one process.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::free_ports;
use crate::{
    interrupt,
    process::{self, Group},
};

/// The access key that may do anything.
pub const ADMIN_KEY: &str = "posterntest";
/// Its secret.
pub const ADMIN_SECRET: &str = "posterntestsecret";
/// An access key that may only read and list.
pub const READER_KEY: &str = "posternreader";
/// Its secret.
pub const READER_SECRET: &str = "posternreadersecret";

/// An access key of somebody else, who brings a bucket along.
pub const GUEST_KEY: &str = "posternguest";
/// Its secret.
pub const GUEST_SECRET: &str = "posternguestsecret";
/// The access key that takes its place.
pub const GUEST_KEY_NEXT: &str = "posternguestnext";
/// Its secret.
pub const GUEST_SECRET_NEXT: &str = "posternguestnextsecret";

/// An S3 server of our own. Dropping it stops it. Buckets must be created; a missing one is an error, as on
/// the real thing.
#[derive(Debug)]
pub struct Seaweed {
    weed: PathBuf,
    dir: PathBuf,
    ports: [u16; 8],
    server: Option<Group>,
}

impl Seaweed {
    /// Starts `weed` (`POSTERN_TEST_WEED` under `cargo xtask test`) with its data and log under `dir`.
    pub fn start(weed: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let mut seaweed = Self { weed: weed.into(), dir: dir.into(), ports: [0; 8], server: None };
        let mut tries = 0;
        loop {
            seaweed.ports = free_ports()?;
            tries += 1;
            match seaweed.spawn().and_then(|()| seaweed.wait_ready()) {
                // Someone may have taken a port meanwhile.
                Err(_) if tries < 3 && interrupt::caught().is_none() => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(seaweed),
            }
        }
    }

    /// Brings it up again after [`Self::stop`] or [`Self::kill9`], on the same ports. Does nothing if it is up.
    pub fn up(&mut self) -> anyhow::Result<()> {
        if self.server.is_some() {
            return Ok(());
        }
        self.spawn()?;
        self.wait_ready()
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Kills it at once.
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

    /// The S3 endpoint. Buckets are named in the path; any region will do.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The S3 port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.ports[6]
    }

    /// Its process, while it is up.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Group::pid)
    }

    /// Its log.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("weed.log")
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        fs::create_dir_all(self.dir.join("data"))
            .with_context(|| format!("create {}", self.dir.display()))?;
        fs::write(self.dir.join("s3.json"), identities()).context("write identities")?;
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).context("open log")?;
        let mut command = Command::new(&self.weed);
        // Paths are relative to the directory, for those of sockets must be short.
        command.current_dir(&self.dir).args(["-logtostderr=true", "-v=0", "server", "-dir=data"]);
        command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]);
        let names = [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port",
            "s3.port.grpc",
        ];
        for (name, port) in names.iter().zip(self.ports) {
            command.arg(format!("-{name}={port}"));
        }
        command
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.config=s3.json"])
            .args(["-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock"])
            .args(["-s3.autoCreateBucket=false", "-master.telemetry=false"])
            .args(["-master.volumeSizeLimitMB=1024", "-master.electionTimeout=1s"])
            .args(["-volume.max=10000", "-volume.preStopSeconds=0"])
            // Every bucket takes its own volumes; one at a time is enough for a test's.
            .env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1")
            .stdout(log.try_clone().context("share log")?)
            .stderr(log);
        self.server = Some(Group::spawn(&mut command, libc::SIGTERM, libc::SIGKILL)?);
        Ok(())
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_mins(1);
        while !self.healthy() {
            let ended = self.server.as_mut().map(Group::ended).transpose()?.flatten();
            if let Some(status) = ended {
                self.server = None;
                let text = fs::read_to_string(self.log_path()).unwrap_or_default();
                let end = process::describe(status);
                bail!("SeaweedFS did not start ({end}):\n{}", process::tail(&text, 20));
            }
            if Instant::now() > deadline {
                self.server = None;
                bail!("SeaweedFS was not ready after a minute (its log: {})", self.log_path().display());
            }
            interrupt::check()?;
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn healthy(&self) -> bool {
        let ask = || -> std::io::Result<[u8; 12]> {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()));
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
            let mut status = [0; 12];
            stream.read_exact(&mut status)?;
            Ok(status)
        };
        ask().is_ok_and(|status| status.ends_with(b" 200"))
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        // Nobody wants its data any more.
        self.kill9();
    }
}

fn identities() -> String {
    serde_json::json!({ "identities": [
        {
            "name": "admin",
            "credentials": [{ "accessKey": ADMIN_KEY, "secretKey": ADMIN_SECRET }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{ "accessKey": READER_KEY, "secretKey": READER_SECRET }],
            "actions": ["Read", "List"],
        },
        {
            "name": "guest",
            "credentials": [{ "accessKey": GUEST_KEY, "secretKey": GUEST_SECRET }],
            "actions": ["Read", "Write", "List"],
        },
        {
            "name": "guestnext",
            "credentials": [{ "accessKey": GUEST_KEY_NEXT, "secretKey": GUEST_SECRET_NEXT }],
            "actions": ["Read", "Write", "List"],
        },
    ]})
    .to_string()
}
