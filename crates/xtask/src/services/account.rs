//! The user PostgreSQL runs as when we are root, for it refuses to be root.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::Path,
    process::Command,
};

use anyhow::Context as _;

use crate::sys;

/// A user of this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// Whom to run as: nobody else than ourselves, unless we are root.
    pub(super) fn unprivileged() -> anyhow::Result<Option<Self>> {
        if !sys::is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        let found = ["postgres", "nobody"].into_iter().find_map(|name| Self::parse(&passwd, name));
        Ok(Some(found.context("find user postgres or nobody in /etc/passwd")?))
    }

    fn parse(passwd: &str, name: &str) -> Option<Self> {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }

    /// Has a command run as this user.
    pub(super) fn apply(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Gives it a directory.
    pub(super) fn own(self, path: &Path) -> anyhow::Result<()> {
        chown(path, Some(self.uid), Some(self.gid)).with_context(|| format!("give away {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_passwd() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres:x:101:104:PostgreSQL,,,:/var:/bin/sh\n";
        let account = Account::parse(passwd, "postgres").expect("postgres is there");
        assert_eq!((account.uid, account.gid), (101, 104));
        assert!(Account::parse(passwd, "nobody").is_none());
    }
}
