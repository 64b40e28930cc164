//! `cargo xtask fuzz`: the targets of `fuzz/`, on from the corpus that is kept.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context as _, bail};

use crate::{
    layout::{Layout, RunDir},
    process, tools,
};

/// What drives the targets. It is installed where it is missing, which takes half a minute.
const CARGO_FUZZ: &str = "cargo-fuzz@0.13.2";
/// What inputs are at most: the longest line of SASL and something around it.
const INPUT_OCTETS_MAX: usize = 8 * 1024;
/// No input may take so long.
const INPUT_SECONDS_MAX: u32 = 10;

/// What to fuzz.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long to run each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Build with AddressSanitizer, which also finds what C libraries do wrong; a build with it takes longer.
    #[arg(long)]
    sanitizer: bool,
    /// Keep in the repository what was found that goes another way through the code, and nothing that does not.
    #[arg(long)]
    minimize: bool,
    /// These targets only.
    targets: Vec<String>,
}

impl Args {
    /// A short run of every target.
    pub(crate) fn short() -> Self {
        Self { seconds: 15, sanitizer: false, minimize: false, targets: Vec::new() }
    }
}

/// Builds the targets and runs one after the other; the first that finds something ends it.
pub(crate) fn run(layout: &Layout, args: &Args) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let places = Places::of(layout, args)?;
    let targets = places.targets(&args.targets)?;
    if tools::find("cargo-fuzz").is_none() {
        println!("xtask fuzz: installing {CARGO_FUZZ}");
        let status = process::run(layout.cargo().args(["install", "--locked", CARGO_FUZZ]))?;
        if !status.success() {
            bail!("{CARGO_FUZZ} cannot be installed ({})", process::describe(status));
        }
    }
    let status = process::run(&mut places.cargo_fuzz(layout, "build", args))?;
    if !status.success() {
        println!("xtask fuzz: FAILED: the targets do not build");
        return Ok(process::exit_code(status));
    }
    println!("xtask fuzz: built after {} s", start.elapsed().as_secs());
    let mut dir = RunDir::create(layout)?;
    for target in &targets {
        println!("xtask fuzz: {target}, for {} s", args.seconds);
        let status = process::run(&mut places.target(target, dir.path(), args)?)?;
        if !status.success() {
            dir.keep();
            println!(
                "xtask fuzz: {target}: FAILED ({}); what it was given is in {}",
                process::describe(status),
                places.artifacts(target).display()
            );
            return Ok(process::exit_code(status));
        }
        if args.minimize {
            places.minimize(target, dir.path())?;
        }
    }
    println!("xtask fuzz: {} targets passed in {} s", targets.len(), start.elapsed().as_secs());
    Ok(ExitCode::SUCCESS)
}

/// Where things are.
struct Places {
    fuzz: PathBuf,
    build: PathBuf,
    triple: String,
}

impl Places {
    fn of(layout: &Layout, args: &Args) -> anyhow::Result<Self> {
        // Each kind of build has a directory of its own, so that none undoes the other.
        let build = layout.own()?.join(if args.sanitizer { "fuzz-address" } else { "fuzz" });
        let rustc =
            Command::new("rustc").arg("-vV").current_dir(&layout.root).output().context("ask rustc")?;
        let text = String::from_utf8_lossy(&rustc.stdout).into_owned();
        let host = text.lines().find_map(|line| line.strip_prefix("host: "));
        let triple = host.context("rustc does not say what it compiles for")?.to_owned();
        Ok(Self { fuzz: layout.root.join("fuzz"), build, triple })
    }

    /// The targets that were asked for, all of them if none was.
    fn targets(&self, wanted: &[String]) -> anyhow::Result<Vec<String>> {
        let mut known = Vec::new();
        for entry in fs::read_dir(self.fuzz.join("fuzz_targets")).context("list targets")? {
            let path = entry.context("list targets")?.path();
            known.extend(path.file_stem().and_then(|name| Some(name.to_str()?.to_owned())));
        }
        known.sort();
        if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
            bail!("there is no target {unknown}; there are {}", known.join(", "));
        }
        Ok(if wanted.is_empty() { known } else { wanted.to_vec() })
    }

    fn cargo_fuzz(&self, layout: &Layout, what: &str, args: &Args) -> Command {
        let mut command = layout.cargo();
        // Flags that only nightly takes are asked for.
        command.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", what, "--target-dir"]).arg(&self.build);
        command.args(["--sanitizer", if args.sanitizer { "address" } else { "none" }]);
        command
    }

    fn artifacts(&self, target: &str) -> PathBuf {
        self.fuzz.join("artifacts").join(target)
    }

    fn binary(&self, target: &str) -> Command {
        Command::new(self.build.join(&self.triple).join("release").join(target))
    }

    /// Runs from the corpus that is kept; what is found goes beside it, into the run's own directory.
    fn target(&self, target: &str, run: &Path, args: &Args) -> anyhow::Result<Command> {
        let found = run.join(target);
        fs::create_dir_all(&found).context("create directory for inputs")?;
        let artifacts = self.artifacts(target);
        fs::create_dir_all(&artifacts).context("create directory for artifacts")?;
        let mut command = self.binary(target);
        command
            .env("TMPDIR", run)
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-max_len={INPUT_OCTETS_MAX}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg(format!("-dict={}", self.fuzz.join("dictionaries").join(format!("{target}.dict")).display()))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg("-print_final_stats=1")
            .arg("-verbosity=1")
            .arg(&found)
            .arg(self.fuzz.join("corpus").join(target));
        Ok(command)
    }

    /// Puts the fewest inputs that go every way that is known in the place of the corpus.
    fn minimize(&self, target: &str, run: &Path) -> anyhow::Result<()> {
        let corpus = self.fuzz.join("corpus").join(target);
        let few = run.join(format!("{target}-minimized"));
        fs::create_dir(&few).context("create directory for inputs")?;
        let mut command = self.binary(target);
        // By edges alone: how often each is gone over makes some five times as many.
        command
            .env("TMPDIR", run)
            .args(["-merge=1", "-use_counters=0"])
            .arg(&few)
            .arg(run.join(target))
            .arg(&corpus);
        let status = process::run(&mut command)?;
        if !status.success() {
            bail!("{target}: the corpus cannot be minimized ({})", process::describe(status));
        }
        fs::remove_dir_all(&corpus).context("remove old corpus")?;
        fs::create_dir(&corpus).context("create corpus")?;
        let mut count = 0;
        for entry in fs::read_dir(&few).context("list inputs")? {
            let path = entry.context("list inputs")?.path();
            fs::copy(&path, corpus.join(path.file_name().unwrap_or_default())).context("keep input")?;
            count += 1;
        }
        println!("xtask fuzz: {target}: {count} inputs are kept");
        Ok(())
    }
}
