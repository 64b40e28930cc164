//! What comes as packages of npm, each in a private directory under the target directory.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context as _;

use super::find;
use crate::{layout::Layout, process};

/// An OpenID provider whose tokens say what a test wants.
const OIDC: &str = "oauth2-mock-server@8.2.3";

/// A POP3 client.
const NODE_POP3: &str = "node-pop3@0.11.0";

/// The directory that node-pop3 is installed in.
pub(super) fn node_pop3(layout: &Layout) -> anyhow::Result<PathBuf> {
    install(layout, NODE_POP3)
}

/// The directory that the OpenID provider can be imported from.
pub(super) fn oidc(layout: &Layout) -> anyhow::Result<PathBuf> {
    install(layout, OIDC)
}

/// Installs a package unless it is there. The directory is marked when it is complete: an interrupted installation is
/// never taken for one.
fn install(layout: &Layout, package: &str) -> anyhow::Result<PathBuf> {
    let own = layout.own()?.join("npm");
    let dir = own.join(package.replace('@', "-"));
    let complete = dir.join("complete");
    if complete.exists() {
        return Ok(dir);
    }
    println!("xtask: installing {package}");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    fs::write(dir.join("package.json"), "{\"private\":true,\"type\":\"module\"}\n")
        .context("write package.json")?;
    let npm = find("npm").context("find npm")?;
    let mut command = Command::new(npm);
    command.current_dir(&dir).args([
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--save-exact",
    ]);
    command.arg(package);
    process::run_logged(&mut command, &own.join("npm.log"))?;
    fs::write(&complete, "").context("mark directory")?;
    Ok(dir)
}
