//! `postern admin`: the REST API on the command line.

mod access;
mod buckets;
mod bulletins;
mod client;
mod import;
mod input;
mod mail;
mod output;
mod tenants;

use std::{io::Write as _, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Subcommand};

use crate::cli::Cli;
use client::Client;
use output::Answer;

/// What scripts rely on.
const EXIT_CODES: &str = "Exit codes: 0 good; 1 the API refused or could not be reached, or a line of an import failed; \
2 wrong use.\n\nSecrets are read from standard input or from files, never from the command line.";

/// Where the API is, and what to do there.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct AdminArgs {
    /// The API's address
    #[arg(long, env = "POSTERN_ADMIN_URL", default_value = "http://127.0.0.1:8080", global = true)]
    url: String,
    /// The API key, or the bootstrap token; better given as a file
    #[arg(long, env = "POSTERN_ADMIN_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// A file that holds the API key, or the bootstrap token
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Tenants
    #[command(subcommand)]
    Tenant(tenants::TenantCommand),
    /// Domains of a tenant
    #[command(subcommand)]
    Domain(tenants::DomainCommand),
    /// Mailboxes of a tenant
    #[command(subcommand)]
    Mailbox(mail::MailboxCommand),
    /// Aliases and catch-all addresses of a tenant
    #[command(subcommand)]
    Alias(mail::AliasCommand),
    /// App passwords of a mailbox
    #[command(subcommand)]
    AppPassword(access::AppPasswordCommand),
    /// Messages of a mailbox
    #[command(subcommand)]
    Message(mail::MessageCommand),
    /// Messages to every mailbox of a tenant
    #[command(subcommand, alias = "bulletins")]
    Bulletin(bulletins::BulletinCommand),
    /// Who is logged in
    #[command(subcommand)]
    Session(access::SessionCommand),
    /// What administrators did
    #[command(subcommand)]
    Audit(access::AuditCommand),
    /// Keys of the API
    #[command(subcommand)]
    ApiKey(access::ApiKeyCommand),
    /// TLS certificates of a tenant
    #[command(subcommand)]
    Certificate(access::CertificateCommand),
    /// How logins of a tenant are verified
    #[command(subcommand)]
    Login(access::LoginCommand),
    /// Buckets of a tenant's own
    #[command(subcommand)]
    Bucket(buckets::BucketCommand),
    /// Print a script that completes these commands in a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command.
pub(crate) async fn run(args: AdminArgs) -> anyhow::Result<()> {
    if let What::Completion { shell } = args.what {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "postern", &mut script);
        return Ok(std::io::stdout().write_all(&script)?);
    }
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| file.display().to_string())?.trim().to_owned()
        }
        (None, None) => anyhow::bail!("give the token by --token-file or POSTERN_ADMIN_TOKEN"),
    };
    let client = Client::new(&args.url, &token)?;
    let answer = match args.what {
        What::Tenant(command) => command.run(&client, args.json).await?,
        What::Domain(command) => command.run(&client).await?,
        What::Mailbox(command) => command.run(&client, args.json).await?,
        What::Alias(command) => command.run(&client).await?,
        What::AppPassword(command) => command.run(&client).await?,
        What::Message(command) => command.run(&client).await?,
        What::Bulletin(command) => command.run(&client).await?,
        What::Session(command) => command.run(&client).await?,
        What::Audit(command) => command.run(&client).await?,
        What::ApiKey(command) => command.run(&client).await?,
        What::Certificate(command) => command.run(&client).await?,
        What::Login(command) => command.run(&client).await?,
        What::Bucket(command) => command.run(&client).await?,
        What::Completion { .. } => Answer::Nothing,
    };
    answer.print(args.json)
}
