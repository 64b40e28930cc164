//! The core driven as a listener would drive it, with a maildrop in memory.

mod driver;
mod forwarded;
mod language;
mod login;
mod numbers;
mod properties;
mod sasl;
mod states;
mod transcripts;
