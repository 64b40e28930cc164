//! AUTHORIZATION: until somebody is who they say, and holds their maildrop's lock.

use std::time::{Duration, Instant};

use auth::{AuthError, LoginName, Password, Penalty, Verified};
use maildrop::{
    Access, Form, LoginMechanism, LoginScope, OpenError, OpenMaildrop, State, TenantId, View, port::Traffic,
};
use pop3_proto::{
    ApopCredentials, Authorization, AuthorizationStep, CloseReason, Credentials, DropListing, Login, Refusal,
    StartTls, Terms, Tls, Transaction, Verb,
};
use time::OffsetDateTime;
use tracing::{debug, info, warn};

use super::{Session, Tenancy, sasl::Exchanged};
use crate::{
    stream::{Peer, Stream},
    wire::End,
};

/// How AUTHORIZATION ended.
pub(super) enum Authorized {
    /// With a login.
    Login(Transaction, Box<OpenMaildrop>),
    /// With the connection.
    Closed(&'static str),
}

/// What a login rests on.
pub(super) struct Proof {
    /// The name the client gave; empty where it did not get so far.
    pub(super) login: String,
    /// Whether only recent messages are asked for.
    pub(super) recent: bool,
    pub(super) mechanism: LoginMechanism,
    pub(super) how: How,
}

/// How a login is proved.
pub(super) enum How {
    /// By a password, still to be verified.
    Password(Password),
    /// By an exchange that has been verified.
    Verified(Box<Verified>),
    /// Not at all.
    Refused(AuthError),
}

impl Session<'_> {
    pub(super) async fn authorize(&mut self, mut state: Authorization) -> Result<Authorized, End> {
        loop {
            self.wording = state.policy().wording;
            let (command, step) = loop {
                if let Some(line) = self.lines.next_line() {
                    let command = self.service.metrics.pop3.command(Verb::of(line));
                    self.wire.begin_reply();
                    break (command, state.line(line, &mut self.wire.out));
                }
                // TLS on the plain port may never bring a line end; nothing is said to it (DESIGN, notes 29).
                if self.lines.is_tls_client_hello() && state.policy().tls != Tls::Active {
                    self.wire.out.clear();
                    return Ok(Authorized::Closed("foreign_protocol"));
                }
                if let Some(end) = self.wire.end() {
                    return Err(end);
                }
                self.fill_before_login().await?;
            };
            let logging_in = match step {
                AuthorizationStep::Continue(next) => Err(AuthorizationStep::Continue(next)),
                AuthorizationStep::Login(login, credentials) => {
                    Ok((login, Proof::of(&credentials, self.default_domain().as_deref())))
                }
                AuthorizationStep::Apop(login, credentials) => {
                    let proof = Box::pin(self.apop(credentials)).await;
                    Ok((login, proof))
                }
                AuthorizationStep::Sasl(exchange, initial) => {
                    match Box::pin(self.exchange(exchange, initial)).await? {
                        Exchanged::Proof(login, proof) => Ok((login, *proof)),
                        Exchanged::Ended(step) => Err(step),
                    }
                }
                step @ (AuthorizationStep::StartTls(_)
                | AuthorizationStep::Forwarded(..)
                | AuthorizationStep::Close(_)) => Err(step),
            };
            let step = match logging_in {
                Ok((login, proof)) => match Box::pin(self.log_in(login, proof)).await {
                    Ok(authorized) => {
                        command.done(true);
                        return Ok(authorized);
                    }
                    Err(Refusing::Step(step)) => step,
                    Err(Refusing::Over(end)) => return Err(end),
                },
                Err(step) => step,
            };
            state = match step {
                AuthorizationStep::Continue(state) => state,
                AuthorizationStep::StartTls(handshake) => match Box::pin(self.start_tls(handshake)).await? {
                    Some(state) => state,
                    None => return Ok(Authorized::Closed("tls_failed")),
                },
                AuthorizationStep::Forwarded(forwarding, client) => match self.forward(forwarding, client) {
                    Some(state) => state,
                    None => return Ok(Authorized::Closed("too_many_connections")),
                },
                step => {
                    command.done(self.wire.reply_is_good());
                    return Ok(Authorized::Closed(reason_of(&step)));
                }
            };
            command.done(self.wire.reply_is_good());
            self.wire.flush_if_full().await?;
        }
    }

    /// Waits for the client's next octets, for as long as a stranger may take.
    pub(super) async fn fill_before_login(&mut self) -> Result<(), End> {
        let left = self.login_deadline.saturating_duration_since(tokio::time::Instant::now());
        // Asked for by itself: octets that are there already are read even where no time is left.
        if left.is_zero() {
            return Err(End::Idle);
        }
        self.fill(self.service.config.login_timeout.min(left)).await
    }

