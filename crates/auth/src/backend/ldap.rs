//! Passwords verified by an LDAP directory: by a bind as their owner (RFC 4513 §5.1.3).
//!
//! ```text
//!   bind_dn:                     bind as the owner ──► good or not
//!   search:  bind as who asks ──► search ──► one entry ──► bind as it ──► good or not
//!                                   └─ none, or several ──► bind as nobody ──► not
//! ```

mod ber;
mod wire;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ldap3::{dn_escape, ldap_escape};
use maildrop::{Address, LdapBackend};
use rustls::ClientConfig;

use super::{
    BackendsConfig, Fault, Secrets, Unfit, after,
    callback::TIMEOUT_SECS,
    reach::{Lookups, Reach},
    secret::Secret,
    tls,
};
use crate::Password;
pub(super) use wire::Server;
use wire::{Connection, Found};

/// A connection that was not used for so long is not trusted to be one still.
const IDLE: Duration = Duration::from_secs(60);
/// Connections that wait for their next use: there may be ten thousand tenants, and there are only so many descriptors.
const IDLE_MAX: usize = 2;
/// A server that did not answer is asked last for so long.
const LAST_FOR: Duration = Duration::from_secs(30);
/// Longest filter, DN or base.
pub(super) const TEXT_OCTETS_MAX: usize = 1000;
/// Parentheses within parentheses in a filter.
pub(super) const FILTER_DEPTH_MAX: usize = 20;

/// A directory.
#[derive(Debug)]
pub(super) struct Ldap {
    servers: Vec<Server>,
    /// Until when each is asked last.
    last_until: Mutex<Vec<Option<Instant>>>,
    whom: Whom,
    tls: Arc<ClientConfig>,
    reach: Reach,
    lookups: Lookups,
    timeout: Duration,
    /// Connections that wait for their next use.
    idle: Mutex<Vec<(Connection, Instant)>>,
    idle_max: usize,
}

/// Whom to bind as.
#[derive(Debug)]
enum Whom {
    Template(String),
    Search { base: String, filter: String, asker: Option<(String, Secret)> },
}

/// What results say of a password (RFC 4511 appendix A, and what directories make of it).
const INVALID_CREDENTIALS: u32 = 49;
/// Of these a directory says it, too: there is no such entry, it has no password, it is locked or expired.
const REFUSALS: [u32; 6] = [19, 32, 34, 48, INVALID_CREDENTIALS, 53];

impl Ldap {
    pub(super) fn new(
        settings: LdapBackend,
        secrets: &Secrets,
        config: &BackendsConfig,
    ) -> Result<Self, Unfit> {
        let servers: Result<Vec<_>, _> =
            settings.urls.iter().map(|url| Server::parse(url, settings.starttls)).collect();
        let servers = servers?;
        let whom = match (settings.bind_dn, settings.search) {
            (Some(template), _) => Whom::Template(template),
            (None, Some(search)) => {
                let asker = match (search.bind_dn, &search.password) {
                    (Some(dn), Some(password)) => {
                        Some((dn, Secret::find("ldap.search.password", password, secrets)?))
                    }
                    _ => None,
                };
                Whom::Search { base: search.base, filter: search.filter, asker }
            }
            (None, None) => return Err("neither bind_dn nor search".into()),
        };
        Ok(Self {
            last_until: Mutex::new(vec![None; servers.len()]),
            servers,
            whom,
            tls: tls::client(settings.ca_pem.as_deref())?,
            reach: config.reach.clone(),
            lookups: Lookups::default(),
            timeout: Duration::from_secs(settings.timeout_secs.unwrap_or(TIMEOUT_SECS).into()),
            idle: Mutex::default(),
            idle_max: config.concurrent_max.min(IDLE_MAX),
        })
    }

    pub(super) async fn is_password(&self, address: &Address, password: &Password) -> Result<bool, Fault> {
        // Whatever is wrong with all servers together, nobody waits for all of them.
        let asked = tokio::time::timeout(self.timeout * 2, self.ask(address, password)).await;
        asked.map_err(|_| "the directory did not answer in time")?
    }

