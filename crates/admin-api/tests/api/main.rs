//! The API over real adapters: SQLite and a disk.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

mod bulk;
mod bulletins;
mod conventions;
mod fixture;
mod idempotency;
mod keys;
mod resources;
mod roles;