    /// Verifies an APOP digest.
    async fn apop(&self, credentials: ApopCredentials) -> Proof {
        let ApopCredentials { login, digest } = credentials;
        let LoginName { name: login, recent } = LoginName::read(&login, self.default_domain().as_deref());
        let timestamp = self.apop.as_deref().unwrap_or_default();
        let how = match self.service.authenticator.verify_apop(&login, timestamp, digest).await {
            Ok(verified) => How::Verified(Box::new(verified)),
            Err(error) => How::Refused(error),
        };
        Proof { login, recent, mechanism: LoginMechanism::Apop, how }
    }

    /// Verifies who it is and takes the maildrop's lock.
    async fn log_in(&mut self, login: Login, proof: Proof) -> Result<Authorized, Refusing> {
        let start = Instant::now();
        let metrics = &self.service.metrics;
        let Proof { login: name, recent, mechanism, how } = proof;
        let refused = match self.open(&name, recent, mechanism, how).await {
            Ok(maildrop) => {
                metrics.pop3.login(mechanism, "ok", start);
                metrics.tenants.login(maildrop.tenant_id(), "ok");
                let span = tracing::Span::current();
                span.record("tenant.id", tracing::field::display(maildrop.tenant_id()));
                span.record("mailbox.id", tracing::field::display(maildrop.mailbox_id()));
                self.tally.user = Some(name.into());
                self.seat.logged_in();
                self.lines.set_max_auth_octets(0);
                self.logged_in = Some(self.service.tenancy.sessions.log_in(self.id));
                if let Some(logged_in) = &self.logged_in {
                    self.wire.end_with(logged_in.ended.clone());
                }
                if maildrop.was_taken_over() {
                    info!("maildrop was taken over from a session whose client was silent");
                    metrics.pop3.lock_takeovers.inc();
                }
                if let Some(after) = maildrop.rules().mailbox.takeover_after() {
                    self.wire.watch(after, maildrop.silence());
                }
                let login_counted = Traffic { logins: 1, ..Traffic::default() };
                self.count_traffic(&maildrop, login_counted);
                self.service
                    .tenancy
                    .penalties
                    .accepted(self.tally.user.as_deref().unwrap_or_default(), self.client.peer.ip());
                let (messages, octets) = maildrop.totals();
                let messages = u32::try_from(messages).unwrap_or(u32::MAX);
                let policy = &maildrop.rules().mailbox;
                let terms = Terms {
                    login_delay_secs: policy.login_delay_secs.filter(|secs| *secs > 0),
                    expire_days: policy.expire_days,
                    read_only: maildrop.scope() == LoginScope::ReadOnly,
                };
                let transaction =
                    login.accept(DropListing { messages, octets }, &mut self.wire.out).under(terms);
                return Ok(Authorized::Login(transaction, Box::new(maildrop)));
            }
            Err(refused) => refused,
        };
        metrics.pop3.login(mechanism, refused.outcome, start);
        if let Some(tenant) = refused.tenant {
            metrics.tenants.login(tenant, refused.outcome);
        }
        if let Err(end) = self.penalize(&name, mechanism, &refused).await {
            return Err(Refusing::Over(end));
        }
        Err(Refusing::Step(login.refuse(refused.refusal, &mut self.wire.out)))
    }

    /// Has the answer to a login that failed wait, as long as it has to.
    async fn penalize(
        &mut self,
        name: &str,
        mechanism: LoginMechanism,
        refused: &Refused,
    ) -> Result<(), End> {
        let delay = if refused.counts {
            self.service.tenancy.penalties.refused(name, self.client.peer.ip()).await
        } else {
            Penalty::NONE
        };
        self.service.metrics.pop3.delayed(delay.by);
        // What watches for guessing reads this; the name is what the client said, and nobody's perhaps.
        let delay_ms = delay.delay.as_millis() as u64;
        info!(
            user = name,
            mechanism = mechanism.as_str(),
            outcome = refused.outcome,
            delay_ms,
            "login was refused"
        );
        // A client that does not wait has its answer all the same: it connects again, and waits longer.
        self.wait(delay.delay).await
    }

    /// Counts a login whose client gave up when it knew that it was refused.
    pub(super) async fn given_up(&mut self, name: &str, mechanism: LoginMechanism) -> Result<(), End> {
        let refused = refused(AuthError::BadCredentials { tenant: None });
        self.service.metrics.pop3.login(mechanism, refused.outcome, Instant::now());
        self.penalize(name, mechanism, &refused).await
    }

