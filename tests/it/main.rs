//! Black-box tests against the built binary, with real servers and real clients. They are run by
//! `cargo xtask test`, which installs and starts what they need.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on says so"
)]

mod admin;
mod clients;
mod cluster;
mod configuration;
mod dev;
mod drain;
mod faults;
mod lmtp;
mod logs;
mod metrics;
mod pop3;
mod secrets;
mod storm;
mod support;
mod telemetry;
mod tls;
