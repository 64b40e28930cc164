//! Where things are: the workspace, its target directory, and a directory for each run.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{process, sys};

/// The workspace's places.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The workspace's root.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
}

impl Layout {
    /// Finds the workspace this program was built in.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().context("find workspace")?;
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Our own corner of the target directory, made if need be.
    pub(crate) fn own(&self) -> anyhow::Result<PathBuf> {
        let own = self.target.join("xtask");
        fs::create_dir_all(&own).with_context(|| format!("create {}", own.display()))?;
        Ok(own)
    }

    /// Cargo, to be run in the workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        cargo
    }
}

/// A run's own directory. Dropping it removes it, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    keep: bool,
}

impl RunDir {
    /// Makes a directory for this run, and sweeps those of runs that were killed.
    pub(crate) fn create(layout: &Layout) -> anyhow::Result<Self> {
        let mut runs = layout.own()?.join("run");
        fs::create_dir_all(&runs).with_context(|| format!("create {}", runs.display()))?;
        if sys::is_root() && !others_may_enter(&runs) {
            // PostgreSQL will not run as root, and no other user may go here (a workspace under /root).
            runs = env::temp_dir().join("postern-xtask");
            fs::create_dir_all(&runs).with_context(|| format!("create {}", runs.display()))?;
        }
        for entry in fs::read_dir(&runs).into_iter().flatten().flatten() {
            let owner = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if owner.is_some_and(|pid: u32| process::stat(pid).is_none()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = runs.join(std::process::id().to_string());
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("open run directory")?;
        Ok(Self { path, keep: false })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory where it is, for its logs.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn others_may_enter(path: &Path) -> bool {
    path.ancestors().all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
}