    /// Waits before a refusal is told. A client that goes meanwhile gives its place to others, and keeps its source's: it
    /// has to wait as long for the next try as if it had stayed.
    async fn wait(&mut self, delay: Duration) -> Result<(), End> {
        match self.wire.pause_while_there(delay).await? {
            None => Ok(()),
            Some(left) if self.seat.owe(left) => Err(End::Gone(std::io::ErrorKind::ConnectionAborted.into())),
            Some(left) => self.wire.pause(left).await,
        }
    }

    async fn open(
        &self,
        login: &str,
        recent: bool,
        mechanism: LoginMechanism,
        how: How,
    ) -> Result<OpenMaildrop, Refused> {
        let authenticator = &self.service.authenticator;
        let (mut verified, password) = match how {
            How::Password(password) => {
                (authenticator.verify(login, &password).await.map_err(refused)?, Some(password))
            }
            How::Verified(verified) => (*verified, None),
            How::Refused(error) => return Err(refused(error)),
        };
        let peer = self.client.peer.to_string();
        loop {
            let tenant = verified.access.tenant;
            let refused_with =
                |refusal, outcome| Refused { refusal, outcome, tenant: Some(tenant), counts: false };
            // What is remembered may have been changed since; and only a password is.
            let again = password.as_ref().filter(|_| verified.remembered);
            if let Err(refused_login) = self.admit(&verified, mechanism).await {
                let Some(password) = again else { return Err(refused_login) };
                if authenticator.is_current(login, &verified).await.map_err(refused)? {
                    return Err(refused_login);
                }
                verified = authenticator.verify_again(login, password).await.map_err(refused)?;
                continue;
            }
            let start = Instant::now();
            let opened = self.open_maildrop(&verified.access, recent, &peer).await;
            self.service.metrics.pop3.opened(open_outcome(&opened), start);
            match opened {
                Ok(maildrop) => return Ok(maildrop),
                Err(OpenError::InUse) => {
                    self.service.metrics.pop3.lock_conflicts.inc();
                    return Err(refused_with(Refusal::InUse, "in_use"));
                }
                Err(OpenError::Stale) => match again {
                    // What was remembered is no longer so: ask the directory.
                    Some(password) => {
                        verified = authenticator.verify_again(login, password).await.map_err(refused)?;
                    }
                    // Changed between two statements: the client may simply try again.
                    None => return Err(refused_with(Refusal::Temporary, "unavailable")),
                },
                Err(OpenError::TooSoon) => return Err(refused_with(Refusal::LoginDelay, "login_delay")),
                Err(OpenError::TooManySessions) => {
                    self.service.metrics.tenants.refusal(tenant, "sessions");
                    return Err(refused_with(Refusal::Temporary, "too_many_sessions"));
                }
                Err(OpenError::Index(error)) => {
                    warn!(error = &error as &dyn std::error::Error, "maildrop could not be opened");
                    return Err(refused_with(Refusal::Temporary, "unavailable"));
                }
            }
        }
    }

    async fn open_maildrop(
        &self,
        access: &Access,
        recent: bool,
        peer: &str,
    ) -> Result<OpenMaildrop, OpenError> {
        let maildrop = self.service.maildrops.open(access, self.id.as_str(), peer).await?;
        let policy = &access.rules.mailbox;
        let view = View {
            form: if self.wording.utf8 { Form::Native } else { Form::Ascii },
            order: policy.message_order.unwrap_or_default(),
            since: recent.then(|| OffsetDateTime::now_utc() - policy.recent_window()),
            last: policy.listed_max,
        };
        Ok(maildrop.seen_as(view).await?)
    }

