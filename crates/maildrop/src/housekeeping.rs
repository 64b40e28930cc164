//! What has to be done that nobody asks for: old messages expire, deleted ones are forgotten, as are records past
//! their use; tenants and mailboxes that were deleted vanish.
//!
//! One node of the cluster does it at a time. Everything is done in small steps that can be broken off and
//! taken up again, by this node or another.

use std::{sync::Arc, time::Duration};

use futures_util::future::{Either, select};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::{
    Actor, BulletinId, MailboxId, NodeId, TenantId,
    port::{
        AUDIT_KEPT_DAYS_MIN, BlobError, BlobStore, Bulletins, Directory, Index, IndexError, Records,
        TenantDeletion,
    },
};

/// The task one node at a time has.
const TASK: &str = "housekeeping";
/// Rows of one step: a transaction of some ten milliseconds.
const STEP: u32 = 500;
/// Mailboxes read in one go when expiring.
const PAGE: u32 = 500;
/// Answers to repeated requests are kept for so long.
const CLAIMS_KEPT: time::Duration = time::Duration::DAY;
/// Days that traffic of tenants is kept: more than what can be asked for at once. That of single mailboxes is only
/// asked for on the very day; some more, for clocks that differ and for whoever looks into the database.
const TRAFFIC_KEPT_DAYS: i64 = 400;
const MAILBOX_TRAFFIC_KEPT_DAYS: i64 = 7;
/// Finished deletions of tenants are kept for so long. The audit log says that they were.
const DELETIONS_KEPT: time::Duration = time::Duration::days(90);
/// For so long what a deleted tenant has in stores of its own is tried to delete, where that fails.
const OWN_STORES_PATIENCE: time::Duration = time::Duration::days(7);
/// Deletions of tenants seen to in one round, and of mailboxes read in one go.
const DELETIONS: u32 = 100;
/// Bulletins read in one go.
const BULLETINS: u32 = 100;
/// Steps done for one bulletin before it is the next one's turn: some seconds.
const BULLETIN_STEPS: u32 = 20;

/// When housekeeping is done.
#[derive(Clone, Copy, Debug)]
pub struct HousekeepingConfig {
    /// Pause between two rounds. Default: 1 min.
    pub interval: Duration,
    /// Time between two searches for messages that expire, and for records past their use. Default: 1 h.
    pub expiry_interval: Duration,
    /// A tenant's deletion is not finished sooner than this after it began: by then what was on its way to it
    /// has come, and gone. Default: 2 min.
    pub deletion_grace: Duration,
    /// Days that entries of the audit log are kept, or for ever. Default: 400, a year and a month.
    pub audit_kept_days: Option<u32>,
}

impl Default for HousekeepingConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_mins(1),
            expiry_interval: Duration::from_hours(1),
            deletion_grace: Duration::from_mins(2),
            audit_kept_days: Some(400),
        }
    }
}

/// The housekeeping of a node.
#[derive(Clone, Debug)]
pub struct Housekeeping {
    /// For deletions of tenants.
    pub directory: Arc<dyn Directory>,
    /// For messages, and for the task.
    pub index: Arc<dyn Index>,
    /// For answers to repeated requests.
    pub records: Arc<dyn Records>,
    /// For bulletins on their way, and being withdrawn.
    pub bulletins: Arc<dyn Bulletins>,
    /// For the objects of deleted tenants.
    pub blob: Arc<dyn BlobStore>,
    /// The node.
    pub node: NodeId,
    /// Its name, for the audit log.
    pub name: String,
    /// When it is done.
    pub config: HousekeepingConfig,
}

