//! AUTH: carries tokens between a client and its mechanism (RFC 5034).

use auth::{Exchange, SaslReply};
use maildrop::LoginMechanism;
use pop3_proto::{AuthorizationStep, Login, MAX_LINE_OCTETS, Mechanism, SaslExchange, SaslStep, Token};

use super::{
    Session,
    authorization::{How, Proof},
};
use crate::wire::End;

/// What an exchange came to.
pub(super) enum Exchanged {
    /// Something to judge.
    Proof(Login, Box<Proof>),
    /// Nothing: the client gave up, or made no sense.
    Ended(AuthorizationStep),
}

impl Session<'_> {
    /// Takes the exchange to its end.
    pub(super) async fn exchange(
        &mut self,
        mut exchange: SaslExchange,
        initial: Option<Token>,
    ) -> Result<Exchanged, End> {
        let (mechanism, plus) = kind(exchange.mechanism());
        let bindings = self.wire.channel_bindings();
        let offered = self.service.mechanisms(&self.wire, self.face.as_deref());
        let plus_offered = [Mechanism::ScramSha1Plus, Mechanism::ScramSha256Plus]
            .into_iter()
            .any(|with_binding| kind(with_binding).0 == mechanism && offered.contains(with_binding));
        let hostname = &self.service.config.hostname;
        let mut server = Exchange::new(mechanism, plus, plus_offered, bindings, hostname)
            .for_names_at(self.default_domain())
            .with_addresses(self.wire.client_addresses());
        let mut token = initial;
        let how = loop {
            let response = token.as_ref().map(Token::expose);
            match server.respond(&self.service.authenticator, response).await {
                Ok(SaslReply::Challenge(octets)) => {
                    let challenged = exchange.challenge(&octets, &mut self.wire.out);
                    self.lines.set_max_octets(self.service.token_line_octets());
                    let step = loop {
                        if let Some(line) = self.lines.next_line() {
                            self.wire.begin_reply();
                            break challenged.line(line, &mut self.wire.out);
                        }
                        if let Some(end) = self.wire.end() {
                            return Err(end);
                        }
                        self.fill_before_login().await?;
                    };
                    self.lines.set_max_octets(MAX_LINE_OCTETS);
                    match step {
                        SaslStep::Response(next, response) => {
                            exchange = next;
                            token = Some(response);
                        }
                        SaslStep::Ended(step) => {
                            if server.is_refused() {
                                self.given_up(server.login().unwrap_or_default(), mechanism).await?;
                            }
                            return Ok(Exchanged::Ended(step));
                        }
                    }
                }
                Ok(SaslReply::Password(password)) => break How::Password(password),
                Ok(SaslReply::Verified(verified)) => break How::Verified(verified),
                Err(error) => break How::Refused(error),
            }
        };
        let (login, recent) = (server.login().unwrap_or_default().to_owned(), server.recent());
        Ok(Exchanged::Proof(exchange.end(), Box::new(Proof { login, recent, mechanism, how })))
    }
}

/// Which way to log in a mechanism is, and whether in its form with channel binding.
pub(super) fn kind(mechanism: Mechanism) -> (LoginMechanism, bool) {
    match mechanism {
        Mechanism::External => (LoginMechanism::External, false),
        Mechanism::ScramSha256Plus => (LoginMechanism::ScramSha256, true),
        Mechanism::ScramSha256 => (LoginMechanism::ScramSha256, false),
        Mechanism::ScramSha1Plus => (LoginMechanism::ScramSha1, true),
        Mechanism::ScramSha1 => (LoginMechanism::ScramSha1, false),
        Mechanism::CramMd5 => (LoginMechanism::CramMd5, false),
        Mechanism::OauthBearer => (LoginMechanism::OauthBearer, false),
        Mechanism::Xoauth2 => (LoginMechanism::Xoauth2, false),
        Mechanism::Plain => (LoginMechanism::Plain, false),
        Mechanism::Login => (LoginMechanism::Login, false),
    }
}
