//! `postern pages`: man pages and shell completions, for packages. They are made of the command line itself.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::say;

/// Where they go.
#[derive(Debug, Args)]
pub(crate) struct PagesArgs {
    /// The directory; `man` and `completions` are made in it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes a page for each command, and completions for each shell.
pub(crate) fn run(args: &PagesArgs, mut command: Command) -> anyhow::Result<()> {
    let (man, completions) = (args.out.join("man"), args.out.join("completions"));
    for dir in [&man, &completions] {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    // Pages first: completions build the command, `help` and all, and each of these would get a page.
    clap_mangen::generate_to(command.clone(), &man).context("write man pages")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "postern", &completions)
            .context("write completions")?;
    }
    say(&format!("{} and {}", man.display(), completions.display()));
    Ok(())
}
