//! One connection to one server (RFC 4511).
//!
//! Of the protocol there is what a login needs. Libraries for all of it were written for servers that are trusted:
//! their readers take answers of any length and depth, and end the process over those that make no sense. Filters and
//! escaping are a library's.

use std::{fmt, sync::Arc};

use ldap3::asn1::{ASNTag as _, write::encode_into};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

use super::ber::{Reader, message_octets, number, put, put_integer, tag};
use crate::backend::{
    Fault,
    reach::{Lookups, Reach, Sent},
};

/// The longest message that is taken: of an entry no attribute is asked for, and DNs are short.
const MESSAGE_OCTETS_MAX: usize = 64 * 1024;
/// Messages in answer to one search: an entry or two, and referrals, which are not followed.
const MESSAGES_MAX: usize = 50;
/// RFC 4511 §4.14.1.
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";
/// A search that asks for no attributes (RFC 4511 §4.5.1.8).
const NO_ATTRIBUTES: &[u8] = b"1.1";
/// The result of a search that found more than it may.
const SIZE_LIMIT_EXCEEDED: u32 = 4;
/// What a search finds where its base is none.
const NO_SUCH_OBJECT: u32 = 32;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend) struct Server {
    host: String,
    port: u16,
    tls: Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    Never,
    Start,
    FromTheStart,
}

impl Server {
    /// Reads `ldap://host` or `ldaps://host`, with a port or not, and nothing else.
    pub(in crate::backend) fn parse(text: &str, starttls: bool) -> Result<Self, &'static str> {
        let form = "is ldaps://host or ldap://host, with a port or not";
        let (tls, port, rest) = match (text.strip_prefix("ldaps://"), text.strip_prefix("ldap://")) {
            (Some(rest), _) => (Tls::FromTheStart, 636, rest),
            (None, Some(rest)) => (if starttls { Tls::Start } else { Tls::Never }, 389, rest),
            (None, None) => return Err(form),
        };
        // Read as a URL whose kind has hosts, so that these are checked as hosts are.
        let url = url::Url::parse(&format!("http://{}", rest.trim_end_matches('/'))).map_err(|_| form)?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let nobody = url.username().is_empty() && url.password().is_none();
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(form)?;
        if !bare || !nobody {
            return Err(form);
        }
        // A port that is http's own is not shown by it.
        let explicit_80 = rest.trim_end_matches('/').ends_with(":80").then_some(80);
        Ok(Self { host: host.to_owned(), port: url.port().or(explicit_80).unwrap_or(port), tls })
    }

    /// How what is said to it crosses the network.
    pub(in crate::backend) fn sent(&self) -> Sent {
        if self.tls == Tls::Never { Sent::InTheClear } else { Sent::Encrypted }
    }

    /// Its name or address.
    pub(in crate::backend) fn host(&self) -> &str {
        self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection. One that failed is dropped, not used again.
pub(super) struct Connection {
    stream: Box<dyn Duplex>,
    last_id: i32,
}

/// What a search found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    None,
    /// An entry of this name.
    One(String),
    Several,
}

