//! `cargo xtask`: the project's own commands, and the private servers that they and the tests start.
//!
//! Whatever is started here ends with this program: children are stopped in order on the way out, also after a
//! failure, a panic or a signal, and the kernel stops them when this program is killed outright.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line's face is its output")]

mod cli;
mod interrupt;
mod layout;
mod load;
mod node;
pub mod process;
pub mod services;
mod sys;
mod tasks;
mod tools;

pub use cli::main;
