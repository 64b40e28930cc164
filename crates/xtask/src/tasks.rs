//! The commands.

pub(crate) mod bench;
pub(crate) mod ci;
pub(crate) mod cluster;
pub(crate) mod cost;
pub(crate) mod deploy;
pub(crate) mod fuzz;
pub(crate) mod memory;
pub(crate) mod test;
