//! Sharing a round trip: requests that arrive while a statement is under way are gathered into the next.
//! An idle system adds no delay; a busy one pays per batch, not per request (DESIGN §6).

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use maildrop::port::IndexError;
use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::error::{index_error, is_dead, is_lock_timeout, is_serialization};

/// Requests in one statement at most: beyond some hundreds the statement's own work dominates.
const BATCH_MAX: usize = 128;
/// Statements of one kind under way at once: one being planned while another waits for the disk.
const LANES: usize = 2;
/// Requests that may wait; past that, callers are refused at once.
const QUEUE_MAX: usize = 4096;
/// A request that waited longer is refused unasked: its client has given up, or soon will.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A statement that a deadlock rolled back, or whose connection was dead, is tried so often.
const ATTEMPTS: u32 = 3;
/// Pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// A kind of request that can be gathered. Running it twice must do no harm.
pub(super) trait Batch: Send + Sync + 'static {
    /// One request.
    type Request: Send + Sync + 'static;
    /// Its answer.
    type Answer: Send + 'static;

    /// Whether the two may not stand in one statement.
    fn excludes(a: &Self::Request, b: &Self::Request) -> bool;

    /// The order in which requests stand in a statement: one for all, so that two statements cannot wait for
    /// each other.
    fn order(a: &Self::Request, b: &Self::Request) -> std::cmp::Ordering;

    /// What becomes of a request whose row somebody else is changing right now.
    fn busy() -> Result<Self::Answer, IndexError>;

    /// Runs one statement: one answer per request, in their order.
    fn run(
        &self,
        connection: &mut PgConnection,
        requests: &[Self::Request],
    ) -> impl Future<Output = Result<Vec<Self::Answer>, BatchError>> + Send;
}

/// Why a statement gave no answers.
#[derive(Debug)]
pub(super) enum BatchError {
    /// The database says so.
    Sql(sqlx::Error),
    /// The answers make no sense.
    Corrupt(&'static str),
}

impl From<sqlx::Error> for BatchError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// How a lane reaches the database, and how long it waits.
#[derive(Debug, Clone)]
pub(super) struct LaneConfig {
    pub(super) options: PgConnectOptions,
    pub(super) connect_timeout: Duration,
    pub(super) statement_timeout: Duration,
}

struct Waiting<B: Batch> {
    request: B::Request,
    since: Instant,
    caller: oneshot::Sender<Result<B::Answer, IndexError>>,
}

/// Gathers requests of one kind.
pub(super) struct Batcher<B: Batch> {
    queue: mpsc::Sender<Waiting<B>>,
}

impl<B: Batch> Batcher<B> {
    /// Starts the lanes; they end when the batcher is dropped.
    pub(super) fn start(batch: B, config: &LaneConfig) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        let batch = Arc::new(batch);
        for _ in 0..LANES {
            let lane = Lane { batch: Arc::clone(&batch), config: config.clone(), connection: None };
            tokio::spawn(lane.serve(Arc::clone(&waiting)));
        }
        Self { queue }
    }

    /// Asks, and waits for the answer. The request is run even if the caller stops waiting.
    pub(super) async fn ask(&self, request: B::Request) -> Result<B::Answer, IndexError> {
        let (caller, answered) = oneshot::channel();
        let waiting = Waiting { request, since: Instant::now(), caller };
        self.queue.try_send(waiting).map_err(|error| IndexError::Unreached(error.to_string().into()))?;
        answered.await.unwrap_or_else(|_| Err(IndexError::Unavailable("index is stopping".into())))
    }
}

/// One statement after another, on a connection of its own: no pool to wait for, no ping when it is given
/// back, and nobody else's statement in the way.
struct Lane<B: Batch> {
    batch: Arc<B>,
    config: LaneConfig,
    connection: Option<PgConnection>,
}

