//! What the tests share: nodes, stores, clients.

mod dice;
mod http;
pub(crate) mod kms;
pub(crate) mod ldap;
mod lmtp;
mod network;
mod node;
pub(crate) mod oidc;
mod pop3;
mod stores;
pub(crate) mod tls;
pub(crate) mod weather;

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

pub(crate) use dice::Dice;
pub(crate) use http::Http;
pub(crate) use lmtp::{Lmtp, deliver, try_deliver};
pub(crate) use network::Network;
pub(crate) use node::{Node, NodeOptions, TOKEN, write_certificate};
pub(crate) use pop3::{Pop3, connect_from, login, unstuffed};
pub(crate) use stores::{Bucket, Database, MASTER_KEY, Stores};

/// The environment `cargo xtask test` gives.
pub(crate) fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run these tests by `cargo xtask test`"))
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Waits until `done` gives something.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, patience: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < patience, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A message of about `octets` octets that is told from others by `tag`.
pub(crate) fn message(tag: &str, octets: usize) -> Vec<u8> {
    let mut text = format!(
        "From: sender@example.org\r\nTo: someone@one.test\r\nSubject: {tag}\r\n\
         Date: Mon, 23 Nov 2026 09:00:00 +0000\r\nMessage-ID: <{tag}@example.org>\r\n\r\n"
    )
    .into_bytes();
    let mut line = 0;
    while text.len() < octets {
        text.extend_from_slice(
            format!("{line:08} {tag} the quick brown fox jumps over the lazy dog.\r\n").as_bytes(),
        );
        line += 1;
        if line % 50 == 0 {
            text.extend_from_slice(b".a line that begins with a dot\r\n.\r\n..\r\n");
        }
    }
    text
}

/// What was stored of a message, without the trace fields that were put in front.
#[track_caller]
pub(crate) fn without_trace(message: &[u8]) -> &[u8] {
    let start = message
        .windows(6)
        .position(|w| w == b"From: ")
        .unwrap_or_else(|| panic!("no From in {:?}", String::from_utf8_lossy(message)));
    &message[start..]
}
