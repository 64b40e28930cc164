//! What is wrong with settings before anybody logs in by them.

use std::borrow::Cow;

use maildrop::{HttpBackend, LdapBackend, LoginSettings, OauthIssuer, PasswordBackend, SecretSource};
use reqwest::Url;

use super::{
    BackendsConfig,
    http::sent,
    ldap::{Server, TEXT_OCTETS_MAX, filter_problem},
    reach::{Reach, Sent},
    tls::authorities,
};

/// The path of a setting, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsProblem {
    /// The setting: `ldap.urls`.
    pub path: &'static str,
    /// What it is not.
    pub detail: Cow<'static, str>,
}

type Checked = Result<(), SettingsProblem>;

fn wrong<T>(path: &'static str, detail: impl Into<Cow<'static, str>>) -> Result<T, SettingsProblem> {
    Err(SettingsProblem { path, detail: detail.into() })
}

/// The first thing that is wrong, if there is one.
pub(super) fn problem(settings: &LoginSettings, config: &BackendsConfig) -> Option<SettingsProblem> {
    check(settings, config).err()
}

fn check(settings: &LoginSettings, config: &BackendsConfig) -> Checked {
    let secs = |path, secs: Option<u32>, least, most| match secs {
        Some(secs) if !(least..=most).contains(&secs) => wrong(path, format!("is {least} to {most} seconds")),
        _ => Ok(()),
    };
    secs("remember_secs", settings.remember_secs, 0, 86_400)?;
    secs("offline_secs", settings.offline_secs, 0, 604_800)?;
    let is = |kind| settings.passwords == kind;
    match (&settings.ldap, is(PasswordBackend::Ldap)) {
        (Some(ldap), true) => check_ldap(ldap, &config.reach)?,
        (None, true) => return wrong("ldap", "is missing, but passwords is \"ldap\""),
        (Some(_), false) => return wrong("ldap", "is given, but passwords is not \"ldap\""),
        (None, false) => {}
    }
    match (&settings.http, is(PasswordBackend::Http)) {
        (Some(http), true) => check_http(http, &config.reach)?,
        (None, true) => return wrong("http", "is missing, but passwords is \"http\""),
        (Some(_), false) => return wrong("http", "is given, but passwords is not \"http\""),
        (None, false) => {}
    }
    if let Some(oauth) = &settings.oauth {
        check_oauth(oauth, &config.reach)?;
    }
    let timeouts = [
        ("ldap.timeout_secs", settings.ldap.as_ref().and_then(|ldap| ldap.timeout_secs)),
        ("http.timeout_secs", settings.http.as_ref().and_then(|http| http.timeout_secs)),
        ("oauth.timeout_secs", settings.oauth.as_ref().and_then(|oauth| oauth.timeout_secs)),
    ];
    for (path, timeout) in timeouts {
        secs(path, timeout, 1, 20)?;
    }
    for (path, secret) in settings.secrets() {
        check_secret(path, secret, config)?;
    }
    Ok(())
}

fn check_ldap(ldap: &LdapBackend, reach: &Reach) -> Checked {
    if !(1..=5).contains(&ldap.urls.len()) {
        return wrong("ldap.urls", "is 1 to 5 servers");
    }
    for url in &ldap.urls {
        let server = match Server::parse(url, ldap.starttls) {
            Ok(server) => server,
            Err(problem) => return wrong("ldap.urls", problem),
        };
        check_host("ldap.urls", server.host(), server.sent(), reach)?;
    }
    match (&ldap.bind_dn, &ldap.search) {
        (Some(template), None) => check_template("ldap.bind_dn", template)?,
        (None, Some(search)) => {
            check_template("ldap.search.filter", &search.filter)?;
            if let Some(problem) = filter_problem(&search.filter) {
                return wrong("ldap.search.filter", problem);
            }
            check_text("ldap.search.base", &search.base, TEXT_OCTETS_MAX)?;
            match (&search.bind_dn, &search.password) {
                (Some(dn), Some(_)) => check_text("ldap.search.bind_dn", dn, TEXT_OCTETS_MAX)?,
                // A bind with a name and no password is an anonymous one, whatever was meant.
                (Some(_), None) => return wrong("ldap.search.password", "is missing, but bind_dn is given"),
                (None, Some(_)) => return wrong("ldap.search.bind_dn", "is missing, but password is given"),
                (None, None) => {}
            }
        }
        _ => return wrong("ldap.bind_dn", "or search is given, and not both"),
    }
    check_authorities("ldap.ca_pem", ldap.ca_pem.as_deref())
}

