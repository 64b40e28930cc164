//! `cargo xtask deploy`: what operators deploy, checked by the programs that will read it.
//!
//! The checks themselves are Python programs in `deploy/tools`, for Helm comes as a library of Python's: whoever changes
//! the chart can run them without building anything.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    time::Instant,
};

use crate::{
    layout::Layout,
    process,
    tools::{self, DeployTools},
};

/// What to check.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write what is generated (the chart's schema and README) instead of comparing it.
    #[arg(long)]
    write: bool,
}

impl Args {
    /// Changes nothing.
    pub(crate) fn check() -> Self {
        Self { write: false }
    }
}

/// Runs every check, and says which failed.
pub(crate) fn run(layout: &Layout, args: &Args) -> anyhow::Result<ExitCode> {
    let tools = tools::deploy(layout)?;
    // What the package holds, and what prints its manual pages.
    let status = process::run(layout.cargo().args(["build", "--locked", "--package", "postern"]))?;
    if !status.success() {
        return Ok(process::exit_code(status));
    }
    let mut failed = Vec::new();
    for (what, mut command) in checks(layout, &tools, args) {
        let start = Instant::now();
        let status = process::run(&mut command)?;
        let took = start.elapsed().as_secs();
        if status.success() {
            println!("xtask deploy: {what}: good ({took} s)");
        } else {
            println!("xtask deploy: {what}: FAILED ({})", process::describe(status));
            failed.push(what);
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("xtask deploy: FAILED: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn checks(layout: &Layout, tools: &DeployTools, args: &Args) -> Vec<(&'static str, Command)> {
    let script = |name: &str| {
        let mut command = Command::new(&tools.python);
        command.current_dir(&layout.root).arg(layout.root.join("deploy/tools").join(name));
        command
    };
    let mut generated = script("chart_docs.py");
    if !args.write {
        generated.arg("--check");
    }
    let mut chart = script("chart_check.py");
    chart.arg("all").arg("--checkov").arg(&tools.checkov);
    let mut compose = script("compose_check.py");
    compose.arg("--hadolint").arg(&tools.hadolint);
    let mut documents = script("docs_check.py");
    documents.arg("--lychee").arg(&tools.lychee).arg("--mdbook").arg(&tools.mdbook);
    let mut package = script("package_check.py");
    package
        .arg("--cargo-deb")
        .arg(&tools.cargo_deb)
        .arg("--postern")
        .arg(layout.target.join("debug/postern"));
    vec![
        ("container and compose files", compose),
        ("documents", documents),
        ("Debian package", package),
        ("chart, generated files", generated),
        ("chart", chart),
        ("rules, dashboards, runbooks", script("rules_check.py")),
    ]
}

/// The chart's own program, for the test that has the real binary read what it renders.
pub(crate) fn chart_check(layout: &Layout) -> PathBuf {
    layout.root.join("deploy/tools/chart_check.py")
}
