//! An open maildrop: one session, one lock token, numbers that hold still (P2, P3, P4).

mod release;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, error, warn};

pub use release::Releaser;

use crate::{
    Listing, LockToken, MailboxId, MessageRow, NodeId, Tenant, TenantCache, TenantId, Uid, delivered_to,
    port::{
        BlobError, BlobStore, BodyStream, CommitOutcome, Index, IndexError, OpenOutcome, OpenRequest, Opened,
        Read,
    },
};

/// Rows read in one go when a session retrieves in order. The first retrieval of a session reads few, as it
/// may be the only one.
const ROWS_FIRST: u32 = 4;
const ROWS_AHEAD: u32 = 32;
/// How long UPDATE is tried again when the database went away in the middle: a restart of it, with every
/// connection of a pool dead.
const COMMIT_PATIENCE: Duration = Duration::from_secs(12);
/// The first pause; each is twice the one before, up to the last.
const COMMIT_PAUSE_FIRST: Duration = Duration::from_millis(20);
const COMMIT_PAUSE_LAST: Duration = Duration::from_millis(500);

/// Opens maildrops.
#[derive(Clone, Debug)]
pub struct Maildrops {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    index: Arc<dyn Index>,
    blob: Arc<dyn BlobStore>,
    tenants: TenantCache,
    node: NodeId,
    releaser: Releaser,
}

/// Why a maildrop could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another session holds the lock.
    #[error("maildrop is in use")]
    InUse,
    /// The credential that was verified is no longer the account's.
    #[error("credential was changed")]
    Stale,
    /// Not now.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Why a message could not be retrieved.
#[derive(Debug, thiserror::Error)]
pub enum RetrieveError {
    /// It went away after the session began (retention, an administrator).
    #[error("message is gone")]
    Vanished,
    /// Not now: the database or the blob store does not answer.
    #[error("message cannot be read now")]
    Unavailable,
    /// Its octets are missing or damaged. This is loud in the log.
    #[error("message is damaged")]
    Damaged,
}

/// Why UPDATE did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The session no longer holds the lock; nothing was deleted.
    #[error("lock was lost")]
    LockLost,
    /// The database does not answer.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// A message on its way to a client.
pub struct Retrieved {
    /// Octets in all, before byte-stuffing: `prefix` and body together.
    pub octets: u64,
    /// `Delivered-To` with its CRLF, to be sent first.
    pub prefix: String,
    /// The stored octets.
    pub body: BodyStream,
}

impl std::fmt::Debug for Retrieved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retrieved").field("octets", &self.octets).finish_non_exhaustive()
    }
}

impl Maildrops {
    /// The service over these ports, for the sessions of `node`. Locks whose release failed are handed to
    /// `releaser`.
    pub fn new(
        index: Arc<dyn Index>,
        blob: Arc<dyn BlobStore>,
        tenants: TenantCache,
        node: NodeId,
        releaser: Releaser,
    ) -> Self {
        Self { shared: Arc::new(Shared { index, blob, tenants, node, releaser }) }
    }

