//! Debian packages.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use super::{ask_root, find};
use crate::{layout::Layout, process, sys};

/// Installs packages, asking nothing and starting no service.
pub(super) fn install(layout: &Layout, packages: &[&str]) -> anyhow::Result<()> {
    if !sys::is_root() {
        return ask_root(packages);
    }
    if find("apt-get").is_none() {
        bail!("these programs are missing, and there is no apt-get to install them: {}", packages.join(", "));
    }
    println!("xtask: installing {}", packages.join(", "));
    let own = layout.own()?;
    process::run_logged(apt_get().arg("update"), &own.join("apt-update.log"))?;
    if packages.contains(&"postfix") {
        preseed("postfix postfix/main_mailer_type select No configuration\n")?;
    }
    let _quiet = NoServices::declare()?;
    let mut command = apt_get();
    command.args(["install", "-y", "--no-install-recommends"]).args(packages);
    process::run_logged(&mut command, &own.join("apt-install.log"))
}

/// Unpacks a package under the target directory and installs nothing: what it would start, or ask for, stays away. The directory
/// is marked when it is complete.
pub(super) fn unpack(layout: &Layout, package: &str) -> anyhow::Result<PathBuf> {
    let own = layout.own()?.join("deb");
    let dir = own.join(package);
    let complete = dir.join("complete");
    if complete.exists() {
        return Ok(dir.join("root"));
    }
    println!("xtask: unpacking {package}");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    if sys::is_root() {
        process::run_logged(apt_get().arg("update"), &own.join("apt-update.log"))?;
    }
    let mut download = apt_get();
    download.current_dir(&dir).args(["download", package]);
    process::run_logged(&mut download, &own.join("apt-download.log"))?;
    let mut files = fs::read_dir(&dir).context("list download")?.flatten().map(|entry| entry.path());
    let deb = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let deb = deb.with_context(|| format!("find the download of {package}"))?;
    let mut dpkg = Command::new("dpkg");
    process::run_logged(dpkg.arg("-x").arg(&deb).arg(dir.join("root")), &own.join("dpkg.log"))?;
    fs::remove_file(&deb).context("remove download")?;
    fs::write(&complete, "").context("mark directory")?;
    Ok(dir.join("root"))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"])
        .args(["-o", "Acquire::Retries=3"]);
    command
}

/// Answers a package's question beforehand.
fn preseed(answer: &str) -> anyhow::Result<()> {
    let mut child = Command::new("debconf-set-selections")
        .stdin(Stdio::piped())
        .spawn()
        .context("run debconf-set-selections")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(answer.as_bytes()).context("answer debconf")?;
    }
    let status = child.wait().context("run debconf-set-selections")?;
    if !status.success() {
        bail!("debconf-set-selections failed ({})", process::describe(status));
    }
    Ok(())
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// While it lives, installed servers are not started (invoke-rc.d(8)): tests start their own.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn declare() -> anyhow::Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY)
            .with_context(|| format!("create {POLICY}"))?;
        let policy = Self { ours: true };
        file.write_all(b"#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
        file.set_permissions(fs::Permissions::from_mode(0o755)).context("open policy-rc.d")?;
        Ok(policy)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
