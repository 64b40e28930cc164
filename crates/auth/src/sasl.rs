//! SASL mechanisms (RFC 4422), the server's side: what tokens say, and whether it is so.
//!
//! ```text
//!   Exchange ── respond(token) ──► Challenge ── respond(token) ──► … ──► Verified
//!                     └──► Refused                    └──► Refused
//! ```

mod bearer;
mod cram;
mod external;
mod plain;
mod scram;
mod verifiers;

use std::{borrow::Cow, sync::Arc};

use maildrop::{Address, LoginMechanism, port::Account};

pub(crate) use cram::apop_is_good;
pub use cram::timestamp as apop_timestamp;
pub(crate) use scram::{Hash, ScramVerifier};
pub use verifiers::{Verifiers, Wanted};

use crate::{AuthError, Authenticator, Password, Verified};

/// Material both ends of a TLS connection have and nobody between them does (RFC 5929, RFC 9266).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelBindings {
    /// `tls-exporter`: 32 octets exported by TLS 1.3, or by TLS 1.2 with an extended master secret.
    pub exporter: Option<Vec<u8>>,
    /// `tls-server-end-point`: the hash of our certificate.
    pub server_end_point: Option<Vec<u8>>,
}

impl ChannelBindings {
    /// Whether there is any, so that mechanisms with channel binding can be offered.
    pub fn any(&self) -> bool {
        self.exporter.is_some() || self.server_end_point.is_some()
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        match name {
            "tls-exporter" => self.exporter.as_deref(),
            "tls-server-end-point" => self.server_end_point.as_deref(),
            _ => None,
        }
    }
}

/// A token that is not what its mechanism says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// An exchange on the server's side. It begins with the first response, or with none.
#[derive(Debug)]
pub struct Exchange {
    mechanism: LoginMechanism,
    plus: bool,
    plus_offered: bool,
    bindings: ChannelBindings,
    /// Mail addresses in the certificate that the client showed.
    addresses: Vec<String>,
    /// Named in challenges.
    hostname: String,
    login: Option<String>,
    recent: bool,
    /// The domain of names that have none.
    default_domain: Option<Arc<str>>,
    state: State,
}

#[derive(Debug)]
enum State {
    Start,
    /// LOGIN has the name and waits for the password.
    LoginName(String),
    Cram {
        challenge: String,
    },
    ScramFirst {
        server: Box<scram::ServerFirst>,
        /// Whose verifier it is; none for a decoy.
        account: Option<Box<Account>>,
    },
    /// The client is told that the server knew the password too, and answers with nothing.
    ScramLast(Box<Verified>),
    /// The client is told why its token is not taken, and answers with nothing of use (RFC 7628 §3.2.3).
    BearerRefused(AuthError),
    Over,
}

/// What comes after a response.
#[derive(Debug)]
pub enum SaslReply {
    /// Send this, and wait for the next.
    Challenge(Vec<u8>),
    /// The client gave its password: [`Exchange::login`] is to be verified by it.
    Password(Password),
    /// The client is who it says.
    Verified(Box<Verified>),
}

impl Exchange {
    /// An exchange of this mechanism; `plus` for its form with channel binding, `plus_offered` where that was on
    /// offer. `hostname` is named in challenges.
    ///
    /// Of [`LoginMechanism`], those are meant that are SASL's.
    pub fn new(
        mechanism: LoginMechanism,
        plus: bool,
        plus_offered: bool,
        bindings: ChannelBindings,
        hostname: &str,
    ) -> Self {
        Self {
            mechanism,
            plus,
            plus_offered,
            bindings,
            addresses: Vec::new(),
            hostname: hostname.to_owned(),
            login: None,
            recent: false,
            default_domain: None,
            state: State::Start,
        }
    }

    /// The same, where names without a domain are of this one.
    #[must_use]
    pub fn for_names_at(self, default_domain: Option<Arc<str>>) -> Self {
        Self { default_domain, ..self }
    }

