//! Locks that could not be given back at once are given back here, for as long as it takes.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;

use crate::{LockToken, MailboxId, TenantId, port::Index};

/// Releases under way at once: the index gathers concurrent ones into one statement.
const CONCURRENT_MAX: usize = 64;
/// Pause before a failed release is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

type Lock = (TenantId, MailboxId, LockToken);

/// Takes over the locks of sessions that ended without releasing them: a connection that broke, a database
/// that was away. Holds at most one small entry per such session, and sessions are limited (P6).
#[derive(Clone, Debug)]
pub struct Releaser {
    queue: mpsc::UnboundedSender<Lock>,
}

impl Releaser {
    /// Starts the task that releases through `index`. It ends once the last handle is dropped and the
    /// queue is empty; the handle that comes back waits for that.
    pub fn start(index: Arc<dyn Index>) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, locks) = mpsc::unbounded_channel();
        (Self { queue }, tokio::spawn(run(index, locks)))
    }

    /// Takes a lock over.
    pub(crate) fn hand_over(&self, tenant: TenantId, mailbox: MailboxId, token: LockToken) {
        // The task lives as long as a handle does; at process end the node's retirement frees the lock.
        let _ = self.queue.send((tenant, mailbox, token));
    }
}

async fn run(index: Arc<dyn Index>, mut locks: mpsc::UnboundedReceiver<Lock>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            lock = locks.recv(), if under_way.len() < CONCURRENT_MAX => match lock {
                Some(lock) => under_way.push(release(&*index, lock)),
                None => break,
            },
            Some(()) = under_way.next() => {}
        }
    }
    while under_way.next().await.is_some() {}
}

async fn release(index: &dyn Index, (tenant, mailbox, token): Lock) {
    while let Err(error) = index.release(tenant, mailbox, token).await {
        tracing::debug!(%tenant, %mailbox, %error, "lock is still to be released");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
