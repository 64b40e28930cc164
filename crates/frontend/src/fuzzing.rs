//! Doors for the fuzz targets to what is nobody else's. Not for use.

use std::net::IpAddr;

use crate::proxy::header;

/// The longest header of the PROXY protocol that is taken.
pub const HEADER_OCTETS_MAX: usize = header::HEADER_OCTETS_MAX;

/// What a header of the PROXY protocol says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client's address, where the header tells of a client and its address.
    pub client: Option<IpAddr>,
    /// Every text that is kept of it.
    pub texts: Vec<Box<str>>,
    /// Octets of the header.
    pub octets: usize,
}

/// The octets are the beginning of no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoHeader;

/// Reads the header that `octets` begin with: nothing while it is not whole.
pub fn proxy_header(octets: &[u8]) -> Result<Option<ProxyHeader>, NoHeader> {
    let Some((header, octets)) = header::read(octets).map_err(|_| NoHeader)? else { return Ok(None) };
    let client = match header.source {
        header::Source::Own | header::Source::Unknown => None,
        header::Source::Address(address) => Some(address),
    };
    let tls = header.said.tls.unwrap_or_default();
    let texts = [header.said.host, header.said.id, tls.version, tls.cipher, tls.name];
    Ok(Some(ProxyHeader { client, texts: texts.into_iter().flatten().collect(), octets }))
}