    /// What the client said it is, without what it said beside.
    fn named(&mut self, said: &str) -> String {
        let LoginName { name, recent } = LoginName::read(said, self.default_domain.as_deref());
        self.recent |= recent;
        name
    }

    /// Whether the client asked for the recent view ([`LoginName::recent`]).
    pub fn recent(&self) -> bool {
        self.recent
    }

    /// With a client that showed a certificate with these mail addresses, which was verified.
    #[must_use]
    pub fn with_addresses(self, addresses: Vec<String>) -> Self {
        Self { addresses, ..self }
    }

    /// The name the client gave, once it did. It is the client's word until there is a [`SaslReply::Verified`].
    pub fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// Whether the client is refused already and only still has to be told so: giving up changes nothing of that.
    pub fn is_refused(&self) -> bool {
        matches!(self.state, State::BearerRefused(_))
    }

    /// Takes a response; `None` where the client sent none along with the mechanism's name. An error ends the
    /// exchange.
    pub async fn respond(
        &mut self,
        authenticator: &Authenticator,
        response: Option<&[u8]>,
    ) -> Result<SaslReply, AuthError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Start => match self.mechanism {
                LoginMechanism::Plain => self.plain(response),
                LoginMechanism::Login => Ok(self.login_name(response)),
                LoginMechanism::CramMd5 => self.cram_challenge(response),
                LoginMechanism::ScramSha1 => self.scram_first(authenticator, Hash::Sha1, response).await,
                LoginMechanism::ScramSha256 => self.scram_first(authenticator, Hash::Sha256, response).await,
                LoginMechanism::OauthBearer | LoginMechanism::Xoauth2 => {
                    self.bearer(authenticator, response).await
                }
                LoginMechanism::External => self.external(authenticator, response).await,
                LoginMechanism::User | LoginMechanism::Apop => Err(bad()),
            },
            State::BearerRefused(error) => Err(error),
            State::LoginName(name) => {
                self.login = Some(self.named(&name));
                password(response.unwrap_or_default())
            }
            State::Cram { challenge } => {
                self.cram(authenticator, &challenge, response.unwrap_or_default()).await
            }
            State::ScramFirst { server, account } => {
                self.scram_last(&server, account, response.unwrap_or_default())
            }
            State::ScramLast(verified) => match response.unwrap_or_default() {
                [] => Ok(SaslReply::Verified(verified)),
                _ => Err(bad()),
            },
            State::Over => Err(bad()),
        }
    }

    fn plain(&mut self, response: Option<&[u8]>) -> Result<SaslReply, AuthError> {
        let Some(response) = response else { return Ok(self.prompt(b"")) };
        let plain = plain::Plain::parse(response).map_err(|Malformed| bad())?;
        let login = self.named(plain.login);
        let authzid = if plain.authzid.is_empty() { String::new() } else { self.named(plain.authzid) };
        let itself = acts_for_itself(&authzid, &login);
        self.login = Some(login);
        if !itself {
            return Err(bad());
        }
        password(plain.password)
    }

    async fn bearer(
        &mut self,
        authenticator: &Authenticator,
        response: Option<&[u8]>,
    ) -> Result<SaslReply, AuthError> {
        let Some(response) = response else { return Ok(self.prompt(b"")) };
        let is_rfc = self.mechanism == LoginMechanism::OauthBearer;
        let parsed = if is_rfc {
            bearer::Bearer::parse_oauthbearer(response)
        } else {
            bearer::Bearer::parse_xoauth2(response)
        };
        let verified = match parsed {
            Ok(bearer::Bearer { login: Some(login), token }) => {
                let login = self.named(&login);
                self.login = Some(login.clone());
                authenticator.verify_token(&login, token).await
            }
            // Whose mailbox is not said (RFC 7628 §3.1): the token tells it, within the tenant that the host does.
            Ok(bearer::Bearer { login: None, token }) => match self.default_domain.clone() {
                Some(domain) => match authenticator.verify_token_at(&domain, token).await {
                    Ok((login, verified)) => {
                        self.login = Some(login);
                        Ok(verified)
                    }
                    Err(error) => Err(error),
                },
                None => Err(bad()),
            },
            Err(Malformed) => Err(bad()),
        };
        match verified {
            Ok(verified) => Ok(SaslReply::Verified(Box::new(verified))),
            Err(error @ AuthError::BadCredentials { .. }) => {
                self.state = State::BearerRefused(error);
                let refusal = if is_rfc { bearer::OAUTHBEARER_REFUSAL } else { bearer::XOAUTH2_REFUSAL };
                Ok(SaslReply::Challenge(refusal.to_vec()))
            }
            // Of the token nothing is known: there is nothing to tell of it.
            Err(error @ (AuthError::Unavailable(_) | AuthError::Undecided { .. })) => Err(error),
        }
    }

    fn login_name(&mut self, response: Option<&[u8]>) -> SaslReply {
        // Without an initial response the name is asked for first, in the words that clients were seen to need.
        let Some(response) = response else { return self.prompt(b"User Name\0") };
        // What is no name is asked the password of all the same, and is refused with it.
        let name = plain::name(response).unwrap_or_default().to_owned();
        self.state = State::LoginName(name);
        SaslReply::Challenge(b"Password\0".to_vec())
    }

    /// Asks for what the client could have said at once.
    fn prompt(&mut self, prompt: &[u8]) -> SaslReply {
        self.state = State::Start;
        SaslReply::Challenge(prompt.to_vec())
    }

    async fn external(
        &mut self,
        authenticator: &Authenticator,
        response: Option<&[u8]>,
    ) -> Result<SaslReply, AuthError> {
        let Some(response) = response else { return Ok(self.prompt(b"")) };
        let authzid = external::authzid(response).map_err(|Malformed| bad())?;
        let authzid = if authzid.is_empty() { String::new() } else { self.named(authzid) };
        let (login, verified) = authenticator.verify_external(&self.addresses, &authzid).await;
        self.login = Some(login);
        Ok(SaslReply::Verified(Box::new(verified?)))
    }

    fn cram_challenge(&mut self, response: Option<&[u8]>) -> Result<SaslReply, AuthError> {
        // RFC 2195 §2: the server speaks first.
        if response.is_some() {
            return Err(bad());
        }
        let challenge = cram::timestamp(&self.hostname);
        self.state = State::Cram { challenge: challenge.clone() };
        Ok(SaslReply::Challenge(challenge.into_bytes()))
    }

    async fn cram(
        &mut self,
        authenticator: &Authenticator,
        challenge: &str,
        response: &[u8],
    ) -> Result<SaslReply, AuthError> {
        let (login, digest) = cram::parse(response).map_err(|Malformed| bad())?;
        let login = self.named(login);
        self.login = Some(login.clone());
        let verified =
            authenticator.verify_by_secret(&login, |secret| cram::is_good(challenge, digest, secret)).await?;
        Ok(SaslReply::Verified(Box::new(verified)))
    }

    async fn scram_first(
        &mut self,
        authenticator: &Authenticator,
        hash: Hash,
        response: Option<&[u8]>,
    ) -> Result<SaslReply, AuthError> {
        let Some(response) = response else { return Ok(self.prompt(b"")) };
        let first = scram::ClientFirst::parse(response).map_err(|Malformed| bad())?;
        let login = self.named(&first.login);
        self.login = Some(login.clone());
        let agreed = first.agrees(self.plus, self.plus_offered, &self.bindings);
        let authzid = first.authzid.as_deref().map(|authzid| self.named(authzid));
        if !agreed || !acts_for_itself(authzid.as_deref().unwrap_or_default(), &login) {
            return Err(bad());
        }
        let (account, verifier) = authenticator.scram_verifier(&login, hash).await?;
        let server = Box::new(scram::ServerFirst::new(hash, verifier, first));
        let message = server.message().as_bytes().to_vec();
        self.state = State::ScramFirst { server, account: account.map(Box::new) };
        Ok(SaslReply::Challenge(message))
    }

    fn scram_last(
        &mut self,
        server: &scram::ServerFirst,
        account: Option<Box<Account>>,
        response: &[u8],
    ) -> Result<SaslReply, AuthError> {
        let tenant = account.as_ref().map(|account| account.tenant);
        let last = server.verify(response, &self.bindings).map_err(|Malformed| bad())?;
        match (last, account) {
            (Some(last), Some(account)) => {
                self.state = State::ScramLast(Box::new(Verified::of(&account)));
                Ok(SaslReply::Challenge(last.into_bytes()))
            }
            _ => Err(AuthError::BadCredentials { tenant }),
        }
    }
}

