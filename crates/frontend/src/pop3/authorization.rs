//! AUTHORIZATION: until somebody is who they say, and holds their maildrop's lock.

use auth::{AuthError, Password};
use maildrop::{OpenError, OpenMaildrop};
use pop3_proto::{
    Authorization, AuthorizationStep, CloseReason, Credentials, DropListing, Login, Refusal, StartTls, Tls,
    Transaction,
};
use tokio::time::Instant;
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
            let step = loop {
                if let Some(line) = self.lines.next_line() {
                    self.service.count(line);
                    break state.line(line, &mut self.wire.out);
                }
                // TLS on the plain port may never bring a line end; nothing is said to it (DESIGN, notes 29).
                if self.lines.is_tls_client_hello() && state.policy().tls != Tls::Active {
                    self.wire.out.clear();
                    return Ok(Authorized::Closed("foreign_protocol"));
                }
                if self.wire.is_closing() {
                    return Err(End::Closing);
                }
                let left = self.login_deadline.saturating_duration_since(Instant::now());
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
                        Ok(authorized) => return Ok(authorized),
                        Err(AuthorizationStep::Continue(state)) => state,
                        Err(step) => return Ok(Authorized::Closed(reason_of(&step))),
                    }
                }
                AuthorizationStep::StartTls(handshake) => match Box::pin(self.start_tls(handshake)).await? {
                    Some(state) => state,
                    None => return Ok(Authorized::Closed("tls_failed")),
                },
                step @ AuthorizationStep::Close(_) => return Ok(Authorized::Closed(reason_of(&step))),
            };
            self.wire.flush_if_full().await?;
        }
    }

    /// Verifies a password and takes the maildrop's lock.
    async fn log_in(
        &mut self,
        login: Login,
        credentials: Credentials,
    ) -> Result<Authorized, AuthorizationStep> {
        let (refusal, outcome) = match self.open(&credentials).await {
            Ok(maildrop) => {
                self.count_login("ok");
                let (messages, octets) = maildrop.totals();
                let messages = u32::try_from(messages).unwrap_or(u32::MAX);
                let transaction = login.accept(DropListing { messages, octets }, &mut self.wire.out);
                return Ok(Authorized::Login(transaction, Box::new(maildrop)));
            }
            Err(refused) => refused,
        };
        self.count_login(outcome);
        Err(login.refuse(refusal, &mut self.wire.out))
    }

    async fn open(&self, credentials: &Credentials) -> Result<OpenMaildrop, (Refusal, &'static str)> {
        let password = Password::new(credentials.password.expose().to_vec());
        let authenticator = &self.service.authenticator;
        let mut verified =
            authenticator.verify(&credentials.login, &password).await.map_err(|e| refused(&e))?;
        loop {
            let maildrops = &self.service.maildrops;
            match maildrops.open(verified.tenant, verified.mailbox, verified.credential_version).await {
                Ok(maildrop) => return Ok(maildrop),
                Err(OpenError::InUse) => return Err((Refusal::InUse, "in_use")),
                // What was remembered is no longer so: ask the directory.
                Err(OpenError::Stale) if verified.remembered => {
                    verified = authenticator
                        .verify_again(&credentials.login, &password)
                        .await
                        .map_err(|e| refused(&e))?;
                }
                // Changed between two statements: the client may simply try again.
                Err(OpenError::Stale) => return Err((Refusal::Temporary, "unavailable")),
                Err(OpenError::Index(error)) => {
                    warn!(error = &error as &dyn std::error::Error, "maildrop could not be opened");
                    return Err((Refusal::Temporary, "unavailable"));
                }
            }
        }
    }

    fn count_login(&self, outcome: &'static str) {
        self.service.metrics.pop3_logins.with_label_values(&[outcome]).inc();
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
                self.lines = pop3_proto::LineBuffer::default();
                Ok(Some(handshake.established()))
            }
            Err(error) => {
                debug!(%error, "TLS handshake failed");
                Ok(None)
            }
        }
    }
}

/// What a client is told of a login that failed, and what is counted.
fn refused(error: &AuthError) -> (Refusal, &'static str) {
    match error {
        AuthError::BadCredentials => (Refusal::BadCredentials, "bad_credentials"),
        AuthError::Unavailable(source) => {
            warn!(
                error = source.as_ref().map(|e| e as &dyn std::error::Error),
                "login could not be verified"
            );
            (Refusal::Temporary, "unavailable")
        }
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
