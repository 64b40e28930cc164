//! What a header of the PROXY protocol says, found in the octets a connection begins with. No I/O.
//!
//! Whether the header is whole is decided here, by its own account of its length, and `proxy-header` is given
//! exactly that: what it says of more octets to come would otherwise keep a broken header waiting.

use std::net::IpAddr;

use proxy_header::{ParseConfig, Protocol, ProxyHeader, SslInfo};

/// A header of version 1 has so many octets at most (PROXY protocol §2.1).
const V1_OCTETS_MAX: usize = 107;
const V1_SIGNATURE: &[u8] = b"PROXY ";
/// What a header of version 2 begins with (PROXY protocol §2.2).
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family and length.
const V2_HEAD_OCTETS: usize = V2_SIGNATURE.len() + 4;
/// The longest header taken. Addresses and the TLVs of TLS, names and identifiers together have a few hundred
/// octets; the format would allow 64 KiB.
pub(crate) const HEADER_OCTETS_MAX: usize = 4096;
/// The longest text kept of a TLV: a host name has 253 octets.
const TEXT_OCTETS_MAX: usize = 255;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) source: Source,
    /// What the proxy knows of the connection, save its address.
    pub(crate) said: Said,
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The proxy's own: it looks after our health (LOCAL).
    Own,
    /// Somebody's whose address has no form for it (UNKNOWN, UNSPEC, UNIX).
    Unknown,
    /// That of a client with this address.
    Address(IpAddr),
}

/// What a proxy may say of its client beside the address. Texts hold no control characters and are bounded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Said {
    /// There if the client speaks TLS with the proxy.
    pub(crate) tls: Option<ProxyTls>,
    /// The host the client asked for (SNI).
    pub(crate) host: Option<Box<str>>,
    /// What the proxy calls the connection.
    pub(crate) id: Option<Box<str>>,
}

/// The TLS between a client and its proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ProxyTls {
    pub(crate) version: Option<Box<str>>,
    pub(crate) cipher: Option<Box<str>>,
    /// The common name in the client's certificate.
    pub(crate) name: Option<Box<str>>,
    /// What came of verifying that certificate, 0 for good; none if there was no certificate.
    pub(crate) verify: Option<u32>,
}

/// What is wrong with the beginning of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is no header.
    Malformed,
    /// It is longer than any header we take.
    TooLong,
}

/// Reads the header that `octets` begin with. Gives it with its length, or nothing while it is not whole.
pub(crate) fn read(octets: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    match octets.first() {
        None => Ok(None),
        Some(b'P') => version_1(octets),
        Some(_) => version_2(octets),
    }
}

fn version_1(octets: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    begins_with(octets, V1_SIGNATURE)?;
    let Some(end) = octets.iter().take(V1_OCTETS_MAX).position(|octet| *octet == b'\n') else {
        return if octets.len() < V1_OCTETS_MAX { Ok(None) } else { Err(Fault::TooLong) };
    };
    let header = parse(&octets[..=end])?;
    let source = source_of(&header)?;
    Ok(Some((Header { source, said: Said::default() }, end + 1)))
}

fn version_2(octets: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    begins_with(octets, V2_SIGNATURE)?;
    let Some((head, rest)) = octets.split_at_checked(V2_HEAD_OCTETS) else { return Ok(None) };
    let &[.., command, family, high, low] = head else { return Err(Fault::Malformed) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = V2_HEAD_OCTETS + length;
    if whole > HEADER_OCTETS_MAX {
        return Err(Fault::TooLong);
    }
    let Some(block) = rest.get(..length) else { return Ok(None) };
    match command {
        // The rest is to be ignored, whatever it says.
        0x20 => return Ok(Some((Header { source: Source::Own, said: Said::default() }, whole))),
        0x21 => {}
        _ => return Err(Fault::Malformed),
    }
    let addresses = match family {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        // Datagrams come over no listener of ours, and nothing else is defined.
        _ => return Err(Fault::Malformed),
    };
    // Where there is no address, what stands in its place is to be ignored.
    if family != 0x00 && !block.get(addresses..).is_some_and(are_tlvs) {
        return Err(Fault::Malformed);
    }
    let header = parse(&octets[..whole])?;
    let said = Said {
        tls: header.ssl().filter(SslInfo::client_ssl).map(|tls| tls_of(&tls)),
        host: header.authority().and_then(text),
        id: header.unique_id().and_then(identifier),
    };
    Ok(Some((Header { source: source_of(&header)?, said }, whole)))
}

/// Whether what there is of `octets` agrees with the signature.
fn begins_with(octets: &[u8], signature: &[u8]) -> Result<(), Fault> {
    let there = octets.len().min(signature.len());
    if octets[..there] == signature[..there] { Ok(()) } else { Err(Fault::Malformed) }
}

fn parse(whole: &[u8]) -> Result<ProxyHeader<'_>, Fault> {
    match ProxyHeader::parse(whole, ParseConfig::default()) {
        Ok((header, used)) if used == whole.len() => Ok(header),
        _ => Err(Fault::Malformed),
    }
}

