//! A Postfix of our own. It has to be started by root.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::{process, sys};

/// A running Postfix. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Postfix {
    dir: PathBuf,
}

impl Postfix {
    /// Starts it with this main.cf; its log goes to `postfix.log` under `base`.
    pub(super) fn start(base: &Path, smtp: SocketAddr, main: &str) -> anyhow::Result<Self> {
        if !sys::is_root() {
            bail!("Postfix has to be started by root");
        }
        // Its daemons run as user postfix, which must get at the queue: private directories are out of its reach.
        let dir =
            std::env::temp_dir().join(format!("postern-postfix-{}-{}", std::process::id(), smtp.port()));
        for name in ["etc", "queue", "data"] {
            fs::create_dir_all(dir.join(name)).with_context(|| format!("create {}", dir.display()))?;
        }
        let postfix = Self { dir };
        fs::set_permissions(&postfix.dir, fs::Permissions::from_mode(0o755))
            .context("open Postfix's directory")?;
        let at = |name: &str| postfix.dir.join(name).display().to_string();
        let log = base.join("postfix.log");
        process::run_logged(Command::new("chown").args(["postfix", &at("data")]), &log)?;
        // What an image brings, and a shorter wait.
        let own = format!(
            "queue_directory = {}\ndata_directory = {}\ncommand_directory = /usr/sbin\n\
             daemon_directory = /usr/lib/postfix/sbin\ninet_interfaces = loopback-only\nmaillog_file = {}\n\
             minimal_backoff_time = 2s\nqueue_run_delay = 2s\n",
            at("queue"),
            at("data"),
            log.display(),
        );
        // Nothing may stand twice: the daemon that writes the log would wait for itself to write a warning.
        let key = |line: &str| line.split_once(" = ").map(|(key, _)| key.to_owned());
        let keys: Vec<_> = own.lines().filter_map(key).collect();
        let others = main.lines().filter(|line| key(line).is_none_or(|key| !keys.contains(&key)));
        let text = others.chain(own.lines()).fold(String::new(), |text, line| text + line + "\n");
        fs::write(postfix.dir.join("etc/main.cf"), text).context("write main.cf")?;
        fs::write(postfix.dir.join("etc/master.cf"), master(smtp)?).context("write master.cf")?;
        process::run_logged(Command::new("/usr/sbin/postfix").args(["-c", &at("etc"), "start"]), &log)?;
        Ok(postfix)
    }
}

/// Debian's master.cf, listening elsewhere and without the directories of a chroot.
fn master(smtp: SocketAddr) -> anyhow::Result<String> {
    let dist =
        ["/usr/share/postfix/master.cf.dist", "/etc/postfix/master.cf.proto", "/etc/postfix/master.cf"];
    let dist = dist.iter().find_map(|path| fs::read_to_string(path).ok()).context("find master.cf")?;
    let mut text = String::new();
    for line in dist.lines() {
        let mut fields: Vec<&str> = line.split_whitespace().collect();
        let smtp = smtp.to_string();
        if !line.starts_with(['#', ' ', '\t']) && fields.len() >= 8 {
            fields[4] = "n";
            if fields[0] == "smtp" && fields[1] == "inet" {
                fields[0] = &smtp;
            }
            text += &fields.join(" ");
        } else {
            text += line;
        }
        text.push('\n');
    }
    Ok(text)
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let etc = self.dir.join("etc");
        let _ = Command::new("/usr/sbin/postfix").arg("-c").arg(etc).arg("stop").output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
