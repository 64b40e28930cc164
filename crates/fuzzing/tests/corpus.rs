//! Inputs that fuzzing found, each of which goes another way through the code, once more.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a test that cannot go on says so")]

use std::{fs, path::Path};

use fuzzing::{TARGETS, Target};

/// Inputs a corpus has at least: a corpus that went missing is no proof of anything.
const INPUTS_MIN: usize = 5;

#[track_caller]
fn replay((name, target): Target) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut count = 0;
    for entry in fs::read_dir(&dir).expect("there is a corpus") {
        let path = entry.expect("it can be listed").path();
        let input = fs::read(&path).expect("it can be read");
        // A panic in there tells what is wrong, and this of what.
        println!("{}", path.display());
        target(&input);
        count += 1;
    }
    println!("{name}: {count} inputs");
    assert!(count >= INPUTS_MIN, "{}: {count} inputs", dir.display());
}

fn target(name: &str) -> Target {
    *TARGETS.iter().find(|(target, _)| *target == name).expect("there is such a target")
}

#[test]
fn pop3() {
    replay(target("pop3"));
}

#[test]
fn lmtp() {
    replay(target("lmtp"));
}

#[test]
fn sasl() {
    replay(target("sasl"));
}

#[test]
fn proxy() {
    replay(target("proxy"));
}

#[test]
fn packs() {
    replay(target("packs"));
}

#[test]
fn message() {
    replay(target("message"));
}

#[test]
fn every_corpus_has_a_target_and_every_target_a_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let names = |dir: &str| {
        let mut names: Vec<_> = fs::read_dir(fuzz.join(dir))
            .expect("it is there")
            .map(|entry| entry.expect("it can be listed").path())
            .map(|path| path.file_stem().expect("it has a name").to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let mut targets: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    targets.sort();
    for dir in ["corpus", "dictionaries", "fuzz_targets"] {
        assert_eq!(names(dir), targets, "{dir}");
    }
}
