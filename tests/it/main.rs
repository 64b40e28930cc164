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
mod bound;
mod buckets;
mod bulk;
mod bulletins;
mod caps;
mod certificates;
mod clients;
mod cluster;
mod configuration;
mod deploy;
mod dev;
mod drain;
mod fairness;
mod faults;
mod fsck;
mod gather;
mod gc;
mod guessing;
mod identity;
mod isolation;
mod lmtp;
mod login;
mod logs;
mod metrics;
mod model;
mod oauth;
mod openapi;
mod pop3;
mod proxy;
mod readers;
mod rebuild;
mod rolling;
mod sasl;
mod secrets;
mod sockets;
mod storm;
mod support;
mod takeover;
mod telemetry;
mod tenancy;
mod tls;
mod upgrade;
mod utf8;
mod views;
mod weather;
