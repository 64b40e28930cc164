//! `cargo xtask test`: every test of the workspace, against private servers.
//!
//! The tests learn of them by these variables:
//!
//! | variable | value |
//! |---|---|
//! | `POSTERN_TEST_PG_URL` | database `postgres` as superuser; tests make databases of their own |
//! | `POSTERN_TEST_S3_ENDPOINT` | the S3 server; tests make buckets of their own |
//! | `POSTERN_TEST_S3_ACCESS_KEY`, `POSTERN_TEST_S3_SECRET_KEY` | an identity that may do anything |
//! | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` | the same, where the AWS chain looks |
//! | `POSTERN_TEST_PG_BIN` | directory of PostgreSQL's programs, to start a server of one's own |
//! | `POSTERN_TEST_WEED` | SeaweedFS's binary, to start a server of one's own |
//! | `POSTERN_TEST_SCHEMATHESIS` | schemathesis, to try the admin API by its OpenAPI document |
//! | `POSTERN_TEST_OIDC` | directory that an OpenID provider can be imported from |
//! | `POSTERN_TEST_SASL` | a Python with `scramp` and `OpenSSL`, to log in with channel binding |
//! | `POSTERN_TEST_GETMAIL` | getmail6's program |
//! | `POSTERN_TEST_CROWDSEC` | directory that CrowdSec's package is unpacked in |
//! | `POSTERN_TEST_NODE_POP3` | directory that node-pop3 is installed in |
//! | `POSTERN_TEST_HELM` | a Python with Helm, to render the chart |
//! | `POSTERN_TEST_CHART_CHECK` | what renders it |
//! | `POSTERN_TEST_BIN` | the built `postern` |
//! | `POSTERN_TEST_TMP` | a fresh directory, removed after a run that passed |

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
    time::Instant,
};

use anyhow::Context as _;

use crate::{
    layout::{Layout, RunDir},
    process::{self, Group},
    services::{ADMIN_KEY, ADMIN_SECRET, Postgres, PostgresOptions, Seaweed},
    tasks::deploy,
    tools::{self, Servers},
};

/// What to test.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Test this build of `postern` instead of building one: measures want a release build.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Given on to `cargo nextest run` (or to `cargo test` where nextest is not installed).
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Runs the tests; the exit code is theirs.
pub(crate) fn run(layout: &Layout, args: &Args) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let mut dir = RunDir::create(layout)?;
    // Compiling takes longest: everything else is done beside it.
    let runner = Runner::find();
    let binary = match &args.binary {
        Some(binary) => std::path::absolute(binary).context("find the build to test")?,
        None => layout.target.join("debug/postern"),
    };
    let mut build = None;
    if args.binary.is_none() {
        let mut command = layout.cargo();
        command.args(["build", "--package", "postern"]);
        build = Some(Group::spawn(&mut command, libc::SIGTERM, libc::SIGTERM)?);
    }
    let servers = tools::for_tests(layout)?;
    let schemathesis = tools::schemathesis(layout)?;
    let clients = Clients {
        oidc: tools::oidc(layout)?,
        sasl: tools::sasl(layout)?,
        getmail: tools::getmail(layout)?,
        node_pop3: tools::node_pop3(layout)?,
        crowdsec: tools::crowdsec(layout)?,
        helm: tools::helm(layout)?,
        chart_check: deploy::chart_check(layout),
    };
    let fixture = Fixture::start(&dir, &servers, schemathesis, clients)?;
    if let Some(mut build) = build {
        let status = build.wait()?;
        if !status.success() {
            println!("xtask test: FAILED: postern does not build");
            return Ok(process::exit_code(status));
        }
    }
    let status = fixture.run(layout, &runner, &servers, &binary, &args.rest)?;
    let failed = !status.success();
    if failed {
        dir.keep();
    }
    drop(fixture);
    let seconds = start.elapsed().as_secs();
    if failed {
        let end = process::describe(status);
        println!(
            "xtask test: FAILED ({end}) after {seconds} s; the servers' logs are in {}",
            dir.path().display()
        );
    } else {
        println!("xtask test: passed in {seconds} s");
    }
    Ok(process::exit_code(status))
}

