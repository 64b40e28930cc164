//! What tenants' back ends may reach. Their addresses are given by tenants' administrators, and the node stands
//! where they do not: what is not public is out of reach unless the operator says otherwise.
//!
//! A name is resolved here, each of its addresses is judged, and the connection is made to one of those judged: there
//! is no second look at the name that could give another answer.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use tokio::{net::TcpStream, sync::Semaphore};

use crate::Networks;

/// Names looked up at once for a tenant, and for all of them. The resolver's threads are those that hash passwords and
/// read files too, and one that waits for a server that never answers is waited for by nobody and gone by nothing.
const LOOKUPS_OF_TENANT: usize = 4;
static LOOKUPS: Semaphore = Semaphore::const_new(64);

/// A tenant's look-ups of names.
#[derive(Clone, Debug)]
pub(super) struct Lookups(Arc<Semaphore>);

impl Default for Lookups {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKUPS_OF_TENANT)))
    }
}

impl Lookups {
    /// The addresses of a name. What it takes is given back when the resolver is done, whoever still waits for it.
    async fn addresses(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        let closed = |_| std::io::Error::other("look-ups have ended");
        let of_tenant = Arc::clone(&self.0).acquire_owned().await.map_err(closed)?;
        let of_all = LOOKUPS.acquire().await.map_err(closed)?;
        let host = host.to_owned();
        let looking_up = tokio::spawn(async move {
            let found = tokio::net::lookup_host((host.as_str(), port)).await.map(Iterator::collect);
            drop((of_tenant, of_all));
            found
        });
        looking_up.await.map_err(std::io::Error::other)?
    }
}

/// What may be reached.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Networks that may be reached though they are not public.
    pub networks: Networks,
    /// Hosts that may be reached wherever their names lead.
    pub hosts: Arc<[HostPattern]>,
    /// Whether what is public may be reached.
    pub public: bool,
}

impl Default for Reach {
    /// What is public, and nothing else.
    fn default() -> Self {
        Self { networks: Networks::default(), hosts: Arc::default(), public: true }
    }
}

/// The name of a host, or of all hosts below a domain: `*.example.org`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    name: String,
    below: bool,
}

impl FromStr for HostPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let good = !name.is_empty()
            && name.split('.').all(|label| {
                !label.is_empty() && label.bytes().all(|o| o.is_ascii_alphanumeric() || o == b'-')
            });
        // An address is a network's matter.
        if !good || name.parse::<IpAddr>().is_ok() {
            return Err("is no host name, nor one with *. in front");
        }
        Ok(Self { name: name.to_ascii_lowercase(), below })
    }
}

impl HostPattern {
    fn fits(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if self.below {
            host.strip_suffix(&self.name).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
        } else {
            host == self.name
        }
    }
}

/// Why somewhere cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReachError {
    #[error("{0} is not among what tenants' back ends may reach")]
    Forbidden(String),
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("{0} cannot be reached")]
    Io(String, #[source] std::io::Error),
}

/// Whether what is sent can be read on its way. In the clear only what the operator named is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Encrypted,
    InTheClear,
}

impl Reach {
    /// Whether this address may be reached under this name.
    pub(super) fn allows(&self, host: &str, address: IpAddr, sent: Sent) -> bool {
        let named = self.networks.contains(address) || self.hosts.iter().any(|pattern| pattern.fits(host));
        named || (self.public && sent == Sent::Encrypted && is_public(address))
    }

    /// The same for those who know by other means how what they send is sent.
    pub fn lets(&self, host: &str, address: IpAddr, encrypted: bool) -> bool {
        self.allows(host, address, if encrypted { Sent::Encrypted } else { Sent::InTheClear })
    }

    /// The addresses of a host that may be reached; an address stands for itself.
    pub(super) async fn resolve(
        &self,
        lookups: &Lookups,
        host: &str,
        port: u16,
        sent: Sent,
    ) -> Result<Vec<SocketAddr>, ReachError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => {
                let found = lookups.addresses(bare, port).await;
                found.map_err(|error| ReachError::Io(bare.to_owned(), error))?
            }
        };
        if found.is_empty() {
            return Err(ReachError::NoAddress(bare.to_owned()));
        }
        let allowed: Vec<_> =
            found.into_iter().filter(|found| self.allows(bare, found.ip(), sent)).take(8).collect();
        if allowed.is_empty() { Err(ReachError::Forbidden(bare.to_owned())) } else { Ok(allowed) }
    }

    /// A connection to a host. The caller bounds the time.
    pub(super) async fn connect(
        &self,
        lookups: &Lookups,
        host: &str,
        port: u16,
        sent: Sent,
    ) -> Result<TcpStream, ReachError> {
        let mut last = None;
        for address in self.resolve(lookups, host, port, sent).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(ReachError::Io(format!("{host} ({address})"), error)),
            }
        }
        Err(last.unwrap_or_else(|| ReachError::NoAddress(host.to_owned())))
    }
}

