//! HTTP towards back ends: no redirects, no proxies, bounded answers, and only where they may be reached.

use std::time::Duration;

use reqwest::{
    Client, RequestBuilder, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};

use super::{
    Fault,
    reach::{Lookups, Reach, ReachError, Sent},
    tls,
};

/// Longest time for a connection to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection that is not used is kept.
const IDLE: Duration = Duration::from_secs(30);

/// A client of one tenant's.
#[derive(Debug)]
pub(super) struct Http {
    reach: Reach,
    /// For `https`, and for `http`: what may be reached is not the same.
    encrypted: Client,
    in_the_clear: Client,
}

/// What came back.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

impl Http {
    pub(super) fn new(
        reach: &Reach,
        ca_pem: Option<&str>,
        timeout: Duration,
        connections_max: usize,
    ) -> Result<Self, Fault> {
        let config = tls::client(ca_pem)?;
        let lookups = Lookups::default();
        let client = |sent| {
            Client::builder()
                .tls_backend_preconfigured(config.as_ref().clone())
                .dns_resolver(Resolver { reach: reach.clone(), lookups: lookups.clone(), sent })
                .no_proxy()
                .redirect(redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .http1_only()
                .user_agent("Postern")
                .connect_timeout(CONNECT_TIMEOUT.min(timeout))
                .timeout(timeout)
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(connections_max)
                .build()
        };
        let (encrypted, in_the_clear) = (client(Sent::Encrypted)?, client(Sent::InTheClear)?);
        Ok(Self { reach: reach.clone(), encrypted, in_the_clear })
    }

    /// A request that is still to be filled in.
    pub(super) fn get(&self, url: &Url) -> Result<RequestBuilder, Fault> {
        Ok(self.client(url)?.get(url.clone()))
    }

    /// A request that is still to be filled in.
    pub(super) fn post(&self, url: &Url) -> Result<RequestBuilder, Fault> {
        Ok(self.client(url)?.post(url.clone()))
    }

    fn client(&self, url: &Url) -> Result<&Client, ReachError> {
        let sent = sent(url);
        // Addresses are not resolved, so nobody else judges them.
        let address = match url.host() {
            Some(url::Host::Ipv4(address)) => Some(address.into()),
            Some(url::Host::Ipv6(address)) => Some(address.into()),
            Some(url::Host::Domain(_)) | None => None,
        };
        if let Some(address) = address
            && !self.reach.allows("", address, sent)
        {
            return Err(ReachError::Forbidden(address.to_string()));
        }
        Ok(match sent {
            Sent::Encrypted => &self.encrypted,
            Sent::InTheClear => &self.in_the_clear,
        })
    }
}

/// How what goes to this URL is sent.
pub(super) fn sent(url: &Url) -> Sent {
    if url.scheme() == "https" { Sent::Encrypted } else { Sent::InTheClear }
}

/// Sends a request and reads the answer, which must not be longer than `octets_max`.
pub(super) async fn fetch(request: RequestBuilder, octets_max: usize) -> Result<Reply, Fault> {
    // What it says of an error names the URL, which may hold what is nobody's business.
    let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > octets_max {
            return Err(format!("an answer of more than {octets_max} octets").into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, body })
}

struct Resolver {
    reach: Reach,
    lookups: Lookups,
    sent: Sent,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, lookups, sent) = (self.reach.clone(), self.lookups.clone(), self.sent);
        Box::pin(async move {
            let found = reach.resolve(&lookups, name.as_str(), 0, sent).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
