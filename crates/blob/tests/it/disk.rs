//! The disk adapter: the contract, and what is its own.

use std::{fs, path::Path, process::Command};

use blob::{BlobKey, DiskConfig, DiskStore, ObjectStore};
use bytes::Bytes;
use maildrop::port::BlobError;

use crate::support::{House, MemoryStore, noise};

/// A store, and the directory that goes away after it.
async fn fresh() -> (DiskStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (DiskStore::open(DiskConfig::new(dir.path())).await.unwrap(), dir)
}

mod contract {
    use super::fresh;
    crate::contract::contract!(fresh());
}

mod memory_contract {
    use super::MemoryStore;
    crate::contract::contract!(async { (MemoryStore::default(), ()) });
}

fn key(text: &str) -> BlobKey {
    BlobKey::try_from(text).unwrap()
}

fn files_below(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn only_dead_processes_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let living = DiskStore::open(DiskConfig::new(dir.path())).await.unwrap();
    let mut upload = living.upload(&key("a/b")).await.unwrap();
    upload.part(Bytes::from_static(b"half ")).await.unwrap();
    // As a killed process leaves them: nobody holds the lock, or there is none yet.
    for dead in ["dead", "killed-early"] {
        fs::create_dir_all(dir.path().join(".tmp").join(dead)).unwrap();
        fs::write(dir.path().join(".tmp").join(dead).join("leftover"), b"octets").unwrap();
    }
    fs::write(dir.path().join(".tmp/dead/lock"), b"").unwrap();

    let second = DiskStore::open(DiskConfig::new(dir.path())).await.unwrap();
    let left = files_below(&dir.path().join(".tmp"));
    assert!(!left.iter().any(|path| path.contains("leftover")), "{left:?}");
    upload.part(Bytes::from_static(b"and half")).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(second.size(&key("a/b")).await.unwrap(), Some(13));
    assert_eq!(second.list("", None).await.unwrap().objects.len(), 1);

    drop((living, second));
    let left = files_below(&dir.path().join(".tmp"));
    assert_eq!(left.len(), 1, "only the gate's lock file is left: {left:?}");
}

#[tokio::test]
async fn what_is_in_the_way_is_a_misconfiguration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let opened = DiskStore::open(DiskConfig::new(&file)).await.map(|_| ());
    assert!(matches!(opened, Err(BlobError::Misconfigured(_))), "{opened:?}");

    let store = DiskStore::open(DiskConfig::new(dir.path().join("new/dir"))).await.unwrap();
    store.ready().await.unwrap();
    fs::remove_dir_all(dir.path().join("new")).unwrap();
    let ready = store.ready().await;
    assert!(matches!(ready, Err(BlobError::Misconfigured(_))), "{ready:?}");
}

const FULL_DISK: &str = "POSTERN_TEST_FULL_DISK";

/// Runs itself again inside a mount namespace of its own, on a file system of 4 MiB.
#[test]
fn a_full_disk_is_said_and_nothing_is_left() {
    if let Some(path) = std::env::var_os(FULL_DISK) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(on_full_disk(Path::new(&path)));
    }
    let dir = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(format!(
            "mount -t tmpfs -o size=4m tmpfs \"${FULL_DISK}\" && exec \"$0\" --exact \
             disk::a_full_disk_is_said_and_nothing_is_left --nocapture"
        ))
        .arg(this)
        .env(FULL_DISK, dir.path())
        .output()
        .expect("unshare (util-linux) is needed to make a small file system");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "in a mount namespace: {out}\n{err}");
}

async fn on_full_disk(path: &Path) {
    let store = DiskStore::open(DiskConfig::new(path)).await.unwrap();
    let octets = Bytes::from(noise(3 * 1024 * 1024, 1));
    store.put(&key("first"), octets.clone()).await.unwrap();
    let put = store.put(&key("second"), octets.clone()).await;
    assert!(matches!(put, Err(BlobError::Full(_))), "{put:?}");
    let mut upload = store.upload(&key("third")).await.unwrap();
    let part = upload.part(octets.clone()).await;
    assert!(matches!(part, Err(BlobError::Full(_))), "{part:?}");
    assert!(upload.complete().await.is_err());

    // The same through packs, both ways of storing.
    let house = House::new(store.clone());
    let small = house.store(&noise(1_000_000, 2)).await;
    assert!(small.is_ok(), "{small:?}");
    let small = house.store(&noise(1_000_000, 3)).await;
    assert!(matches!(small, Err(BlobError::Full(_))), "{small:?}");
    let large = house.store(&noise(20_000_000, 4)).await;
    assert!(matches!(large, Err(BlobError::Full(_))), "{large:?}");

    // Room again: nothing of the failures lies about, and what was there is whole.
    assert_eq!(store.list("", None).await.unwrap().objects.len(), 2);
    store.delete(&[key("first")]).await.unwrap();
    store.put(&key("fourth"), octets).await.unwrap();
}
