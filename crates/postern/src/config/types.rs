//! Values that TOML does not have.

use std::{fmt, path::Path, str::FromStr, time::Duration};

use frontend::PlaintextAuth;
use maildrop::LoginMechanism;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::ConfigError;

/// A secret: never shown.
#[derive(Clone, Deserialize)]
#[serde(from = "ScalarText")]
pub(crate) struct Secret(SecretString);

impl Secret {
    /// The text.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The secret itself, or what is in its file, white space around it aside.
    pub(super) fn from_either(
        given: Option<&Self>,
        file: Option<&Path>,
        path: &str,
    ) -> Result<Option<Self>, ConfigError> {
        match (given, file) {
            (Some(secret), _) => Ok(Some(secret.clone())),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| ConfigError::new(path, format!("{}: {error}", file.display())))?;
                Ok(Some(Self(text.trim().to_owned().into())))
            }
            (None, None) => Ok(None),
        }
    }
}

impl From<ScalarText> for Secret {
    fn from(ScalarText(text): ScalarText) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Text that an environment variable may have made look like a number.
struct ScalarText(String);

impl<'de> Deserialize<'de> for ScalarText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(Self(text)),
            toml::Value::Integer(number) => Ok(Self(number.to_string())),
            toml::Value::Boolean(value) => Ok(Self(value.to_string())),
            _ => Err(D::Error::custom("must be text")),
        }
    }
}

/// A duration such as `"30s"` or `"10m"`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let ScalarText(text) = ScalarText::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|error| D::Error::custom(format!("is no duration such as \"30s\": {error}")))
}

/// A duration, where there need be none.
pub(super) fn optional_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d).map(Some)
}

/// Text, which the environment may have made look like a number.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    ScalarText::deserialize(deserializer).map(|ScalarText(text)| text)
}

/// Text, where there need be none.
pub(super) fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    text(deserializer).map(Some)
}

/// Something that is written as text.
pub(super) fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let ScalarText(text) = ScalarText::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

/// A domain name, where there need be none.
pub(super) fn optional_domain<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let name = text(d)?;
    let domain = maildrop::DomainName::try_from(name.as_str()).map_err(D::Error::custom)?;
    Ok(Some(domain.to_string()))
}

/// The same, where there need be none.
pub(super) fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    parsed(deserializer).map(Some)
}

/// A list of such things; a single one, or several with commas between, may stand for a list.
pub(super) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let texts: Vec<String> = match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => {
            text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect()
        }
        toml::Value::Array(values) => values
            .into_iter()
            .map(|value| match value {
                toml::Value::String(text) => Ok(text),
                other => Err(D::Error::custom(format!("{other} is no text"))),
            })
            .collect::<Result<_, _>>()?,
        other => return Err(D::Error::custom(format!("{other} is no list of texts"))),
    };
    texts.iter().map(|text| text.parse().map_err(|e| D::Error::custom(format!("\"{text}\": {e}")))).collect()
}

/// Ways to log in that a node can offer besides USER and PASS.
pub(super) fn mechanisms<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<LoginMechanism>, D::Error> {
    let names: Vec<String> = list(deserializer)?;
    let known = |name: &str| {
        LoginMechanism::ALL
            .into_iter()
            .filter(|mechanism| *mechanism != LoginMechanism::User)
            .find(|mechanism| mechanism.as_str().eq_ignore_ascii_case(name))
    };
    let unknown = |name: &str| {
        D::Error::custom(format!(
            "\"{name}\" is none of PLAIN, LOGIN, SCRAM-SHA-256, SCRAM-SHA-1, EXTERNAL, CRAM-MD5, OAUTHBEARER, XOAUTH2 and APOP"
        ))
    };
    names.iter().map(|name| known(name).ok_or_else(|| unknown(name))).collect()
}

/// `never`, `loopback` or `always`.
pub(super) fn plaintext_auth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PlaintextAuth, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "never" => Ok(PlaintextAuth::Never),
        "loopback" => Ok(PlaintextAuth::Loopback),
        "always" => Ok(PlaintextAuth::Always),
        other => {
            Err(D::Error::custom(format!("\"{other}\" is none of \"never\", \"loopback\" and \"always\"")))
        }
    }
}
