//! A running Postern.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;

use super::{Http, Stores, env, run, wait_for};

/// The administrator's token of every node.
pub(crate) const TOKEN: &str = "0123456789abcdef-admin";

/// How a node is started.
pub(crate) struct NodeOptions {
    pub(crate) stores: Stores,
    /// More of the configuration, sections or `section.key = value` lines.
    pub(crate) extra: String,
    pub(crate) tls: bool,
    /// Whether POP3 is reached from other machines, and passwords are taken in the clear from there.
    pub(crate) from_elsewhere: bool,
    /// How long answers to refused logins wait, at first and at most.
    pub(crate) failure_delay: (&'static str, &'static str),
}

impl NodeOptions {
    pub(crate) fn embedded() -> Self {
        Self {
            stores: Stores::Embedded,
            extra: String::new(),
            tls: false,
            from_elsewhere: false,
            failure_delay: ("1ms", "20ms"),
        }
    }

    pub(crate) fn servers() -> Self {
        Self { stores: Stores::servers(), ..Self::embedded() }
    }

    pub(crate) fn on(stores: &Stores) -> Self {
        Self { stores: stores.clone(), ..Self::embedded() }
    }
}

/// A node of our own. Dropping it kills it.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) pop3: SocketAddr,
    pub(crate) pop3s: SocketAddr,
    pub(crate) lmtp: SocketAddr,
    pub(crate) admin: SocketAddr,
    config: PathBuf,
    stores: Stores,
    child: Option<Child>,
}

impl Node {
    /// Migrates and starts a node, and waits until it is ready.
    pub(crate) fn start(options: &NodeOptions) -> Self {
        let mut node = Self::prepare(options);
        run(node.postern().args(["migrate", "--config"]).arg(&node.config));
        node.up();
        node
    }

    /// Writes a node's configuration.
    pub(crate) fn prepare(options: &NodeOptions) -> Self {
        let dir = tempfile::tempdir_in(env("POSTERN_TEST_TMP")).unwrap();
        let [pop3, pop3s, lmtp, admin] =
            xtask::services::free_ports().unwrap().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(dir.path().join("admin-token"), TOKEN).unwrap();
        let everywhere = |addr: SocketAddr| SocketAddr::from(([0, 0, 0, 0], addr.port()));
        let (listen, listen_tls, plaintext) = if options.from_elsewhere {
            (everywhere(pop3), everywhere(pop3s), "plaintext_auth = \"always\"\n")
        } else {
            (pop3, pop3s, "")
        };
        let mut text = format!(
            "[pop3]\nlisten = [\"{listen}\"]\n{plaintext}[lmtp]\nlisten = [\"{lmtp}\", \"unix:{}\"]\n\
             [admin]\nlisten = [\"{admin}\"]\ntoken_file = \"{}\"\n\
             [auth]\nargon2_memory_kib = 64\nfailure_delay = \"{}\"\nfailure_delay_max = \"{}\"\n",
            at("lmtp.sock"),
            at("admin-token"),
            options.failure_delay.0,
            options.failure_delay.1,
        );
        if options.tls {
            write_certificate(dir.path());
            text += &format!(
                "[pop3s]\nlisten = [\"{listen_tls}\"]\n[tls]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n",
                at("cert.pem"),
                at("key.pem")
            );
        }
        text += &options.stores.toml();
        // What a test adds may be for a section that is there: the environment's form has no such trouble,
        // but a file is what operators write, so sections are merged here.
        let config = dir.path().join("postern.toml");
        fs::write(
            &config,
            merge(
                &text,
                &format!("[node]\nname = \"pop.test\"\ndata_dir = \"{}\"\n", at("data")),
                &options.extra,
            ),
        )
        .unwrap();
        Self { dir, pop3, pop3s, lmtp, admin, config, stores: options.stores.clone(), child: None }
    }

    /// Starts the process and waits until it is ready.
    pub(crate) fn up(&mut self) {
        self.spawn();
        let admin = self.admin;
        let child = self.child.as_mut().unwrap();
        let log = self.dir.path().join("log");
        wait_for("node is ready", Duration::from_secs(60), || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("postern ended: {status}\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            TcpStream::connect(admin).ok()?;
            (Http::new(admin, "").get("/livez").0 == 200).then_some(())
        });
    }

    /// Starts the process.
    pub(crate) fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = self.postern();
        command.args(["serve", "--config"]).arg(&self.config).stderr(log).process_group(0);
        self.child = Some(command.spawn().unwrap());
    }

    /// The binary, with credentials for the S3 server.
    pub(crate) fn postern(&self) -> Command {
        let mut command = Command::new(env("POSTERN_TEST_BIN"));
        command
            .env("AWS_ACCESS_KEY_ID", xtask::services::ADMIN_KEY)
            .env("AWS_SECRET_ACCESS_KEY", xtask::services::ADMIN_SECRET)
            .current_dir(self.dir.path());
        command
    }

    pub(crate) fn config_path(&self) -> &Path {
        &self.config
    }

    /// Where it keeps things.
    pub(crate) fn stores(&self) -> &Stores {
        &self.stores
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: i32) {
        // A number that does not fit names no process.
        let pid = i32::try_from(self.pid()).unwrap();
        run(Command::new("kill").args([format!("-{signal}"), pid.to_string()]));
    }

    /// Ends the process the hard way.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        let status = wait_for("node ends", Duration::from_secs(60), || child.try_wait().unwrap());
        self.child = None;
        status
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn http(&self) -> Http {
        Http::new(self.admin, TOKEN)
    }

    /// Makes tenant `name` with domain `name.test`.
    #[track_caller]
    pub(crate) fn tenant(&self, name: &str) {
        let (status, body) = self.http().json("POST", "/v1/tenants", &json!({ "name": name }));
        assert_eq!(status, 201, "{body}");
        let path = format!("/v1/tenants/{name}/domains");
        let (status, body) = self.http().json("POST", &path, &json!({ "name": format!("{name}.test") }));
        assert_eq!(status, 201, "{body}");
    }

    /// Makes mailbox `local@tenant.test` with password `pw`.
    #[track_caller]
    pub(crate) fn mailbox(&self, tenant: &str, local: &str, quota: Option<u64>) -> String {
        let address = format!("{local}@{tenant}.test");
        let body = json!({ "address": address, "password": "pw", "quota_octets": quota });
        let (status, body) = self.http().json("POST", &format!("/v1/tenants/{tenant}/mailboxes"), &body);
        assert_eq!(status, 201, "{body}");
        address
    }

    /// A tenant `one` with a mailbox.
    #[track_caller]
    pub(crate) fn with_mailbox(self, local: &str) -> (Self, String) {
        self.tenant("one");
        let address = self.mailbox("one", local, None);
        (self, address)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("--- end of {}'s log", self.dir.path().display());
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// Writes a self-signed certificate for localhost.
pub(crate) fn write_certificate(dir: &Path) {
    let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert));
}

/// Joins configuration texts: keys of a section that stands in several go together.
fn merge(first: &str, second: &str, third: &str) -> String {
    let mut sections: Vec<(String, String)> = Vec::new();
    for text in [first, second, third] {
        let mut current = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                name.clone_into(&mut current);
                continue;
            }
            match sections.iter_mut().find(|(name, _)| *name == current) {
                Some((_, body)) => {
                    *body += line;
                    body.push('\n');
                }
                None => sections.push((current.clone(), format!("{line}\n"))),
            }
        }
    }
    sections.iter().fold(String::new(), |text, (name, body)| {
        if name.is_empty() { text + body } else { text + &format!("[{name}]\n{body}") }
    })
}
