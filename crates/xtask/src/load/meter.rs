//! What servers cost, read from `/proc`: CPU time of process trees, memory, and what else the machine does.

use std::{collections::BTreeMap, fs};

use anyhow::Context as _;

use crate::process;

/// Clock ticks of `/proc` in a second: USER_HZ, which is 100 on every Linux (proc(5), time(7)).
const TICKS: f64 = 100.0;

/// A server: a name and the root of its processes.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
}

impl Server {
    /// CPU ticks of the whole tree until now. Children that ended are in their parent's account.
    fn ticks(&self) -> u64 {
        let mut pids = process::descendants(self.pid);
        pids.push(self.pid);
        pids.into_iter().filter_map(process::stat).map(|stat| stat.ticks).sum()
    }
}

/// The state of the meters at one moment.
#[derive(Debug)]
pub(crate) struct Reading {
    servers: BTreeMap<&'static str, u64>,
    own: u64,
    busy: u64,
}

/// CPU seconds between two readings.
#[derive(Debug)]
pub(crate) struct Spent {
    pub(crate) servers: BTreeMap<&'static str, f64>,
    /// What neither the servers nor the load generator used.
    pub(crate) elsewhere: f64,
}

impl Reading {
    /// Reads the meters.
    pub(crate) fn take(servers: &[Server]) -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let line = text.lines().next().context("read /proc/stat")?;
        let fields: Vec<u64> = line.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal
        let busy = [0, 1, 2, 5, 6].iter().filter_map(|index| fields.get(*index)).sum();
        // Not the children that ended: those are servers of earlier measurements.
        let own = process::stat(std::process::id()).map_or(0, |stat| stat.own_ticks);
        Ok(Self { servers: servers.iter().map(|server| (server.name, server.ticks())).collect(), own, busy })
    }

    /// What was spent since.
    pub(crate) fn since(&self, earlier: &Self) -> Spent {
        let servers: BTreeMap<_, _> = self
            .servers
            .iter()
            .map(|(name, ticks)| {
                let before = earlier.servers.get(name).copied().unwrap_or_default();
                (*name, ticks.saturating_sub(before) as f64 / TICKS)
            })
            .collect();
        let ours = self.own.saturating_sub(earlier.own) as f64 / TICKS + servers.values().sum::<f64>();
        let busy = self.busy.saturating_sub(earlier.busy) as f64 / TICKS;
        Spent { servers, elsewhere: (busy - ours).max(0.0) }
    }
}

/// A line such as `VmHWM:` of `/proc/PID/status`, in octets.
pub(crate) fn memory(pid: u32, name: &str) -> anyhow::Result<u64> {
    field(&format!("/proc/{pid}/status"), name)
}

/// The proportional set size of a process, in octets.
pub(crate) fn pss(pid: u32) -> anyhow::Result<u64> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// The same of a process and all its children together, and how many they are.
pub(crate) fn pss_of_tree(root: u32) -> (u64, usize) {
    let mut pids = process::descendants(root);
    pids.push(root);
    // One that ends meanwhile has none.
    let each: Vec<u64> = pids.into_iter().filter_map(|pid| pss(pid).ok()).collect();
    (each.iter().sum(), each.len())
}

/// Forgets a process's peak of resident memory, so that the next one is of what follows (proc(5), clear_refs).
pub(crate) fn reset_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

fn field(file: &str, name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse().ok())
        .with_context(|| format!("find {name} in {file}"))?;
    Ok(kib * 1024)
}
