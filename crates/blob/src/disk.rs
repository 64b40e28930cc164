//! Objects as files under one directory, for one machine: the embedded default.
//!
//! A file appears under its name only whole and durable: written under a temporary name, synced, renamed,
//! and the directories synced up to the first that was there before. Temporary files live in `.tmp`, a
//! directory for each process that it holds locked; what a dead process left is removed at the next start.

mod list;
mod temp;
mod upload;

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use maildrop::port::BlobError;
use tokio::sync::Semaphore;

use crate::{BlobKey, ObjectBody, ObjectPage, ObjectStore, Upload};
use temp::TempDir;

/// Octets read at a time: large enough that the hop to the blocking pool does not show, small enough that a
/// slow reader holds little.
const READ_OCTETS: u64 = 256 * 1024;

/// How the disk store is set up.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// The directory; made if it is not there. Default: none, it must be given.
    pub path: PathBuf,
    /// Most file operations at once, so that a slow disk does not take every blocking thread of the process
    /// (tokio has 512). Default: 64.
    pub operations_max: usize,
}

impl DiskConfig {
    /// The defaults, for `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), operations_max: 64 }
    }
}

/// Objects as files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DiskStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    temp: TempDir,
    operations: Semaphore,
}

impl DiskStore {
    /// Opens the store, makes its directory where there is none, and sweeps what dead processes left.
    pub async fn open(config: DiskConfig) -> Result<Self, BlobError> {
        let operations = Semaphore::new(config.operations_max.max(1));
        tokio::task::spawn_blocking(move || {
            let root = config.path;
            create_dirs(&root).map_err(|e| disk_error(&root, &e))?;
            let temp = TempDir::open(&root.join(".tmp")).map_err(|e| disk_error(&root, &e))?;
            Ok(Self { inner: Arc::new(Inner { root, temp, operations }) })
        })
        .await
        .map_err(|e| BlobError::Unavailable(e.to_string()))?
    }

    /// Runs file operations on the blocking pool, so many at a time.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let _permit =
            self.inner.operations.acquire().await.map_err(|e| BlobError::Unavailable(e.to_string()))?;
        let inner = Arc::clone(&self.inner);
        // If the caller goes away the work still ends: a rename is never left half synced.
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|e| BlobError::Unavailable(e.to_string()))?
    }
}

impl Inner {
    /// Joins cannot escape: a [`BlobKey`] has no empty, dotted or absolute segment.
    fn path(&self, key: &BlobKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Gives a synced temporary file its name, durably.
    fn publish(&self, from: &Path, key: &BlobKey) -> io::Result<()> {
        let to = self.path(key);
        let parent = to.parent().unwrap_or(&self.root);
        if let Err(error) = std::fs::rename(from, &to) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            create_dirs(parent)?;
            std::fs::rename(from, &to)?;
        }
        sync_dir(parent)
    }
}

#[async_trait]
impl ObjectStore for DiskStore {
    async fn put(&self, key: &BlobKey, body: Bytes) -> Result<(), BlobError> {
        let key = key.clone();
        self.run(move |inner| {
            let mut file = inner.temp.create().map_err(|e| disk_error(&inner.root, &e))?;
            file.append(&body)
                .and_then(|()| file.sync())
                .and_then(|()| inner.publish(file.path(), &key))
                .map_err(|e| disk_error(&inner.root, &e))?;
            file.published();
            Ok(())
        })
        .await
    }

    async fn upload(&self, key: &BlobKey) -> Result<Box<dyn Upload>, BlobError> {
        let file = self.run(|inner| inner.temp.create().map_err(|e| disk_error(&inner.root, &e))).await?;
        Ok(Box::new(upload::DiskUpload::new(self.clone(), key.clone(), file)))
    }

    async fn get(&self, key: &BlobKey, range: Range<u64>) -> Result<ObjectBody, BlobError> {
        let path = self.inner.path(key);
        let (file, first, next, end) = self
            .run(move |_| {
                let file = match File::open(&path) {
                    Ok(file) => file,
                    Err(error) if is_absent(&error) => {
                        return Err(BlobError::NotFound(path.display().to_string()));
                    }
                    Err(error) => return Err(disk_error(&path, &error)),
                };
                let octets = file.metadata().map_err(|e| disk_error(&path, &e))?.len();
                let end = range.end.min(octets);
                let first = read_at(&file, range.start..end).map_err(|e| disk_error(&path, &e))?;
                let next = range.start.saturating_add(first.len() as u64);
                Ok((Arc::new(file), first, next, end))
            })
            .await?;
        let store = self.clone();
        let first = stream::iter((!first.is_empty()).then_some(Ok(first)));
        let rest = stream::try_unfold(next, move |next| {
            let (store, file) = (store.clone(), Arc::clone(&file));
            async move {
                if next >= end {
                    return Ok(None);
                }
                let octets = store
                    .run(move |inner| read_at(&file, next..end).map_err(|e| disk_error(&inner.root, &e)))
                    .await?;
                // A file that has become shorter ends here: the reader notices what is missing.
                let after = if octets.is_empty() { end } else { next + octets.len() as u64 };
                Ok((!octets.is_empty()).then_some((octets, after)))
            }
        });
        Ok(Box::pin(first.chain(rest)))
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>, BlobError> {
        let path = self.inner.path(key);
        self.run(move |_| match std::fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(disk_error(&path, &error)),
        })
        .await
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<(), BlobError> {
        let keys = keys.to_vec();
        self.run(move |inner| {
            for key in &keys {
                let path = inner.path(key);
                // Not synced: a file that comes back after a power cut is garbage nobody points at, and is
                // swept like any other.
                match std::fs::remove_file(&path) {
                    Ok(()) => {}
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(disk_error(&path, &error)),
                }
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<ObjectPage, BlobError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.run(move |inner| {
            list::list(&inner.root, &prefix, after.as_ref()).map_err(|e| disk_error(&inner.root, &e))
        })
        .await
    }

    async fn ready(&self) -> Result<(), BlobError> {
        self.run(|inner| {
            std::fs::metadata(inner.temp.path()).map(|_| ()).map_err(|e| disk_error(&inner.root, &e))
        })
        .await
        .map_err(|error| match error {
            BlobError::NotFound(path) => BlobError::Misconfigured(format!("{path} has vanished")),
            other => other,
        })
    }
}

/// The next piece of `range`, empty at its end or the file's.
fn read_at(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let wanted = range.end.saturating_sub(range.start).min(READ_OCTETS) as usize;
    let mut octets = vec![0; wanted];
    let mut filled = 0;
    while filled < wanted {
        match file.read_at(&mut octets[filled..], range.start + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    octets.truncate(filled);
    Ok(octets.into())
}

/// Makes a directory and its parents, each synced into the one above it.
fn create_dirs(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => sync_dir(path.parent().unwrap_or(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_dirs(path.parent().ok_or(error)?)?;
            create_dirs(path)
        }
        Err(error) => Err(error),
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    // The parent of a relative path of one segment is the empty path: the current directory.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

fn is_absent(error: &io::Error) -> bool {
    // A segment of the key may be a file: then there is nothing below it.
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// What a failed file operation means to the caller.
fn disk_error(path: &Path, error: &io::Error) -> BlobError {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound => BlobError::NotFound(path.display().to_string()),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            BlobError::Full(text)
        }
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidFilename => BlobError::Misconfigured(text),
        _ => BlobError::Unavailable(text),
    }
}
