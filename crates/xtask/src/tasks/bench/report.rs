//! The figures: a table for people, JSON for programs.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use anyhow::Context as _;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::load::{drive::Tally, meter::Spent};

/// What Postern does, and the requests the bare store would need for the same octets, one object a message.
const COMPARED: [(&str, &str); 12] = [
    ("deliver-realistic", "put-realistic"),
    ("deliver-2k", "put-2k"),
    ("deliver-20k", "put-20k"),
    ("fill-20k", "put-20k"),
    ("fetch-realistic", "get-realistic"),
    ("fetch-2k", "get-2k"),
    ("fetch-20k", "get-20k"),
    ("deliver-realistic-64", "put-realistic-64"),
    ("fetch-20k-64", "get-20k-64"),
    ("fetch-20k-64-cold", "get-20k-64"),
    ("first-download-apart", "get-far"),
    ("first-download-mixed", "get-far"),
];

/// Everything measured in one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    started_at: String,
    quick: bool,
    machine: Machine,
    load_before: String,
    load_after: String,
    rows: Vec<Row>,
    idle: Vec<Idle>,
    ratios: Vec<Ratio>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpus: usize,
    model: String,
    kernel: String,
    memory: String,
}

/// One scenario on one server.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    server: &'static str,
    scenario: &'static str,
    operations: u64,
    seconds: f64,
    operations_per_second: f64,
    megabytes_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// CPU seconds of each server for a thousand operations.
    cpu_seconds_per_thousand: BTreeMap<&'static str, f64>,
    cpu_seconds_per_thousand_total: f64,
    operations_per_cpu_second: f64,
    /// Peak resident memory of the main process during the scenario.
    peak_rss_octets: Option<u64>,
    /// CPUs that something else on the machine kept busy.
    cpus_busy_elsewhere: f64,
    /// Requests to the object store for a thousand operations, where they were counted.
    store_requests_per_thousand: Option<f64>,
}

/// Sessions that are logged in and say nothing.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    server: &'static str,
    door: &'static str,
    sessions: usize,
    /// Octets that the server's processes take before and while they are open.
    octets: [u64; 2],
    /// Processes of the server while they are open.
    processes: usize,
    /// CPU milliseconds of all servers for a session in a minute.
    cpu_ms_per_minute_each: f64,
}

impl Idle {
    /// `octets` are those before and during; `cpus` is the CPU time of the servers in a second.
    pub(super) fn new(
        server: &'static str,
        door: &'static str,
        sessions: usize,
        octets: [u64; 2],
        processes: usize,
        cpus: f64,
    ) -> Self {
        let cpu_ms_per_minute_each = cpus * 60_000.0 / sessions as f64;
        let idle = Self { server, door, sessions, octets, processes, cpu_ms_per_minute_each };
        eprintln!("  {}", idle.cells().join("  "));
        idle
    }

    fn cells(&self) -> Vec<String> {
        let [before, during] = self.octets.map(|octets| octets as f64);
        vec![
            self.server.to_owned(),
            self.door.to_owned(),
            self.sessions.to_string(),
            format!("{:.1}", before / 1_048_576.0),
            format!("{:.1}", during / 1_048_576.0),
            format!("{:.1}", (during - before) / 1024.0 / self.sessions as f64),
            self.processes.to_string(),
            format!("{:.2}", self.cpu_ms_per_minute_each),
        ]
    }
}

/// Postern beside the bare store.
#[derive(Debug, Serialize)]
struct Ratio {
    scenario: &'static str,
    raw: &'static str,
    /// Operations a second, Postern's by the store's.
    rate: f64,
    /// CPU time an operation, all servers' of Postern by the bare store's.
    cpu: f64,
    /// CPU time an operation of the S3 server alone, under Postern by bare.
    s3_cpu: f64,
}

impl Row {
    pub(super) fn new(
        server: &'static str,
        scenario: &'static str,
        mut tally: Tally,
        spent: &Spent,
        peak: Option<u64>,
    ) -> Self {
        let operations = tally.operations();
        let count = operations.max(1) as f64;
        let seconds = tally.elapsed.as_secs_f64().max(1e-9);
        let total: f64 = spent.servers.values().sum();
        let row = Self {
            server,
            scenario,
            operations,
            seconds,
            operations_per_second: operations as f64 / seconds,
            megabytes_per_second: tally.octets as f64 / 1e6 / seconds,
            p50_ms: tally.quantile(0.5).as_secs_f64() * 1e3,
            p99_ms: tally.quantile(0.99).as_secs_f64() * 1e3,
            cpu_seconds_per_thousand: spent
                .servers
                .iter()
                .map(|(name, cpu)| (*name, cpu * 1e3 / count))
                .collect(),
            cpu_seconds_per_thousand_total: total * 1e3 / count,
            operations_per_cpu_second: if total > 0.0 { count / total } else { 0.0 },
            peak_rss_octets: peak,
            cpus_busy_elsewhere: spent.elsewhere / seconds,
            store_requests_per_thousand: None,
        };
        eprintln!(
            "  {server} {scenario}: {:.0}/s, {:.3} CPU s/1000",
            row.operations_per_second,
            total * 1e3 / count
        );
        row
    }