/// What a client says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginName {
    /// The login name, with its domain.
    pub name: String,
    /// Whether only recent messages are asked for: `recent:` was before the name, or `+recent` at the end of its local
    /// part. No mailbox is told from another by these.
    pub recent: bool,
}

impl LoginName {
    /// Reads what a client said. Names without a domain are of `default_domain`.
    pub fn read(said: &str, default_domain: Option<&str>) -> Self {
        const PREFIX: &str = "recent:";
        const TAG: &str = "+recent";
        let is = |part: Option<&str>, mark: &str| part.is_some_and(|part| part.eq_ignore_ascii_case(mark));
        let prefixed = is(said.get(..PREFIX.len()), PREFIX);
        let said = if prefixed { &said[PREFIX.len()..] } else { said };
        let (local, domain) = said.split_at(said.rfind('@').unwrap_or(said.len()));
        let end = local.len().saturating_sub(TAG.len());
        let tagged = end > 0 && is(local.get(end..), TAG);
        let name = if tagged { format!("{}{domain}", &local[..end]) } else { said.to_owned() };
        Self { name: at_domain(name, default_domain), recent: prefixed || tagged }
    }
}

/// A login name with its domain: this one where it has none.
pub(crate) fn at_domain(login: String, default_domain: Option<&str>) -> String {
    match default_domain {
        Some(domain) if !login.contains('@') => format!("{login}@{domain}"),
        _ => login,
    }
}

