//! The peer: Debian's Dovecot 2.3, a private instance on Maildir, set up as fast as it goes.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::chown,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::plan::{self, Plan};
use crate::{
    interrupt,
    load::{clients::Door, clients::poll, idle, meter::Server, tls::Identity},
    node::{PASSWORD, Ports, address},
    process::{self, Group},
    services::free_ports,
    sys, tools,
};

/// The programs it needs, and their packages.
pub(super) const PACKAGES: [(&str, &str); 1] = [("dovecot", "dovecot-core dovecot-pop3d dovecot-lmtpd")];

/// Whose mail it is: Debian's user `mail`.
const MAIL: u32 = 8;

/// A running instance.
pub(super) struct Dovecot {
    group: Group,
    pub(super) ports: Ports,
}

impl Dovecot {
    /// Starts one with its configuration, sockets and mail under `dir`, and `sharing` sessions of a process.
    pub(super) async fn start(
        dir: &Path,
        tls: &Identity,
        plan: &Plan,
        sharing: usize,
    ) -> anyhow::Result<Self> {
        if !sys::is_root() {
            bail!("measuring Dovecot needs root: it runs its parts as several users");
        }
        let dovecot = tools::find("dovecot").context("find dovecot")?;
        let version = Command::new(&dovecot).arg("--version").output().context("run dovecot")?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        if !version.starts_with("2.3.") {
            bail!("the configuration is for Dovecot 2.3, this is {}", version.trim());
        }
        let mail = dir.join("mail");
        fs::create_dir_all(&mail).context("create mail directory")?;
        chown(&mail, Some(MAIL), Some(MAIL)).context("give away mail directory")?;
        let mailboxes = plan::mailboxes().into_iter().chain((0..plan.idle()).map(idle::mailbox));
        let users: Vec<String> =
            mailboxes.map(|local| format!("{}:{{PLAIN}}{PASSWORD}", address(&local))).collect();
        fs::write(dir.join("users"), users.join("\n") + "\n").context("write users")?;
        let [pop3, pop3s, lmtp] =
            free_ports()?.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let ports = Ports { pop3, pop3s, lmtp };
        let config = dir.join("dovecot.conf");
        fs::write(&config, configuration(dir, ports, tls, sharing)).context("write configuration")?;
        let mut command = Command::new(dovecot);
        command.arg("-F").arg("-c").arg(&config);
        let group = Group::spawn(&mut command, libc::SIGTERM, libc::SIGTERM)?;
        let mut instance = Self { group, ports };
        let deadline = Instant::now() + Duration::from_secs(30);
        while poll(&Door::Plain(pop3), &plan::mailbox("poll", 0)).await.is_err() {
            let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
            if let Some(status) = instance.group.ended()? {
                bail!(
                    "dovecot did not start ({}):\n{}",
                    process::describe(status),
                    process::tail(&log(), 20)
                );
            }
            if Instant::now() > deadline {
                bail!("dovecot was not ready after 30 s:\n{}", process::tail(&log(), 20));
            }
            interrupt::check()?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(instance)
    }

    /// The master and all its children.
    pub(super) fn server(&self) -> Server {
        Server { name: "dovecot", pid: self.group.pid() }
    }
}

fn configuration(dir: &Path, ports: Ports, tls: &Identity, sharing: usize) -> String {
    let dir = dir.display();
    format!(
        "base_dir = {dir}/base\nstate_dir = {dir}/state\nlog_path = {dir}/log\n\
         protocols = pop3 lmtp\nlisten = 127.0.0.1\ninstance_name = postern-bench\ndefault_process_limit = 1200\n\
         mail_location = maildir:{dir}/mail/%n\nfirst_valid_uid = 1\nfirst_valid_gid = 1\npop3_no_flag_updates = yes\nmail_max_userip_connections = 0\nstats_writer_socket_path =\n\
         # A delivery is on disk before it is acknowledged.\nmail_fsync = optimized\n\
         ssl = yes\nssl_cert = <{certificate}\nssl_key = <{key}\ndisable_plaintext_auth = no\nauth_mechanisms = plain cram-md5 scram-sha-1 scram-sha-256\n\
         passdb {{\n  driver = passwd-file\n  args = username_format=%u {dir}/users\n}}\n\
         userdb {{\n  driver = static\n  args = uid={MAIL} gid={MAIL} home={dir}/mail/%n\n}}\n\
         # High-performance login mode, and processes that serve many sessions.\n\
         service pop3-login {{\n  service_count = 0\n  process_min_avail = 2\n  process_limit = 2\n  \
         client_limit = 10000\n  \
         inet_listener pop3 {{\n    port = {pop3}\n  }}\n  \
         inet_listener pop3s {{\n    port = {pop3s}\n    ssl = yes\n  }}\n}}\n\
         service pop3 {{\n  service_count = 0\n  process_min_avail = 32\n  process_limit = 1200\n  \
          client_limit = {sharing}\n}}\n\
         service lmtp {{\n  service_count = 0\n  process_min_avail = 16\n  \
         inet_listener lmtp {{\n    address = 127.0.0.1\n    port = {lmtp}\n  }}\n}}\n\
         service anvil {{\n  client_limit = 10000\n}}\nservice auth {{\n  client_limit = 10000\n}}\n",
        certificate = tls.certificate.display(),
        key = tls.key.display(),
        pop3 = ports.pop3.port(),
        pop3s = ports.pop3s.port(),
        lmtp = ports.lmtp.port(),
    )
}
