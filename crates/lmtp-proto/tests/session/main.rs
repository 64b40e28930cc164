//! The core driven as a listener would drive it, with mailboxes in memory.

mod chunking;
mod driver;
mod limits;
mod properties;
mod sequence;
mod transcripts;
