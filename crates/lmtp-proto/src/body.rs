//! The message on its way in: transferred octets to canonical octets.

mod canonical;
mod unstuff;

pub use canonical::Canonicaliser;
pub(crate) use unstuff::{Unstuffed, Unstuffer};
