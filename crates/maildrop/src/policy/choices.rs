//! What a policy chooses from.

use serde::{Deserialize, Serialize};

/// A way to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum LoginMechanism {
    /// USER and PASS (RFC 1939 §7).
    #[serde(rename = "USER")]
    User,
    /// APOP (RFC 1939 §7).
    #[serde(rename = "APOP")]
    Apop,
    /// SASL PLAIN (RFC 4616).
    #[serde(rename = "PLAIN")]
    Plain,
    /// SASL LOGIN.
    #[serde(rename = "LOGIN")]
    Login,
    /// SASL CRAM-MD5 (RFC 2195).
    #[serde(rename = "CRAM-MD5")]
    CramMd5,
    /// SASL SCRAM-SHA-1 (RFC 5802), with channel binding or without.
    #[serde(rename = "SCRAM-SHA-1")]
    ScramSha1,
    /// SASL SCRAM-SHA-256 (RFC 7677), with channel binding or without.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// SASL EXTERNAL (RFC 4422), by a client's certificate.
    #[serde(rename = "EXTERNAL")]
    External,
    /// SASL OAUTHBEARER (RFC 7628).
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
    /// SASL XOAUTH2.
    #[serde(rename = "XOAUTH2")]
    Xoauth2,
}

impl LoginMechanism {
    /// Every way.
    pub const ALL: [Self; 10] = [
        Self::User,
        Self::Apop,
        Self::Plain,
        Self::Login,
        Self::CramMd5,
        Self::ScramSha1,
        Self::ScramSha256,
        Self::External,
        Self::OauthBearer,
        Self::Xoauth2,
    ];

    /// Its name, as policies and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::Apop => "APOP",
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::CramMd5 => "CRAM-MD5",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::External => "EXTERNAL",
            Self::OauthBearer => "OAUTHBEARER",
            Self::Xoauth2 => "XOAUTH2",
        }
    }
}

/// What DELE and QUIT do to a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeleMeaning {
    /// It is deleted; it can be restored for [`Policy::undelete_days`](super::Policy::undelete_days).
    #[default]
    Delete,
    /// It is hidden from its owner and kept for [`Policy::hide_days`](super::Policy::hide_days).
    Hide,
}

/// The order in which messages are numbered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MessageOrder {
    /// As they came into the maildrop.
    #[default]
    Arrival,
    /// By the time they were received, wherever that was: mail that a migration brought along later comes before what
    /// came in meanwhile.
    Received,
}

/// What LMTP says of a suspended mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SuspendedReply {
    /// `550 5.2.1`: the sender gets the message back.
    #[default]
    Permanent,
    /// `450 4.2.1`: the sender keeps it and tries again.
    Temporary,
}

/// What is bent for a client that needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ClientWorkaround {
    /// NUL octets are sent as 0x80: old Outlook takes a NUL for the end of the message.
    OutlookNoNuls,
}