impl<B: Batch> Lane<B> {
    async fn serve(mut self, waiting: Arc<Mutex<mpsc::Receiver<Waiting<B>>>>) {
        let mut held_back: Vec<Waiting<B>> = Vec::new();
        loop {
            let mut gathered: Vec<Waiting<B>> = std::mem::take(&mut held_back);
            if gathered.is_empty() {
                if waiting.lock().await.recv_many(&mut gathered, BATCH_MAX).await == 0 {
                    return;
                }
            } else if let Ok(mut waiting) = waiting.try_lock() {
                // The other lane may be asleep in `recv_many` with the lock: what was held back must not
                // wait for it.
                while gathered.len() < BATCH_MAX
                    && let Ok(next) = waiting.try_recv()
                {
                    gathered.push(next);
                }
            }
            gathered.sort_by(|a, b| B::order(&a.request, &b.request));
            let mut requests: Vec<B::Request> = Vec::with_capacity(gathered.len());
            let mut callers = Vec::with_capacity(gathered.len());
            for waiting in gathered {
                if waiting.since.elapsed() > WAIT_MAX {
                    let refusal = IndexError::Unreached("the database is behind".into());
                    let _ = waiting.caller.send(Err(refusal));
                } else if requests.last().is_some_and(|last| B::excludes(last, &waiting.request)) {
                    held_back.push(waiting);
                } else {
                    requests.push(waiting.request);
                    callers.push(waiting.caller);
                }
            }
            if !requests.is_empty() {
                self.answer(&requests, callers).await;
            }
        }
    }

    async fn answer(
        &mut self,
        requests: &[B::Request],
        callers: Vec<oneshot::Sender<Result<B::Answer, IndexError>>>,
    ) {
        match self.run(requests).await {
            Ok(Some(answers)) => {
                for (caller, answer) in callers.into_iter().zip(answers) {
                    // A caller that went away does not need its answer.
                    let _ = caller.send(Ok(answer));
                }
            }
            // Somebody is changing a row of one of them: each is asked for by itself, so that it alone is
            // told so.
            Ok(None) => {
                for (request, caller) in requests.iter().zip(callers) {
                    let answer = match self.run(std::slice::from_ref(request)).await {
                        Ok(answers) => answers.and_then(|a| a.into_iter().next()).map_or_else(B::busy, Ok),
                        Err(error) => Err(error),
                    };
                    let _ = caller.send(answer);
                }
            }
            Err(error) => fail(callers, &error),
        }
    }

    /// Runs one statement; `None` when a row was locked for too long.
    async fn run(&mut self, requests: &[B::Request]) -> Result<Option<Vec<B::Answer>>, IndexError> {
        let mut attempt = 1;
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => match connect(&self.config).await {
                    // The first attempt died with its connection, and may have been carried out.
                    Err(IndexError::Unreached(source)) if attempt > 1 => {
                        return Err(IndexError::Unavailable(source));
                    }
                    connected => connected?,
                },
            };
            let run = self.batch.run(&mut connection, requests);
            let Ok(result) = tokio::time::timeout(self.config.statement_timeout, run).await else {
                // The connection goes with it: nobody will wait on it again.
                return Err(IndexError::Unavailable("statement took too long".into()));
            };
            match result {
                Ok(answers) => {
                    self.connection = Some(connection);
                    return Ok(Some(answers));
                }
                Err(BatchError::Corrupt(what)) => return Err(IndexError::Internal(what.into())),
                Err(BatchError::Sql(error)) if is_lock_timeout(&error) => {
                    self.connection = Some(connection);
                    return Ok(None);
                }
                Err(BatchError::Sql(error)) if attempt < ATTEMPTS && is_serialization(&error) => {
                    self.connection = Some(connection);
                }
                Err(BatchError::Sql(error)) if attempt < ATTEMPTS && is_dead(&error) => {}
                Err(BatchError::Sql(error)) => return Err(index_error(error)),
            }
            attempt += 1;
        }
    }
}

/// Connects, trying again for as long as a caller would wait for a pool.
async fn connect(config: &LaneConfig) -> Result<PgConnection, IndexError> {
    let deadline = Instant::now() + config.connect_timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match tokio::time::timeout(left, config.options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error,
            Err(_) => return Err(IndexError::Unreached("no connection in time".into())),
        };
        if Instant::now() + CONNECT_PAUSE >= deadline {
            return Err(IndexError::Unreached(Box::new(error)));
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}

/// Tells every caller of a failed statement why.
fn fail<T>(callers: Vec<oneshot::Sender<Result<T, IndexError>>>, error: &IndexError) {
    for caller in callers {
        let source = || chain(error).into();
        let _ = caller.send(Err(match error {
            IndexError::Unreached(_) => IndexError::Unreached(source()),
            IndexError::Unavailable(_) => IndexError::Unavailable(source()),
            IndexError::Conflict(_) | IndexError::Internal(_) => IndexError::Internal(source()),
        }));
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl<B: Batch> std::fmt::Debug for Batcher<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}
