//! POP3: drives `pop3-proto` over a socket, and answers from the maildrop.
//!
//! ```text
//!   AUTHORIZATION ── PASS verified, lock taken ──► TRANSACTION ── QUIT ──► UPDATE (commit) ──► bye
//!        │  STLS: fresh parser, same state            │
//!        └── any other end ───────────────────────────┴──► lock released, nothing deleted
//! ```

mod authorization;
mod forwarded;
mod sasl;
mod transaction;

use std::{sync::Arc, time::Duration};

use auth::{Authenticator, Penalties};
use maildrop::{LoginMechanism, Maildrops, SessionId, Throttle, TrafficLog};
use pop3_proto::{
    Authorization, LineBuffer, MAX_SASL_LINE_OCTETS, Mechanism, Mechanisms, Policy, Tls, Wording, replies,
};
use tokio::{net::TcpStream, time::Instant};
use tracing::{Instrument as _, debug, info};

use crate::{
    Networks,
    drain::DrainHandle,
    metrics::{Active, Listener, Metrics},
    seats::{Full, Refusal, Seat},
    sessions::{LoggedIn, Sessions},
    stream::{Client, Stream, session_span},
    tls::{Accepted, HostFace, TlsIdentity},
    wire::{End, Wire},
};

/// A connection that has not logged in ends after this many login timeouts, silent or not.
const LOGIN_TIMEOUTS: u32 = 5;

/// The longest line of an exchange without OAuth tokens: names, passwords, nonces and channel bindings in base64.
const TOKEN_LINE_OCTETS: usize = 4096;

/// Whether USER and PASS are taken without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlaintextAuth {
    /// From nobody.
    Never,
    /// From this machine only.
    #[default]
    Loopback,
    /// From anybody.
    Always,
}

/// How POP3 is served.
#[derive(Debug, Clone)]
pub struct Pop3Config {
    /// Named in the greeting.
    pub hostname: Arc<str>,
    /// Whether passwords may cross the network in the clear.
    pub plaintext_auth: PlaintextAuth,
    /// The ways to log in that are offered, besides USER and PASS. Those that need a password in the clear are offered
    /// where USER is, and SCRAM with channel binding where SCRAM and TLS 1.3 are.
    pub mechanisms: Vec<LoginMechanism>,
    /// Longest silence before login. RFC 1939 §3 speaks of logged-in sessions only; a minute is more than
    /// any client needs and keeps idle strangers few.
    pub login_timeout: Duration,
    /// Longest silence after login: not under 10 minutes (RFC 1939 §3).
    pub idle_timeout: Duration,
    /// Longest time a client may take to read anything at all of what it asked for.
    pub write_timeout: Duration,
    /// Whether the log shows clients' addresses.
    pub log_clients: bool,
    /// Proxies that may say for whom they speak, by XCLIENT or XOIP. Default: none.
    pub forwarders: Networks,
    /// The domain of login names that have none, where no host that was asked for tells another. Default: none.
    pub default_domain: Option<Arc<str>>,
    /// The same for POP3S.
    pub tls_default_domain: Option<Arc<str>>,
}

impl Pop3Config {
    /// The defaults: a minute, ten minutes, five minutes; addresses are logged.
    pub fn new(hostname: impl Into<Arc<str>>) -> Self {
        Self {
            hostname: hostname.into(),
            plaintext_auth: PlaintextAuth::default(),
            mechanisms: vec![LoginMechanism::Plain, LoginMechanism::Login],
            login_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_mins(10),
            write_timeout: Duration::from_mins(5),
            log_clients: true,
            forwarders: Networks::default(),
            default_domain: None,
            tls_default_domain: None,
        }
    }
}

/// The POP3 service of a node.
#[derive(Debug)]
pub struct Pop3Service {
    config: Pop3Config,
    policy: Policy,
    authenticator: Authenticator,
    maildrops: Maildrops,
    tls: Option<TlsIdentity>,
    tenancy: Tenancy,
    metrics: Metrics,
}

