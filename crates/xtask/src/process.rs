//! Children: each in a process group of its own, which ends with this program.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{interrupt, sys};

/// How often a wait looks again.
const TICK: Duration = Duration::from_millis(20);

/// A running child. Dropping it stops it.
#[derive(Debug)]
pub struct Group {
    child: Child,
    stop_signal: i32,
    patience: Duration,
    ended: bool,
}

impl Group {
    /// Starts a child in its own process group, without standard input. It is stopped by `stop_signal`, and by
    /// SIGKILL when it does not end within 15 seconds; the kernel sends it `death_signal` when the thread that
    /// called this ends.
    pub fn spawn(command: &mut Command, stop_signal: i32, death_signal: i32) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).process_group(0);
        sys::die_with_parent(command, death_signal);
        let child = command.spawn().with_context(|| format!("start {}", name(command)))?;
        Ok(Self { child, stop_signal, patience: Duration::from_secs(15), ended: false })
    }

    /// The process's number, which is the group's too.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let status = self.child.try_wait().context("wait for child")?;
        self.ended |= status.is_some();
        Ok(status)
    }

    /// Waits until it ends. Fails when this program is interrupted.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            interrupt::check()?;
            thread::sleep(TICK);
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: i32) {
        if !self.ended {
            sys::kill(self.pid(), signal);
        }
    }

    /// Asks it to stop, waits, and kills what is left of the group.
    pub fn stop(&mut self) {
        if self.ended {
            return;
        }
        self.signal(self.stop_signal);
        let deadline = Instant::now() + self.patience;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(TICK);
        }
        self.kill();
    }

    /// Kills it and all its descendants, like a power cut of this one server.
    pub fn kill(&mut self) {
        if self.ended {
            return;
        }
        // Descendants may have left the group (PostgreSQL's backends each lead a session of their own).
        let family = descendants(self.pid());
        sys::kill_group(self.pid(), libc::SIGKILL);
        for pid in &family {
            sys::kill(*pid, libc::SIGKILL);
        }
        let _ = self.child.wait();
        self.ended = true;
        let deadline = Instant::now() + Duration::from_secs(5);
        while family.iter().any(|pid| is_running(*pid)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a command to its end, its output being ours.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<ExitStatus> {
    Group::spawn(command, libc::SIGTERM, libc::SIGTERM)?.wait()
}

/// Runs a command whose output matters only when it fails; it is kept in `log`.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> anyhow::Result<()> {
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    command.stdout(file.try_clone().context("share log")?).stderr(file);
    let status = run(command)?;
    if !status.success() {
        let output = fs::read_to_string(log).unwrap_or_default();
        bail!("{} failed ({}):\n{}", name(command), describe(status), tail(&output, 40));
    }
    Ok(())
}

/// How a process ended, for people.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown end".to_owned(),
    }
}

/// The exit code to hand on: the child's own, or 1 where it was killed.
pub(crate) fn exit_code(status: ExitStatus) -> std::process::ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    std::process::ExitCode::from(code)
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Every living descendant of a process.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(fields) = stat(pid) {
            children.entry(fields.parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        let young = children.remove(&pid).unwrap_or_default();
        found.extend(&young);
        open.extend(young);
    }
    found
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: u32,
    /// Its own clock ticks, user and system.
    pub(crate) own_ticks: u64,
    /// The same, with those of its children that have ended.
    pub(crate) ticks: u64,
}

/// Reads `/proc/PID/stat`.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: u32::try_from(number(1)?).ok()?,
        own_ticks: number(11)? + number(12)?,
        ticks: number(11)? + number(12)? + number(13)? + number(14)?,
    })
}

fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program.file_name().unwrap_or(OsStr::new("?")).to_string_lossy().into_owned();
    for arg in command.get_args().take(3) {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}
