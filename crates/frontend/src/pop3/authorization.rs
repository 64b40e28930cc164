//! AUTHORIZATION: until somebody is who they say, and holds their maildrop's lock.

use std::time::Instant;

use auth::{AuthError, Password};
use maildrop::{OpenError, OpenMaildrop, TenantId};
use pop3_proto::{
    Authorization, AuthorizationStep, CloseReason, Credentials, DropListing, Login, Refusal, StartTls, Tls,
    Transaction, Verb,
};
use tracing::{debug, info, warn};

use super::Session;
use crate::{stream::Stream, wire::End};

/// How AUTHORIZATION ended.
pub(super) enum Authorized {
    /// With a login.
    Login(Transaction, Box<OpenMaildrop>),
    /// With the connection.
    Closed(&'static str),
}

impl Session<'_> {
    pub(super) async fn authorize(&mut self, mut state: Authorization) -> Result<Authorized, End> {
        loop {
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
                if self.wire.is_closing() {
                    return Err(End::Closing);
                }
                let left = self.login_deadline.saturating_duration_since(tokio::time::Instant::now());
                // Asked for by itself: octets that are there already are read even where no time is left.
                if left.is_zero() {
                    return Err(End::Idle);
                }
                self.fill(self.service.config.login_timeout.min(left)).await?;
            };
            state = match step {
                AuthorizationStep::Continue(state) => state,
                AuthorizationStep::Login(login, credentials) => {
                    match Box::pin(self.log_in(login, credentials)).await {
                        Ok(authorized) => {
                            command.done(true);
                            return Ok(authorized);
                        }
                        Err(AuthorizationStep::Continue(state)) => state,
                        Err(step) => return Ok(Authorized::Closed(reason_of(&step))),
                    }
                }
                AuthorizationStep::StartTls(handshake) => match Box::pin(self.start_tls(handshake)).await? {
                    Some(state) => state,
                    None => return Ok(Authorized::Closed("tls_failed")),
                },
                step @ AuthorizationStep::Close(_) => {
                    command.done(self.wire.reply_is_good());
                    return Ok(Authorized::Closed(reason_of(&step)));
                }
            };
            command.done(self.wire.reply_is_good());
            self.wire.flush_if_full().await?;
        }
    }

    /// Verifies a password and takes the maildrop's lock.
    async fn log_in(
        &mut self,
        login: Login,
        credentials: Credentials,
    ) -> Result<Authorized, AuthorizationStep> {
        let start = Instant::now();
        let metrics = &self.service.metrics;
        let refused = match self.open(&credentials).await {
            Ok(maildrop) => {
                metrics.pop3.login("ok", start);
                metrics.tenants.login(maildrop.tenant_id(), "ok");
                let span = tracing::Span::current();
                span.record("tenant.id", tracing::field::display(maildrop.tenant_id()));
                span.record("mailbox.id", tracing::field::display(maildrop.mailbox_id()));
                self.tally.user = Some(credentials.login.into());
                let (messages, octets) = maildrop.totals();
                let messages = u32::try_from(messages).unwrap_or(u32::MAX);
                let transaction = login.accept(DropListing { messages, octets }, &mut self.wire.out);
                return Ok(Authorized::Login(transaction, Box::new(maildrop)));
            }
            Err(refused) => refused,
        };
        metrics.pop3.login(refused.outcome, start);
        if let Some(tenant) = refused.tenant {
            metrics.tenants.login(tenant, refused.outcome);
        }
        // What watches for guessing reads this; the name is what the client said, and nobody's perhaps.
        info!(user = credentials.login, outcome = refused.outcome, "login was refused");
        Err(login.refuse(refused.refusal, &mut self.wire.out))
    }

    async fn open(&self, credentials: &Credentials) -> Result<OpenMaildrop, Refused> {
        let password = Password::new(credentials.password.expose().to_vec());
        let authenticator = &self.service.authenticator;
        let mut verified = authenticator.verify(&credentials.login, &password).await.map_err(refused)?;
        loop {
            let start = Instant::now();
            let maildrops = &self.service.maildrops;
            let opened = maildrops.open(verified.tenant, verified.mailbox, verified.credential_version).await;
            self.service.metrics.pop3.opened(open_outcome(&opened), start);
            let refused_with = |refusal, outcome| Refused { refusal, outcome, tenant: Some(verified.tenant) };
            match opened {
                Ok(maildrop) => return Ok(maildrop),
                Err(OpenError::InUse) => {
                    self.service.metrics.pop3.lock_conflicts.inc();
                    return Err(refused_with(Refusal::InUse, "in_use"));
                }
                // What was remembered is no longer so: ask the directory.
                Err(OpenError::Stale) if verified.remembered => {
                    verified =
                        authenticator.verify_again(&credentials.login, &password).await.map_err(refused)?;
                }
                // Changed between two statements: the client may simply try again.
                Err(OpenError::Stale) => return Err(refused_with(Refusal::Temporary, "unavailable")),
                Err(OpenError::Index(error)) => {
                    warn!(error = &error as &dyn std::error::Error, "maildrop could not be opened");
                    return Err(refused_with(Refusal::Temporary, "unavailable"));
                }
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
        let upgrade = async |stream| match stream {
            Stream::Tcp(stream) => tls.accept(stream).await,
            Stream::Tls(_) | Stream::Unix(_) => Err(std::io::ErrorKind::Unsupported.into()),
        };
        match self.wire.replace_stream(upgrade).await {
            Ok(()) => {
                let (metrics, version) = (&self.service.metrics.pop3, self.wire.tls_version());
                metrics.handshake(self.listener, Ok(version));
                self.active = metrics.active(self.listener, version);
                self.lines = pop3_proto::LineBuffer::default();
                Ok(Some(handshake.established()))
            }
            Err(error) => {
                self.service.metrics.pop3.handshake(self.listener, Err(&error));
                debug!(%error, "TLS handshake failed");
                Ok(None)
            }
        }
    }
}

/// A login that failed.
struct Refused {
    /// What the client is told.
    refusal: Refusal,
    /// What is counted.
    outcome: &'static str,
    /// Whom it is counted for, if that is known. The client is not told.
    tenant: Option<TenantId>,
}

fn refused(error: AuthError) -> Refused {
    match error {
        AuthError::BadCredentials { tenant } => {
            Refused { refusal: Refusal::BadCredentials, outcome: "bad_credentials", tenant }
        }
        AuthError::Unavailable(source) => {
            warn!(
                error = source.as_ref().map(|e| e as &dyn std::error::Error),
                "login could not be verified"
            );
            Refused { refusal: Refusal::Temporary, outcome: "unavailable", tenant: None }
        }
    }
}

/// The word in the metrics for what became of opening a maildrop.
fn open_outcome(opened: &Result<OpenMaildrop, OpenError>) -> &'static str {
    match opened {
        Ok(_) => "ok",
        Err(OpenError::InUse) => "in_use",
        Err(OpenError::Stale) => "stale",
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
