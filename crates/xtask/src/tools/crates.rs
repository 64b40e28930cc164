//! Programs that are built from crates.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, bail};

use super::is_executable;
use crate::{layout::Layout, process};

/// What makes Debian packages.
pub(super) const CARGO_DEB: Crate = Crate { name: "cargo-deb", version: "3.8.0", features: &[] };
/// What makes the book. Its search and its server are not looked at.
pub(super) const MDBOOK: Crate =
    Crate { name: "mdbook", version: "0.5.4", features: &["--no-default-features"] };

/// A crate that brings a program of its name.
#[derive(Debug)]
pub(super) struct Crate {
    pub(super) name: &'static str,
    /// One version for everybody: what is checked does not change by itself.
    pub(super) version: &'static str,
    /// Arguments of `cargo install` that say what of it is wanted.
    pub(super) features: &'static [&'static str],
}

/// Builds a crate's program under the target directory, once (a minute or so). What was built on the way is not kept.
pub(super) fn install(layout: &Layout, what: &Crate) -> anyhow::Result<PathBuf> {
    let own = layout.own()?.join("crates");
    let root = own.join(format!("{}-{}", what.name, what.version));
    let program = root.join("bin").join(what.name);
    if is_executable(&program) {
        return Ok(program);
    }
    println!("xtask: building {} {}", what.name, what.version);
    let target = own.join(format!("{}-build", what.name));
    fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
    let mut cargo = layout.cargo();
    cargo
        .args(["install", "--locked", "--version", what.version])
        .args(what.features)
        .arg("--root")
        .arg(&root)
        .arg(what.name)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_INCREMENTAL", "0")
        // It runs for seconds: building it fast is worth more than a fast program.
        .envs([("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"), ("CARGO_PROFILE_RELEASE_LTO", "off")]);
    process::run_logged(&mut cargo, &own.join(format!("{}.log", what.name)))?;
    fs::remove_dir_all(&target).with_context(|| format!("remove {}", target.display()))?;
    if !is_executable(&program) {
        bail!("{} brought no {}", what.name, program.display());
    }
    Ok(program)
}
