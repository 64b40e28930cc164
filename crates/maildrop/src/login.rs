//! How a tenant's logins are verified: by passwords kept here, by a directory or a service of the tenant's own, or
//! by tokens of an issuer that the tenant trusts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::LoginMechanism;

/// How a tenant's logins are verified. What is absent is as built in: by passwords kept here, and no tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LoginSettings {
    /// What passwords are verified by. App passwords are kept here, and are good beside any of these.
    pub passwords: PasswordBackend,
    /// Where `passwords` is `ldap`: the directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ldap: Option<LdapBackend>,
    /// Where `passwords` is `http`: the service that is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpBackend>,
    /// Whose tokens are taken (OAUTHBEARER, XOAUTH2). Default: nobody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OauthIssuer>,
    /// The domain of login names that have none, where the host that the client asked for tells the tenant (SNI). One
    /// of the tenant's. Default: the listener's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 255))]
    pub default_domain: Option<String>,
    /// Seconds that a password verified elsewhere counts without being asked for again, `auth.verified_ttl` of the
    /// node at most. Default: that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(maximum = 86400))]
    pub remember_secs: Option<u32>,
    /// Seconds that the password that was last verified elsewhere is still taken while nobody there answers.
    /// Default: 0, nobody is let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(maximum = 604_800))]
    pub offline_secs: Option<u32>,
}

/// What passwords are verified by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PasswordBackend {
    /// The passwords of the mailboxes, kept here.
    #[default]
    Internal,
    /// Nothing: no password is good but app passwords.
    None,
    /// An LDAP directory.
    Ldap,
    /// A service of the tenant's, asked by HTTP.
    Http,
}

/// An LDAP directory that passwords are verified by, by a bind as their owner. Either `bind_dn` or `search` says
/// whom that is.
///
/// `{address}`, `{local}` and `{domain}` stand for the parts of the mailbox's address, escaped for where they stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LdapBackend {
    /// The servers, asked in this order until one answers: `ldaps://host`, or `ldap://host`, with a port or not.
    #[cfg_attr(feature = "schema", schema(min_items = 1, max_items = 5))]
    pub urls: Vec<String>,
    /// Whether STARTTLS is insisted on with `ldap://`. Default: yes; without it passwords cross the network in the
    /// clear.
    #[serde(default = "yes")]
    #[cfg_attr(feature = "schema", schema(default = true))]
    pub starttls: bool,
    /// Whom to bind as: `uid={local},ou=people,dc=example,dc=org`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 1000))]
    pub bind_dn: Option<String>,
    /// Where to look for whom to bind as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<LdapSearch>,
    /// The authorities, PEM, whose certificates are believed. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 100_000))]
    pub ca_pem: Option<String>,
    /// Seconds a server has for its answers to one login. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 20))]
    pub timeout_secs: Option<u32>,
}

/// How an entry is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LdapSearch {
    /// Under this entry, however deep.
    #[cfg_attr(feature = "schema", schema(max_length = 1000))]
    pub base: String,
    /// The filter that one entry fits, and no other: `(&(objectClass=inetOrgPerson)(mail={address}))`.
    #[cfg_attr(feature = "schema", schema(max_length = 1000))]
    pub filter: String,
    /// Who asks. Default: nobody, anonymously.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 1000))]
    pub bind_dn: Option<String>,
    /// The password of who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretSource>,
}

/// A service that passwords are verified by. What is asked and answered is in `docs/authentication.md`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HttpBackend {
    /// What is asked, by POST: `https://…`, or `http://…` where passwords may cross the network in the clear.
    #[cfg_attr(feature = "schema", schema(max_length = 1000))]
    pub url: String,
    /// What requests are signed by (HMAC-SHA-256).
    pub secret: SecretSource,
    /// The authorities, PEM, whose certificates are believed. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 100_000))]
    pub ca_pem: Option<String>,
    /// Seconds it has for its answer. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 20))]
    pub timeout_secs: Option<u32>,
}

/// Whose tokens are taken, and what has to be in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct OauthIssuer {
    /// The issuer: what `iss` has to be, and, without `jwks_url`, where `/.well-known/openid-configuration` is.
    #[cfg_attr(feature = "schema", schema(max_length = 1000))]
    pub issuer: String,
    /// One of these has to be in `aud`. Without `introspection` there must be one.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(max_items = 10))]
    pub audiences: Vec<String>,
    /// Scopes that a token has to have, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schema(max_items = 10))]
    pub scopes: Vec<String>,
    /// The claim that holds the mailbox's address, or its local part. Default: `email`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 100))]
    pub claim: Option<String>,
    /// Where the issuer's keys are. Default: where its OpenID configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 1000))]
    pub jwks_url: Option<String>,
    /// The service that is asked of each token (RFC 7662), for tokens that are no JWT. Default: tokens are JWTs and
    /// verified by the issuer's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introspection: Option<Introspection>,
    /// Seconds that clocks may differ. Default: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(maximum = 300))]
    pub leeway_secs: Option<u32>,
    /// The authorities, PEM, whose certificates are believed. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 100_000))]
    pub ca_pem: Option<String>,
    /// Seconds the issuer has for an answer. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 20))]
    pub timeout_secs: Option<u32>,
}