    async fn ask(&self, address: &Address, password: &Password) -> Result<bool, Fault> {
        if let Some(mut connection) = self.idle_one() {
            // It may be dead, which only shows now; then there is a new one.
            match tokio::time::timeout(self.timeout, self.judge(&mut connection, address, password)).await {
                Ok(Ok(good)) => {
                    self.keep(connection);
                    return Ok(good);
                }
                Ok(Err(error)) => tracing::debug!(error = &*error, "a kept connection to a directory failed"),
                Err(_) => return Err("the directory did not answer in time".into()),
            }
        }
        let mut last: Fault = "there is no server".into();
        for place in self.order() {
            let Some(server) = self.servers.get(place) else { continue };
            let ask = async {
                let mut connection = Connection::open(server, &self.reach, &self.lookups, &self.tls).await?;
                let good = self.judge(&mut connection, address, password).await?;
                Ok::<_, Fault>((connection, good))
            };
            let asked = tokio::time::timeout(self.timeout, ask).await;
            match asked.unwrap_or_else(|_| Err("no answer in time".into())) {
                Ok((connection, good)) => {
                    self.set_last(place, None);
                    self.keep(connection);
                    return Ok(good);
                }
                Err(error) => {
                    self.set_last(place, Some(after(LAST_FOR)));
                    tracing::debug!(error = &*error, server = %server, "a directory's server failed");
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// One login, over one connection.
    async fn judge(
        &self,
        connection: &mut Connection,
        address: &Address,
        password: &Password,
    ) -> Result<bool, Fault> {
        let (dn, somebody) = match &self.whom {
            Whom::Template(template) => {
                (filled(template, address, |text| dn_escape(text).into_owned()), true)
            }
            Whom::Search { base, filter, asker } => {
                let (dn, secret) = match asker {
                    Some((dn, secret)) => (dn.as_str(), Some(secret.get().await?)),
                    None => ("", None),
                };
                let code =
                    connection.bind(dn, secret.as_ref().map_or(b"", |secret| secret.as_bytes())).await?;
                if code != 0 {
                    return Err(format!("who searches is refused (result {code})").into());
                }
                let filter = filled(filter, address, |text| ldap_escape(text).into_owned());
                match connection.search(base, &filter).await? {
                    Found::One(dn) => (dn, true),
                    // Asked for the password of nobody, it takes about as long as for that of somebody.
                    Found::None => (nobody(base), false),
                    Found::Several => {
                        tracing::warn!(%base, "several entries of a directory fit one login: none is let in");
                        (nobody(base), false)
                    }
                }
            }
        };
        // A bind as nobody would be an anonymous one, which is good whatever the password.
        if dn.is_empty() {
            return Err("the entry found has no name".into());
        }
        match connection.bind(&dn, password.expose()).await? {
            0 => Ok(somebody),
            code if REFUSALS.contains(&code) => Ok(false),
            code => Err(format!("the bind was answered with result {code}").into()),
        }
    }

    fn idle_one(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < IDLE);
        idle.pop().map(|(connection, _)| connection)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.idle_max {
            idle.push((connection, Instant::now()));
        }
    }

    /// The servers in their order, those that did not answer a moment ago last.
    fn order(&self) -> Vec<usize> {
        let last = self.last_until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut order: Vec<usize> = (0..self.servers.len()).collect();
        order.sort_by_key(|place| last.get(*place).copied().flatten().is_some_and(|until| until > now));
        order
    }

    fn set_last(&self, place: usize, until: Option<Instant>) {
        let mut last = self.last_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = last.get_mut(place) {
            *slot = until;
        }
    }
}

/// The name of an entry that there is not.
fn nobody(base: &str) -> String {
    format!("cn=nobody-{},{base}", uuid::Uuid::new_v4().simple())
}

/// A template with the parts of an address in it, each made harmless for where it stands.
fn filled(template: &str, address: &Address, escaped: impl Fn(&str) -> String) -> String {
    let parts = [
        ("{address}", escaped(address.as_str())),
        ("{local}", escaped(address.local_part())),
        ("{domain}", escaped(address.domain())),
    ];
    let mut text = String::new();
    let mut rest = template;
    // In one pass: what stands for a part is not looked at again.
    'next: while let Some(at) = rest.find('{') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        for (name, value) in &parts {
            if let Some(behind) = rest.strip_prefix(name) {
                text.push_str(value);
                rest = behind;
                continue 'next;
            }
        }
        text.push('{');
        rest = &rest[1..];
    }
    text + rest
}

/// What is wrong with a filter, if anything.
pub(super) fn filter_problem(filter: &str) -> Option<&'static str> {
    let mut depth = 0_usize;
    for octet in filter.bytes() {
        match octet {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > FILTER_DEPTH_MAX {
            return Some("has more than 20 parentheses in each other");
        }
    }
    let address = Address::new("a", "b.test").ok()?;
    let filled = filled(filter, &address, |text| ldap_escape(text).into_owned());
    ldap3::parse_filter(filled).is_err().then_some("is no filter as RFC 4515 writes it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_address_stay_parts() {
        let address = Address::new("a*)(uid=\\\u{e4},b+{domain}", "One.test").unwrap();
        let filter =
            filled("(&(mail={address})(d={domain})({x}))", &address, |text| ldap_escape(text).into_owned());
        assert_eq!(filter, "(&(mail=a\\2a\\29\\28uid=\\5c\u{e4},b+{domain}@one.test)(d=one.test)({x}))");
        let dn = filled("uid={local},dc=x", &address, |text| dn_escape(text).into_owned());
        assert_eq!(dn, "uid=a*)(uid\\3d\\5c\u{e4}\\2cb\\2b{domain},dc=x");
    }

    #[test]
    fn filters_are_looked_at_before_they_are_used() {
        assert_eq!(filter_problem("(&(objectClass=*)(mail={address}))"), None);
        for bad in ["", "mail={address}", "(mail={address}", "(&(a=b)", "(a=b)x"] {
            let problem = filter_problem(bad);
            // The library takes a filter without its parentheses.
            assert!(problem.is_some() || bad == "mail={address}", "{bad}");
        }
        assert!(filter_problem(&format!("{}(a=b){}", "(!".repeat(21), ")".repeat(21))).is_some());
        assert_eq!(filter_problem(&format!("{}(a=b){}", "(!".repeat(19), ")".repeat(19))), None);
    }
}
