//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{interrupt, layout::Layout, tasks};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every test of the workspace against private servers, installing what is missing.
    Test(tasks::test::Args),
    /// What continuous integration runs: formatting, lints, licences, what is deployed, fuzzing, tests.
    Ci(tasks::ci::Args),
    /// Run what docker-compose.yml starts, as plain processes from the same files.
    Cluster(tasks::cluster::Args),
    /// Check what operators deploy: chart, rules, dashboards, container and compose files.
    Deploy(tasks::deploy::Args),
    /// Fuzz protocol cores, SASL, PROXY headers, packs and messages, on from the corpus that is kept.
    Fuzz(tasks::fuzz::Args),
    /// Measure a release build on PostgreSQL and S3, beside the bare S3 server and another POP3 server.
    Bench(tasks::bench::Args),
    /// Count requests to the object store, and what they cost, for mail that comes, is read and is deleted.
    Cost(tasks::cost::Args),
    /// Measure memory: idle sessions, a message of 100 MB, a maildrop of 100,000 messages.
    Memory(tasks::memory::Args),
}

/// Runs the command line and says how it went: 0 good, 1 failed, 2 wrong use, 128 and the signal's number when
/// interrupted.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = interrupt::install().and_then(|()| Layout::find()).and_then(|layout| match cli.command {
        Command::Test(args) => tasks::test::run(&layout, &args),
        Command::Ci(args) => tasks::ci::run(&layout, &args),
        Command::Cluster(args) => tasks::cluster::run(&layout, &args),
        Command::Deploy(args) => tasks::deploy::run(&layout, &args),
        Command::Fuzz(args) => tasks::fuzz::run(&layout, &args),
        Command::Bench(args) => tasks::bench::run(&layout, &args),
        Command::Cost(args) => tasks::cost::run(&layout, &args),
        Command::Memory(args) => tasks::memory::run(&layout, &args),
    });
    match done {
        Ok(code) => code,
        Err(_) if interrupt::caught().is_some() => {
            let signal = interrupt::caught().unwrap_or_default();
            eprintln!("xtask: stopped by signal {signal}");
            ExitCode::from(128_u8.saturating_add(u8::try_from(signal).unwrap_or(0)))
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