fn source_of(header: &ProxyHeader<'_>) -> Result<Source, Fault> {
    match header.proxied_address() {
        None => Ok(Source::Unknown),
        Some(address) if address.protocol == Protocol::Stream => {
            Ok(Source::Address(address.source.ip().to_canonical()))
        }
        Some(_) => Err(Fault::Malformed),
    }
}

/// Whether these octets are TLVs from the first to the last. What is in them may be anything: a client's SNI
/// is passed on as it came.
fn are_tlvs(mut octets: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = octets {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(next) = rest.get(length..) else { return false };
        octets = next;
    }
    octets.is_empty()
}

fn tls_of(tls: &SslInfo<'_>) -> ProxyTls {
    let certificate = tls.client_cert_conn() || tls.client_cert_sess();
    ProxyTls {
        version: tls.version().and_then(text),
        cipher: tls.cipher().and_then(text),
        name: tls.cn().and_then(text),
        verify: certificate.then(|| tls.verify()),
    }
}

/// A text fit for a line of the log: bounded, and without control characters.
fn text(text: &str) -> Option<Box<str>> {
    let mut kept: String = text.chars().filter(|c| !c.is_control()).collect();
    while kept.len() > TEXT_OCTETS_MAX {
        kept.pop();
    }
    (!kept.is_empty()).then(|| kept.into())
}

/// An identifier, which may be any octets: as text where it is one, else in hexadecimal.
fn identifier(octets: &[u8]) -> Option<Box<str>> {
    if octets.iter().all(u8::is_ascii_graphic) {
        return str::from_utf8(octets).ok().and_then(text);
    }
    let mut digits = String::new();
    for octet in octets.iter().take(TEXT_OCTETS_MAX / 2) {
        digits += &format!("{octet:02x}");
    }
    Some(digits.into())
}

#[cfg(test)]
mod tests {
    use proxy_header::{ProxiedAddress, Tlv};

    use super::*;

    const BEHIND: &[u8] = b"USER a\r\n\x16\x03\x01";

    fn address(source: &str) -> Source {
        Source::Address(source.parse().unwrap())
    }

