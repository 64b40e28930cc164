//! What a tenant's mail may do: limits of the tenant as a whole, and the policy of its mailboxes.

mod choices;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use choices::{ClientWorkaround, DeleMeaning, LoginMechanism, MessageOrder, SuspendedReply};

/// Limits of a tenant as a whole, over all of its mailboxes and all nodes. What is absent is not limited.
///
/// Rates are shared between the nodes that live: each grants its part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TenantLimits {
    /// Logged-in sessions at once, on all nodes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<u32>,
    /// Logins with the right password, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logins_per_second: Option<u32>,
    /// Octets sent to clients, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octets_out_per_second: Option<u64>,
    /// Octets sent to clients, per day (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octets_out_per_day: Option<u64>,
    /// Recipients that mail is taken for, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries_per_second: Option<u32>,
    /// Days that deleted messages are kept at most, whatever policies say. Nor is more kept of a mailbox, or of the
    /// tenant, than its quota lets it hold: what was deleted first is forgotten first. They are not counted with what
    /// it holds. Default: 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(maximum = 36500))]
    pub kept_days_max: Option<u32>,
}

/// The policy of a mailbox. A field that is absent is inherited: a mailbox's from its tenant, a tenant's from
/// the built-in default that each field names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Whether POP3 may be used. Default: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pop3: Option<bool>,
    /// Whether a login without TLS is taken, where the listener would take it. Default: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plaintext_login: Option<bool>,
    /// The ways to log in that are taken. Default: all that the listener offers, except those for which something
    /// has to be kept beside the password's hash: SCRAM, CRAM-MD5 and APOP have to be named here. It is kept from
    /// when the password is next set, or given by another way. EXTERNAL has to be named, too: whoever signs clients'
    /// certificates for the listener can open the mailboxes of those who name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_mechanisms: Option<Vec<LoginMechanism>>,
    /// Logins to one mailbox with the right password, per minute. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logins_per_minute: Option<u32>,
    /// The least seconds between two logins, announced as LOGIN-DELAY (RFC 2449 §6.5). Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(maximum = 86400))]
    pub login_delay_secs: Option<u32>,
    /// Seconds of silence of a session's client, without an answer to anything that is sent to it, after which a login
    /// with the same credential takes its maildrop over; it is refused as in use until then. Less than 5 counts as 5;
    /// 0: never. Default: 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(maximum = 3600))]
    pub takeover_after_secs: Option<u32>,
    /// Octets sent to the clients of one mailbox, per second. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octets_out_per_second: Option<u64>,
    /// Octets sent to the clients of one mailbox, per day (UTC). Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octets_out_per_day: Option<u64>,
    /// Messages that one mailbox takes, per minute. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries_per_minute: Option<u32>,
    /// The largest message taken, in octets. Default: the listener's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_octets_max: Option<u64>,
    /// After so many days a message is removed, announced as EXPIRE (RFC 2449 §6.7). Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 36500))]
    pub expire_days: Option<u32>,
    /// What DELE means. Default: `delete`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dele: Option<DeleMeaning>,
    /// With `dele` = `hide`: days that a deleted message is kept, out of sight. Default: 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 36500))]
    pub hide_days: Option<u32>,
    /// Days that a deleted message can be restored. Default: 0, not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(maximum = 36500))]
    pub undelete_days: Option<u32>,
    /// The order of messages. Default: `arrival`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_order: Option<MessageOrder>,
    /// Messages that a session sees at most, the last ones; the others come into sight as these are deleted. Default:
    /// all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(minimum = 1))]
    pub listed_max: Option<u32>,
    /// Days that the recent view goes back, which a login gets with `recent:` before its name or `+recent` at the end of
    /// its local part. Default: 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 36500))]
    pub recent_days: Option<u32>,
    /// The text of the greeting, where the certificate asked for (SNI) tells the tenant. Default: the node's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 200))]
    pub greeting: Option<String>,
    /// What LMTP says of a suspended mailbox. Default: `permanent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended_reply: Option<SuspendedReply>,
    /// What is bent for clients that need it. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_workarounds: Option<Vec<ClientWorkaround>>,
}

/// The rules a mailbox lives under: its tenant's limits, and its own policy with the tenant's where it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The tenant's limits.
    pub tenant: TenantLimits,
    /// The mailbox's policy, what it inherits filled in.
    pub mailbox: Policy,
}

/// Days that deleted messages are kept at most where the tenant's limits do not say.
const KEPT_DAYS_MAX: u32 = 30;
/// Days that the recent view goes back where the policy does not say.
const RECENT_DAYS: u32 = 30;
/// Days that `hide` keeps a message where the policy does not say.
const HIDE_DAYS: u32 = 30;

