//! SASL from the wire to the verdict: lines of base64 through the POP3 core, tokens through the mechanisms, and one
//! account that they may be for.

mod client;
mod node;
mod wire;

use std::sync::OnceLock;

use auth::{AuthError, Authenticator, ChannelBindings, Exchange, SaslReply, fuzzing::octets_of};
use client::{Client, Honest};
use maildrop::LoginMechanism;
use node::LOGIN;
use pop3_proto::{MAX_TOKEN_OCTETS, Mechanism};
use wire::Wire;

use crate::script::Script;

/// What parts the client's messages in an input: no octet of UTF-8.
const SEPARATOR: u8 = 0xff;
/// The most challenges of a mechanism: LOGIN's two; SCRAM's two, and one to ask for the beginning.
const CHALLENGES_MAX: usize = 3;

/// Carries an exchange out: with a client that says anything, or with one that knows the password and whose last
/// message may be changed on its way.
pub fn sasl(input: &[u8]) {
    static HOUSE: OnceLock<House> = OnceLock::new();
    let Some(script) = Script::new(input) else { return };
    HOUSE.get_or_init(House::new).exchange(&script);
}

/// A node with one account.
struct House {
    runtime: tokio::runtime::Runtime,
    authenticator: Authenticator,
    _dir: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let authenticator = runtime.block_on(node::authenticator(dir.path()));
        Self { runtime, authenticator, _dir: dir }
    }

    fn exchange(&self, script: &Script<'_>) {
        let mechanism = Mechanism::ALL[usize::from(script.setup[0]) % Mechanism::ALL.len()];
        let (kind, plus) = kind(mechanism);
        let bindings = ChannelBindings {
            exporter: script.bit(8).then(|| vec![7; 32]),
            server_end_point: script.bit(9).then(|| vec![9; 32]),
        };
        let offered = plus || script.bit(10);
        let addresses: &[&str] = [&[][..], &[LOGIN], &["b@one.test", LOGIN], &["", "?", "A@ONE.test"]]
            [usize::from(script.setup[2]) % 4];
        let mut server = Exchange::new(kind, plus, offered, bindings.clone(), "host.test")
            .for_names_at(script.bit(11).then(|| "one.test".into()))
            .with_addresses(addresses.iter().map(|address| (*address).to_owned()).collect());
        let honest = script.bit(12)
            && matches!(
                kind,
                LoginMechanism::ScramSha1 | LoginMechanism::ScramSha256 | LoginMechanism::CramMd5
            );
        let mut client = if honest {
            Client::Honest(Box::new(Honest::new(script, kind, &bindings, plus, offered)))
        } else {
            Client::Any(script.rest.split(|&octet| octet == SEPARATOR).map(<[u8]>::to_vec).collect())
        };
        let mut wire = Wire::new(script, mechanism);
        let mut response = if script.bit(13) { client.first() } else { None };
        if let Some(first) = &mut response {
            grow(first, script);
        }
        // The token is what was sent, or it is too long.
        let Some((mut exchange, mut token)) = wire.begin(mechanism, response.as_deref()) else { return };
        for challenges in 0.. {
            assert!(challenges <= CHALLENGES_MAX, "{mechanism:?} asks again and again");
            let reply = self.respond(&mut server, token.as_deref());
            if let Some(login) = server.login() {
                assert!(login.len() <= 320 + "@one.test".len(), "a name of {} octets", login.len());
                assert!(!login.chars().any(char::is_control), "{login:?}");
            }
            let challenge = match reply {
                Ok(SaslReply::Challenge(challenge)) => challenge,
                Ok(SaslReply::Password(password)) => {
                    assert!(matches!(kind, LoginMechanism::Plain | LoginMechanism::Login));
                    let said = token.unwrap_or_default();
                    let password = octets_of(&password);
                    assert!(!password.is_empty() && said.ends_with(password));
                    assert!(server.login().is_some());
                    return self.is_over(&mut server);
                }
                Ok(SaslReply::Verified(_)) => {
                    match &client {
                        Client::Honest(honest) => assert!(honest.is_good(), "{honest:?} is taken"),
                        Client::Any(_) => {
                            assert_eq!(
                                kind,
                                LoginMechanism::External,
                                "who does not know the password is let in"
                            );
                            assert_eq!(server.login(), Some(LOGIN));
                            assert!(addresses.iter().any(|address| address.eq_ignore_ascii_case(LOGIN)));
                        }
                    }
                    return self.is_over(&mut server);
                }
                Err(AuthError::BadCredentials { .. }) => {
                    if let Client::Honest(honest) = &client {
                        assert!(!honest.is_good(), "{honest:?} is refused");
                    }
                    return self.is_over(&mut server);
                }
                Err(error) => panic!("nothing is away: {error}"),
            };
            assert!(challenge.len() <= 2048, "a challenge of {} octets", challenge.len());
            assert!(!challenge.contains(&b'\r') && !challenge.contains(&b'\n'));
            let Some(mut response) = client.next(&challenge) else { return };
            if !server.is_refused() {
                grow(&mut response, script);
            }
            let Some(next) = wire.challenge(exchange, &challenge, &response) else { return };
            exchange = next;
            token = Some(response);
        }
    }

    fn respond(&self, server: &mut Exchange, token: Option<&[u8]>) -> Result<SaslReply, AuthError> {
        self.runtime.block_on(server.respond(&self.authenticator, token))
    }

    /// What has come to an end does not begin again.
    fn is_over(&self, server: &mut Exchange) {
        for response in [None, Some(&b""[..]), Some(b"\0a@one.test\0correct horse")] {
            assert!(self.respond(server, response).is_err(), "an exchange goes on after its end");
        }
    }
}

/// Messages of clients that are not honest are as long as the setup says.
fn grow(message: &mut Vec<u8>, script: &Script<'_>) {
    if script.bit(12) || script.setup[5] == 0 || message.is_empty() {
        return;
    }
    let octets = message.len() * (usize::from(script.setup[5]) + 1);
    *message = message.iter().copied().cycle().take(octets.min(MAX_TOKEN_OCTETS + 64)).collect();
}

fn kind(mechanism: Mechanism) -> (LoginMechanism, bool) {
    match mechanism {
        Mechanism::External => (LoginMechanism::External, false),
        Mechanism::ScramSha256Plus => (LoginMechanism::ScramSha256, true),
        Mechanism::ScramSha1Plus => (LoginMechanism::ScramSha1, true),
        Mechanism::ScramSha256 => (LoginMechanism::ScramSha256, false),
        Mechanism::ScramSha1 => (LoginMechanism::ScramSha1, false),
        Mechanism::CramMd5 => (LoginMechanism::CramMd5, false),
        Mechanism::OauthBearer => (LoginMechanism::OauthBearer, false),
        Mechanism::Xoauth2 => (LoginMechanism::Xoauth2, false),
        Mechanism::Plain => (LoginMechanism::Plain, false),
        Mechanism::Login => (LoginMechanism::Login, false),
    }
}
