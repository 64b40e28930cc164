//! The blob crate from outside: one contract for every object store, and packs on top of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail that way")]

mod ahead;
mod cache;
mod contract;
mod damage;
mod disk;
mod manifests;
mod packs;
mod rewrite;
mod rooms;
mod s3;
mod support;
mod weather;