/// The service that says what a token is worth (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Introspection {
    /// Its address.
    #[cfg_attr(feature = "schema", schema(max_length = 1000))]
    pub url: String,
    /// Who asks it.
    #[cfg_attr(feature = "schema", schema(max_length = 200))]
    pub client_id: String,
    /// The password of who asks.
    pub client_secret: SecretSource,
    /// Seconds that an answer is remembered, not beyond the token's own end. Default: 60; 0 for not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(maximum = 3600))]
    pub remember_secs: Option<u32>,
}

/// A secret: itself, or the name of a file with it. It is kept sealed under the tenant's key and never shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SecretSource {
    /// The secret.
    #[serde(skip_serializing)]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, write_only, max_length = 1000))]
    pub value: Option<SecretText>,
    /// The name of a file in the directory that the node keeps for the tenant's secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 100, pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub file: Option<String>,
}

/// A secret as it was given. `Debug` does not show it, and nothing writes it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// A secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

impl LoginSettings {
    /// The secrets in it, each by its path.
    pub fn secrets(&self) -> Vec<(&'static str, &SecretSource)> {
        let ldap = self.ldap.as_ref().and_then(|ldap| ldap.search.as_ref()?.password.as_ref());
        let http = self.http.as_ref().map(|http| &http.secret);
        let oauth = self.oauth.as_ref().and_then(|oauth| oauth.introspection.as_ref());
        let oauth = oauth.map(|introspection| &introspection.client_secret);
        let all = [
            ("ldap.search.password", ldap),
            ("http.secret", http),
            ("oauth.introspection.client_secret", oauth),
        ];
        all.into_iter().filter_map(|(path, secret)| Some((path, secret?))).collect()
    }

    /// Whether this way to log in can be of use to anybody, where the tenant's policy takes these, or names none.
    pub fn offers(&self, mechanism: LoginMechanism, taken: Option<&[LoginMechanism]>) -> bool {
        use LoginMechanism::{Apop, CramMd5, External, OauthBearer, ScramSha1, ScramSha256, Xoauth2};
        let named = taken.is_some_and(|taken| taken.contains(&mechanism));
        match mechanism {
            // They need what is kept beside a password, where a policy asks for it.
            ScramSha1 | ScramSha256 | CramMd5 | Apop => named && self.is_internal(),
            // The listener's authorities vouch for it, where a policy lets them.
            External => named,
            OauthBearer | Xoauth2 => (named || taken.is_none()) && self.oauth.is_some(),
            // Of use for app passwords in any case.
            LoginMechanism::User | LoginMechanism::Plain | LoginMechanism::Login => named || taken.is_none(),
        }
    }

    /// Whether passwords are verified by what is kept here.
    pub fn is_internal(&self) -> bool {
        self.passwords == PasswordBackend::Internal
    }
}

/// How a tenant's logins are verified, as the directory keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantLogin {
    /// The settings, without secrets.
    pub settings: LoginSettings,
    /// The secrets, sealed under the tenant's data key.
    pub secrets: Option<Vec<u8>>,
    /// Grows with each change; 0 where nothing was ever set.
    pub version: i64,
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_of_use_to_nobody_is_not_offered() {
        use LoginMechanism::{Apop, OauthBearer, Plain, ScramSha256, User};
        let internal = LoginSettings::default();
        let ldap = LoginSettings { passwords: PasswordBackend::Ldap, ..LoginSettings::default() };
        let oauth = serde_json::from_str(r#"{"passwords":"none","oauth":{"issuer":"i"}}"#).unwrap();
        let offered = |settings: &LoginSettings, taken: Option<&[LoginMechanism]>| {
            [User, Plain, ScramSha256, Apop, OauthBearer].map(|mechanism| settings.offers(mechanism, taken))
        };
        let all = Some(&LoginMechanism::ALL[..]);
        assert_eq!(offered(&internal, None), [true, true, false, false, false]);
        assert_eq!(offered(&internal, all), [true, true, true, true, false]);
        assert_eq!(offered(&internal, Some(&[ScramSha256])), [false, false, true, false, false]);
        assert_eq!(offered(&ldap, all), [true, true, false, false, false]);
        assert_eq!(offered(&oauth, None), [true, true, false, false, true]);
        assert_eq!(offered(&oauth, Some(&[Plain])), [false, true, false, false, false]);
    }

    #[test]
    fn secrets_are_found_and_never_written() {
        let text = r#"{"passwords":"ldap",
            "ldap":{"urls":["ldaps://a"],"search":{"base":"b","filter":"f","password":{"value":"s1"}}},
            "http":{"url":"https://a","secret":{"file":"f1"}},
            "oauth":{"issuer":"https://i","introspection":
                {"url":"https://i","client_id":"c","client_secret":{"value":"s2"}}}}"#;
        let settings: LoginSettings = serde_json::from_str(text).unwrap();
        let secrets = settings.secrets();
        let paths: Vec<_> = secrets.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, ["ldap.search.password", "http.secret", "oauth.introspection.client_secret"]);
        assert_eq!(secrets[0].1.value.as_ref().map(SecretText::expose), Some("s1"));
        let shown = format!("{settings:?} {}", serde_json::to_string(&settings).unwrap());
        assert!(!shown.contains("s1") && !shown.contains("s2") && shown.contains("f1"), "{shown}");
        assert!(LoginSettings::default().is_internal() && !settings.is_internal());
        assert_eq!(serde_json::from_str::<LoginSettings>("{}").unwrap(), LoginSettings::default());
        assert!(serde_json::from_str::<LoginSettings>(r#"{"password":"ldap"}"#).is_err());
    }
}