/// What holds tenants to their limits, and lets administrators end sessions.
#[derive(Clone, Debug)]
pub struct Tenancy {
    /// Grants rates.
    pub throttle: Throttle,
    /// Counts what is sent.
    pub traffic: TrafficLog,
    /// Who is logged in on this node.
    pub sessions: Sessions,
    /// Makes those who guess at passwords wait.
    pub penalties: Penalties,
}

impl Pop3Service {
    /// A service over these parts. Without `tls`, STLS is not offered and POP3S cannot be served.
    pub fn new(
        config: Pop3Config,
        authenticator: Authenticator,
        maildrops: Maildrops,
        tls: Option<TlsIdentity>,
        tenancy: Tenancy,
        metrics: Metrics,
    ) -> Self {
        let policy = Policy::new("", "Postern");
        Self { config, policy, authenticator, maildrops, tls, tenancy, metrics }
    }

    /// Serves a connection that begins in the clear. Without a seat it is told so and closed.
    pub(crate) async fn serve(
        self: Arc<Self>,
        stream: Stream,
        client: Client,
        seat: Result<Seat, Refusal>,
        drain: DrainHandle,
    ) {
        let Ok(seat) = seat else {
            let mut wire = self.wire(stream, drain);
            replies::too_many_connections(Wording::default(), &mut wire.out);
            self.ended("too_many_connections");
            return wire.close(true).await;
        };
        let session = SessionId::generate();
        let span = session_span("pop3", session, &client, self.config.log_clients);
        let accepted = Accepted { stream, face: None };
        self.run(session, accepted, client, seat, Listener::Pop3, drain).instrument(span).await;
    }

    /// Serves a connection that begins with a TLS handshake.
    pub(crate) async fn serve_tls(
        self: Arc<Self>,
        stream: TcpStream,
        client: Client,
        seat: Seat,
        drain: DrainHandle,
    ) {
        let Some(tls) = &self.tls else { return };
        let session = SessionId::generate();
        let span = session_span("pop3", session, &client, self.config.log_clients);
        let serve = async {
            // Boxed, as all that happens once per session is: an idle session's task keeps room for the
            // largest of what it may ever wait for.
            match Box::pin(tls.accept(stream)).await {
                Ok(accepted) => {
                    self.metrics.pop3.handshake(Listener::Pop3s, Ok(accepted.stream.tls_version()));
                    self.run(session, accepted, client, seat, Listener::Pop3s, drain).await;
                }
                Err(error) => {
                    self.metrics.pop3.handshake(Listener::Pop3s, Err(&error));
                    debug!(%error, "TLS handshake failed");
                    self.ended("tls_failed");
                }
            }
        };
        serve.instrument(span).await;
    }

