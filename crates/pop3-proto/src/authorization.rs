//! AUTHORIZATION: who is it, and is the connection fit to be asked (RFC 1939 §4).

mod forwarding;
mod login;
mod sasl;
mod start_tls;

pub use forwarding::Forwarding;
pub use login::{Login, Refusal};
pub use sasl::{MAX_SASL_LINE_OCTETS, MAX_TOKEN_OCTETS, SaslChallenged, SaslExchange, SaslStep};
pub use start_tls::StartTls;

use crate::capabilities::{self, Phase};
use crate::command::{Command, Unusable};
use crate::credentials::{ApopCredentials, Credentials, Password, Token};
use crate::forwarded::ForwardedClient;
use crate::language::Language;
use crate::line::Line;
use crate::mechanism::{Mechanism, Mechanisms};
use crate::policy::{CloseReason, Policy, Tls};
use crate::replies;
use crate::texts::{self, Text};

/// The state before login.
#[derive(Debug)]
pub struct Authorization {
    policy: Policy,
    /// The name of the last USER. Kept until PASS uses it or the stream changes.
    user: Option<String>,
    bad_commands: u32,
    refused_logins: u32,
}

/// What the driver does next. It flushes `out` first, whatever the step.
#[derive(Debug)]
#[must_use]
pub enum AuthorizationStep {
    /// Take the next line.
    Continue(Authorization),
    /// Check the credentials and answer with [`Login::accept`] or [`Login::refuse`]. Pipelined lines wait.
    Login(Login, Credentials),
    /// The same, of credentials that prove a password by a digest over [`Policy::apop`].
    Apop(Login, ApopCredentials),
    /// Give the initial response, if there is one, to the mechanism. Pipelined lines wait.
    Sasl(SaslExchange, Option<Token>),
    /// Flush, end the session if anything is buffered behind the line, else shake hands and call
    /// [`StartTls::established`].
    StartTls(StartTls),
    /// The peer is a proxy and says for whom it speaks: note it and call [`Forwarding::accept`].
    Forwarded(Forwarding, ForwardedClient),
    /// Flush and close. Nothing that follows is processed.
    Close(CloseReason),
}

impl Authorization {
    /// A fresh connection.
    pub fn new(policy: Policy) -> Self {
        Self { policy, user: None, bad_commands: 0, refused_logins: 0 }
    }