    fn cells(&self) -> Vec<String> {
        let cpu =
            |name| self.cpu_seconds_per_thousand.get(name).map_or("-".to_owned(), |cpu| format!("{cpu:.3}"));
        let main = if self.server == "dovecot" { cpu("dovecot") } else { cpu("postern") };
        vec![
            self.server.to_owned(),
            self.scenario.to_owned(),
            self.operations.to_string(),
            format!("{:.0}", self.operations_per_second),
            format!("{:.1}", self.megabytes_per_second),
            format!("{:.2}", self.p50_ms),
            format!("{:.2}", self.p99_ms),
            main,
            cpu("postgres"),
            cpu("s3"),
            format!("{:.3}", self.cpu_seconds_per_thousand_total),
            format!("{:.0}", self.operations_per_cpu_second),
            self.peak_rss_octets
                .map_or("-".to_owned(), |octets| format!("{:.0}", octets as f64 / 1_048_576.0)),
            format!("{:.2}", self.cpus_busy_elsewhere),
            self.store_requests_per_thousand.map_or("-".to_owned(), |count| format!("{count:.0}")),
        ]
    }
}

impl Report {
    pub(super) fn begin(quick: bool) -> anyhow::Result<Self> {
        Ok(Self {
            started_at: OffsetDateTime::now_utc().format(&Rfc3339).context("format time")?,
            quick,
            machine: Machine::look(),
            load_before: load(),
            load_after: String::new(),
            rows: Vec::new(),
            idle: Vec::new(),
            ratios: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(super) fn add_idle(&mut self, idle: Idle) {
        self.idle.push(idle);
    }

    /// Says how many requests to the object store the last row's operations took.
    pub(super) fn requests(&mut self, requests: u64) {
        if let Some(row) = self.rows.last_mut() {
            row.store_requests_per_thousand = Some(requests as f64 * 1e3 / row.operations.max(1) as f64);
        }
    }

    /// Computes what follows from the rows.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        self.load_after = load();
        for (scenario, raw) in COMPARED {
            let ours = self.row("postern", scenario)?;
            let bare = self.row("raw-s3", raw)?;
            let by = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
            let s3 = |row: &Row| row.cpu_seconds_per_thousand.get("s3").copied().unwrap_or_default();
            let ratio = Ratio {
                scenario,
                raw,
                rate: by(ours.operations_per_second, bare.operations_per_second),
                cpu: by(ours.cpu_seconds_per_thousand_total, bare.cpu_seconds_per_thousand_total),
                s3_cpu: by(s3(ours), s3(bare)),
            };
            self.ratios.push(ratio);
        }
        Ok(())
    }

    pub(super) fn json(&self) -> anyhow::Result<String> {
        let mut text = serde_json::to_string_pretty(self).context("write JSON")?;
        text.push('\n');
        Ok(text)
    }

    pub(super) fn table(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "\n{}, {} CPUs ({}), {}, Linux {}; load average {} before, {} after{}\n\n",
            self.started_at,
            machine.cpus,
            machine.model,
            machine.memory,
            machine.kernel,
            self.load_before,
            self.load_after,
            if self.quick { "; QUICK: the figures mean little" } else { "" },
        );
        let titles = [
            "server",
            "scenario",
            "ops",
            "ops/s",
            "MB/s",
            "p50 ms",
            "p99 ms",
            "CPU: main",
            "postgres",
            "s3",
            "total",
            "ops/CPU s",
            "peak MiB",
            "elsewhere",
            "requests",
        ];
        let rows = self.rows.iter().map(Row::cells).collect();
        align(&mut text, &titles, rows);
        text.push_str(
            "CPU: seconds of the servers for a thousand operations. elsewhere: CPUs the rest of the machine used.\n\
             requests: to the object store for a thousand operations.\n\n",
        );
        let rows = self.idle.iter().map(Idle::cells);
        let titles = [
            "idle sessions",
            "",
            "sessions",
            "MiB before",
            "MiB with them",
            "KiB each",
            "processes",
            "CPU ms/min each",
        ];
        align(&mut text, &titles, rows.collect());
        text.push_str("MiB: proportional set size of all processes of the POP3 server.\n\n");
        let rows = self.ratios.iter().map(|ratio| {
            let number = |value: f64| format!("{value:.2}");
            let raw = ratio.raw.to_owned();
            vec![ratio.scenario.to_owned(), raw, number(ratio.rate), number(ratio.cpu), number(ratio.s3_cpu)]
        });
        let titles = ["postern by raw S3", "raw", "ops/s", "CPU, all", "CPU, s3"];
        align(&mut text, &titles, rows.collect());
        text
    }

    fn row(&self, server: &str, scenario: &str) -> anyhow::Result<&Row> {
        let found = self.rows.iter().find(|row| row.server == server && row.scenario == scenario);
        found.with_context(|| format!("find figures of {server} {scenario}"))
    }
}

impl Machine {
    fn look() -> Self {
        let line = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let found =
                text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':')).map(|(_, v)| v.trim());
            found.unwrap_or("unknown").to_owned()
        };
        let memory = line("/proc/meminfo", "MemTotal");
        let gib =
            memory.split(' ').next().and_then(|kib| kib.parse::<f64>().ok()).map(|kib| kib / 1_048_576.0);
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            model: line("/proc/cpuinfo", "model name"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            memory: gib.map_or(memory, |gib| format!("{gib:.0} GiB")),
        }
    }
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Writes columns as wide as their widest cell, names to the left and numbers to the right.
fn align(text: &mut String, titles: &[&str], rows: Vec<Vec<String>>) {
    let mut lines = vec![titles.iter().map(|title| (*title).to_owned()).collect()];
    lines.extend(rows);
    let width =
        |column: usize| lines.iter().map(|line: &Vec<String>| line[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let _ =
                if column < 2 { write!(text, "{cell:<width$}  ") } else { write!(text, "{cell:>width$}  ") };
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut text = String::new();
        align(&mut text, &["a", "b", "n"], vec![vec!["long".into(), "x".into(), "10".into()]]);
        assert_eq!(text, "a     b   n\nlong  x  10\n");
    }
}
