//! `cargo xtask ci`: what continuous integration runs.

use std::process::{Command, ExitCode};

use crate::{
    layout::Layout,
    process,
    tasks::{deploy, fuzz, test},
    tools,
};

/// What to check.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Install cargo-deny where it is missing (some minutes) instead of leaving the licence check out.
    #[arg(long)]
    deny: bool,
}

/// Runs the checks in the order of their cost; the first that fails ends it.
pub(crate) fn run(layout: &Layout, args: &Args) -> anyhow::Result<ExitCode> {
    let mut checks: Vec<(&str, Vec<&str>)> = vec![
        ("formatting", vec!["fmt", "--all", "--check"]),
        ("lints", vec!["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ];
    let mut deny = tools::find("cargo-deny").is_some();
    if args.deny && !deny {
        checks.push(("cargo-deny", vec!["install", "--locked", "cargo-deny"]));
        deny = true;
    }
    if deny {
        // Advisories need a database that is fetched, and are looked at elsewhere.
        checks.push(("licences", vec!["fetch", "--locked"]));
        checks.push(("licences", vec!["deny", "--offline", "check", "licenses", "bans", "sources"]));
    }
    for (what, check) in checks {
        println!("xtask ci: {what}: cargo {}", check.join(" "));
        let mut command: Command = layout.cargo();
        let status = process::run(command.args(check))?;
        if !status.success() {
            println!("xtask ci: {what}: FAILED ({})", process::describe(status));
            return Ok(process::exit_code(status));
        }
    }
    if !deny {
        println!(
            "xtask ci: licences: left out, cargo-deny is not installed (`cargo xtask ci --deny` installs it)"
        );
    }
    println!("xtask ci: what is deployed");
    let code = deploy::run(layout, &deploy::Args::check())?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    println!("xtask ci: fuzzing");
    let code = fuzz::run(layout, &fuzz::Args::short())?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    println!("xtask ci: tests");
    test::run(layout, &test::Args::default())
}