impl Policy {
    /// This policy, with `other`'s fields where it has none.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            pop3: self.pop3.or(other.pop3),
            plaintext_login: self.plaintext_login.or(other.plaintext_login),
            login_mechanisms: self.login_mechanisms.clone().or_else(|| other.login_mechanisms.clone()),
            logins_per_minute: self.logins_per_minute.or(other.logins_per_minute),
            login_delay_secs: self.login_delay_secs.or(other.login_delay_secs),
            takeover_after_secs: self.takeover_after_secs.or(other.takeover_after_secs),
            octets_out_per_second: self.octets_out_per_second.or(other.octets_out_per_second),
            octets_out_per_day: self.octets_out_per_day.or(other.octets_out_per_day),
            deliveries_per_minute: self.deliveries_per_minute.or(other.deliveries_per_minute),
            message_octets_max: self.message_octets_max.or(other.message_octets_max),
            expire_days: self.expire_days.or(other.expire_days),
            dele: self.dele.or(other.dele),
            hide_days: self.hide_days.or(other.hide_days),
            undelete_days: self.undelete_days.or(other.undelete_days),
            message_order: self.message_order.or(other.message_order),
            listed_max: self.listed_max.or(other.listed_max),
            recent_days: self.recent_days.or(other.recent_days),
            greeting: self.greeting.clone().or_else(|| other.greeting.clone()),
            suspended_reply: self.suspended_reply.or(other.suspended_reply),
            client_workarounds: self.client_workarounds.clone().or_else(|| other.client_workarounds.clone()),
        }
    }

    /// What of it is out of bounds, if anything: the field and why.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        let days = |days: Option<u32>, least| days.is_some_and(|days| days < least || days > DAYS_MAX);
        let octets = |octets: Option<u64>| octets.is_some_and(|octets| octets > OCTETS_MAX);
        if days(self.expire_days, 1) {
            return Some(("expire_days", "is 1 to 36500 days"));
        }
        if days(self.hide_days, 1) {
            return Some(("hide_days", "is 1 to 36500 days"));
        }
        if days(self.recent_days, 1) {
            return Some(("recent_days", "is 1 to 36500 days"));
        }
        if days(self.undelete_days, 0) {
            return Some(("undelete_days", "is 0 to 36500 days"));
        }
        if self.login_delay_secs.is_some_and(|secs| secs > LOGIN_DELAY_MAX) {
            return Some(("login_delay_secs", "is a day (86400) at most"));
        }
        if self.listed_max == Some(0) {
            return Some(("listed_max", "is 1 at least"));
        }
        if self.takeover_after_secs.is_some_and(|secs| secs > TAKEOVER_AFTER_SECS_MAX) {
            return Some(("takeover_after_secs", "is an hour (3600) at most"));
        }
        if octets(self.octets_out_per_second) {
            return Some(("octets_out_per_second", "is less than 2^63"));
        }
        if octets(self.octets_out_per_day) {
            return Some(("octets_out_per_day", "is less than 2^63"));
        }
        if octets(self.message_octets_max) {
            return Some(("message_octets_max", "is less than 2^63"));
        }
        let bad_text = |text: &String| text.len() > GREETING_OCTETS_MAX || text.chars().any(char::is_control);
        if self.greeting.as_ref().is_some_and(bad_text) {
            return Some(("greeting", "is one line of 200 octets at most"));
        }
        None
    }

    /// Whether this way to log in is taken.
    pub fn takes(&self, mechanism: LoginMechanism) -> bool {
        let unless_named = mechanism != LoginMechanism::External;
        self.login_mechanisms.as_ref().map_or(unless_named, |taken| taken.contains(&mechanism))
    }

    /// How long a client has to be silent for its maildrop to be taken over; `None` for never.
    pub fn takeover_after(&self) -> Option<Duration> {
        let secs = self.takeover_after_secs.unwrap_or(TAKEOVER_AFTER_SECS);
        (secs > 0).then(|| Duration::from_secs(secs.max(TAKEOVER_AFTER_SECS_MIN).into()))
    }

    /// How far the recent view goes back.
    pub fn recent_window(&self) -> Duration {
        Duration::from_hours(24) * self.recent_days.unwrap_or(RECENT_DAYS)
    }

    /// Whether this workaround is wanted.
    pub fn bends(&self, workaround: ClientWorkaround) -> bool {
        self.client_workarounds.as_ref().is_some_and(|wanted| wanted.contains(&workaround))
    }
}

impl Rules {
    /// How long a message deleted by its owner is kept, to be restored; zero for not at all.
    pub fn kept(&self) -> Duration {
        let hidden = match self.mailbox.dele.unwrap_or_default() {
            DeleMeaning::Delete => 0,
            DeleMeaning::Hide => self.mailbox.hide_days.unwrap_or(HIDE_DAYS),
        };
        self.at_most(hidden.max(self.mailbox.undelete_days.unwrap_or(0)))
    }

    /// How long a message removed by somebody else is kept, to be restored.
    pub fn undelete_window(&self) -> Duration {
        self.at_most(self.mailbox.undelete_days.unwrap_or(0))
    }

    fn at_most(&self, days: u32) -> Duration {
        Duration::from_hours(24) * days.min(self.tenant.kept_days_max.unwrap_or(KEPT_DAYS_MAX))
    }
}

impl TenantLimits {
    /// What of it is out of bounds, if anything: the field and why.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        let octets = |octets: Option<u64>| octets.is_some_and(|octets| octets > OCTETS_MAX);
        if octets(self.octets_out_per_second) {
            return Some(("octets_out_per_second", "is less than 2^63"));
        }
        if self.kept_days_max.is_some_and(|days| days > DAYS_MAX) {
            return Some(("kept_days_max", "is 0 to 36500 days"));
        }
        octets(self.octets_out_per_day).then_some(("octets_out_per_day", "is less than 2^63"))
    }
}

/// A hundred years.
const DAYS_MAX: u32 = 36_500;
/// Within less, no two questions go unanswered: they are seconds apart.
const TAKEOVER_AFTER_SECS_MIN: u32 = 5;
/// Autologout is sooner than more.
const TAKEOVER_AFTER_SECS_MAX: u32 = 3600;
/// Three questions at intervals of ten seconds: a phone that has lost its network has often not found another one sooner.
const TAKEOVER_AFTER_SECS: u32 = 30;
/// A day.
const LOGIN_DELAY_MAX: u32 = 86_400;
/// What databases hold.
const OCTETS_MAX: u64 = i64::MAX as u64;
/// What fits a greeting with room for the rest (RFC 2449 §4).
const GREETING_OCTETS_MAX: usize = 200;

#[cfg(test)]
mod tests;