/// Why a round was broken off.
#[derive(Debug, thiserror::Error)]
enum BrokenOff {
    /// Another node took the task over.
    #[error("another node has taken over")]
    Lost,
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl Housekeeping {
    /// Does it until `end` resolves; what is under way then is broken off between two steps.
    pub async fn run(self, end: impl Future<Output = ()> + Send) {
        let mut end = std::pin::pin!(end);
        let mut expired_at: Option<Instant> = None;
        loop {
            let pause = std::pin::pin!(tokio::time::sleep(self.config.interval));
            if let Either::Left(_) = select(end.as_mut(), pause).await {
                return;
            }
            let due = expired_at.is_none_or(|at| at.elapsed() >= self.config.expiry_interval);
            let round = std::pin::pin!(self.round(due));
            match select(end.as_mut(), round).await {
                Either::Left(_) => return,
                Either::Right((Ok(true), _)) => expired_at = Some(Instant::now()),
                Either::Right((Ok(false), _)) => {}
                Either::Right((Err(error), _)) => {
                    warn!(error = &error as &dyn std::error::Error, "housekeeping was broken off");
                }
            }
        }
    }

    /// One round. `true` where messages that expire were looked for, in all mailboxes: what else is not done is
    /// tried in the next round anyway, and does not make that search any sooner.
    async fn round(&self, expire: bool) -> Result<bool, BrokenOff> {
        if !self.take_task().await? {
            return Ok(false);
        }
        // First, as somebody waits for it.
        done("seeing to bulletins", self.see_to_bulletins().await)?;
        done("forgetting deleted messages", self.purge().await)?;
        done("bounding what is kept of deleted messages", self.bound_kept().await)?;
        done("forgetting answers", self.forget_claims().await)?;
        let expired = expire && done("expiring messages", self.expire().await)?;
        if expire {
            done("forgetting traffic", self.forget_traffic().await)?;
            done("forgetting finished deletions", self.forget_deletions().await)?;
            done("forgetting entries of the audit log", self.forget_audit().await)?;
        }
        done("deleting mailboxes", self.delete_mailboxes().await)?;
        for deletion in self.directory.all_tenants_deletions(DELETIONS).await? {
            done("deleting a tenant", self.delete_tenant(deletion).await)?;
        }
        Ok(expired)
    }

    async fn purge(&self) -> Result<(), BrokenOff> {
        while self.index.all_tenants_purge_deleted(STEP).await? == u64::from(STEP) {
            self.keep_task().await?;
        }
        Ok(())
    }

    /// Only mailboxes of which more is kept than before are looked at: what is found to be within its bounds stays so.
    /// What could not be bounded is looked at again in the next round.
    async fn bound_kept(&self) -> Result<(), BrokenOff> {
        let actor = self.actor("quota");
        let mut after = None;
        loop {
            let more = self.index.all_tenants_kept_more(after, PAGE).await?;
            for (tenant, mailbox) in &more.over {
                let bounded = self.bound_mailbox(*tenant, *mailbox, &actor).await;
                done("bounding what is kept of a mailbox", bounded)?;
            }
            if more.looked_at < u64::from(PAGE) {
                return Ok(());
            }
            after = more.last;
            self.keep_task().await?;
        }
    }

    async fn bound_mailbox(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        actor: &Actor,
    ) -> Result<(), BrokenOff> {
        let mut forgotten = 0;
        loop {
            let now = OffsetDateTime::now_utc();
            match self.index.bound_kept(tenant, mailbox, STEP, actor, now).await? {
                0 => break,
                messages => forgotten += messages,
            }
            self.keep_task().await?;
        }
        if forgotten > 0 {
            info!(%tenant, %mailbox, messages = forgotten, "deleted messages were forgotten: too much was kept");
        }
        Ok(())
    }

    /// Who the audit log says it was, for one of this node's rules.
    fn actor(&self, rule: &str) -> Actor {
        Actor { name: rule.into(), origin: self.name.clone(), request: String::new() }
    }

    async fn forget_claims(&self) -> Result<(), BrokenOff> {
        let old = OffsetDateTime::now_utc() - CLAIMS_KEPT;
        while self.records.forget_claims(old, STEP).await? == u64::from(STEP) {
            self.keep_task().await?;
        }
        Ok(())
    }

    async fn forget_traffic(&self) -> Result<(), BrokenOff> {
        let ago = |days| (OffsetDateTime::now_utc() - time::Duration::days(days)).date();
        let (tenants, mailboxes) = (ago(TRAFFIC_KEPT_DAYS), ago(MAILBOX_TRAFFIC_KEPT_DAYS));
        while self.records.all_tenants_forget_traffic(tenants, mailboxes, STEP).await? > 0 {
            self.keep_task().await?;
        }
        Ok(())
    }

    async fn forget_deletions(&self) -> Result<(), BrokenOff> {
        let before = OffsetDateTime::now_utc() - DELETIONS_KEPT;
        while self.directory.all_tenants_forget_deletions(before, STEP).await? > 0 {
            self.keep_task().await?;
        }
        Ok(())
    }

    async fn forget_audit(&self) -> Result<(), BrokenOff> {
        let Some(days) = self.config.audit_kept_days else { return Ok(()) };
        let days = days.max(AUDIT_KEPT_DAYS_MIN);
        let before = OffsetDateTime::now_utc() - time::Duration::days(days.into());
        let mut forgotten = 0;
        loop {
            match self.records.all_tenants_forget_audit(before, STEP).await? {
                0 => break,
                entries => forgotten += entries,
            }
            self.keep_task().await?;
        }
        if forgotten > 0 {
            info!(entries = forgotten, days, "entries of the audit log were forgotten");
        }
        Ok(())
    }

    /// The lease outlasts a slow step, and a node that died is replaced within some rounds.
    async fn take_task(&self) -> Result<bool, IndexError> {
        let ttl = (self.config.interval * 3).max(Duration::from_secs(30));
        self.index.take_task(TASK, self.node, ttl).await
    }

    async fn keep_task(&self) -> Result<(), BrokenOff> {
        if self.take_task().await? { Ok(()) } else { Err(BrokenOff::Lost) }
    }

    /// Bulletins that are on their way or being withdrawn, each for some steps in turn: a large tenant's does not keep a
    /// small one's. Nor does one that fails.
    async fn see_to_bulletins(&self) -> Result<(), BrokenOff> {
        let (mut after, mut more) = (None, false);
        loop {
            let now = OffsetDateTime::now_utc();
            let due = self.bulletins.all_tenants_bulletins_due(after, BULLETINS, now).await?;
            for (tenant, bulletin) in &due {
                match self.see_to_bulletin(*tenant, *bulletin).await {
                    Ok(left) => more |= left,
                    Err(error) => {
                        done("seeing to a bulletin", Err(error))?;
                    }
                }
            }
            self.keep_task().await?;
            after = due.last().copied().filter(|_| due.len() == BULLETINS as usize);
            if after.is_none() && !std::mem::take(&mut more) {
                return Ok(());
            }
        }
    }

    /// Some steps; whether it is worth while to go on.
    async fn see_to_bulletin(&self, tenant: TenantId, bulletin: BulletinId) -> Result<bool, BrokenOff> {
        for _ in 0..BULLETIN_STEPS {
            let now = OffsetDateTime::now_utc();
            let step = self.bulletins.continue_bulletin(tenant, bulletin, STEP, now).await?;
            debug!(%tenant, %bulletin, rows = step.rows, "a step of a bulletin was done");
            if !step.more {
                info!(%tenant, %bulletin, "all was done for a bulletin");
                return Ok(false);
            }
            // Sessions hold what is left: the next round is soon enough.
            if step.rows == 0 {
                return Ok(false);
            }
            self.keep_task().await?;
        }
        Ok(true)
    }

    /// Rows of mailboxes that were deleted, the oldest deletions first.
    async fn delete_mailboxes(&self) -> Result<(), BrokenOff> {
        loop {
            let deleted = self.directory.all_tenants_mailbox_deletions(DELETIONS).await?;
            let mut over = 0;
            for (tenant, mailbox) in &deleted {
                over +=
                    usize::from(done("deleting a mailbox", self.delete_mailbox(*tenant, *mailbox).await)?);
            }
            // Those that could not be done are the first of the next page, too.
            if deleted.len() < DELETIONS as usize || over == 0 {
                return Ok(());
            }
            self.keep_task().await?;
        }
    }

    async fn delete_mailbox(&self, tenant: TenantId, mailbox: MailboxId) -> Result<(), BrokenOff> {
        while self.directory.continue_mailbox_deletion(tenant, mailbox, STEP).await? {
            self.keep_task().await?;
        }
        debug!(%tenant, %mailbox, "rows of a deleted mailbox are gone");
        Ok(())
    }

    /// Rows first, so that nothing points at the objects; then the objects; the name last.
    async fn delete_tenant(&self, deletion: TenantDeletion) -> Result<(), BrokenOff> {
        let tenant = deletion.tenant;
        // Manifests are the first of its objects, and hold its data key, sealed: they go before anything else.
        let mut objects = self.blob.purge(tenant).await?;
        loop {
            let gone = std::mem::take(&mut objects);
            let done = self.directory.continue_tenant_deletion(tenant, STEP, gone).await?;
            if done.is_none_or(|done| !done.rows_left) {
                break;
            }
            self.keep_task().await?;
        }
        loop {
            let objects = self.blob.purge(tenant).await?;
            if objects == 0 {
                break;
            }
            debug!(%tenant, objects, "objects of a deleted tenant were deleted");
            self.directory.continue_tenant_deletion(tenant, STEP, objects).await?;
            self.keep_task().await?;
        }
        let now = OffsetDateTime::now_utc();
        if let Err(error) = self.purge_own(tenant).await {
            if matches!(error, BrokenOff::Lost) || now < deletion.begun_at + OWN_STORES_PATIENCE {
                return Err(error);
            }
            // It is the tenant's to clear, who may have taken the credentials back; the mail is noise without its key.
            error!(
                %tenant, name = %deletion.name, error = &error as &dyn std::error::Error,
                "objects of a deleted tenant are left in its own bucket"
            );
        }
        if deletion.begun_at + self.config.deletion_grace <= now {
            // What came while it was going on.
            let left = self.directory.continue_tenant_deletion(tenant, STEP, 0).await?;
            if left.is_some_and(|left| !left.rows_left) {
                self.directory.finish_tenant_deletion(tenant, now).await?;
                info!(%tenant, name = %deletion.name, "tenant was deleted");
            }
        }
        Ok(())
    }

    /// Objects in stores of the tenant's own.
    async fn purge_own(&self, tenant: TenantId) -> Result<(), BrokenOff> {
        loop {
            let objects = self.blob.purge_own(tenant).await?;
            if objects == 0 {
                return Ok(());
            }
            info!(%tenant, objects, "objects of a deleted tenant were deleted from its own bucket");
            self.directory.continue_tenant_deletion(tenant, STEP, objects).await?;
            self.keep_task().await?;
        }
    }

    async fn expire(&self) -> Result<(), BrokenOff> {
        let actor = self.actor("retention");
        let mut after: Option<(TenantId, MailboxId)> = None;
        loop {
            let page = self.index.all_tenants_expiring(after, PAGE).await?;
            for (tenant, mailbox) in &page {
                self.expire_mailbox(*tenant, *mailbox, &actor).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE as usize => after = Some(*last),
                _ => return Ok(()),
            }
            self.keep_task().await?;
        }
    }

    async fn expire_mailbox(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        actor: &Actor,
    ) -> Result<(), BrokenOff> {
        loop {
            let at = OffsetDateTime::now_utc();
            let gone = self.index.expire_messages(tenant, mailbox, STEP, actor, at).await?;
            if gone > 0 {
                info!(%tenant, %mailbox, messages = gone, "messages have expired");
            }
            if gone < u64::from(STEP) {
                return Ok(());
            }
            self.keep_task().await?;
        }
    }
}

/// Whether it was done. What one task meets must not keep the others from being done; only where another node has
/// taken over, the round ends.
fn done(what: &str, result: Result<(), BrokenOff>) -> Result<bool, BrokenOff> {
    match result {
        Ok(()) => Ok(true),
        Err(BrokenOff::Lost) => Err(BrokenOff::Lost),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "housekeeping: {what} was broken off");
            Ok(false)
        }
    }
}
