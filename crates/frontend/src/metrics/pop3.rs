//! What is counted of POP3.

use std::time::Instant;

use maildrop::LoginMechanism;
use pop3_proto::Verb;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Registry};

use crate::seats::Full;

use super::{Active, WireOctets, counter, durations, gauges, pairs, seconds_since, words};

/// How a login may end; [`Pop3Metrics::logins`] and two histograms share these words.
const LOGIN_OUTCOMES: [&str; 4] = ["ok", "bad_credentials", "in_use", "unavailable"];
/// How opening a maildrop may end.
const OPEN_OUTCOMES: [&str; 4] = ["ok", "in_use", "stale", "unavailable"];
/// How a session may end.
const ENDS: [&str; 12] = [
    "quit",
    "commit_failed",
    "gone",
    "stalled",
    "idle",
    "closing",
    "taken_over",
    "bad_commands",
    "refused_logins",
    "foreign_protocol",
    "tls_failed",
    "too_many_connections",
];
const LISTENERS: [&str; 2] = [Listener::Pop3.as_str(), Listener::Pop3s.as_str()];

/// The kind of listener a session came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// In the clear at first.
    Pop3,
    /// Over TLS from the start.
    Pop3s,
}

impl Listener {
    /// The listener's word in the metrics: its section of the configuration.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pop3 => "pop3",
            Self::Pop3s => "pop3s",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Pop3Metrics {
    sessions_active: IntGaugeVec,
    pub(crate) sessions_ended: IntCounterVec,
    pub(crate) connections_refused: IntCounterVec,
    /// By verb: looked up once, as commands are many.
    commands: Vec<CommandMetrics>,
    logins: IntCounterVec,
    login_delays: IntCounterVec,
    login_duration: HistogramVec,
    open_duration: HistogramVec,
    pub(crate) lock_conflicts: IntCounter,
    pub(crate) lock_takeovers: IntCounter,
    pub(crate) messages_retrieved: IntCounter,
    pub(crate) octets_retrieved: IntCounter,
    pub(crate) messages_deleted: IntCounter,
    pub(crate) octets: WireOctets,
    tls_handshakes: IntCounterVec,
    tls_failures: IntCounterVec,
}

/// What is counted of one verb.
#[derive(Debug, Clone)]
struct CommandMetrics {
    good: IntCounter,
    bad: IntCounter,
    duration: Histogram,
}

impl Pop3Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let verbs: Vec<_> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
        let commands = pairs(
            registry,
            "pop3_commands_total",
            "POP3 commands by verb, and by whether the reply began with +OK",
            ["command", "result"],
            [&verbs, &["ok", "err"]],
        )?;
        let command_duration = durations(
            registry,
            "pop3_command_duration_seconds",
            "time from a command's line to the end of its reply, clients slow to read included",
            "command",
            &verbs,
        )?;
        let commands = verbs
            .iter()
            .map(|verb| CommandMetrics {
                good: commands.with_label_values(&[verb, "ok"]),
                bad: commands.with_label_values(&[verb, "err"]),
                duration: command_duration.with_label_values(&[verb]),
            })
            .collect();
        Ok(Self {
            sessions_active: gauges(
                registry,
                "pop3_sessions_active",
                "POP3 connections now open, by listener and version of TLS",
                &["listener", "tls"],
            )
            .inspect(|active| {
                active.with_label_values(&[Listener::Pop3.as_str(), "none"]);
            })?,
            sessions_ended: words(
                registry,
                "pop3_sessions_ended_total",
                "POP3 sessions by how they ended",
                "reason",
                &ENDS,
            )?,
            connections_refused: pairs(
                registry,
                "pop3_connections_refused_total",
                "POP3 connections that there was no seat for, by which limit",
                ["listener", "limit"],
                [&LISTENERS, &[Full::All.as_str(), Full::Source.as_str(), Full::Strangers.as_str()]],
            )?,
            commands,
            logins: pairs(
                registry,
                "pop3_logins_total",
                "POP3 logins by mechanism and outcome",
                ["mechanism", "outcome"],
                [&LoginMechanism::ALL.map(LoginMechanism::as_str), &LOGIN_OUTCOMES],
            )?,
            login_delays: words(
                registry,
                "pop3_login_delays_total",
                "answers to refused logins that were made to wait",
                "by",
                &["account", "source"],
            )?,
            login_duration: durations(
                registry,
                "pop3_login_duration_seconds",
                "time from the password to the outcome of the login",
                "outcome",
                &LOGIN_OUTCOMES,
            )?,
            open_duration: durations(
                registry,
                "pop3_lock_wait_seconds",
                "time to take a maildrop's exclusive-access lock and read its counters",
                "outcome",
                &OPEN_OUTCOMES,
            )?,
            lock_conflicts: counter(
                registry,
                "pop3_lock_conflicts_total",
                "logins refused because another session holds the maildrop's lock",
            )?,
            lock_takeovers: counter(
                registry,
                "pop3_lock_takeovers_total",
                "logins that took a maildrop's lock over from a session whose client was silent",
            )?,
            messages_retrieved: counter(
                registry,
                "pop3_retrieved_messages_total",
                "messages sent in full by RETR",
            )?,
            octets_retrieved: counter(
                registry,
                "pop3_retrieved_octets_total",
                "octets of messages sent in full by RETR, before byte-stuffing",
            )?,
            messages_deleted: counter(
                registry,
                "pop3_deleted_messages_total",
                "messages whose deletion was committed by QUIT",
            )?,
            octets: WireOctets::new(registry, "pop3")?,
            tls_handshakes: pairs(
                registry,
                "pop3_tls_handshakes_total",
                "completed TLS handshakes, by listener and version",
                ["listener", "version"],
                [&LISTENERS, &["1.2", "1.3"]],
            )?,
            tls_failures: pairs(
                registry,
                "pop3_tls_handshake_failures_total",
                "failed TLS handshakes, by listener and reason",
                ["listener", "reason"],
                [&LISTENERS, &["gone", "protocol", "timeout"]],
            )?,
        })
    }

    /// Begins to count a session among those now open. `tls`: the version, or `none`.
    pub(crate) fn active(&self, listener: Listener, tls: &'static str) -> Active {
        Active::new(&self.sessions_active.with_label_values(&[listener.as_str(), tls]))
    }

    /// Begins to count a command.
    pub(crate) fn command(&self, verb: Verb) -> Command<'_> {
        Command { metrics: self.commands.get(verb as usize), start: Instant::now(), good: false }
    }

    /// Counts a login that was begun at `start`.
    pub(crate) fn login(&self, mechanism: LoginMechanism, outcome: &'static str, start: Instant) {
        self.logins.with_label_values(&[mechanism.as_str(), outcome]).inc();
        self.login_duration.with_label_values(&[outcome]).observe(seconds_since(start));
    }

    /// Counts a refused login whose answer waits, by what for.
    pub(crate) fn delayed(&self, by: &'static str) {
        if by != "none" {
            self.login_delays.with_label_values(&[by]).inc();
        }
    }

    /// Counts the opening of a maildrop that was begun at `start`.
    pub(crate) fn opened(&self, outcome: &'static str, start: Instant) {
        self.open_duration.with_label_values(&[outcome]).observe(seconds_since(start));
    }

    /// Counts a handshake: the version agreed on, or why there is none.
    pub(crate) fn handshake(&self, listener: Listener, result: Result<&'static str, &std::io::Error>) {
        use std::io::ErrorKind;
        let (family, word) = match result {
            Ok(version) => (&self.tls_handshakes, version),
            Err(error) => {
                let reason = match error.kind() {
                    ErrorKind::TimedOut => "timeout",
                    // What rustls has against the client, and what the client has against us.
                    ErrorKind::InvalidData => "protocol",
                    _ => "gone",
                };
                (&self.tls_failures, reason)
            }
        };
        family.with_label_values(&[listener.as_str(), word]).inc();
    }
}

/// A command under way. It is counted when dropped: as refused, unless it was said to be good.
#[derive(Debug)]
pub(crate) struct Command<'a> {
    metrics: Option<&'a CommandMetrics>,
    start: Instant,
    good: bool,
}

impl Command<'_> {
    /// The command is over.
    pub(crate) fn done(mut self, good: bool) {
        self.good = good;
    }
}

impl Drop for Command<'_> {
    fn drop(&mut self) {
        let Some(metrics) = self.metrics else { return };
        if self.good { &metrics.good } else { &metrics.bad }.inc();
        metrics.duration.observe(seconds_since(self.start));
    }
}