fn check_http(http: &HttpBackend, reach: &Reach) -> Checked {
    check_url("http.url", &http.url, reach)?;
    check_authorities("http.ca_pem", http.ca_pem.as_deref())
}

fn check_oauth(oauth: &OauthIssuer, reach: &Reach) -> Checked {
    check_text("oauth.issuer", &oauth.issuer, TEXT_OCTETS_MAX)?;
    if let Some(url) = &oauth.jwks_url {
        check_url("oauth.jwks_url", url, reach)?;
    }
    if let Some(introspection) = &oauth.introspection {
        check_url("oauth.introspection.url", &introspection.url, reach)?;
        check_text("oauth.introspection.client_id", &introspection.client_id, 200)?;
        if introspection.remember_secs.is_some_and(|secs| secs > 3600) {
            return wrong("oauth.introspection.remember_secs", "is 0 to 3600 seconds");
        }
        if oauth.jwks_url.is_some() {
            return wrong("oauth.jwks_url", "is of no use where tokens are asked for (introspection)");
        }
    } else {
        if oauth.audiences.is_empty() {
            return wrong("oauth.audiences", "names at least one: a token for somebody else is not for us");
        }
        if oauth.jwks_url.is_none() {
            check_url("oauth.issuer", &oauth.issuer, reach)?;
        }
    }
    for (path, texts) in [("oauth.audiences", &oauth.audiences), ("oauth.scopes", &oauth.scopes)] {
        if texts.len() > 10 {
            return wrong(path, "is 10 at most");
        }
        for text in texts {
            check_text(path, text, TEXT_OCTETS_MAX)?;
        }
    }
    if let Some(claim) = &oauth.claim {
        check_text("oauth.claim", claim, 100)?;
    }
    if oauth.leeway_secs.is_some_and(|secs| secs > 300) {
        return wrong("oauth.leeway_secs", "is 0 to 300 seconds");
    }
    check_authorities("oauth.ca_pem", oauth.ca_pem.as_deref())
}

fn check_template(path: &'static str, template: &str) -> Checked {
    check_text(path, template, TEXT_OCTETS_MAX)?;
    // Else everybody would log in as the same one.
    if !template.contains("{address}") && !template.contains("{local}") {
        return wrong(path, "has {address} or {local} in it");
    }
    Ok(())
}

fn check_text(path: &'static str, text: &str, octets_max: usize) -> Checked {
    if text.is_empty() || text.len() > octets_max || text.chars().any(char::is_control) {
        return wrong(path, format!("is 1 to {octets_max} octets without control characters"));
    }
    Ok(())
}

fn check_url(path: &'static str, text: &str, reach: &Reach) -> Checked {
    check_text(path, text, TEXT_OCTETS_MAX)?;
    let url = match text.parse::<Url>() {
        Ok(url) if matches!(url.scheme(), "https" | "http") => url,
        _ => return wrong(path, "is a URL, https:// or http://"),
    };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return wrong(path, "has neither a user nor a fragment");
    }
    check_host(path, url.host_str().unwrap_or_default(), sent(&url), reach)
}

/// Names are judged by where they lead when they are used; addresses can be told now.
fn check_host(path: &'static str, host: &str, sent: Sent, reach: &Reach) -> Checked {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse() {
        Ok(address) if !reach.allows("", address, sent) => {
            wrong(path, "leads to where nothing may be reached")
        }
        _ => Ok(()),
    }
}

fn check_authorities(path: &'static str, pem: Option<&str>) -> Checked {
    match pem {
        Some(pem) if pem.len() > 100_000 => wrong(path, "is 100,000 octets of PEM at most"),
        Some(pem) => authorities(pem).map(drop).or_else(|problem| wrong(path, problem)),
        None => Ok(()),
    }
}

