//! Going down in order: stop accepting, let sessions finish, then end the rest between two commands.

use std::{future::Future, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The controlling end: one per process.
#[derive(Debug, Default)]
pub struct Drain {
    draining: CancellationToken,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// What listeners and sessions hold.
#[derive(Debug, Clone)]
pub struct DrainHandle {
    draining: CancellationToken,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    /// A drain nobody has pulled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle for a listener.
    pub fn handle(&self) -> DrainHandle {
        DrainHandle {
            draining: self.draining.clone(),
            closing: self.closing.clone(),
            tasks: self.tasks.clone(),
        }
    }

    /// Drains: listeners close now, sessions may go on for `timeout`, then each is told
    /// `-ERR [SYS/TEMP]` (POP3) or `421` (LMTP) between two commands; a session that does not come to the
    /// end of a command within `grace` after that is cut off. Returns how many were.
    pub async fn drain(self, timeout: Duration, grace: Duration) -> usize {
        self.draining.cancel();
        self.tasks.close();
        if tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok() {
            return 0;
        }
        self.closing.cancel();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_ok() {
            return 0;
        }
        self.tasks.len()
    }
}

impl DrainHandle {
    /// Whether no new work should be taken.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Resolves when listeners shall close.
    pub(crate) async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Resolves when sessions shall end at the next command.
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Whether sessions shall end at the next command.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Runs a listener or a session that the drain waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}
