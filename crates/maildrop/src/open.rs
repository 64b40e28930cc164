//! An open maildrop: one session, one lock token, numbers that hold still (P2, P3, P4).

mod release;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::Instant;
use tracing::{debug, error, warn};

pub use release::Releaser;

use crate::{
    Credential, FairGate, FairPermit, Form, Listing, LockToken, LoginScope, MailboxId, MessageInfo,
    MessageOrder, MessageRow, NodeId, Rules, Tenant, TenantCache, TenantId, Uid, View, delivered_to,
    downgrade::{self, Downgrade},
    port::{
        BlobError, BlobStore, BodyStream, CommitOutcome, Index, IndexError, MessageReader, OpenOutcome,
        OpenRequest, Opened, Read,
    },
};

/// Rows read in one go when a session retrieves in order. The first retrieval of a session reads few, as it
/// may be the only one.
const ROWS_FIRST: u32 = 4;
const ROWS_AHEAD: u32 = 128;
/// When fewer rows than this are left of those that were read ahead, more are read: what is fetched ahead of being
/// asked for goes by them.
const ROWS_LOW: usize = 48;
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
    /// Turns for what is asked of the index.
    turns: FairGate,
    /// Turns for reading messages. By themselves: a blob store that stands still must keep nobody from logging in,
    /// listing and deleting (P7).
    reading: FairGate,
}

/// The right to open a maildrop, as of when it was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The tenant.
    pub tenant: TenantId,
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The tenant's revision then.
    pub tenant_revision: i64,
    /// The version of the credential then.
    pub credential_version: i64,
    /// What it was proved by.
    pub credential: Credential,
    /// What it is good for.
    pub scope: LoginScope,
    /// What the mailbox lives under.
    pub rules: Arc<Rules>,
}

/// Why a maildrop could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another session holds the lock.
    #[error("maildrop is in use")]
    InUse,
    /// The credential that was verified is no longer the account's, or a policy was changed.
    #[error("credential was changed")]
    Stale,
    /// The last login was too short a time ago.
    #[error("last login was too short a time ago")]
    TooSoon,
    /// The tenant has as many sessions as it may.
    #[error("tenant has too many sessions")]
    TooManySessions,
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

/// The longest wait for the turn to read on. What breaks off there has been sent in vain, so it is as long as clients
/// wait for more; their own patience ends at a minute or later.
const READ_ON_MAX: Duration = Duration::from_mins(1);

/// A message on its way to a client.
pub struct Retrieved {
    /// Octets in all, before byte-stuffing: `prefix` and body together.
    pub octets: u64,
    /// `Delivered-To` with its CRLF, to be sent first.
    pub prefix: Vec<u8>,
    body: BodyStream,
    /// Where the stored header is rewritten.
    downgrade: Option<Downgrade>,
    reading: FairGate,
    tenant: TenantId,
    /// Whether it lies in a store of the tenant's own, which is waited for without a turn.
    elsewhere: bool,
}

impl Retrieved {
    /// The next of the octets, when the tenant's turn comes: reading on costs as much as beginning to. Nothing is
    /// held while the caller sends them.
    pub async fn next(&mut self) -> Option<Result<Bytes, BlobError>> {
        let _turn = if self.elsewhere {
            None
        } else {
            let turn = self.reading.turn_within(READ_ON_MAX, self.tenant).await;
            let busy = || BlobError::Unavailable("too much waits for its turn".to_owned());
            match turn.ok_or_else(busy) {
                Ok(turn) => Some(turn),
                Err(busy) => return Some(Err(busy)),
            }
        };
        loop {
            let chunk = self.body.next().await;
            let Some(mut downgrade) = self.downgrade.take() else { return chunk };
            let mut out = Vec::new();
            match chunk {
                Some(Ok(chunk)) => {
                    downgrade.push(&chunk, &mut out);
                    self.downgrade = Some(downgrade);
                }
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    downgrade.finish(&mut out);
                    return (!out.is_empty()).then(|| Ok(out.into()));
                }
            }
            if !out.is_empty() {
                return Some(Ok(out.into()));
            }
        }
    }
}

impl std::fmt::Debug for Retrieved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retrieved").field("octets", &self.octets).finish_non_exhaustive()
    }
}

impl Maildrops {
    /// The service over these ports, for the sessions of `node`. Locks whose release failed are handed to
    /// `releaser`. `turns` bounds what is asked of the index at once, `reading` what is read of messages; both share it
    /// fairly between tenants.
    pub fn new(
        index: Arc<dyn Index>,
        blob: Arc<dyn BlobStore>,
        tenants: TenantCache,
        node: NodeId,
        releaser: Releaser,
        turns: FairGate,
        reading: FairGate,
    ) -> Self {
        Self { shared: Arc::new(Shared { index, blob, tenants, node, releaser, turns, reading }) }
    }