/// Whether an address is anybody's on the Internet (the registries of special-purpose addresses, RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = a == 0 // this network
        || address.is_private()
        || (a == 100 && (64..128).contains(&b)) // shared by a provider's customers, RFC 6598
        || address.is_loopback()
        || address.is_link_local()
        || (a == 192 && b == 0 && c == 0) // protocol assignments
        || address.is_documentation()
        || (a == 192 && b == 88 && c == 99) // relays of 6to4
        || (a == 198 && (18..20).contains(&b)) // measurements, RFC 2544
        || a >= 224; // multicast, reserved, broadcast
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [first, second, ..] = segments;
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (first, second) {
        // What a translator makes an IPv4 address of (RFC 6052): judged as that.
        (0x64, 0xff9b) => segments[2..6] == [0; 4] && is_public_v4(v4(segments[6], segments[7])),
        // 6to4 (RFC 3056) and Teredo (RFC 4380) carry IPv4 addresses; nobody needs them any more.
        (0x2002, _) | (0x2001, 0) => false,
        // Protocol assignments (RFC 2928), documentation (RFC 3849, RFC 9637).
        (0x2001, second) if second < 0x200 || second == 0xdb8 => false,
        (0x3fff, second) if second < 0x1000 => false,
        // All that was ever given to anybody is under 2000::/3.
        _ => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_out_of_reach() {
        let reach = Reach::default();
        for public in
            ["8.8.8.8", "100.63.0.1", "172.32.0.1", "2606:4700::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]
        {
            assert!(reach.allows("x.test", public.parse().unwrap(), Sent::Encrypted), "{public}");
            assert!(!reach.allows("x.test", public.parse().unwrap(), Sent::InTheClear), "{public}");
        }
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "2001:2::1",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!reach.allows("x.test", special.parse().unwrap(), Sent::Encrypted), "{special}");
        }
    }

    #[test]
    fn the_operator_names_exceptions() {
        let networks: Networks = ["10.1.0.0/16".parse().unwrap()].into_iter().collect();
        let hosts = ["ldap.corp.test", "*.idp.test"].map(|host| host.parse().unwrap());
        let reach = Reach { networks, hosts: Arc::new(hosts), public: false };
        let allows =
            |host: &str, address: &str| reach.allows(host, address.parse().unwrap(), Sent::InTheClear);
        assert!(allows("any.test", "10.1.2.3") && !allows("any.test", "10.2.0.1"));
        assert!(allows("LDAP.corp.test", "127.0.0.1") && allows("ldap.corp.test.", "127.0.0.1"));
        assert!(allows("a.idp.test", "127.0.0.1") && allows("a.b.idp.test", "127.0.0.1"));
        for other in ["idp.test", ".idp.test", "xidp.test", "x.ldap.corp.test", "corp.test"] {
            assert!(!allows(other, "127.0.0.1"), "{other}");
        }
        assert!(!reach.allows("any.test", "8.8.8.8".parse().unwrap(), Sent::Encrypted), "nor what is public");
        for bad in ["", "*", "*.", "a..b", "127.0.0.1", "a b", "::1"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn names_are_judged_by_where_they_lead() {
        let reach = Reach::default();
        for host in ["localhost", "127.0.0.1", "[::1]", "::ffff:127.0.0.1"] {
            let refused = reach.connect(&Lookups::default(), host, 1, Sent::Encrypted).await.unwrap_err();
            assert!(matches!(refused, ReachError::Forbidden(_)), "{host}: {refused}");
        }
        let networks: Networks = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
        let reach = Reach { networks, ..Reach::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(reach.connect(&Lookups::default(), "127.0.0.1", port, Sent::InTheClear).await.is_ok());
    }
}