fn check_secret(path: &'static str, secret: &SecretSource, config: &BackendsConfig) -> Checked {
    match (&secret.value, &secret.file) {
        (Some(value), None) => {
            let text = value.expose();
            // What only white space tells apart was seldom meant.
            let good = (1..=1000).contains(&text.len()) && !text.chars().any(char::is_control);
            if good { Ok(()) } else { wrong(path, "is 1 to 1000 octets without control characters") }
        }
        (None, Some(file)) => {
            let begins =
                file.bytes().next().is_some_and(|octet| octet.is_ascii_alphanumeric() || octet == b'_');
            let good = file.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"_.-".contains(&octet));
            if !begins || !good || file.len() > 100 {
                return wrong(
                    path,
                    "the file's name is letters, digits, _, . and -, and begins with one of the first three",
                );
            }
            if config.secrets_dir.is_none() {
                return wrong(path, "this node keeps no files with secrets (login_backends.secrets_dir)");
            }
            Ok(())
        }
        _ => wrong(path, "is either a value or a file; what was set before has to be given again"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn is(settings: &Value, expected: Option<&str>) {
        let networks = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
        let config = BackendsConfig {
            reach: Reach { networks, ..Reach::default() },
            secrets_dir: Some("/run/secrets".into()),
            ..BackendsConfig::default()
        };
        let found = problem(&serde_json::from_value(settings.clone()).unwrap(), &config);
        assert_eq!(found.as_ref().map(|problem| problem.path), expected, "{settings}: {found:?}");
    }

    #[test]
    fn settings_that_cannot_work_are_told() {
        is(&json!({}), None);
        is(&json!({ "passwords": "none" }), None);
        is(&json!({ "passwords": "ldap" }), Some("ldap"));
        is(&json!({ "remember_secs": 86_401 }), Some("remember_secs"));
        is(&json!({ "offline_secs": 604_801 }), Some("offline_secs"));
        let ldap = |change: Value| {
            let mut ldap = json!({ "urls": ["ldaps://ldap.test"], "bind_dn": "uid={local}" });
            ldap.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            json!({ "passwords": "ldap", "ldap": ldap })
        };
        is(&ldap(json!({})), None);
        is(&ldap(json!({ "urls": [] })), Some("ldap.urls"));
        is(&ldap(json!({ "urls": ["http://a"] })), Some("ldap.urls"));
        is(&ldap(json!({ "urls": ["ldaps://127.0.0.1"] })), None);
        is(&ldap(json!({ "urls": ["ldaps://10.0.0.1"] })), Some("ldap.urls"));
        is(&ldap(json!({ "urls": ["ldaps://[::ffff:10.0.0.1]"] })), Some("ldap.urls"));
        is(&ldap(json!({ "urls": ["ldap://8.8.8.8"], "starttls": false })), Some("ldap.urls"));
        is(&ldap(json!({ "urls": ["ldap://8.8.8.8"] })), None);
        is(&ldap(json!({ "bind_dn": "uid=admin" })), Some("ldap.bind_dn"));
        is(&ldap(json!({ "bind_dn": null })), Some("ldap.bind_dn"));
        is(&ldap(json!({ "timeout_secs": 0 })), Some("ldap.timeout_secs"));
        is(&ldap(json!({ "ca_pem": "x" })), Some("ldap.ca_pem"));
        let search = |change: Value| {
            let mut search = json!({ "base": "dc=x", "filter": "(mail={address})" });
            search.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            ldap(json!({ "bind_dn": null, "search": search }))
        };
        is(&search(json!({})), None);
        is(&search(json!({ "filter": "(mail={address}" })), Some("ldap.search.filter"));
        is(&search(json!({ "filter": "(mail=*)" })), Some("ldap.search.filter"));
        is(&search(json!({ "bind_dn": "cn=a" })), Some("ldap.search.password"));
        is(&search(json!({ "password": { "value": "x" } })), Some("ldap.search.bind_dn"));
        is(&search(json!({ "bind_dn": "cn=a", "password": { "value": "x" } })), None);
        is(&search(json!({ "bind_dn": "cn=a", "password": {} })), Some("ldap.search.password"));
        for (file, good) in [("a.txt", true), ("../a", false), ("a/b", false), (".a", false), ("", false)] {
            let expected = (!good).then_some("ldap.search.password");
            is(&search(json!({ "bind_dn": "cn=a", "password": { "file": file } })), expected);
        }
        let http =
            |url: &str| json!({ "passwords": "http", "http": { "url": url, "secret": { "value": "x" } } });
        is(&http("https://a.test/x?y"), None);
        for bad in
            ["ftp://a", "https://u:p@a.test", "http://10.0.0.1", "http://0x7f.1:1#f", "http://167772161", ""]
        {
            is(&http(bad), Some("http.url"));
        }
        let oauth = |change: Value| {
            let mut oauth = json!({ "issuer": "https://i.test", "audiences": ["a"] });
            oauth.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            json!({ "oauth": oauth })
        };
        is(&oauth(json!({})), None);
        is(&oauth(json!({ "audiences": [] })), Some("oauth.audiences"));
        is(&oauth(json!({ "issuer": "i" })), Some("oauth.issuer"));
        is(&oauth(json!({ "issuer": "i", "jwks_url": "https://i.test/k" })), None);
        is(&oauth(json!({ "leeway_secs": 301 })), Some("oauth.leeway_secs"));
        let introspection =
            json!({ "url": "https://i.test", "client_id": "c", "client_secret": { "value": "s" } });
        is(&oauth(json!({ "audiences": [], "introspection": introspection })), None);
    }
}
