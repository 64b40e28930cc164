//! What tenants' stores may reach. Their addresses come from outside, and the node stands where others do not.
//!
//! A name is resolved here, each of its addresses is judged, and the connection is made to one of those judged: there
//! is no second look at the name that could give another answer. The SDK follows no redirection.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use tokio::sync::Semaphore;

/// Judges what may be reached.
pub trait Guard: fmt::Debug + Send + Sync {
    /// Whether this address may be reached under this name, encrypted or not.
    fn allows(&self, host: &str, address: IpAddr, encrypted: bool) -> bool;
}

/// Names looked up at once for a store, and for all of them: the resolver's threads are those that read files, too, and
/// one that waits for a server that never answers is gone by nothing.
const LOOKUPS_OF_STORE: usize = 4;
static LOOKUPS: Semaphore = Semaphore::const_new(32);

/// A resolver that gives only what may be reached.
#[derive(Clone, Debug)]
pub(crate) struct Guarded {
    guard: Arc<dyn Guard>,
    encrypted: bool,
    lookups: Arc<Semaphore>,
}

impl Guarded {
    pub(super) fn new(guard: Arc<dyn Guard>, encrypted: bool) -> Self {
        Self { guard, encrypted, lookups: Arc::new(Semaphore::new(LOOKUPS_OF_STORE)) }
    }

    pub(super) fn allows(&self, host: &str, address: IpAddr) -> bool {
        self.guard.allows(host, address, self.encrypted)
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveDnsError> {
        let closed = |_| ResolveDnsError::new("look-ups have ended");
        let of_store = Arc::clone(&self.lookups).acquire_owned().await.map_err(closed)?;
        let of_all = LOOKUPS.acquire().await.map_err(closed)?;
        let name = host.to_owned();
        // A task of its own: what it takes is given back when the resolver is done, whoever still waits for it.
        let looking_up = tokio::spawn(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            drop((of_store, of_all));
            found.map(|found| found.map(|address: SocketAddr| address.ip()).collect::<Vec<_>>())
        });
        let found = looking_up.await.map_err(ResolveDnsError::new)?.map_err(ResolveDnsError::new)?;
        let allowed: Vec<_> = found.into_iter().filter(|found| self.allows(host, *found)).collect();
        if allowed.is_empty() {
            return Err(ResolveDnsError::new(format!("{host} is not among what tenants' stores may reach")));
        }
        Ok(allowed)
    }
}

impl ResolveDns for Guarded {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(self.resolve(name))
    }
}

/// What an endpoint has to be.
const URL: &str = "is a URL, https:// or http://, of a host and a port";

/// What a URL says of a server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) encrypted: bool,
}

impl Server {
    /// Reads an endpoint; Amazon's own where there is none.
    pub(super) fn parse(endpoint: Option<&str>) -> Result<Self, &'static str> {
        let Some(endpoint) = endpoint else { return Ok(Self { host: String::new(), encrypted: true }) };
        let (scheme, rest) = endpoint.split_once("://").ok_or(URL)?;
        let encrypted = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(URL),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"_.-:[]".contains(&octet);
        if authority.is_empty() || !authority.bytes().all(plain) {
            return Err(URL);
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        if host.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(URL);
        }
        Ok(Self { host: host.to_owned(), encrypted })
    }

    /// The host, where it is an address.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let host = &self.host;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        bare.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct NotHere;

    impl Guard for NotHere {
        fn allows(&self, host: &str, address: IpAddr, encrypted: bool) -> bool {
            host == "named.test" || (encrypted && !address.is_loopback())
        }
    }

    #[test]
    fn servers_are_read_from_urls() {
        for (url, host, encrypted, address) in [
            ("https://s3.example.org", "s3.example.org", true, false),
            ("http://127.0.0.1:8333/", "127.0.0.1", false, true),
            ("https://[::1]:9000", "[::1]", true, true),
            ("https://[::1]", "[::1]", true, true),
            ("http://0x7f.1", "0x7f.1", false, false),
        ] {
            let server = Server::parse(Some(url)).unwrap();
            assert_eq!((server.host.as_str(), server.encrypted), (host, encrypted));
            assert_eq!(server.address().is_some(), address, "{url}");
        }
        for bad in [
            "",
            "s3.test",
            "ftp://a",
            "https://",
            "https://a@b",
            "https://a/b",
            "http://a?b",
            "http://a:x",
            "http://:1",
        ] {
            assert!(Server::parse(Some(bad)).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn names_are_judged_by_where_they_lead() {
        let guarded = Guarded::new(Arc::new(NotHere), true);
        assert!(guarded.resolve("localhost").await.is_err());
        // What the resolver makes an address of is judged as that.
        assert!(guarded.resolve("0x7f.1").await.is_err());
        assert!(!guarded.allows("x.test", "127.0.0.1".parse().unwrap()));
    }
}
