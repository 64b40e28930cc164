//! Locks that could not be given back at once are given back here, for as long as it takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;

use crate::{LockToken, MailboxId, TenantId, port::Index};

/// Releases under way at once: the index gathers concurrent ones into one statement.
const CONCURRENT_MAX: usize = 1024;
/// Pause before a failed release is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A lock whose taking is in doubt is released a second time after this long: the server ends statements
/// that nobody waits for any more well before.
const DOUBT_PAUSE: Duration = Duration::from_mins(1);

/// Whose lock, and whether its taking is in doubt.
type Lock = (TenantId, MailboxId, LockToken, bool);

/// Takes over the locks of sessions that ended without releasing them: a connection that broke, a database
/// that was away. Holds one small entry per such session and per login whose answer was lost. Both are
/// limited: sessions by configuration, logins by how many statements can be in doubt (P6).
#[derive(Clone, Debug)]
pub struct Releaser {
    queue: mpsc::UnboundedSender<Lock>,
    /// Locks taken over and not yet given back.
    pending: Arc<AtomicUsize>,
}

impl Releaser {
    /// Starts the task that releases through `index`. It ends once the last handle is dropped and the
    /// queue is empty; the handle that comes back waits for that.
    pub fn start(index: Arc<dyn Index>) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, locks) = mpsc::unbounded_channel();
        let pending = Arc::new(AtomicUsize::new(0));
        (Self { queue, pending: Arc::clone(&pending) }, tokio::spawn(run(index, locks, pending)))
    }

    /// Tells, whenever it is called, how many locks are still to be given back. It is no handle: the task
    /// ends without waiting for it to be dropped.
    pub fn pending(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let pending = Arc::clone(&self.pending);
        move || pending.load(Ordering::Relaxed)
    }

    /// Takes a lock over. `doubtful`: the statement that should take it was given up on and may yet run.
    pub(crate) fn hand_over(&self, tenant: TenantId, mailbox: MailboxId, token: LockToken, doubtful: bool) {
        // The task lives as long as a handle does; at process end the node's retirement frees the lock.
        self.pending.fetch_add(1, Ordering::Relaxed);
        let _ = self.queue.send((tenant, mailbox, token, doubtful));
    }
}

async fn run(index: Arc<dyn Index>, mut locks: mpsc::UnboundedReceiver<Lock>, pending: Arc<AtomicUsize>) {
    let mut under_way = FuturesUnordered::new();
    let released = || {
        pending.fetch_sub(1, Ordering::Relaxed);
    };
    loop {
        tokio::select! {
            lock = locks.recv(), if under_way.len() < CONCURRENT_MAX => match lock {
                Some(lock) => under_way.push(release(&*index, lock)),
                None => break,
            },
            Some(()) = under_way.next() => released(),
        }
    }
    while under_way.next().await.is_some() {
        released();
    }
}

async fn release(index: &dyn Index, (tenant, mailbox, token, doubtful): Lock) {
    release_once(index, tenant, mailbox, token).await;
    if doubtful {
        tokio::time::sleep(DOUBT_PAUSE).await;
        release_once(index, tenant, mailbox, token).await;
    }
}

async fn release_once(index: &dyn Index, tenant: TenantId, mailbox: MailboxId, token: LockToken) {
    while let Err(error) = index.release(tenant, mailbox, token).await {
        tracing::debug!(%tenant, %mailbox, %error, "lock is still to be released");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
