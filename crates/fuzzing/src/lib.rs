//! What the fuzz targets do with arbitrary octets, and what must hold whatever they are.
//!
//! `fuzz/` has the targets proper, which are a line each and need nightly's or libFuzzer's machinery; everything they
//! run is here, in the workspace, so that it is linted, and the corpus that was found is replayed by `cargo test`.
//!
//! A function of a target panics where a promise is broken. It must not depend on anything but its input: the clock
//! and random numbers are kept out, or out of what is compared.

// A fuzz target says by a panic what it found.
#![allow(clippy::panic, clippy::unwrap_used)]

mod lmtp;
mod message;
mod packs;
mod pop3;
mod proxy;
mod sasl;
mod script;

pub use lmtp::lmtp;
pub use message::message;
#[doc(hidden)]
pub use packs::make_pack;
pub use packs::packs;
pub use pop3::pop3;
pub use proxy::proxy;
pub use sasl::sasl;

/// A target: what it is called, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target there is; their corpora are in `fuzz/corpus/`, by name.
pub const TARGETS: &[Target] = &[
    ("pop3", pop3),
    ("lmtp", lmtp),
    ("sasl", sasl),
    ("proxy", proxy),
    ("packs", packs),
    ("message", message),
];