    /// A header of version 2 with any command, family and block.
    fn version_2_of(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, block].concat()
    }

    fn encoded(tlvs: Vec<Tlv<'_>>) -> Vec<u8> {
        let (source, destination) = ("192.0.2.7:1234", "10.0.0.1:110");
        let address = ProxiedAddress::stream(source.parse().unwrap(), destination.parse().unwrap());
        let mut octets = Vec::new();
        ProxyHeader::with_tlvs(Some(address), tlvs).encode_v2(&mut octets).unwrap();
        octets
    }

    /// Reads a header that is followed at once by something else, and each part of it.
    #[track_caller]
    fn check(octets: &[u8], expected: Result<(Source, Said), Fault>) {
        let all = [octets, BEHIND].concat();
        match expected {
            Ok((source, said)) => {
                let header = Header { source, said };
                assert_eq!(read(&all), Ok(Some((header, octets.len()))));
                for end in 0..octets.len() {
                    assert_eq!(read(&octets[..end]), Ok(None), "cut at {end}");
                }
            }
            Err(fault) => assert_eq!(read(&all), Err(fault)),
        }
    }

    #[test]
    fn version_1_of_each_family() {
        let plain = |source: &str| Ok((address(source), Said::default()));
        check(b"PROXY TCP4 192.0.2.7 10.0.0.1 1234 110\r\n", plain("192.0.2.7"));
        check(b"PROXY TCP6 2001:db8::7 ::1 1234 110\r\n", plain("2001:db8::7"));
        check(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1234 110\r\n", plain("192.0.2.7"));
        check(b"PROXY UNKNOWN\r\n", Ok((Source::Unknown, Said::default())));
        check(b"PROXY UNKNOWN 192.0.2.7 10.0.0.1 1 2\r\n", Ok((Source::Unknown, Said::default())));
    }

    #[test]
    fn version_1_that_is_none() {
        for bad in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 1234 110\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 1234\r\n",
            "PROXY TCP4 2001:db8::7 ::1 1234 110\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 110\r\n",
            "PROXY UDP4 192.0.2.7 10.0.0.1 1234 110\r\n",
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXYxTCP4 192.0.2.7 10.0.0.1 1234 110\r\n",
            "PASS secret\r\n",
            "proxy TCP4 192.0.2.7 10.0.0.1 1234 110\r\n",
            "USER a\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            check(bad.as_bytes(), Err(Fault::Malformed));
        }
        check(format!("PROXY UNKNOWN {}", "x".repeat(100)).as_bytes(), Err(Fault::TooLong));
        assert_eq!(read(b"PA"), Err(Fault::Malformed), "before the line has an end");
    }

    #[test]
    fn version_2_with_all_that_can_be_said() {
        let mut tls = SslInfo::new(true, true, false, 0);
        tls.append_tlv(Tlv::SslVersion("TLSv1.3".into()));
        tls.append_tlv(Tlv::SslCipher("TLS_AES_256_GCM_SHA384".into()));
        tls.append_tlv(Tlv::SslCn("alice\u{1b}[31m".into()));
        let octets = encoded(vec![
            Tlv::Authority("mail.one.test".into()),
            Tlv::Noop(3),
            Tlv::Ssl(tls),
            Tlv::UniqueId(b"id-1"[..].into()),
            Tlv::Custom(0xe0, b"\x00\xff"[..].into()),
        ]);
        let said = Said {
            tls: Some(ProxyTls {
                version: Some("TLSv1.3".into()),
                cipher: Some("TLS_AES_256_GCM_SHA384".into()),
                name: Some("alice[31m".into()),
                verify: Some(0),
            }),
            host: Some("mail.one.test".into()),
            id: Some("id-1".into()),
        };
        check(&octets, Ok((address("192.0.2.7"), said)));
    }

    #[test]
    fn a_client_that_speaks_no_tls_is_not_taken_for_one() {
        let octets = encoded(vec![Tlv::Ssl(SslInfo::new(false, false, false, 0))]);
        check(&octets, Ok((address("192.0.2.7"), Said::default())));
        let octets = encoded(vec![Tlv::Ssl(SslInfo::new(true, false, false, 7))]);
        let said = Said { tls: Some(ProxyTls::default()), ..Said::default() };
        check(&octets, Ok((address("192.0.2.7"), said)));
    }

    #[test]
    fn identifiers_of_any_octets_are_fit_for_the_log() {
        for (id, expected) in
            [(&b"a\x1b"[..], "611b"), (&b"a b"[..], "612062"), (&[b'x'; 300][..], &"x".repeat(255))]
        {
            let octets = encoded(vec![Tlv::UniqueId(id.into())]);
            let said = Said { id: Some(expected.into()), ..Said::default() };
            check(&octets, Ok((address("192.0.2.7"), said)));
        }
        let octets = encoded(vec![Tlv::UniqueId(b""[..].into()), Tlv::Custom(0x02, b"\xff"[..].into())]);
        check(&octets, Ok((address("192.0.2.7"), Said::default())));
    }

    #[test]
    fn version_2_of_each_family() {
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 16], &[0; 4]].concat();
        check(&version_2_of(0x21, 0x21, &v6), Ok((address("2001:db8::7"), Said::default())));
        check(&version_2_of(0x21, 0x00, b""), Ok((Source::Unknown, Said::default())));
        check(&version_2_of(0x21, 0x00, b"any"), Ok((Source::Unknown, Said::default())));
        check(&version_2_of(0x21, 0x31, &[0; 216]), Ok((Source::Unknown, Said::default())));
        // Datagrams, and what nobody has defined.
        for family in [0x01, 0x10, 0x12, 0x22, 0x32, 0x41, 0xff] {
            check(&version_2_of(0x21, family, &[0; 216]), Err(Fault::Malformed));
        }
    }

    #[test]
    fn what_is_local_is_the_proxys_own_whatever_else_it_says() {
        for (family, block) in [(0x00, &b""[..]), (0x11, &[1; 12]), (0x11, b"short"), (0xff, b"any")] {
            check(&version_2_of(0x20, family, block), Ok((Source::Own, Said::default())));
        }
    }

    #[test]
    fn version_2_that_is_none() {
        check(&version_2_of(0x22, 0x11, &[0; 12]), Err(Fault::Malformed));
        check(&version_2_of(0x11, 0x11, &[0; 12]), Err(Fault::Malformed));
        check(&version_2_of(0x21, 0x11, &[0; 11]), Err(Fault::Malformed));
        check(&version_2_of(0x21, 0x31, &[0; 12]), Err(Fault::Malformed));
        for tlvs in [&b"\x02"[..], b"\x02\0", b"\x02\0\x01", b"\x02\0\x01a\x03"] {
            check(&version_2_of(0x21, 0x11, &[&[0; 12], tlvs].concat()), Err(Fault::Malformed));
        }
        // Before the length is known to be there it is too long already.
        let long = version_2_of(0x21, 0x11, &vec![0; HEADER_OCTETS_MAX]);
        assert_eq!(read(&long[..V2_HEAD_OCTETS]), Err(Fault::TooLong));
        check(b"\r\n\r\nQUIT\r\n", Err(Fault::Malformed));
    }
}
