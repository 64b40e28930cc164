//! Networks of addresses, as an operator writes them.

use std::{net::IpAddr, str::FromStr, sync::Arc};

/// A network, `10.0.0.0/8` or `2001:db8::/32`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It has not the form.
    #[error("is no network: write \"10.0.0.0/8\", \"2001:db8::/32\" or a single address")]
    Form,
    /// Which of the two is meant nobody can know: the address, or its network.
    #[error("has bits set behind the prefix: the network is \"{0}/{1}\"")]
    HostBits(IpAddr, u32),
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Form)?;
        // Peers are compared as what they are, so that an IPv4 network written as IPv6 would hold nobody.
        if address != address.to_canonical() {
            return Err(NetworkError::Form);
        }
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= whole).ok_or(NetworkError::Form)?
            }
            Some(_) => return Err(NetworkError::Form),
            None => whole,
        };
        let first = first_of(address, prefix);
        if first != address {
            return Err(NetworkError::HostBits(first, prefix));
        }
        Ok(Self { address, prefix })
    }
}

impl Network {
    /// Whether an address is of this network. An IPv4 address may come as an IPv6 one, as it does to a socket
    /// that listens to both.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && first_of(address, self.prefix) == self.address
    }
}

/// The first address of the network that `address` is in.
fn first_of(address: IpAddr, prefix: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

/// Several networks. Cheap to clone: all share one list.
#[derive(Debug, Clone, Default)]
pub struct Networks(Arc<[Network]>);

impl Networks {
    /// Whether an address is of one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(network: &str, inside: &[&str], outside: &[&str]) {
        let network: Network = network.parse().unwrap();
        for (addresses, expected) in [(inside, true), (outside, false)] {
            for address in addresses {
                assert_eq!(network.contains(address.parse().unwrap()), expected, "{address}");
            }
        }
    }

    #[test]
    fn networks_hold_their_addresses() {
        check(
            "10.0.0.0/8",
            &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"],
            &["11.0.0.0", "9.9.9.9", "::10.0.0.1"],
        );
        check("192.0.2.7", &["192.0.2.7"], &["192.0.2.6", "192.0.2.8"]);
        check("192.0.2.128/25", &["192.0.2.128", "192.0.2.255"], &["192.0.2.127"]);
        check("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::", "2001:db8::1"]);
        check("2001:db8::/32", &["2001:db8::", "2001:db8:ffff::1"], &["2001:db9::", "10.0.0.1"]);
        check("::1", &["::1"], &["::2", "0.0.0.1"]);
        check("::/0", &["::1"], &["127.0.0.1", "::ffff:127.0.0.1"]);
    }

    #[test]
    fn what_is_no_network_is_told() {
        for bad in
            ["", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "10/8", "host", "::ffff:10.0.0.0/104"]
        {
            assert_eq!(bad.parse::<Network>(), Err(NetworkError::Form), "{bad}");
        }
        let error = "10.1.0.0/8".parse::<Network>().unwrap_err().to_string();
        assert!(error.contains("\"10.0.0.0/8\""), "{error}");
        assert!("2001:db8::1/64".parse::<Network>().is_err());
    }
}