impl Connection {
    /// Connects, and encrypts the connection where that is asked for.
    pub(super) async fn open(
        server: &Server,
        reach: &Reach,
        lookups: &Lookups,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, Fault> {
        let stream = reach.connect(lookups, server.host(), server.port, server.sent()).await?;
        stream.set_nodelay(true)?;
        if server.tls == Tls::Never {
            return Ok(Self { stream: Box::new(stream), last_id: 0 });
        }
        let name = ServerName::try_from(server.host().to_owned())?;
        let mut plain = Self { stream: Box::new(tokio::io::empty()), last_id: 0 };
        let mut stream = stream;
        if server.tls == Tls::Start {
            plain.start_tls(&mut stream).await?;
        }
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
        plain.stream = Box::new(connector.connect(name, stream).await?);
        Ok(plain)
    }

    async fn start_tls(&mut self, stream: &mut tokio::net::TcpStream) -> Result<(), Fault> {
        let mut request = Vec::new();
        put(&mut request, 0x80, START_TLS);
        let id = self.next_id();
        stream.write_all(&message(id, tag::EXTENDED_REQUEST, &request)).await?;
        // Exactly the answer is read, so that nothing sent in the clear can pass for what was encrypted.
        let answer = read(stream).await?;
        let (tag, contents) = operation(&answer, id)?;
        match (tag, result_code(contents)?) {
            (tag::EXTENDED_RESPONSE, 0) => Ok(()),
            (_, code) => Err(format!("STARTTLS is refused (result {code})").into()),
        }
    }

    /// Binds as this entry, and gives the result: 0 where that is its password.
    pub(super) async fn bind(&mut self, dn: &str, password: &[u8]) -> Result<u32, Fault> {
        let mut request = Zeroizing::new(Vec::with_capacity(dn.len() + password.len() + 16));
        put_integer(&mut request, tag::INTEGER, 3);
        put(&mut request, tag::OCTETS, dn.as_bytes());
        put(&mut request, tag::SIMPLE, password);
        let id = self.next_id();
        let message = message(id, tag::BIND_REQUEST, &request);
        self.stream.write_all(&message).await?;
        self.stream.flush().await?;
        let answer = read(&mut self.stream).await?;
        match operation(&answer, id)? {
            (tag::BIND_RESPONSE, contents) => Ok(result_code(contents)?),
            _ => Err("the server answered something else".into()),
        }
    }

    /// Looks under `base` for the entries that fit the filter.
    pub(super) async fn search(&mut self, base: &str, filter: &str) -> Result<Found, Fault> {
        let filter = ldap3::parse_filter(filter).map_err(|()| "that is no filter")?;
        let mut encoded = bytes::BytesMut::new();
        encode_into(&mut encoded, filter.into_structure())?;
        let mut request = Vec::new();
        put(&mut request, tag::OCTETS, base.as_bytes());
        put_integer(&mut request, tag::ENUMERATED, 2); // wholeSubtree
        put_integer(&mut request, tag::ENUMERATED, 0); // aliases are not followed
        put_integer(&mut request, tag::INTEGER, 2); // entries at most
        put_integer(&mut request, tag::INTEGER, 20); // seconds at most
        put(&mut request, tag::BOOLEAN, &[0]);
        request.extend_from_slice(&encoded);
        let mut attributes = Vec::new();
        put(&mut attributes, tag::OCTETS, NO_ATTRIBUTES);
        put(&mut request, tag::SEQUENCE, &attributes);
        let id = self.next_id();
        self.stream.write_all(&message(id, tag::SEARCH_REQUEST, &request)).await?;
        self.stream.flush().await?;
        let mut found = Found::None;
        for _ in 0..MESSAGES_MAX {
            let answer = read(&mut self.stream).await?;
            match operation(&answer, id)? {
                (tag::SEARCH_ENTRY, contents) => {
                    let name = Reader(contents).expect(tag::OCTETS).ok_or("an entry without a name")?;
                    let name = str::from_utf8(name).map_err(|_| "an entry's name is not UTF-8")?;
                    found = match found {
                        Found::None => Found::One(name.to_owned()),
                        Found::One(_) | Found::Several => Found::Several,
                    };
                }
                (tag::SEARCH_REFERENCE, _) => {}
                (tag::SEARCH_DONE, contents) => {
                    return match result_code(contents)? {
                        0 => Ok(found),
                        SIZE_LIMIT_EXCEEDED => Ok(Found::Several),
                        NO_SUCH_OBJECT => Ok(Found::None),
                        code => Err(format!("the search was answered with result {code}").into()),
                    };
                }
                _ => return Err("the server answered something else".into()),
            }
        }
        Err("the server does not come to an end".into())
    }

    fn next_id(&mut self) -> i32 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

fn message(id: i32, tag: u8, request: &[u8]) -> Zeroizing<Vec<u8>> {
    // Room for all of it at once: what grows leaves copies behind.
    let mut inner = Zeroizing::new(Vec::with_capacity(request.len() + 32));
    put_integer(&mut inner, tag::INTEGER, id);
    put(&mut inner, tag, request);
    let mut whole = Zeroizing::new(Vec::with_capacity(inner.len() + 8));
    put(&mut whole, tag::SEQUENCE, &inner);
    whole
}

/// Reads one message, and not an octet more.
async fn read(stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<Vec<u8>, Fault> {
    let mut octets = Vec::with_capacity(64);
    let whole = loop {
        match message_octets(&octets)? {
            Some(whole) => break whole,
            None => octets.push(stream.read_u8().await?),
        }
    };
    if whole > MESSAGE_OCTETS_MAX {
        return Err("the server's answer is too long".into());
    }
    let begun = octets.len();
    octets.resize(whole, 0);
    stream.read_exact(&mut octets[begun..]).await?;
    Ok(octets)
}

/// The operation in a message that answers `id`.
fn operation(message: &[u8], id: i32) -> Result<(u8, &[u8]), Fault> {
    let nonsense = "what the server says is no LDAP";
    let mut reader = Reader(Reader(message).expect(tag::SEQUENCE).ok_or(nonsense)?);
    let answered = reader.expect(tag::INTEGER).and_then(number).ok_or(nonsense)?;
    if answered == 0 {
        return Err("the server ends the connection".into());
    }
    if i64::from(answered) != i64::from(id) {
        return Err("the server answers what was not asked".into());
    }
    reader.next().ok_or_else(|| nonsense.into())
}

fn result_code(contents: &[u8]) -> Result<u32, &'static str> {
    Reader(contents).expect(tag::ENUMERATED).and_then(number).ok_or("an answer without a result")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts_with_ports_or_without() {
        let parse = |text| Server::parse(text, true).map(|s| (s.host().to_owned(), s.port, s.tls));
        let server = |host: &str, port, tls| Ok((host.to_owned(), port, tls));
        assert_eq!(parse("ldaps://a.test"), server("a.test", 636, Tls::FromTheStart));
        assert_eq!(parse("ldap://A.test:1389/"), server("a.test", 1389, Tls::Start));
        assert_eq!(parse("ldap://[::1]"), server("::1", 389, Tls::Start));
        assert_eq!(parse("ldap://10.1:80"), server("10.0.0.1", 80, Tls::Start));
        for bad in
            ["", "a.test", "ldapi:///x", "ldap://", "ldap://a/x", "ldap://u@a", "ldap://a?x", "ldap://a:x"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    /// A connection to somebody who says this and nothing else.
    fn to(answer: &[u8]) -> Connection {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let answer = answer.to_vec();
        tokio::spawn(async move {
            let _ = theirs.write_all(&answer).await;
            let mut sink = Vec::new();
            let _ = theirs.read_to_end(&mut sink).await;
        });
        Connection { stream: Box::new(ours), last_id: 0 }
    }

    fn answer(id: u8, tag: u8, contents: &[u8]) -> Vec<u8> {
        message(id.into(), tag, contents).to_vec()
    }

    const DONE: &[u8] = &[tag::ENUMERATED, 1, 0, tag::OCTETS, 0, tag::OCTETS, 0];

    #[tokio::test]
    async fn a_server_cannot_do_harm_by_what_it_says() {
        let bind = async |said: &[u8]| to(said).bind("cn=x", b"pw").await.map_err(|error| error.to_string());
        assert_eq!(bind(&answer(1, tag::BIND_RESPONSE, DONE)).await, Ok(0));
        let refused = [tag::ENUMERATED, 1, 49, tag::OCTETS, 0, tag::OCTETS, 0];
        assert_eq!(bind(&answer(1, tag::BIND_RESPONSE, &refused)).await, Ok(49));
        let long = [&[0x30, 0x84, 0x7f, 0xff, 0xff, 0xff][..], &[0; 1000]].concat();
        let deep = [0x30, 0x00].repeat(30_000);
        for nonsense in [
            &b"HTTP/1.1 200 OK\r\n"[..],
            &[],
            &[0x30],
            &[0x30, 0],
            &long,
            &deep,
            &answer(2, tag::BIND_RESPONSE, DONE),
            &answer(0, tag::EXTENDED_RESPONSE, DONE),
            &answer(1, tag::SEARCH_DONE, DONE),
            &answer(1, tag::BIND_RESPONSE, &[]),
            &answer(1, tag::BIND_RESPONSE, &[tag::ENUMERATED, 5, 0, 0, 0, 0, 0]),
        ] {
            let bound = tokio::time::timeout(std::time::Duration::from_millis(200), bind(nonsense)).await;
            assert!(!matches!(bound, Ok(Ok(_))), "{nonsense:?}");
        }
    }

    #[tokio::test]
    async fn a_search_finds_one_or_none() {
        let entry = |name: &str| {
            let mut contents = Vec::new();
            put(&mut contents, tag::OCTETS, name.as_bytes());
            put(&mut contents, tag::SEQUENCE, &[]);
            answer(1, tag::SEARCH_ENTRY, &contents)
        };
        let referral = answer(1, tag::SEARCH_REFERENCE, &[tag::OCTETS, 1, b'x']);
        let done = answer(1, tag::SEARCH_DONE, DONE);
        let too_many = answer(1, tag::SEARCH_DONE, &[tag::ENUMERATED, 1, 4]);
        let busy = answer(1, tag::SEARCH_DONE, &[tag::ENUMERATED, 1, 51]);
        let search = async |said: Vec<u8>| {
            to(&said).search("dc=x", "(uid=a)").await.map_err(|error| error.to_string())
        };
        assert_eq!(search(done.clone()).await, Ok(Found::None));
        assert_eq!(
            search([referral.clone(), entry("cn=a"), done.clone()].concat()).await,
            Ok(Found::One("cn=a".into()))
        );
        assert_eq!(search([entry("cn=a"), entry("cn=b"), done].concat()).await, Ok(Found::Several));
        assert_eq!(search([entry("cn=a"), too_many].concat()).await, Ok(Found::Several));
        assert!(search(busy).await.is_err());
        assert!(search(referral.repeat(60)).await.is_err());
    }
}
