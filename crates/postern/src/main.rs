//! Postern: a multi-tenant POP3 gateway backed by object storage.

mod admin;
mod cli;
mod config;
mod dev;
mod files;
mod fsck;
mod inherited;
mod keys;
mod logging;
mod observed;
mod pages;
mod probe;
mod rebuild;
mod serve;
mod telemetry;
mod turns;
mod wiring;

use std::process::ExitCode;

use clap::Parser as _;

/// Allocations of many small sessions: mimalloc keeps them close and gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong use or configuration (DESIGN §8).
const EXIT_USAGE: u8 = 2;

fn is_usage(error: &anyhow::Error) -> bool {
    let wrong_key = matches!(error.downcast_ref(), Some(maildrop::RebuildError::WrongKey(_)));
    error.is::<config::ConfigError>() || error.is::<wiring::WrongKey>() || wrong_key
}

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = if is_usage(&error) { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE };
            complain(&error);
            code
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one place where a command says why it failed")]
fn complain(error: &anyhow::Error) {
    eprintln!("postern: {error:#}");
}