    async fn run(
        &self,
        id: SessionId,
        Accepted { stream, face }: Accepted,
        client: Client,
        seat: Seat,
        listener: Listener,
        drain: DrainHandle,
    ) {
        let tls = match &stream {
            Stream::Tls(..) => Tls::Active,
            // Who spoke TLS with its proxy has it, and cannot have it again.
            _ if client.has_tls_to_proxy() => Tls::Active,
            Stream::Tcp(_) if self.tls.is_some() => Tls::Available,
            // A Unix socket needs no TLS, and has none.
            Stream::Tcp(_) | Stream::Unix(_) => Tls::Unavailable,
        };
        let plaintext_login = self.takes_plaintext_from(&client);
        // Found out once, before anything that is said can change who the client is.
        let forwarding = client.is_of(&self.config.forwarders);
        let face = match (face, client.host(), &self.tls) {
            (None, Some(host), Some(tls)) => Box::pin(tls.face(host)).await,
            (face, ..) => face,
        };
        let greeting = match face.as_ref().and_then(|face| face.greeting.as_deref()) {
            Some(greeting) => format!("{greeting} ({id})"),
            // No angle brackets: `<…@…>` would be an invitation to APOP (RFC 1939 §7).
            None => format!("{} Postern ready ({id})", self.config.hostname),
        };
        let wire = self.wire(stream, drain);
        let apop = self
            .offers(LoginMechanism::Apop, face.as_deref())
            .then(|| Arc::from(auth::apop_timestamp(&self.config.hostname)));
        let policy = Policy {
            tls,
            plaintext_login,
            forwarding,
            greeting: greeting.into(),
            mechanisms: self.mechanisms(&wire, face.as_deref()),
            apop: apop.clone(),
            login_delay_secs: face.as_ref().and_then(|face| face.login_delay_secs),
            expire_days: face.as_ref().and_then(|face| face.expire_days),
            ..self.policy.clone()
        };
        let session = Session {
            service: self,
            id,
            logged_in: None,
            active: self.metrics.pop3.active(listener, tls_word(wire.tls_version(), &client)),
            client,
            seat,
            listener,
            wire,
            lines: self.lines(),
            face,
            apop,
            login_deadline: Instant::now() + self.config.login_timeout * LOGIN_TIMEOUTS,
            wording: Wording::default(),
            tally: Tally::default(),
        };
        session.run(Authorization::new(policy)).await;
    }

    /// Whether a client may log in by a password in the clear.
    fn takes_plaintext_from(&self, client: &Client) -> bool {
        match self.config.plaintext_auth {
            PlaintextAuth::Never => false,
            PlaintextAuth::Loopback => client.is_all_local(),
            PlaintextAuth::Always => true,
        }
    }

    /// Lines of a client that has not logged in, of which those of AUTH may have a token behind them.
    fn lines(&self) -> LineBuffer {
        let mut lines = LineBuffer::default();
        lines.set_max_auth_octets(self.token_line_octets());
        lines
    }

    /// The longest line of an exchange: as long as any mechanism on offer needs, for each stranger may fill one.
    fn token_line_octets(&self) -> usize {
        let bearer = [LoginMechanism::OauthBearer, LoginMechanism::Xoauth2];
        let bearer = bearer.iter().any(|mechanism| self.config.mechanisms.contains(mechanism));
        if bearer { MAX_SASL_LINE_OCTETS } else { TOKEN_LINE_OCTETS }
    }

    fn wire(&self, stream: Stream, drain: DrainHandle) -> Wire {
        Wire::new(stream, drain, self.config.write_timeout, self.metrics.pop3.octets.clone())
    }

    /// Whether a way to log in is on offer: by this node, and where it is known whose host was asked for, by its tenant.
    fn offers(&self, mechanism: LoginMechanism, face: Option<&HostFace>) -> bool {
        self.config.mechanisms.contains(&mechanism) && face.is_none_or(|face| face.offers(mechanism))
    }

    /// The SASL mechanisms on offer over this connection as it is now.
    fn mechanisms(&self, wire: &Wire, face: Option<&HostFace>) -> Mechanisms {
        let bound = wire.channel_bindings().any();
        let offered = |mechanism: &Mechanism| {
            let (kind, plus) = sasl::kind(*mechanism);
            self.offers(kind, face)
                && (bound || !plus)
                // It is nothing to who showed no certificate that names a mailbox (RFC 4422 appendix A).
                && (kind != LoginMechanism::External || !wire.client_addresses().is_empty())
        };
        Mechanism::ALL.iter().copied().filter(offered).collect()
    }

    /// Counts a client of this listener that there is no seat for.
    pub(crate) fn refused(&self, listener: &'static str, full: Full) {
        self.metrics.pop3.connections_refused.with_label_values(&[listener, full.as_str()]).inc();
    }

    fn ended(&self, reason: &'static str) {
        self.metrics.pop3.sessions_ended.with_label_values(&[reason]).inc();
    }
}