/// What runs the tests.
enum Runner {
    Nextest,
    Cargo,
}

impl Runner {
    fn find() -> Self {
        if tools::find("cargo-nextest").is_some() { Self::Nextest } else { Self::Cargo }
    }

    fn command(&self, layout: &Layout) -> Command {
        let mut command = layout.cargo();
        match self {
            Self::Nextest => command.args(["nextest", "run", "--workspace"]),
            // Without documentation tests, as nextest.
            Self::Cargo => command.args(["test", "--workspace", "--lib", "--bins", "--tests"]),
        };
        command
    }
}

/// What independent clients and providers are run by.
struct Clients {
    oidc: PathBuf,
    sasl: PathBuf,
    getmail: PathBuf,
    node_pop3: PathBuf,
    crowdsec: PathBuf,
    helm: PathBuf,
    chart_check: PathBuf,
}

/// The servers that tests share. Those that kill a server start one of their own.
struct Fixture {
    postgres: Postgres,
    seaweed: Seaweed,
    schemathesis: PathBuf,
    clients: Clients,
    tmp: PathBuf,
}

impl Fixture {
    fn start(
        dir: &RunDir,
        servers: &Servers,
        schemathesis: PathBuf,
        clients: Clients,
    ) -> anyhow::Result<Self> {
        let tmp = dir.path().join("tmp");
        fs::create_dir(&tmp).context("create directory for tests")?;
        let seaweed = Seaweed::start(&servers.weed, dir.path().join("s3"))?;
        let postgres = Postgres::start(PostgresOptions::new(&servers.postgres_bin, dir.path().join("pg")))?;
        Ok(Self { postgres, seaweed, schemathesis, clients, tmp })
    }

    fn run(
        &self,
        layout: &Layout,
        runner: &Runner,
        servers: &Servers,
        binary: &Path,
        rest: &[String],
    ) -> anyhow::Result<ExitStatus> {
        let mut command = runner.command(layout);
        command.args(rest);
        self.environment(&mut command, servers, binary);
        process::run(&mut command)
    }

    fn environment(&self, command: &mut Command, servers: &Servers, binary: &Path) {
        command
            .env("POSTERN_TEST_PG_URL", self.postgres.url("postgres"))
            .env("POSTERN_TEST_S3_ENDPOINT", self.seaweed.endpoint())
            .env("POSTERN_TEST_S3_ACCESS_KEY", ADMIN_KEY)
            .env("POSTERN_TEST_S3_SECRET_KEY", ADMIN_SECRET)
            .env("AWS_ACCESS_KEY_ID", ADMIN_KEY)
            .env("AWS_SECRET_ACCESS_KEY", ADMIN_SECRET)
            .env("POSTERN_TEST_PG_BIN", &servers.postgres_bin)
            .env("POSTERN_TEST_WEED", &servers.weed)
            .env("POSTERN_TEST_SCHEMATHESIS", &self.schemathesis)
            .env("POSTERN_TEST_OIDC", &self.clients.oidc)
            .env("POSTERN_TEST_SASL", &self.clients.sasl)
            .env("POSTERN_TEST_GETMAIL", &self.clients.getmail)
            .env("POSTERN_TEST_NODE_POP3", &self.clients.node_pop3)
            .env("POSTERN_TEST_CROWDSEC", &self.clients.crowdsec)
            .env("POSTERN_TEST_HELM", &self.clients.helm)
            .env("POSTERN_TEST_CHART_CHECK", &self.clients.chart_check)
            .env("POSTERN_TEST_BIN", binary)
            .env("POSTERN_TEST_TMP", &self.tmp);
    }
}
