//! The load generator: small clients that cost little beside the servers they drive, and the meters.

pub(crate) mod clients;
pub(crate) mod drive;
pub(crate) mod http;
pub(crate) mod idle;
pub(crate) mod mail;
pub(crate) mod meter;
pub(crate) mod s3;
pub(crate) mod sasl;
pub(crate) mod slow;
pub(crate) mod tls;
pub(crate) mod wire;