/// The word in the metrics for how a connection is encrypted: `version` is that of its own TLS.
fn tls_word(version: &'static str, client: &Client) -> &'static str {
    if version == "none" && client.has_tls_to_proxy() { "proxy" } else { version }
}

/// One connection.
struct Session<'a> {
    service: &'a Pop3Service,
    id: SessionId,
    client: Client,
    seat: Seat,
    /// Its place among those that can be ended, once it is logged in.
    logged_in: Option<LoggedIn>,
    /// Counts it among those now open.
    active: Active,
    listener: Listener,
    wire: Wire,
    lines: LineBuffer,
    /// What the tenant has to say whose host the client asked for.
    face: Option<Arc<HostFace>>,
    /// The timestamp in the greeting, where APOP is offered.
    apop: Option<Arc<str>>,
    /// However talkative a stranger is: by then it has logged in.
    login_deadline: Instant,
    /// How the client wants to be answered, as of its last command.
    wording: Wording,
    tally: Tally,
}

/// What a session came to, for its last line in the log.
#[derive(Debug, Default)]
struct Tally {
    /// The login name.
    user: Option<Box<str>>,
    /// Messages sent by RETR.
    messages: u64,
    /// Their octets.
    octets: u64,
    /// Messages whose deletion was committed.
    deleted: u64,
}

impl Session<'_> {
    async fn run(mut self, authorization: Authorization) {
        let start = Instant::now();
        authorization.greeting(&mut self.wire.out);
        let reason = match self.converse(authorization).await {
            Ok(reason) => reason,
            Err(end) => self.end(&end),
        };
        self.service.ended(reason);
        let Tally { user, messages, octets, deleted } = &self.tally;
        let duration_ms = start.elapsed().as_millis() as u64;
        info!(user = user.as_deref(), messages, octets, deleted, duration_ms, reason, "session ended");
        // After QUIT, or when nobody is there, nothing more is worth reading.
        let linger = !matches!(reason, "quit" | "gone" | "stalled");
        self.wire.close(linger).await;
    }

    /// Both states, one after the other. `Ok` is how the session ended in good order.
    async fn converse(&mut self, authorization: Authorization) -> Result<&'static str, End> {
        match self.authorize(authorization).await? {
            authorization::Authorized::Login(transaction, maildrop) => {
                self.transact(transaction, maildrop).await
            }
            authorization::Authorized::Closed(reason) => Ok(reason),
        }
    }

    /// The domain of login names that have none.
    fn default_domain(&self) -> Option<Arc<str>> {
        let config = &self.service.config;
        let of_listener = match self.listener {
            Listener::Pop3 => &config.default_domain,
            Listener::Pop3s => &config.tls_default_domain,
        };
        self.face.as_ref().and_then(|face| face.default_domain.clone()).or_else(|| of_listener.clone())
    }

    /// Waits for the client's next octets, once every reply is out.
    async fn fill(&mut self, idle: Duration) -> Result<(), End> {
        self.wire.flush().await?;
        let lines = &mut self.lines;
        self.wire.read(idle, |octets| lines.push(octets)).await
    }

    /// The last words of a session that the client did not end.
    fn end(&mut self, end: &End) -> &'static str {
        match end {
            End::Gone(error) => {
                debug!(%error, "client is gone");
                self.wire.out.clear();
                "gone"
            }
            End::Stalled => {
                self.wire.out.clear();
                "stalled"
            }
            End::Idle => {
                replies::idle_timeout(self.wording, &mut self.wire.out);
                "idle"
            }
            End::Closing => {
                replies::shutting_down(self.wording, &mut self.wire.out);
                "closing"
            }
            End::Ended => {
                replies::session_ended(self.wording, &mut self.wire.out);
                "ended"
            }
            End::TakenOver => {
                replies::taken_over(self.wording, &mut self.wire.out);
                "taken_over"
            }
        }
    }
}
