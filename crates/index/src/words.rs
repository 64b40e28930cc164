//! Words that stand for values in both databases.

use maildrop::{
    Actor, LoginScope, Role, State,
    port::{IndexError, Traffic},
};

use crate::error::corrupt;

pub(crate) fn state(word: &str) -> Result<State, IndexError> {
    match word {
        "active" => Ok(State::Active),
        "suspended" => Ok(State::Suspended),
        "deleting" => Ok(State::Deleting),
        _ => Err(corrupt("state")),
    }
}

pub(crate) fn state_word(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Suspended => "suspended",
        State::Deleting => "deleting",
    }
}

/// The state of a mailbox, as its tenant's leaves it.
pub(crate) fn state_within(tenant: &str, mailbox: &str) -> Result<State, IndexError> {
    match state(tenant)? {
        State::Active => state(mailbox),
        other => Ok(other),
    }
}

pub(crate) fn scope(word: &str) -> Result<LoginScope, IndexError> {
    match word {
        "full" => Ok(LoginScope::Full),
        "read_only" => Ok(LoginScope::ReadOnly),
        _ => Err(corrupt("scope")),
    }
}

pub(crate) fn scope_word(scope: LoginScope) -> &'static str {
    match scope {
        LoginScope::Full => "full",
        LoginScope::ReadOnly => "read_only",
    }
}

pub(crate) fn role(word: &str) -> Result<Role, IndexError> {
    [Role::PlatformAdmin, Role::TenantAdmin, Role::TenantReader, Role::Provisioning, Role::Metrics]
        .into_iter()
        .find(|role| role.as_str() == word)
        .ok_or_else(|| corrupt("role"))
}

/// How much of a tenant's quota may be given to its mailboxes, if that is limited.
pub(crate) fn allocatable(quota: Option<u64>, percent: Option<u32>) -> Option<u64> {
    let octets = u128::from(quota?) * u128::from(percent?) / 100;
    Some(u64::try_from(octets).unwrap_or(u64::MAX))
}

/// Whether a quota fits in the room there is. Where room is limited there must be a quota.
pub(crate) fn fits(room: Option<i128>, quota: Option<u64>) -> bool {
    room.is_none_or(|room| quota.is_some_and(|quota| i128::from(quota) <= room))
}

/// Whether a quota may be changed: to less it always may, so that there is a way back from too much.
pub(crate) fn changes_within(room: Option<i128>, old: Option<u64>, new: Option<u64>) -> bool {
    let less = match (old, new) {
        (Some(old), Some(new)) => new <= old,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    less || fits(room.map(|room| room + i128::from(old.unwrap_or(0))), new)
}

/// The text that ends a search by prefix, in LIKE: what means something there is escaped.
pub(crate) fn like_prefix(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for character in prefix.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

/// A host without its first label, as a wildcard certificate names it.
pub(crate) fn wildcard(host: &str) -> Option<String> {
    host.split_once('.').filter(|(_, rest)| rest.contains('.')).map(|(_, rest)| format!("*.{rest}"))
}

/// The domains a host may lie in: itself and all that it is under.
pub(crate) fn domains_above(host: &str) -> Vec<&str> {
    let host = host.strip_prefix("*.").unwrap_or(host);
    let mut domains = vec![host];
    let mut rest = host;
    while let Some((_, above)) = rest.split_once('.') {
        domains.push(above);
        rest = above;
    }
    domains
}

/// Traffic from its columns: logins, messages and octets out, messages and octets in.
pub(crate) fn traffic(columns: [i64; 5]) -> Traffic {
    let [logins, messages_out, octets_out, messages_in, octets_in] = columns.map(|n| n as u64);
    Traffic { logins, messages_out, octets_out, messages_in, octets_in }
}

/// Who does what nobody in the tenant asked for.
pub(crate) fn itself() -> Actor {
    Actor { name: "postern".into(), origin: "local".into(), request: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_their_domains() {
        assert_eq!(
            domains_above("pop.mail.one.test"),
            ["pop.mail.one.test", "mail.one.test", "one.test", "test"]
        );
        assert_eq!(domains_above("*.one.test"), ["one.test", "test"]);
        assert_eq!(wildcard("pop.one.test").as_deref(), Some("*.one.test"));
        assert_eq!(wildcard("one.test"), None);
    }

    #[test]
    fn prefixes_mean_themselves() {
        assert_eq!(like_prefix(r"a_b%c\"), r"a\_b\%c\\%");
    }

    #[test]
    fn allocation_is_a_share_of_the_quota() {
        assert_eq!(allocatable(Some(1000), Some(150)), Some(1500));
        assert_eq!(allocatable(Some(u64::MAX), Some(1000)), Some(u64::MAX));
        assert_eq!(allocatable(None, Some(100)), None);
        assert_eq!(allocatable(Some(1), None), None);
    }
}
