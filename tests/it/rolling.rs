//! The composition of `docker-compose.yml` as plain processes: it works, and nodes are replaced under load.

mod load;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use xtask::services::{Cluster, ClusterOptions};

pub(crate) use self::load::Load;
use self::load::Long;
use crate::support::{env, run};

/// A cluster of nodes by this binary, which end soon after they are told to.
pub(crate) fn cluster_of(dir: &Path, binary: &Path) -> Cluster {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let over = [
        ("POSTERN__AUTH__ARGON2_MEMORY_KIB", "64"),
        // HAProxy looks every second, and believes what it sees twice.
        ("POSTERN__NODE__DRAIN_DELAY", "4s"),
        ("POSTERN__NODE__DRAIN_TIMEOUT", "3s"),
    ];
    Cluster::start(ClusterOptions {
        root,
        dir: dir.to_owned(),
        postgres_bin: env("POSTERN_TEST_PG_BIN").into(),
        weed: env("POSTERN_TEST_WEED").into(),
        postern: [binary.to_owned(), binary.to_owned()],
        env: over.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
    })
    .unwrap()
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in(env("POSTERN_TEST_TMP")).unwrap()
}

#[test]
fn the_composition_works_and_is_restarted_node_by_node_under_load() {
    let dir = temporary();
    let mut cluster = cluster_of(dir.path(), &PathBuf::from(env("POSTERN_TEST_BIN")));
    println!("{}", String::from_utf8_lossy(&run(&mut cluster.smoke()).stdout).trim());
    let load = Load::start(&cluster, 6);
    std::thread::sleep(Duration::from_secs(2));
    for node in 0..2 {
        // One that stays on each node through its drain, and longer than it may.
        let mut long = Long::on(&cluster, &load, node);
        assert!(cluster.drain(node).unwrap().success());
        long.was_told();
        cluster.up(node).unwrap();
        long.comes_again(&cluster);
        // Until HAProxy has seen that it is back.
        std::thread::sleep(Duration::from_secs(3));
    }
    let told = load.stop();
    println!("{told}");
    assert!(told.logins > 100 && told.acked > 50, "{told}: next to no load: {:?}", told.failed.first());
    assert_eq!((told.failed.len(), told.cut.len()), (0, 0), "{told}\n{:?}\n{:?}", told.failed, told.cut);
    assert!(told.again * 100 <= told.logins, "{told}");
    let lost = told.lost(&cluster);
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
}
