//! Certificates, and what is asked of clients.

use std::{path::PathBuf, str::FromStr, time::Duration};

use frontend::{CertificateFiles, ClientAuth, TicketSecret, TlsConfig, TlsIdentity};
use serde::Deserialize;

use super::{
    Chain, Config, ConfigError,
    types::{duration, list, parsed},
};

/// The server's certificate; without one there is no STLS and no POP3S.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tls {
    /// The chain, PEM, leaf first. An OCSP response (DER) may lie beside it, as `<certificate_file>.ocsp`.
    pub(crate) certificate_file: Option<PathBuf>,
    /// The key, PEM.
    pub(crate) key_file: Option<PathBuf>,
    /// Directories with further certificates, each with `tls.crt`, `tls.key` and perhaps `tls.ocsp`, as Kubernetes
    /// mounts TLS secrets; presented to those who ask for their names. Default: none.
    #[serde(deserialize_with = "list")]
    pub(crate) directories: Vec<PathBuf>,
    /// Whether clients are asked for certificates: `off`, `optional`, `required`. Default: `off`.
    #[serde(deserialize_with = "parsed")]
    pub(crate) client_auth: AskClients,
    /// The authorities that sign clients' certificates, PEM.
    pub(crate) client_ca_file: Option<PathBuf>,
    /// How often files are looked at for changes; zero: only on SIGHUP. Default: 30 s.
    #[serde(deserialize_with = "duration")]
    pub(crate) reload_interval: Duration,
    /// Whether sessions are resumed, on whatever node, by tickets. Default: true.
    pub(crate) session_tickets: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificate_file: None,
            key_file: None,
            directories: Vec::new(),
            client_auth: AskClients::default(),
            client_ca_file: None,
            reload_interval: Duration::from_secs(30),
            session_tickets: true,
        }
    }
}

/// Whether clients are asked for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum AskClients {
    /// They are not.
    #[default]
    Off,
    /// They are, and need not have one.
    Optional,
    /// They have to have one.
    Required,
}

impl FromStr for AskClients {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err("is none of \"off\", \"optional\" and \"required\""),
        }
    }
}

/// What a node presents: by STLS, and on POP3S.
#[derive(Debug, Default)]
pub(crate) struct TlsIdentities {
    pub(crate) pop3: Option<TlsIdentity>,
    pub(crate) pop3s: Option<TlsIdentity>,
    /// Whether they are one.
    pub(crate) same: bool,
}

/// What a listener says of its own.
struct Own<'a> {
    section: &'static str,
    certificate: Option<&'a PathBuf>,
    key: Option<&'a PathBuf>,
    client_auth: Option<AskClients>,
    client_ca: Option<&'a PathBuf>,
}

impl Config {
    /// The certificates of the listeners, where there are any.
    pub(crate) fn tls_identities(&self, tickets: Option<TicketSecret>) -> Result<TlsIdentities, ConfigError> {
        let tickets = tickets.filter(|_| self.tls.session_tickets);
        let [(pop3_path, pop3), (pop3s_path, pop3s)] = self.tls_configs()?;
        let load = |path: &str, config: Option<TlsConfig>| {
            let load = |config| TlsIdentity::load(config, tickets.clone());
            config.map(load).transpose().map_err(|error| ConfigError::new(path, Chain(&error)))
        };
        if pop3 == pop3s {
            let identity = load(&pop3_path, pop3)?;
            return Ok(TlsIdentities { pop3: identity.clone(), pop3s: identity, same: true });
        }
        let (pop3, pop3s) = (load(&pop3_path, pop3)?, load(&pop3s_path, pop3s)?);
        Ok(TlsIdentities { pop3, pop3s, same: false })
    }

    /// What each listener presents, and where that is configured.
    fn tls_configs(&self) -> Result<[(String, Option<TlsConfig>); 2], ConfigError> {
        let (pop3, pop3s) = (&self.pop3, &self.pop3s);
        let of_pop3 = Own {
            section: "pop3",
            certificate: pop3.certificate_file.as_ref(),
            key: pop3.key_file.as_ref(),
            client_auth: pop3.client_auth,
            client_ca: pop3.client_ca_file.as_ref(),
        };
        let of_pop3s = Own {
            section: "pop3s",
            certificate: pop3s.certificate_file.as_ref(),
            key: pop3s.key_file.as_ref(),
            client_auth: pop3s.client_auth,
            client_ca: pop3s.client_ca_file.as_ref(),
        };
        Ok([self.tls_config(&of_pop3)?, self.tls_config(&of_pop3s)?])
    }

    fn tls_config(&self, own: &Own<'_>) -> Result<(String, Option<TlsConfig>), ConfigError> {
        let tls = &self.tls;
        let has_own = own.certificate.is_some() || own.key.is_some();
        let section = if has_own { own.section } else { "tls" };
        let files = if has_own {
            (own.certificate, own.key)
        } else {
            (tls.certificate_file.as_ref(), tls.key_file.as_ref())
        };
        let path = format!("{section}.certificate_file");
        let missing = |key: &str, given: &str| {
            let problem = format!("is missing, but {section}.{given} is given");
            Err(ConfigError::new(format!("{section}.{key}"), problem))
        };
        let (chain, key) = match files {
            (Some(chain), Some(key)) => (chain, key),
            (Some(_), None) => return missing("key_file", "certificate_file"),
            (None, Some(_)) => return missing("certificate_file", "key_file"),
            (None, None) if !tls.directories.is_empty() => {
                return missing("certificate_file", "directories");
            }
            (None, None) => return Ok((path, None)),
        };
        let ca = own.client_ca.or(tls.client_ca_file.as_ref());
        let clients = match (own.client_auth.unwrap_or(tls.client_auth), ca) {
            (AskClients::Off, _) => ClientAuth::Off,
            (AskClients::Optional, Some(ca)) => ClientAuth::Optional(ca.clone()),
            (AskClients::Required, Some(ca)) => ClientAuth::Required(ca.clone()),
            (_, None) => {
                let section = if own.client_auth.is_some() { own.section } else { "tls" };
                return Err(ConfigError::new(
                    format!("{section}.client_ca_file"),
                    format!("is missing, but {section}.client_auth asks for certificates"),
                ));
            }
        };
        let further = tls.directories.iter().map(|directory| CertificateFiles::in_directory(directory));
        let config =
            TlsConfig { certificate: CertificateFiles::new(chain, key), further: further.collect(), clients };
        Ok((path, Some(config)))
    }

    /// What no single key can tell of certificates.
    pub(super) fn check_tls(&self) -> Result<(), ConfigError> {
        let [_, (path, pop3s)] = self.tls_configs()?;
        if pop3s.is_none() && !self.pop3s.listen.is_empty() {
            return Err(ConfigError::new(path, "is missing, but pop3s.listen is given"));
        }
        Ok(())
    }
}
