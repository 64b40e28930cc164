//! Sharing a round trip: requests that arrive while a statement is under way are gathered into the next.
//! An idle system adds no delay; a busy one pays per batch, not per request (DESIGN §6).

use std::{future::Future, sync::Arc};

use maildrop::port::IndexError;
use tokio::sync::{Mutex, mpsc, oneshot};

/// Requests in one statement at most: beyond some hundreds the statement's own work dominates.
const BATCH_MAX: usize = 128;
/// Statements of one kind under way at once: one being planned while another waits for the disk.
const LANES: usize = 2;
/// Requests that may wait; past that, callers wait to enqueue (back-pressure).
const QUEUE_MAX: usize = 4096;

/// A kind of request that can be gathered.
pub(super) trait Batch: Send + Sync + 'static {
    /// One request.
    type Request: Send + 'static;
    /// Its answer.
    type Answer: Send + 'static;

    /// Whether the two may not stand in one statement.
    fn excludes(a: &Self::Request, b: &Self::Request) -> bool;

    /// Runs one statement: one answer per request, in their order.
    fn run(
        &self,
        requests: &[Self::Request],
    ) -> impl Future<Output = Result<Vec<Self::Answer>, IndexError>> + Send;
}

type Waiting<B> = (<B as Batch>::Request, oneshot::Sender<Result<<B as Batch>::Answer, IndexError>>);

/// Gathers requests of one kind.
pub(super) struct Batcher<B: Batch> {
    queue: mpsc::Sender<Waiting<B>>,
}

impl<B: Batch> Batcher<B> {
    /// Starts the lanes; they end when the batcher is dropped.
    pub(super) fn start(batch: B) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        let batch = Arc::new(batch);
        for _ in 0..LANES {
            tokio::spawn(lane(Arc::clone(&batch), Arc::clone(&waiting)));
        }
        Self { queue }
    }

    /// Asks, and waits for the answer. The request is run even if the caller stops waiting.
    pub(super) async fn ask(&self, request: B::Request) -> Result<B::Answer, IndexError> {
        let (answer, answered) = oneshot::channel();
        if self.queue.send((request, answer)).await.is_err() {
            return Err(stopped());
        }
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }
}

async fn lane<B: Batch>(batch: Arc<B>, waiting: Arc<Mutex<mpsc::Receiver<Waiting<B>>>>) {
    let mut held_back: Vec<Waiting<B>> = Vec::new();
    loop {
        let mut gathered: Vec<Waiting<B>> = std::mem::take(&mut held_back);
        if gathered.is_empty() {
            if waiting.lock().await.recv_many(&mut gathered, BATCH_MAX).await == 0 {
                return;
            }
        } else if let Ok(mut waiting) = waiting.try_lock() {
            // The other lane may be asleep in `recv_many` with the lock: what was held back must not wait
            // for it.
            while gathered.len() < BATCH_MAX
                && let Ok(next) = waiting.try_recv()
            {
                gathered.push(next);
            }
        }
        let mut requests: Vec<B::Request> = Vec::with_capacity(gathered.len());
        let mut callers = Vec::with_capacity(gathered.len());
        for (request, caller) in gathered {
            if requests.iter().any(|other| B::excludes(other, &request)) {
                held_back.push((request, caller));
            } else {
                requests.push(request);
                callers.push(caller);
            }
        }
        match batch.run(&requests).await {
            Ok(answers) => {
                for (caller, answer) in callers.into_iter().zip(answers) {
                    // A caller that went away does not need its answer.
                    let _ = caller.send(Ok(answer));
                }
            }
            Err(error) => fail(callers, &error),
        }
    }
}

/// Tells every caller of a failed statement why.
fn fail<T>(callers: Vec<oneshot::Sender<Result<T, IndexError>>>, error: &IndexError) {
    for caller in callers {
        let source = || chain(error).into();
        let _ = caller.send(Err(if error.is_retryable() {
            IndexError::Unavailable(source())
        } else {
            IndexError::Internal(source())
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

fn stopped() -> IndexError {
    IndexError::Unavailable("index is stopping".into())
}

impl<B: Batch> std::fmt::Debug for Batcher<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}