    /// Whether tenant and mailbox let this login in. Asked only of who has the right password: to others they
    /// do not tell that they exist.
    async fn admit(&self, verified: &Verified, mechanism: LoginMechanism) -> Result<(), Refused> {
        let Access { tenant, mailbox, rules, .. } = &verified.access;
        let refused_with =
            |refusal, outcome| Err(Refused { refusal, outcome, tenant: Some(*tenant), counts: false });
        let policy = &rules.mailbox;
        if verified.state != State::Active {
            return refused_with(Refusal::Permanent, "suspended");
        }
        if policy.pop3 == Some(false) || !policy.takes(mechanism) {
            return refused_with(Refusal::Permanent, "disabled");
        }
        let encrypted = self.wire.tls_version() != "none" || self.client.has_tls_to_proxy();
        let in_the_clear = !encrypted && self.client.peer != Peer::Unix;
        if policy.plaintext_login == Some(false) && in_the_clear {
            return refused_with(Refusal::TlsRequired, "tls_required");
        }
        let Tenancy { throttle, traffic, .. } = &self.service.tenancy;
        if !throttle.login(*tenant, *mailbox, rules) {
            self.service.metrics.tenants.refusal(*tenant, "rate");
            return refused_with(Refusal::Temporary, "throttled");
        }
        match traffic.may_send(*tenant, *mailbox, rules).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.service.metrics.tenants.refusal(*tenant, "daily_octets");
                refused_with(Refusal::Temporary, "daily_limit")
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "traffic could not be asked for");
                refused_with(Refusal::Temporary, "unavailable")
            }
        }
    }

    /// Encrypts the connection. `None` when that failed and there is nothing left to talk over.
    async fn start_tls(&mut self, handshake: StartTls) -> Result<Option<Authorization>, End> {
        // Commands pipelined behind STLS came in the clear: an injection (CVE-2011-0411, RFC 2595 §4).
        if !self.lines.is_empty() {
            info!("plaintext behind STLS: session is ended");
            self.wire.out.clear();
            return Ok(None);
        }
        self.wire.flush().await?;
        let Some(tls) = &self.service.tls else { return Ok(None) };
        let mut face = None;
        let upgrade = async |stream| match stream {
            Stream::Tcp(stream) => {
                let accepted = tls.accept(stream).await?;
                face = accepted.face;
                Ok(accepted.stream)
            }
            Stream::Tls(..) | Stream::Unix(_) => Err(std::io::ErrorKind::Unsupported.into()),
        };
        match self.wire.replace_stream(upgrade).await {
            Ok(()) => {
                let (metrics, version) = (&self.service.metrics.pop3, self.wire.tls_version());
                metrics.handshake(self.listener, Ok(version));
                self.active = metrics.active(self.listener, version);
                self.lines = self.service.lines();
                // What a proxy said of its client's host holds where the proxy itself asks for none.
                self.face = face.or_else(|| self.face.take());
                let offered = self.service.mechanisms(&self.wire, self.face.as_deref());
                let (delay, expire) =
                    self.face.as_ref().map_or((None, None), |face| (face.login_delay_secs, face.expire_days));
                let state = handshake.established().with_mechanisms(offered);
                Ok(Some(state.announcing(delay, expire)))
            }
            Err(error) => {
                self.service.metrics.pop3.handshake(self.listener, Err(&error));
                debug!(%error, "TLS handshake failed");
                Ok(None)
            }
        }
    }
}

impl Proof {
    /// By USER and PASS.
    fn of(credentials: &Credentials, default_domain: Option<&str>) -> Self {
        let password = Password::new(credentials.password.expose().to_vec());
        let LoginName { name: login, recent } = LoginName::read(&credentials.login, default_domain);
        Self { login, recent, mechanism: LoginMechanism::User, how: How::Password(password) }
    }
}

/// What comes of a login that failed.
enum Refusing {
    /// The client is told.
    Step(AuthorizationStep),
    /// The session ended while the answer waited.
    Over(End),
}

/// A login that failed.
struct Refused {
    /// What the client is told.
    refusal: Refusal,
    /// What is counted.
    outcome: &'static str,
    /// Whom it is counted for, if that is known. The client is not told.
    tenant: Option<TenantId>,
    /// Whether it may have been a guess, so that the answer waits.
    counts: bool,
}

fn refused(error: AuthError) -> Refused {
    match error {
        AuthError::BadCredentials { tenant } => {
            Refused { refusal: Refusal::BadCredentials, outcome: "bad_credentials", tenant, counts: true }
        }
        AuthError::Undecided { tenant } => Refused {
            refusal: Refusal::Temporary,
            outcome: "unavailable",
            tenant: Some(tenant),
            counts: true,
        },
        AuthError::Unavailable(source) => {
            warn!(
                error = source.as_ref().map(|e| e as &dyn std::error::Error),
                "login could not be verified"
            );
            Refused { refusal: Refusal::Temporary, outcome: "unavailable", tenant: None, counts: false }
        }
    }
}

/// The word in the metrics for what became of opening a maildrop.
fn open_outcome(opened: &Result<OpenMaildrop, OpenError>) -> &'static str {
    match opened {
        Ok(_) => "ok",
        Err(OpenError::InUse) => "in_use",
        Err(OpenError::Stale) => "stale",
        Err(OpenError::TooSoon) => "too_soon",
        Err(OpenError::TooManySessions) => "too_many_sessions",
        Err(OpenError::Index(_)) => "unavailable",
    }
}

fn reason_of(step: &AuthorizationStep) -> &'static str {
    match step {
        AuthorizationStep::Close(reason) => close_reason(*reason),
        _ => "closed",
    }
}

/// The reason's word in the metrics.
pub(super) fn close_reason(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Quit => "quit",
        CloseReason::TooManyBadCommands => "bad_commands",
        CloseReason::TooManyRefusedLogins => "refused_logins",
        CloseReason::ForeignProtocol => "foreign_protocol",
    }
}
