//! Upgrades across a change of the schema: old and new binaries side by side (ADR 31).

use std::{path::PathBuf, time::Duration};

use crate::{
    rolling::{Load, cluster_of},
    support::{Node, NodeOptions, Stores, env, login, run},
};

/// What a later release does to the schema while this one serves: it widens it.
const EXPAND: &str = "
    ALTER TABLE mailboxes ADD COLUMN later_text text;
    ALTER TABLE mailboxes ADD COLUMN later_number bigint NOT NULL DEFAULT 0;
    ALTER TABLE messages ADD COLUMN later_json jsonb NOT NULL DEFAULT '{}';
    ALTER TABLE tenants ADD COLUMN later_array text[];
    CREATE TABLE later_things (tenant_id uuid, thing_id uuid, PRIMARY KEY (tenant_id, thing_id));
    CREATE FUNCTION later_function(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1';
    UPDATE schema_info SET version = version + 1;";
/// Fills in what is old, as housekeeping does.
const MOVE: &str =
    "UPDATE mailboxes SET later_number = message_count; UPDATE messages SET later_json = '{\"a\": 1}';";
/// In a file of its own, as indexes on what grows are.
const INDEX: &str = "CREATE INDEX CONCURRENTLY messages_later ON messages (tenant_id, later_json)";
/// What the release after the next does: the form that nobody reads any more goes.
const CONTRACT: &str = "
    ALTER TABLE mailboxes DROP COLUMN later_text, DROP COLUMN later_number;
    ALTER TABLE messages DROP COLUMN later_json;
    ALTER TABLE tenants DROP COLUMN later_array;
    DROP TABLE later_things;
    DROP FUNCTION later_function(integer);";

/// As the chart's job does it: what PostgreSQL rolled back because of others is tried again.
fn persistently<E: std::fmt::Display>(mut run: impl FnMut() -> Result<(), E>) {
    for attempt in 1_u8.. {
        match run() {
            Ok(()) => return,
            Err(error) if attempt < 6 => println!("attempt {attempt}: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn nodes_serve_under_load_while_the_schema_is_widened_filled_and_contracted() {
    let dir = tempfile::tempdir_in(env("POSTERN_TEST_TMP")).unwrap();
    let new = PathBuf::from(env("POSTERN_TEST_BIN"));
    // A build of an earlier release, where there is one: then it is the present one that migrates.
    let old = std::env::var_os("POSTERN_TEST_OLD_BIN").map(PathBuf::from);
    let mut cluster = cluster_of(dir.path(), old.as_ref().unwrap_or(&new));
    let version = |cluster: &xtask::services::Cluster| {
        cluster.postgres.sql("postern", "SELECT version FROM schema_info").unwrap()
    };
    let before = version(&cluster);
    let load = Load::start(&cluster, 4);
    std::thread::sleep(Duration::from_secs(2));
    // Expand: old nodes go on.
    cluster.set_binary(0, &new);
    if old.is_some() {
        persistently(|| cluster.migrate(0));
    } else {
        // Each in a transaction of its own: one that locks a second table may meet a session that has it.
        for statement in EXPAND.split_inclusive(';').chain([INDEX]).chain(MOVE.split_inclusive(';')) {
            persistently(|| cluster.postgres.sql("postern", statement).map(drop));
        }
    }
    let after = version(&cluster);
    println!("schema {before} before, {after} after");
    assert_ne!(before, after, "nothing was migrated");
    std::thread::sleep(Duration::from_secs(2));
    // New beside old, then an old one that starts anew, then new alone.
    for (node, binary) in [
        (0, &new),
        (1, old.as_ref().unwrap_or(&new)),
        (0, old.as_ref().unwrap_or(&new)),
        (0, &new),
        (1, &new),
    ] {
        assert!(cluster.drain(node).unwrap().success());
        cluster.set_binary(node, binary);
        cluster.up(node).unwrap();
        std::thread::sleep(Duration::from_secs(3));
    }
    // An older binary's migration, as a roll-back runs it, leaves a newer schema alone.
    if let Some(old) = &old {
        cluster.set_binary(1, old);
        println!("the older binary's migrate: {:?}", cluster.migrate(1).map_err(|error| error.to_string()));
    } else {
        cluster.migrate(1).unwrap();
    }
    assert_eq!(version(&cluster), after);
    // Contract: only binaries that know the schema run, and what older ones needed goes from under them.
    let known = if old.is_some() {
        after
    } else {
        for statement in CONTRACT.split_inclusive(';') {
            persistently(|| cluster.postgres.sql("postern", statement).map(drop));
        }
        before
    };
    let contracted = format!("UPDATE schema_info SET version = {known}, compatible_from = {known}");
    persistently(|| cluster.postgres.sql("postern", &contracted).map(drop));
    println!("contracted to {known}");
    if let Some(old) = &old {
        cluster.set_binary(1, old);
        assert!(cluster.drain(1).unwrap().success());
        let refused = cluster.up(1).expect_err("an older binary serves on a contracted schema");
        println!("the older binary: {refused:#}");
    }
    for node in [1, 0] {
        // Node 1 is down already where an older binary was refused.
        if node == 0 || old.is_none() {
            assert!(cluster.drain(node).unwrap().success());
        }
        cluster.set_binary(node, &new);
        cluster.up(node).unwrap();
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

#[test]
fn a_contracted_schema_is_refused_by_who_does_not_know_it_and_left_alone() {
    let options = NodeOptions::servers();
    let (mut node, a) = Node::start(&options).with_mailbox("a");
    let Stores::Servers(database, _) = &options.stores else { unreachable!() };
    let config = node.config_path().to_owned();
    // One version on, and compatible: nothing to do.
    database.sql("UPDATE schema_info SET version = version + 1");
    let newer = database.sql("SELECT version FROM schema_info");
    let output = run(node.postern().args(["migrate", "--config"]).arg(&config));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("schema is at version {newer}"));
    node.kill9();
    node.up();
    login(node.pop3, &a, "pw").ok("QUIT");
    // The contraction.
    database.sql("UPDATE schema_info SET compatible_from = version");
    node.kill9();
    for command in ["serve", "migrate"] {
        let output = node.postern().args([command, "--config"]).arg(&config).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(said.contains("schema is newer than this binary"), "{command}: {said}");
    }
    assert_eq!(database.sql("SELECT version FROM schema_info"), newer);
}
