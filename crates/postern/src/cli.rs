//! The command line (DESIGN §8).

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use frontend::ListenAddr;
use index::{Postgres, Sqlite};

use crate::{admin, config::Config, dev, fsck, keys, pages, probe, rebuild, serve, wiring};

/// A multi-tenant POP3 gateway backed by object storage.
#[derive(Debug, Parser)]
#[command(name = "postern", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run embedded, with a demo tenant: everything in one directory, no server needed
    Dev(DevArgs),
    /// Run a node
    Serve(ConfigArgs),
    /// Bring the index's schema up to date
    Migrate(ConfigArgs),
    /// Read the configuration and every file it names; exit 2 if anything is wrong
    CheckConfig(ConfigArgs),
    /// Ask whether a node, or what stands in front of it, serves; exit 1 if it does not
    Probe(probe::ProbeArgs),
    /// Compare index and packs, and mend what can be; exit 1 where anything is wrong
    Fsck(fsck::FsckArgs),
    /// Rebuild the index from the bucket and the keys, or complete one that was set back; nothing is deleted
    Rebuild(rebuild::RebuildArgs),
    /// Make, look at and rotate master keys
    Keys(keys::KeysArgs),
    /// Manage tenants, domains and mailboxes over the REST API
    Admin(admin::AdminArgs),
    /// Print the version
    Version,
    /// Write man pages and shell completions, for packages
    #[command(hide = true)]
    Pages(pages::PagesArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// The addresses of `postern dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = "./postern-data")]
    pub(crate) data: PathBuf,
    /// POP3, or "off"
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1110")]
    pub(crate) pop3: Switch<ListenAddr>,
    /// POP3 over TLS, or "off"
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1995")]
    pub(crate) pop3s: Switch<SocketAddr>,
    /// LMTP, or "off"
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1024")]
    pub(crate) lmtp: Switch<ListenAddr>,
    /// The admin API, or "off"
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) admin: Switch<SocketAddr>,
}

/// An address, or `off`.
#[derive(Debug, Clone)]
pub(crate) struct Switch<T>(pub(crate) Option<T>);

impl<T: std::str::FromStr> std::str::FromStr for Switch<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|addr| Self(Some(addr))) }
    }
}

impl Cli {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Dev(args) => runtime()?.block_on(dev::run(&args)),
            Command::Serve(args) => {
                let config = Config::load(&args.config)?;
                // Everything that can be wrong with it is told before anything is touched.
                config.check_files()?;
                runtime()?.block_on(serve::run(config))
            }
            Command::Migrate(args) => {
                let config = Config::load(&args.config)?;
                runtime()?.block_on(migrate(&config))
            }
            Command::CheckConfig(args) => {
                Config::load(&args.config)?.check_files()?;
                say("configuration is good");
                Ok(())
            }
            Command::Probe(args) => runtime()?.block_on(probe::run(&args)),
            Command::Fsck(args) => {
                let config = Config::load(&args.config)?;
                runtime()?.block_on(fsck::run(&config, &args))
            }
            Command::Rebuild(args) => {
                let config = Config::load(&args.config)?;
                runtime()?.block_on(rebuild::run(&config, &args))
            }
            Command::Keys(args) => runtime()?.block_on(keys::run(&args)),
            Command::Admin(args) => runtime()?.block_on(admin::run(args)),
            Command::Pages(args) => pages::run(&args, <Self as clap::CommandFactory>::command()),
            Command::Version => {
                say(&format!("postern {}", env!("CARGO_PKG_VERSION")));
                Ok(())
            }
        }
    }
}

async fn migrate(config: &Config) -> anyhow::Result<()> {
    let mut version = index::SCHEMA_VERSION;
    match wiring::index_place(config)? {
        wiring::IndexPlace::Postgres(config) => version = Postgres::migrate(&config).await?,
        wiring::IndexPlace::SqliteFile(path) => drop(Sqlite::open(&path).await?),
        wiring::IndexPlace::SqliteUrl(url) => drop(Sqlite::open_url(&url).await?),
    }
    say(&format!("schema is at version {version}"));
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // Two TLS stacks (ours and the S3 client's) share one provider; it is named once, before either starts.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Prints a line on standard output.
#[expect(clippy::print_stdout, reason = "what the command was asked for")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}
