//! Files that have no name yet.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// The file by whose lock a process says that it lives. The kernel drops the lock with the process, however
/// it ends; a process id could be another's by then.
const LOCK: &str = "lock";

/// This process's directory of temporary files.
#[derive(Debug)]
pub(super) struct TempDir {
    path: PathBuf,
    _lock: File,
}

impl TempDir {
    /// Makes a directory of our own under `all`, and removes those whose process is gone.
    pub(super) fn open(all: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(all)?;
        // Held during both, so that nobody sweeps a directory between its making and its locking.
        let gate = File::create(all.join(LOCK))?;
        gate.lock()?;
        sweep(all)?;
        let path = all.join(Uuid::now_v7().to_string());
        std::fs::create_dir(&path)?;
        let lock = File::create(path.join(LOCK))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A new empty file, removed when dropped unless it was published.
    pub(super) fn create(&self) -> io::Result<TempFile> {
        let path = self.path.join(Uuid::new_v4().to_string());
        let file = File::create_new(&path)?;
        Ok(TempFile { file, path, published: false })
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Best effort: the next start sweeps what this leaves.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

fn sweep(all: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(all)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let alive = match File::open(entry.path().join(LOCK)) {
            Ok(lock) => lock.try_lock().is_err(),
            // Killed between making the directory and the lock.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !alive {
            tracing::info!(path = %entry.path().display(), "removing temporary files of a dead process");
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// A temporary file.
#[derive(Debug)]
pub(super) struct TempFile {
    file: File,
    path: PathBuf,
    published: bool,
}

impl TempFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn append(&mut self, octets: &[u8]) -> io::Result<()> {
        self.file.write_all(octets)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// The file has been renamed: there is nothing to remove.
    pub(super) fn published(mut self) {
        self.published = true;
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.published {
            drop(std::fs::remove_file(&self.path));
        }
    }
}