    /// Opens the maildrop for a session whose credential was verified as of `credential_version`.
    pub async fn open(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        credential_version: i64,
    ) -> Result<OpenMaildrop, OpenError> {
        let token = LockToken::generate();
        // The guard exists before the lock does: whatever becomes of this future or of the answer, the
        // token is released. Until there is an answer, the lock may be taken even after that.
        let mut maildrop = OpenMaildrop {
            shared: Arc::clone(&self.shared),
            tenant,
            mailbox,
            token,
            opened: Opened { message_count: 0, octets: 0, next_uid: Uid(0) },
            listing: None,
            rows: VecDeque::new(),
            sequential: false,
            held: true,
            doubtful: true,
        };
        let request = OpenRequest { tenant, mailbox, credential_version, token, node: self.shared.node };
        match self.shared.index.open(request).await {
            Ok(OpenOutcome::Opened(opened)) => {
                maildrop.opened = opened;
                maildrop.doubtful = false;
                Ok(maildrop)
            }
            Ok(OpenOutcome::InUse) => {
                maildrop.held = false;
                Err(OpenError::InUse)
            }
            // The mailbox may have gone while the lock was taken: the guard releases what there is.
            Ok(OpenOutcome::Stale) => {
                maildrop.doubtful = false;
                Err(OpenError::Stale)
            }
            Err(error @ IndexError::Unreached(_)) => {
                maildrop.held = false;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A maildrop held by one session. However it is dropped, its lock is given back; only
/// [`commit`](Self::commit) deletes.
pub struct OpenMaildrop {
    shared: Arc<Shared>,
    tenant: TenantId,
    mailbox: MailboxId,
    token: LockToken,
    opened: Opened,
    listing: Option<Box<Listing>>,
    /// Rows read ahead, in order of uid.
    rows: VecDeque<MessageRow>,
    sequential: bool,
    /// Whether the token may still hold the lock.
    held: bool,
    /// Whether the lock may be taken even later: the statement that should take it was given up on.
    doubtful: bool,
}

impl OpenMaildrop {
    /// The mailbox's tenant.
    pub fn tenant_id(&self) -> TenantId {
        self.tenant
    }

    /// The mailbox.
    pub fn mailbox_id(&self) -> MailboxId {
        self.mailbox
    }

    /// Messages and octets: what the drop listing says (RFC 1939 §5, STAT).
    pub fn totals(&self) -> (u64, u64) {
        match &self.listing {
            Some(listing) => (listing.len() as u64, listing.octets()),
            None => (self.opened.message_count, self.opened.octets),
        }
    }

    /// The messages, read on first need and then held still.
    pub async fn listing(&mut self) -> Result<&Listing, IndexError> {
        if self.listing.is_none() {
            let listing = if self.opened.message_count == 0 {
                Listing::new(self.mailbox)
            } else {
                self.shared.index.listing(self.tenant, self.mailbox, self.opened.next_uid).await?
            };
            self.listing = Some(Box::new(listing));
        }
        match &self.listing {
            Some(listing) => Ok(listing),
            None => Err(IndexError::Internal("listing vanished".into())),
        }
    }

    /// The listing, if it has been read.
    pub fn known_listing(&self) -> Option<&Listing> {
        self.listing.as_deref()
    }

    /// Reads the message at `position` (0 is message number 1), all of it.
    pub async fn retrieve(&mut self, position: usize) -> Result<Retrieved, RetrieveError> {
        self.read(position, |row| {
            let octets = row.octets.saturating_sub(delivered_to(&row.delivered_to).len() as u64);
            Read::Whole { octets, digest: row.digest }
        })
        .await
    }

    /// Reads the message at `position`, of which only the header and some `lines` lines will be wanted.
    pub async fn top(&mut self, position: usize, lines: u64) -> Result<Retrieved, RetrieveError> {
        // Most lines are shorter than 80 octets; more is fetched where that was too few.
        self.read(position, |row| Read::Head {
            octets: row.header_octets.saturating_add(lines.saturating_mul(80)),
        })
        .await
    }

    /// UPDATE: deletes the messages at these positions and gives the lock back. An error means that nothing
    /// was deleted, save where the database went away, or stood still, between the question and its answer.
    pub async fn commit(mut self, deleted: impl Iterator<Item = usize>) -> Result<(), CommitError> {
        let uids: Vec<Uid> = match &self.listing {
            Some(listing) => deleted.filter_map(|position| Some(listing.get(position)?.uid)).collect(),
            None => Vec::new(),
        };
        if uids.is_empty() {
            self.release().await;
            return Ok(());
        }
        match self.commit_resolved(&uids).await {
            Ok(()) => {
                self.held = false;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the lock back and deletes nothing.
    pub async fn release(mut self) {
        match self.shared.index.release(self.tenant, self.mailbox, self.token).await {
            Ok(()) => self.held = false,
            // Dropping `self` hands the token to the releaser, which does not give up.
            Err(error) => {
                warn!(tenant = %self.tenant, mailbox = %self.mailbox, %error, "lock will be released later");
            }
        }
    }

    /// Commits, and finds out what became of a commit whose answer was lost: the lock row goes in the same
    /// transaction as the messages, so "lock gone, and so are all the messages" means that it happened.
    async fn commit_resolved(&self, uids: &[Uid]) -> Result<(), CommitError> {
        let index = &self.shared.index;
        let mut doubtful = false;
        let mut pause = COMMIT_PAUSE_FIRST;
        let deadline = Instant::now() + COMMIT_PATIENCE;
        loop {
            let result = match index.commit_update(self.tenant, self.mailbox, self.token, uids).await {
                Ok(CommitOutcome::Committed { .. }) => return Ok(()),
                Ok(CommitOutcome::LockLost) if !doubtful => return Err(CommitError::LockLost),
                Ok(CommitOutcome::LockLost) => index.any_left(self.tenant, self.mailbox, uids).await,
                Err(error) => Err(error),
            };
            let error = match result {
                Ok(false) => return Ok(()),
                Ok(true) => return Err(CommitError::LockLost),
                Err(error) => error,
            };
            if !error.is_retryable() || Instant::now() >= deadline {
                return Err(error.into());
            }
            doubtful |= !matches!(error, IndexError::Unreached(_));
            debug!(tenant = %self.tenant, mailbox = %self.mailbox, %error, "commit will be tried again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(COMMIT_PAUSE_LAST);
        }
    }

    async fn read(
        &mut self,
        position: usize,
        plan: impl Fn(&MessageRow) -> Read + Send,
    ) -> Result<Retrieved, RetrieveError> {
        if let Err(error) = self.listing().await {
            return Err(self.index_failed(&error));
        }
        let entry = self.known_listing().and_then(|listing| listing.get(position));
        let entry = entry.ok_or(RetrieveError::Vanished)?;
        let row = self.row(entry.uid).await.map_err(|e| self.index_failed(&e))?;
        let row = row.ok_or(RetrieveError::Vanished)?;
        let tenant = self.tenant().await.map_err(|e| self.index_failed(&e))?;
        let tenant = tenant.ok_or(RetrieveError::Vanished)?;
        if row.octets != entry.octets {
            error!(tenant = %self.tenant, mailbox = %self.mailbox, uid = row.uid.0, "octets of a row changed during a session");
            return Err(RetrieveError::Damaged);
        }
        let body = self.shared.blob.read(self.tenant, &tenant.key, row.extent, plan(&row)).await;
        let body = body.map_err(|error| self.blob_failed(row.uid, &error))?;
        Ok(Retrieved { octets: row.octets, prefix: delivered_to(&row.delivered_to), body })
    }

    /// The row of `uid`, from those read ahead or from the index.
    async fn row(&mut self, uid: Uid) -> Result<Option<MessageRow>, IndexError> {
        while self.rows.front().is_some_and(|row| row.uid < uid) {
            self.rows.pop_front();
        }
        // A message that vanished leaves a gap in what was read ahead; one before it was asked for out of
        // order. Either way the index decides.
        if self.rows.front().is_none_or(|row| row.uid != uid) {
            let limit = if self.sequential { ROWS_AHEAD } else { ROWS_FIRST };
            self.sequential = true;
            let index = &self.shared.index;
            self.rows =
                index.messages(self.tenant, self.mailbox, uid, self.opened.next_uid, limit).await?.into();
        }
        Ok(self.rows.front().filter(|row| row.uid == uid).cloned())
    }

    async fn tenant(&self) -> Result<Option<Arc<Tenant>>, IndexError> {
        self.shared.tenants.get(self.tenant).await
    }

    fn index_failed(&self, error: &IndexError) -> RetrieveError {
        warn!(tenant = %self.tenant, mailbox = %self.mailbox, %error, "row could not be read");
        RetrieveError::Unavailable
    }

    fn blob_failed(&self, uid: Uid, error: &BlobError) -> RetrieveError {
        if error.is_retryable() {
            warn!(tenant = %self.tenant, mailbox = %self.mailbox, uid = uid.0, %error, "message could not be read");
            return RetrieveError::Unavailable;
        }
        error!(tenant = %self.tenant, mailbox = %self.mailbox, uid = uid.0, %error, "message could not be read");
        match error {
            BlobError::NotFound(_) | BlobError::Corrupt(_) => RetrieveError::Damaged,
            BlobError::Unavailable(_)
            | BlobError::Full(_)
            | BlobError::Misconfigured(_)
            | BlobError::WrongKey => RetrieveError::Unavailable,
        }
    }
}

impl Drop for OpenMaildrop {
    fn drop(&mut self) {
        if self.held {
            self.shared.releaser.hand_over(self.tenant, self.mailbox, self.token, self.doubtful);
        }
    }
}

impl std::fmt::Debug for OpenMaildrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenMaildrop")
            .field("tenant", &self.tenant)
            .field("mailbox", &self.mailbox)
            .finish_non_exhaustive()
    }
}