fn password(octets: &[u8]) -> Result<SaslReply, AuthError> {
    // Some directories take an empty one for anonymous.
    if octets.is_empty() { Err(bad()) } else { Ok(SaslReply::Password(Password::new(octets.to_vec()))) }
}

/// Whether it is itself that a login acts for: nobody acts for another here.
fn acts_for_itself(authzid: &str, login: &str) -> bool {
    let address = |name: &str| Address::try_from(name).ok();
    authzid.is_empty()
        || authzid == login
        || (address(authzid).is_some() && address(authzid) == address(login))
}

fn bad() -> AuthError {
    AuthError::BadCredentials { tenant: None }
}

/// A name as accounts are looked up by it: what is the same account is the same text.
pub(crate) fn canonical(name: &str) -> String {
    let name = prepared(name);
    Address::try_from(&*name).map_or_else(|_| name.to_string(), |address| address.to_string())
}

/// A name as SASL compares them: SASLprep where it takes it (RFC 4013), else as it is.
pub(crate) fn prepared(name: &str) -> Cow<'_, str> {
    stringprep::saslprep(name).unwrap_or(Cow::Borrowed(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_ask_for_recent_messages() {
        let check = |said, name: &str, recent| {
            let read = LoginName::read(said, Some("d.test"));
            assert_eq!((read.name.as_str(), read.recent), (name, recent), "{said}");
        };
        check("a@b.test", "a@b.test", false);
        check("recent:a@b.test", "a@b.test", true);
        check("Recent:a", "a@d.test", true);
        check("a+recent@b.test", "a@b.test", true);
        check("a+RECENT", "a@d.test", true);
        check("recent:a+recent@b.test", "a@b.test", true);
        check("a+x+recent@b.test", "a+x@b.test", true);
        check("+recent@b.test", "+recent@b.test", false);
        check("a+recently@b.test", "a+recently@b.test", false);
        check("a@+recent", "a@+recent", false);
        check("é+recent@b.test", "é@b.test", true);
        check("recent", "recent@d.test", false);
        check("recent:", "@d.test", true);
        check("", "@d.test", false);
    }
}
