//! The REST API under `/v1`, health and metrics.
//!
//! Every error is a problem document (RFC 9457). Without a valid bearer token nothing under `/v1` answers
//! anything but 401, whether it exists or not.

mod auth;
mod problem;
mod resources;
mod routes;

use std::{fmt, future::Future, io, sync::Arc, time::Duration};

use ::auth::Hasher;
use axum::Router;
use maildrop::port::{BlobStore, Clock, Directory, Index};
use prometheus::Registry;
use tokio::net::TcpListener;

pub use auth::AdminToken;
pub use problem::Problem;

/// Longest time a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest request body.
const BODY_OCTETS_MAX: usize = 1024 * 1024;

/// What the API works on.
#[derive(Clone)]
pub struct AdminApi {
    /// Who exists.
    pub directory: Arc<dyn Directory>,
    /// For readiness.
    pub index: Arc<dyn Index>,
    /// For new tenants' keys, and for readiness.
    pub blob: Arc<dyn BlobStore>,
    /// Hashes new passwords.
    pub hasher: Hasher,
    /// Tells the time of changes.
    pub clock: Arc<dyn Clock>,
    /// The bootstrap token of the platform administrator.
    pub token: AdminToken,
    /// What `/metrics` shows.
    pub registry: Registry,
    /// Whether this node is going down: then it is alive, but not ready.
    pub draining: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether this node serves `/v1`; health and metrics are served in any case.
    pub manages: bool,
}

impl AdminApi {
    /// The routes.
    pub fn router(self) -> Router {
        routes::router(Arc::new(self))
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