    /// Opens the maildrop for a session. `session` and `peer` are what administrators see of it.
    pub async fn open(&self, access: &Access, session: &str, peer: &str) -> Result<OpenMaildrop, OpenError> {
        let Access { tenant, mailbox, .. } = *access;
        let token = LockToken::generate();
        let _turn = self.shared.turn(tenant).await?;
        // The guard exists before the lock does: whatever becomes of this future or of the answer, the
        // token is released. Until there is an answer, the lock may be taken even after that.
        let mut maildrop = OpenMaildrop {
            shared: Arc::clone(&self.shared),
            tenant,
            mailbox,
            scope: access.scope,
            rules: Arc::clone(&access.rules),
            token,
            credential: access.credential,
            opened: Opened { message_count: 0, octets: 0, next_uid: Uid(0), taken_over: false },
            view: View::default(),
            listing: None,
            rows: VecDeque::new(),
            rows_end: false,
            position: None,
            sequential: false,
            reader: None,
            held: true,
            doubtful: true,
        };
        let request = OpenRequest {
            tenant,
            mailbox,
            tenant_revision: access.tenant_revision,
            credential_version: access.credential_version,
            credential: access.credential,
            token,
            node: self.shared.node,
            session: session.to_owned(),
            peer: peer.to_owned(),
            login_delay: Duration::from_secs(access.rules.mailbox.login_delay_secs.unwrap_or(0).into()),
            sessions_max: access.rules.tenant.sessions_max,
        };
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
            Ok(outcome @ (OpenOutcome::TooSoon | OpenOutcome::TooManySessions)) => {
                maildrop.held = false;
                Err(if outcome == OpenOutcome::TooSoon {
                    OpenError::TooSoon
                } else {
                    OpenError::TooManySessions
                })
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

impl Maildrops {
    /// Reads a message for an administrator: without the lock, and without touching anything.
    pub async fn peek(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<(MessageInfo, Retrieved), RetrieveError> {
        let failed = |error: &IndexError| {
            warn!(%tenant, %mailbox, %error, "row could not be read");
            RetrieveError::Unavailable
        };
        let turn = self.shared.turn(tenant).await.map_err(|e| failed(&e))?;
        let found = self.shared.index.message(tenant, mailbox, uid).await.map_err(|e| failed(&e))?;
        // Nobody waits for a turn while holding one.
        drop(turn);
        let (info, row) = found.ok_or(RetrieveError::Vanished)?;
        let key = self.shared.tenants.get(tenant).await.map_err(|e| failed(&e))?;
        let key = key.ok_or(RetrieveError::Vanished)?;
        let turn = if row.extent.pack.store().is_house() {
            Some(self.shared.reading.turn(tenant).await.ok_or_else(|| too_busy(tenant, mailbox))?)
        } else {
            None
        };
        let body = self.shared.blob.read(tenant, &key.key, row.extent, whole(&row)).await;
        drop(turn);
        let body = body.map_err(|error| blob_failed(tenant, mailbox, row.uid, &error))?;
        Ok((info, self.shared.retrieved(tenant, body, &row, Form::Native)))
    }
}

impl Shared {
    fn retrieved(&self, tenant: TenantId, body: BodyStream, row: &MessageRow, form: Form) -> Retrieved {
        let in_front = delivered_to(&row.delivered_to).into_bytes();
        let elsewhere = !row.extent.pack.store().is_house();
        let (reading, rewritten) = (self.reading.clone(), form == Form::Ascii && row.ascii_extra.is_some());
        if !rewritten {
            let (octets, downgrade) = (row.octets_in(form), None);
            return Retrieved { octets, prefix: in_front, body, downgrade, reading, tenant, elsewhere };
        }
        let mut prefix = Vec::new();
        downgrade::field(&in_front, &mut prefix);
        let downgrade = Some(Downgrade::default());
        Retrieved { octets: row.octets, prefix, body, downgrade, reading, tenant, elsewhere }
    }

    /// Waits for the tenant's turn.
    async fn turn(&self, tenant: TenantId) -> Result<FairPermit, IndexError> {
        self.turns
            .turn(tenant)
            .await
            .ok_or_else(|| IndexError::Unreached("too much waits for its turn".into()))
    }
}

fn too_busy(tenant: TenantId, mailbox: MailboxId) -> RetrieveError {
    warn!(%tenant, %mailbox, "too many messages wait to be read");
    RetrieveError::Unavailable
}

/// All of a message, its end checked.
fn whole(row: &MessageRow) -> Read {
    let octets = row.octets_in(Form::Native).saturating_sub(delivered_to(&row.delivered_to).len() as u64);
    Read::Whole { octets, digest: row.digest }
}

fn blob_failed(tenant: TenantId, mailbox: MailboxId, uid: Uid, error: &BlobError) -> RetrieveError {
    if error.is_retryable() {
        warn!(%tenant, %mailbox, uid = uid.0, %error, "message could not be read");
        return RetrieveError::Unavailable;
    }
    error!(%tenant, %mailbox, uid = uid.0, %error, "message could not be read");
    match error {
        BlobError::NotFound(_) | BlobError::Corrupt(_) => RetrieveError::Damaged,
        BlobError::Unavailable(_)
        | BlobError::Full(_)
        | BlobError::Misconfigured(_)
        | BlobError::WrongKey => RetrieveError::Unavailable,
    }
}

/// Notes of a session's lock whether its client is silent, so that the same client can come back and take it over.
#[derive(Clone, Debug)]
pub struct Silence {
    shared: Arc<Shared>,
    tenant: TenantId,
    mailbox: MailboxId,
    token: LockToken,
    credential: Credential,
}

impl Silence {
    /// Notes it. `false` where the lock is lost.
    pub async fn note(&self, silent: bool) -> Result<bool, IndexError> {
        let _turn = self.shared.turn(self.tenant).await?;
        let Self { tenant, mailbox, token, credential, .. } = *self;
        self.shared.index.note_silence(tenant, mailbox, token, credential, silent).await
    }
}

/// A maildrop held by one session. However it is dropped, its lock is given back; only
/// [`commit`](Self::commit) deletes.
pub struct OpenMaildrop {
    shared: Arc<Shared>,
    tenant: TenantId,
    mailbox: MailboxId,
    scope: LoginScope,
    rules: Arc<Rules>,
    token: LockToken,
    credential: Credential,
    opened: Opened,
    view: View,
    listing: Option<Box<Listing>>,
    /// Rows read ahead, in order of uid.
    rows: VecDeque<MessageRow>,
    /// Whether there are no rows after those.
    rows_end: bool,
    /// The position read last.
    position: Option<usize>,
    /// Whether the one after that is read now.
    sequential: bool,
    /// What reads messages, from the first on.
    reader: Option<Box<dyn MessageReader>>,
    /// Whether the token may still hold the lock.
    held: bool,
    /// Whether the lock may be taken even later: the statement that should take it was given up on.
    doubtful: bool,
}

impl OpenMaildrop {
    /// What the login is good for.
    pub fn scope(&self) -> LoginScope {
        self.scope
    }

    /// What the mailbox lives under, as of the login.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The mailbox's tenant.
    pub fn tenant_id(&self) -> TenantId {
        self.tenant
    }

    /// The mailbox.
    pub fn mailbox_id(&self) -> MailboxId {
        self.mailbox
    }

    /// Has messages listed and sent as this view has them. It is asked for before anything else: numbers and sizes
    /// hold still (P4).
    pub async fn seen_as(mut self, view: View) -> Result<Self, IndexError> {
        self.view = view;
        // The counters are of all messages, in ASCII.
        let less =
            view.since.is_some() || view.last.is_some_and(|last| u64::from(last) < self.opened.message_count);
        if (less || view.form == Form::Native) && self.opened.message_count > 0 {
            self.listing().await?;
        }
        Ok(self)
    }

    /// Whether the lock was taken over from a session whose client was silent.
    pub fn was_taken_over(&self) -> bool {
        self.opened.taken_over
    }

    /// What notes of the lock whether the client is silent.
    pub fn silence(&self) -> Silence {
        let (shared, tenant, mailbox) = (Arc::clone(&self.shared), self.tenant, self.mailbox);
        Silence { shared, tenant, mailbox, token: self.token, credential: self.credential }
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
                let _turn = self.shared.turn(self.tenant).await?;
                let before = self.opened.next_uid;
                self.shared.index.listing(self.tenant, self.mailbox, before, self.view).await?
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
        self.read(position, whole).await
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
        let _turn = self.shared.turn(self.tenant).await?;
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
        let kept = self.rules.kept();
        let deadline = Instant::now() + COMMIT_PATIENCE;
        loop {
            let result = match index.commit_update(self.tenant, self.mailbox, self.token, uids, kept).await {
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
        self.sequential = self.position.is_some_and(|last| last + 1 == position);
        self.position = Some(position);
        let row = self.row(entry.uid).await.map_err(|e| self.index_failed(&e))?;
        let row = row.ok_or(RetrieveError::Vanished)?;
        let tenant = self.tenant().await.map_err(|e| self.index_failed(&e))?;
        let tenant = tenant.ok_or(RetrieveError::Vanished)?;
        if row.octets_in(self.view.form) != entry.octets {
            error!(tenant = %self.tenant, mailbox = %self.mailbox, uid = row.uid.0, "octets of a row changed during a session");
            return Err(RetrieveError::Damaged);
        }
        let body = match self.body(&tenant, &row, plan(&row)).await {
            // Its pack may have been rewritten since the row was read: then the row says where it lies now.
            Err(BlobError::NotFound(gone)) => {
                self.rows.clear();
                let now = self.row(row.uid).await.map_err(|e| self.index_failed(&e))?;
                let now = now.ok_or(RetrieveError::Vanished)?;
                if now.extent == row.extent {
                    Err(BlobError::NotFound(gone))
                } else {
                    self.body(&tenant, &now, plan(&now)).await
                }
            }
            body => body,
        };
        let body = body.map_err(|error| blob_failed(self.tenant, self.mailbox, row.uid, &error))?;
        Ok(self.shared.retrieved(self.tenant, body, &row, self.view.form))
    }

    /// Whether something may have been fetched that was not asked for yet.
    pub fn reads_ahead(&self) -> bool {
        self.reader.is_some()
    }

    /// Gives back what was fetched and not asked for yet. Where messages lie stays known: a session goes on while the
    /// index is away (P7).
    pub fn rest(&mut self) {
        self.reader = None;
    }

    /// Opens a message, and lets those that follow it be fetched ahead where the session reads in order.
    async fn body(&mut self, tenant: &Tenant, row: &MessageRow, plan: Read) -> Result<BodyStream, BlobError> {
        let in_order = self.sequential && self.view.order == MessageOrder::Arrival;
        let next: Vec<_> = self.rows.iter().skip(1).filter(|_| in_order).map(|row| row.extent).collect();
        let (shared, id) = (&self.shared, self.tenant);
        let reader = self.reader.get_or_insert_with(|| shared.blob.reader(id, shared.reading.clone()));
        reader.read(&tenant.key, row.extent, plan, &next).await
    }

    /// The row of `uid`, from those read ahead or from the index.
    async fn row(&mut self, uid: Uid) -> Result<Option<MessageRow>, IndexError> {
        while self.rows.front().is_some_and(|row| row.uid < uid) {
            self.rows.pop_front();
        }
        // A message that vanished leaves a gap in what was read ahead; one before it was asked for out of
        // order. Either way the index decides.
        if self.rows.front().is_none_or(|row| row.uid != uid) {
            let limit = match self.view.order {
                MessageOrder::Arrival if self.sequential => ROWS_AHEAD,
                MessageOrder::Arrival => ROWS_FIRST,
                // What comes next is another message.
                MessageOrder::Received => 1,
            };
            self.rows = self.rows_from(uid, limit).await?.into();
        } else if self.sequential
            && self.view.order == MessageOrder::Arrival
            && self.rows.len() < ROWS_LOW
            && !self.rows_end
            && let Some(last) = self.rows.back()
        {
            // What is there is good without these.
            match self.rows_from(Uid(last.uid.0 + 1), ROWS_AHEAD).await {
                Ok(rows) => self.rows.extend(rows),
                Err(error) => debug!(tenant = %self.tenant, %error, "rows could not be read ahead"),
            }
        }
        Ok(self.rows.front().filter(|row| row.uid == uid).cloned())
    }

    async fn rows_from(&mut self, uid: Uid, limit: u32) -> Result<Vec<MessageRow>, IndexError> {
        let _turn = self.shared.turn(self.tenant).await?;
        let before = self.opened.next_uid;
        let rows = self.shared.index.messages(self.tenant, self.mailbox, uid, before, limit).await?;
        self.rows_end = rows.len() < limit as usize;
        Ok(rows)
    }

    async fn tenant(&self) -> Result<Option<Arc<Tenant>>, IndexError> {
        self.shared.tenants.get(self.tenant).await
    }

    fn index_failed(&self, error: &IndexError) -> RetrieveError {
        warn!(tenant = %self.tenant, mailbox = %self.mailbox, %error, "row could not be read");
        RetrieveError::Unavailable
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