    /// Writes the greeting. The driver sends it once, at the start of the connection; there is none after
    /// STLS (RFC 2595 §4).
    pub fn greeting(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"+OK ");
        if self.policy.forwarding {
            // By this Dovecot, as a proxy, knows that XCLIENT is taken; it does not ask for CAPA.
            out.extend_from_slice(b"[XCLIENT] ");
        }
        let text: String = self.policy.greeting.chars().filter(|&c| c != '<' && c != '>').collect();
        replies::clean(&text, out);
        if let Some(timestamp) = &self.policy.apop {
            out.push(b' ');
            out.extend_from_slice(timestamp.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Changes what AUTH takes: there are others over TLS, say, or another tenant's.
    #[must_use]
    pub fn with_mechanisms(mut self, mechanisms: Mechanisms) -> Self {
        self.policy.mechanisms = mechanisms;
        self
    }

    /// Changes what CAPA announces of logins to come: whose they may be is known by now, or is another's.
    #[must_use]
    pub fn announcing(mut self, login_delay_secs: Option<u32>, expire_days: Option<u32>) -> Self {
        (self.policy.login_delay_secs, self.policy.expire_days) = (login_delay_secs, expire_days);
        self
    }

    /// What the connection may do.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Processes one line.
    pub fn line(self, line: Line<'_>, out: &mut Vec<u8>) -> AuthorizationStep {
        match Command::parse(line) {
            Ok(Command::User(name)) => return self.user(name, out),
            Ok(Command::Pass(password)) => return self.pass(password, out),
            Ok(Command::Apop(name, digest)) => return self.apop(name, digest, out),
            Ok(Command::Auth(Some((mechanism, initial)))) => return self.auth(mechanism, initial, out),
            Ok(Command::Auth(None)) => return self.list_mechanisms(out),
            Ok(Command::Stls) => return self.stls(out),
            Ok(Command::Xclient(client)) => return self.forward(client, out),
            Ok(Command::Capa) => capabilities::list(&self.policy, Phase::Authorization, out),
            Ok(Command::Lang(None)) => replies::languages(self.policy.wording, out),
            Ok(Command::Lang(Some(range))) => return self.lang(range, out),
            Ok(Command::Utf8) => return self.utf8(out),
            // RFC 1939 §4: no UPDATE is entered from here.
            Ok(Command::Quit) => {
                replies::ok(self.policy.wording, texts::BYE, out);
                return AuthorizationStep::Close(CloseReason::Quit);
            }
            Ok(
                Command::Dele(_)
                | Command::List(_)
                | Command::Noop
                | Command::Retr(_)
                | Command::Rset
                | Command::Stat
                | Command::Top(..)
                | Command::Uidl(_),
            ) => return self.bad(texts::LOG_IN_FIRST, out),
            Err(Unusable::Bad(text)) => return self.bad(text, out),
            Err(Unusable::Foreign) => return AuthorizationStep::Close(CloseReason::ForeignProtocol),
        }
        AuthorizationStep::Continue(self)
    }

    /// The answer is the same whether there is such a mailbox or not.
    fn user(mut self, name: &str, out: &mut Vec<u8>) -> AuthorizationStep {
        // RFC 2595 §2.3. Refused before the password is on the wire, and without [AUTH] (RFC 3206 §5), which
        // would make the client ask its user for another password.
        if !self.policy.allows_passwords() {
            return self.bad(texts::TLS_REQUIRED, out);
        }
        self.user = Some(name.to_owned());
        replies::ok(self.policy.wording, texts::SEND_PASS, out);
        AuthorizationStep::Continue(self)
    }

    fn pass(mut self, password: &[u8], out: &mut Vec<u8>) -> AuthorizationStep {
        // Without a USER that was taken there is no PASS; so this also keeps what `user` keeps.
        let Some(login) = self.user.take() else {
            return self.bad(texts::SEND_USER_FIRST, out);
        };
        let credentials = Credentials { login, password: Password::new(password) };
        AuthorizationStep::Login(Login::new(self), credentials)
    }

    fn apop(self, name: &str, digest: [u8; 16], out: &mut Vec<u8>) -> AuthorizationStep {
        if self.policy.apop.is_none() {
            return self.bad(texts::NO_APOP, out);
        }
        AuthorizationStep::Apop(Login::new(self), ApopCredentials { login: name.to_owned(), digest })
    }

    fn auth(self, mechanism: &[u8], initial: Option<&[u8]>, out: &mut Vec<u8>) -> AuthorizationStep {
        let Some(mechanism) = Mechanism::from_name(mechanism) else {
            return self.bad(texts::NO_SUCH_MECHANISM, out);
        };
        if !self.policy.mechanisms.contains(mechanism) {
            return self.bad(texts::NO_SUCH_MECHANISM, out);
        }
        if !self.policy.offers(mechanism) {
            return self.bad(texts::TLS_REQUIRED, out);
        }
        let initial = match initial.map(sasl::initial) {
            Some(None) => return self.bad(texts::NOT_BASE64, out),
            Some(initial) => initial,
            None => None,
        };
        AuthorizationStep::Sasl(SaslExchange::new(self, mechanism), initial)
    }

    fn list_mechanisms(self, out: &mut Vec<u8>) -> AuthorizationStep {
        let mut mechanisms =
            self.policy.mechanisms.iter().filter(|&mechanism| self.policy.offers(mechanism)).peekable();
        if mechanisms.peek().is_none() {
            return self.bad(texts::NO_AUTH, out);
        }
        replies::ok(self.policy.wording, texts::MECHANISMS_FOLLOW, out);
        for mechanism in mechanisms {
            out.extend_from_slice(mechanism.as_str().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        replies::terminator(out);
        AuthorizationStep::Continue(self)
    }

    fn lang(mut self, range: &[u8], out: &mut Vec<u8>) -> AuthorizationStep {
        let Some(language) = Language::for_range(range) else {
            return self.bad(texts::NO_SUCH_LANGUAGE, out);
        };
        self.policy.wording.language = language;
        replies::language_changed(self.policy.wording, out);
        AuthorizationStep::Continue(self)
    }

    fn utf8(mut self, out: &mut Vec<u8>) -> AuthorizationStep {
        if self.policy.wording.utf8 {
            return self.bad(texts::UTF8_ALREADY, out);
        }
        self.policy.wording.utf8 = true;
        replies::ok(self.policy.wording, texts::UTF8_ON, out);
        AuthorizationStep::Continue(self)
    }

    fn stls(self, out: &mut Vec<u8>) -> AuthorizationStep {
        match self.policy.tls {
            // RFC 6856 §2.1: whoever asks for TLS does so first.
            Tls::Available if self.policy.wording.utf8 => self.bad(texts::TLS_BEFORE_UTF8, out),
            Tls::Available => {
                replies::ok(self.policy.wording, texts::BEGIN_TLS, out);
                AuthorizationStep::StartTls(StartTls::new(self))
            }
            Tls::Active => self.bad(texts::TLS_ACTIVE, out),
            Tls::Unavailable => self.bad(texts::NO_TLS, out),
        }
    }

    fn forward(mut self, client: ForwardedClient, out: &mut Vec<u8>) -> AuthorizationStep {
        if !self.policy.forwarding {
            return self.bad(texts::NOT_TRUSTED, out);
        }
        // It may have been another client's.
        self.user = None;
        AuthorizationStep::Forwarded(Forwarding::new(self), client)
    }

    fn bad(mut self, text: Text, out: &mut Vec<u8>) -> AuthorizationStep {
        self.bad_commands += 1;
        if self.bad_commands >= self.policy.max_bad_commands {
            replies::err(self.policy.wording, texts::TOO_MANY_BAD_COMMANDS, out);
            return AuthorizationStep::Close(CloseReason::TooManyBadCommands);
        }
        replies::err(self.policy.wording, text, out);
        AuthorizationStep::Continue(self)
    }
}
