//! What is done about object stores in bad weather: decorators of [`ObjectStore`], put together by [`shelter`].
//!
//! ```text
//!   reads ─► Replicated ─► Breaker ─► Hedged ─► S3Store (limits, deadlines, retries within a budget)
//!                 └──────► Breaker ─► the replica's S3Store
//! ```
//!
//! ADR 27 says why each is where it is.

mod breaker;
mod hedge;
mod limit;
mod replica;

pub use breaker::{Breaker, BreakerConfig, Circuit, CircuitState};
pub use hedge::{HedgeConfig, Hedged};
pub use limit::{Limit, Place};
pub use replica::Replicated;

use std::{fmt, sync::Arc, time::Duration};

use crate::{ObjectStore, S3Store};

/// Told of what happens below the port, for the metrics. Words are those of `docs/metrics.md`.
pub trait Watch: fmt::Debug + Send + Sync {
    /// An attempt at a request ended: each is a line of the bill.
    fn attempt(&self, kind: &'static str, result: &'static str);
    /// What became of a read that was slow enough to be asked for twice.
    fn hedge(&self, outcome: &'static str);
    /// What became of a read that went to the replica.
    fn replica(&self, outcome: &'static str);
}

/// Nobody looks.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn attempt(&self, _: &'static str, _: &'static str) {}
    fn hedge(&self, _: &'static str) {}
    fn replica(&self, _: &'static str) {}
}

/// How a store is sheltered.
#[derive(Debug, Clone, Default)]
pub struct ShelterConfig {
    /// When requests are given up on without being sent.
    pub breaker: BreakerConfig,
    /// When reads are asked for twice; `None` for never.
    pub hedge: Option<HedgeConfig>,
}

/// A store behind all of its decorators.
#[derive(Debug)]
pub struct Shelter {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Whether requests to the main bucket are sent at all.
    pub circuit: Arc<Circuit>,
    /// The same for the replica, if there is one.
    pub replica_circuit: Option<Arc<Circuit>>,
    /// How many requests at once the main bucket gets now.
    pub limit: Arc<Limit>,
}

/// Puts a bucket, and a replica of it for reads, behind breaker, hedge and fallback.
pub fn shelter(
    main: S3Store,
    replica: Option<S3Store>,
    config: &ShelterConfig,
    watch: &Arc<dyn Watch>,
) -> Shelter {
    let limit = main.limit();
    let circuit = Arc::new(Circuit::new(config.breaker));
    let hedged: Arc<dyn ObjectStore> = match config.hedge {
        None => Arc::new(main),
        Some(hedge) => {
            let (circuit, limit) = (Arc::clone(&circuit), Arc::clone(&limit));
            // What is asked for twice would only add to the load that makes it slow.
            let calm = move || circuit.state() == CircuitState::Closed && !limit.is_lowered();
            Arc::new(Hedged::new(Arc::new(main), hedge, Arc::new(calm), Arc::clone(watch)))
        }
    };
    let store: Arc<dyn ObjectStore> = Arc::new(Breaker::new(hedged, Arc::clone(&circuit)));
    let Some(replica) = replica else {
        return Shelter { store, circuit, replica_circuit: None, limit };
    };
    let replica_circuit = Arc::new(Circuit::new(config.breaker));
    let replica = Arc::new(Breaker::new(Arc::new(replica), Arc::clone(&replica_circuit)));
    let store = Arc::new(Replicated::new(store, replica, Arc::clone(watch)));
    Shelter { store, circuit, replica_circuit: Some(replica_circuit), limit }
}

/// Between half of `time` and all of it, by chance, so that nodes that failed together do not try together.
pub(crate) fn jittered(time: Duration) -> Duration {
    let mut octets = [0; 2];
    // Without chance there is no harm but the crowd.
    let _ = aws_lc_rs::rand::fill(&mut octets);
    time.mul_f64(0.5 + f64::from(u16::from_le_bytes(octets)) / f64::from(u16::MAX) / 2.0)
}
