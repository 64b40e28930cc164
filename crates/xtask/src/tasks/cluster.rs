//! `cargo xtask cluster`: what `docker-compose.yml` starts, as plain processes.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    interrupt,
    layout::{Layout, RunDir},
    process,
    services::{Cluster, ClusterOptions},
    tools,
};

/// How to run it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run deploy/smoke.sh against it, and end.
    #[arg(long)]
    smoke: bool,
    /// Run this build of `postern` instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Starts it and runs the smoke script, or waits to be interrupted.
pub(crate) fn run(layout: &Layout, args: &Args) -> anyhow::Result<ExitCode> {
    let mut dir = RunDir::create(layout)?;
    let servers = tools::for_cluster(layout)?;
    let binary = match &args.binary {
        Some(binary) => std::path::absolute(binary).context("find the build to run")?,
        None => {
            let status = process::run(layout.cargo().args(["build", "--package", "postern"]))?;
            if !status.success() {
                return Ok(process::exit_code(status));
            }
            layout.target.join("debug/postern")
        }
    };
    let cluster = Cluster::start(ClusterOptions {
        root: layout.root.clone(),
        dir: dir.path().join("cluster"),
        postgres_bin: servers.postgres_bin,
        weed: servers.weed,
        postern: [binary.clone(), binary],
        env: Vec::new(),
    })?;
    if args.smoke {
        let status = process::run(&mut cluster.smoke())?;
        if !status.success() {
            dir.keep();
            println!("xtask cluster: FAILED; logs are in {}", dir.path().display());
        }
        return Ok(process::exit_code(status));
    }
    let doors = cluster.doors;
    println!("POP3        {}\nPOP3S       {}\nLMTP        {}", doors.pop3, doors.pop3s, doors.lmtp);
    println!("SMTP        {}\nAdmin       http://{}", doors.smtp, doors.admin);
    println!("Prometheus  http://{}\nSecrets     {}", doors.prometheus, cluster.secrets().display());
    println!("Smoke test  {}", command_line(&cluster.smoke()));
    while interrupt::caught().is_none() {
        thread::sleep(Duration::from_millis(100));
    }
    println!("xtask cluster: stops");
    Ok(ExitCode::SUCCESS)
}

/// A command as a shell takes it.
fn command_line(command: &Command) -> String {
    let mut text = String::new();
    for (name, value) in command.get_envs() {
        let value = value.unwrap_or_default().to_string_lossy();
        text += &format!("{}={value} ", name.to_string_lossy());
    }
    text + &command.get_program().to_string_lossy()
}
