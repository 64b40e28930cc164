//! The REST API under `/v1`, its OpenAPI document, health and metrics.
//!
//! Every error is a problem document (RFC 9457). Without a valid key nothing under `/v1` answers anything but 401,
//! whether it exists or not; a tenant's key does not learn of any other tenant whether it exists.
//!
//! ```text
//!  request ──► request id, span ──► time limit ──► guard: who is it? which tenant? may they? ──► idempotency ──► handler
//! ```

mod api;
mod auth;
mod authorization;
mod guard;
mod idempotency;
mod openapi;
mod problem;
mod rate;
mod request;
mod resources;
mod routes;

use std::{fmt, future::Future, io, sync::Arc, time::Duration};

use ::auth::{Backends, Hasher};
use axum::Router;
use maildrop::{
    Deliveries, Maildrops, TrafficLog,
    port::{BlobStore, Bulletins, Clock, Directory, Index, OwnBuckets, Records},
};
use prometheus::Registry;
use tokio::net::TcpListener;

pub use auth::{AdminToken, AdminTokenError};
pub use problem::Problem;
pub use rate::Rate;

/// Longest time a request may take; one that carries a message may take as long as its octets keep coming.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest pause in a body that is streamed.
const STREAM_IDLE: Duration = Duration::from_secs(30);
/// Largest request body, where it is not streamed.
const BODY_OCTETS_MAX: usize = 1024 * 1024;

/// What the API works on.
#[derive(Clone)]
pub struct AdminApi {
    /// Who exists.
    pub directory: Arc<dyn Directory>,
    /// Messages, sessions, usage, and readiness.
    pub index: Arc<dyn Index>,
    /// The audit log, repeated requests, traffic.
    pub records: Arc<dyn Records>,
    /// Which bulletins there are.
    pub bulletins: Arc<dyn Bulletins>,
    /// For tenants' keys, their sealed secrets, and readiness.
    pub blob: Arc<dyn BlobStore>,
    /// Reads messages.
    pub maildrops: Maildrops,
    /// Takes messages in.
    pub deliveries: Deliveries,
    /// Takes bulletins in.
    pub bulletin_writers: maildrop::Bulletins,
    /// Counts messages.
    pub traffic: TrafficLog,
    /// Hashes new passwords.
    pub hasher: Hasher,
    /// Judges how logins shall be verified, and seals the secrets of that.
    pub backends: Backends,
    /// Tries out stores of tenants' own, and keeps their secrets.
    pub buckets: Arc<dyn OwnBuckets>,
    /// Tells the time of changes.
    pub clock: Arc<dyn Clock>,
    /// The bootstrap token of the platform administrator.
    pub token: AdminToken,
    /// What `/metrics` shows.
    pub registry: Registry,
    /// Whether `/metrics` needs no key; otherwise it needs one of the role `metrics`.
    pub metrics_public: bool,
    /// How much may be sent.
    pub limits: ApiLimits,
    /// Whether this node is going down: then it is alive, but not ready.
    pub draining: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether this node serves `/v1`; health and metrics are served in any case.
    pub manages: bool,
}

/// How much may be sent.
#[derive(Clone, Copy, Debug)]
pub struct ApiLimits {
    /// Requests of one key; all keys of a tenant together may send twice as many.
    pub requests: Rate,
    /// Requests from one address that fail to say who they are.
    pub failures: Rate,
    /// Largest message that is taken.
    pub message_octets_max: u64,
}

impl Default for ApiLimits {
    /// A provisioning system at work sends tens of requests a second. Failures cost a look-up each; a key is too long to
    /// be guessed at any rate.
    fn default() -> Self {
        Self {
            requests: Rate { per_second: 100.0, burst: 200.0 },
            failures: Rate { per_second: 10.0, burst: 300.0 },
            message_octets_max: 256 * 1024 * 1024,
        }
    }
}

impl AdminApi {
    /// The routes.
    pub fn router(self) -> Router {
        routes::router(self)
    }

    /// Serves the API on `listener` until `end` resolves; requests under way are finished.
    pub async fn serve(
        self,
        listener: TcpListener,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let service = self.router().into_make_service_with_connect_info::<std::net::SocketAddr>();
        axum::serve(listener, service).with_graceful_shutdown(end).await
    }
}

impl fmt::Debug for AdminApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminApi").finish_non_exhaustive()
    }
}

/// Octets nobody can guess.
fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut octets = [0; N];
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| {
        tracing::error!("the system gives no randomness");
        Problem::internal()
    })?;
    Ok(octets)
}
