//! Group commit: messages of a tenant that come in while a pack of it is being stored gather for the next one.
//! A pack is one request to the blob store, and its rows are one statement of the index.
//!
//! ```text
//!   store ── nothing of the tenant is being stored ───────────────► pack ──► BlobStore ──► Index ──► answers
//!      └─ something is: gather, until it is stored, ────────────────► pack
//!         or enough for a pack has gathered, or `linger` is over,
//!         and a lane is free
//! ```

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use tracing::{Instrument as _, debug_span, error, warn};

use crate::{
    FairGate, FairPermit, Outcome, TenantId,
    deliver::blob_outcome,
    port::{BlobStore, Index, IndexError, NewMessage, PackedEntry, RowOutcome, SealedEntry},
};

/// How messages gather.
#[derive(Debug, Clone, Copy)]
pub struct GatherConfig {
    /// Longest time a message waits for the upload in front of it, while a lane is free. Default: 100 ms, which is
    /// what an object store takes for a request when it is slow.
    pub linger: Duration,
    /// Sealed octets of a pack, unless one message alone is longer. Default: 8 MiB.
    pub octets_max: u64,
    /// Messages of a pack, one for each recipient, unless one message alone has more. Default: 512, whose rows are still
    /// one short statement.
    pub messages_max: usize,
    /// Packs of one tenant being stored at once. Default: 4.
    pub lanes: usize,
}

impl Default for GatherConfig {
    fn default() -> Self {
        Self { linger: Duration::from_millis(100), octets_max: 8 * 1024 * 1024, messages_max: 512, lanes: 4 }
    }
}

/// How often, and after how long a pause, rows are tried again when the database went away in the middle:
/// long enough for a restart, short enough for the MTA's patience (RFC 5321 §4.5.3.2.6 gives 10 minutes).
const ROW_ATTEMPTS: u32 = 6;
const ROW_PAUSE: Duration = Duration::from_millis(250);

/// Stores messages together. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gatherer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    blob: Arc<dyn BlobStore>,
    index: Arc<dyn Index>,
    /// Turns for storing a pack.
    turns: FairGate,
    config: GatherConfig,
    /// Those that store something, or have something waiting.
    tenants: Mutex<HashMap<TenantId, Lanes>>,
}

/// One tenant's packs.
#[derive(Debug, Default)]
struct Lanes {
    storing: usize,
    waiting: VecDeque<Waiting>,
    octets: u64,
    messages: usize,
    /// When somebody will look whether the oldest has waited long enough.
    alarm: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    entry: SealedEntry,
    messages: Vec<NewMessage>,
    since: Instant,
    answer: oneshot::Sender<Result<Vec<RowOutcome>, Outcome>>,
}

/// What is to be done about what waits.
#[derive(Debug)]
enum Next {
    /// Nothing, until a lane is free or more comes in.
    Nothing,
    /// Look again then.
    At(Instant),
    /// Store these.
    Pack(Vec<Waiting>),
}

impl Lanes {
    fn next(&mut self, now: Instant, config: &GatherConfig) -> Next {
        // Nothing was promised to those who have gone.
        while self.waiting.front().is_some_and(|waiting| waiting.answer.is_closed()) {
            self.take_first();
        }
        let Some(first) = self.waiting.front() else { return Next::Nothing };
        if self.storing >= config.lanes.max(1) {
            return Next::Nothing;
        }
        let due = first.since + config.linger;
        let full = self.octets >= config.octets_max || self.messages >= config.messages_max;
        if self.storing > 0 && !full && due > now {
            return Next::At(due);
        }
        let (mut pack, mut octets, mut messages) = (Vec::new(), 0, 0);
        while let Some(next) = self.waiting.front() {
            octets += next.entry.octets.len();
            messages += next.messages.len();
            if (octets > config.octets_max || messages > config.messages_max) && !pack.is_empty() {
                break;
            }
            let Some(next) = self.take_first() else { break };
            if !next.answer.is_closed() {
                pack.push(next);
            }
        }
        if pack.is_empty() { Next::Nothing } else { Next::Pack(pack) }
    }

    fn take_first(&mut self) -> Option<Waiting> {
        let first = self.waiting.pop_front()?;
        self.octets -= first.entry.octets.len();
        self.messages -= first.messages.len();
        Some(first)
    }
}

impl Gatherer {
    pub(crate) fn new(
        blob: Arc<dyn BlobStore>,
        index: Arc<dyn Index>,
        turns: FairGate,
        config: GatherConfig,
    ) -> Self {
        Self { shared: Arc::new(Shared { blob, index, turns, config, tenants: Mutex::default() }) }
    }

    /// Stores a message, and makes its rows. What is given is as of the commit of its pack. A caller that goes away
    /// may or may not be waited for.
    pub(crate) async fn store(
        &self,
        tenant: TenantId,
        entry: SealedEntry,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<RowOutcome>, Outcome> {
        let (answer, answered) = oneshot::channel();
        {
            let mut tenants = self.shared.lock();
            let lanes = tenants.entry(tenant).or_default();
            lanes.octets += entry.octets.len();
            lanes.messages += messages.len();
            lanes.waiting.push_back(Waiting { entry, messages, since: Instant::now(), answer });
        }
        self.shared.begin_packs(tenant);
        answered.await.unwrap_or(Err(Outcome::Temporary))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Lanes>> {
        // Nothing panics while it is held.
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins as many packs of the tenant as may be begun now.
    fn begin_packs(self: &Arc<Self>, tenant: TenantId) {
        loop {
            let mut tenants = self.lock();
            let Some(lanes) = tenants.get_mut(&tenant) else { return };
            match lanes.next(Instant::now(), &self.config) {
                Next::Pack(pack) => {
                    lanes.storing += 1;
                    let lane = Lane { shared: Arc::clone(self), tenant };
                    drop(tenants);
                    // A task of its own: a pack is not given up because one of its senders went away.
                    let span = debug_span!("pack", tenant.id = %tenant, messages = pack.len());
                    tokio::spawn(lane.store(pack).instrument(span));
                }
                Next::At(due) => {
                    if lanes.alarm.is_some_and(|alarm| alarm <= due) {
                        return;
                    }
                    lanes.alarm = Some(due);
                    drop(tenants);
                    let shared = Arc::clone(self);
                    tokio::spawn(async move {
                        tokio::time::sleep_until(due).await;
                        if let Some(lanes) = shared.lock().get_mut(&tenant) {
                            lanes.alarm = lanes.alarm.filter(|alarm| *alarm > due);
                        }
                        shared.begin_packs(tenant);
                    });
                    return;
                }
                Next::Nothing => {
                    if lanes.storing == 0 && lanes.waiting.is_empty() {
                        tenants.remove(&tenant);
                    }
                    return;
                }
            }
        }
    }

    async fn store(
        &self,
        tenant: TenantId,
        lane: Lane,
        pack: Vec<Waiting>,
    ) -> Result<(Vec<RowOutcome>, Vec<Answer>), (Outcome, Vec<Answer>)> {
        let mut entries = Vec::with_capacity(pack.len());
        let mut waiting = Vec::with_capacity(pack.len());
        for Waiting { entry, messages, answer, .. } in pack {
            entries.push(entry);
            waiting.push((messages, answer));
        }
        let all = |waiting: Vec<(Vec<NewMessage>, _)>| {
            let answer = |(messages, to): (Vec<NewMessage>, _)| Answer { rows: messages.len(), to };
            waiting.into_iter().map(answer).collect::<Vec<_>>()
        };
        // Before the turn: who waits for memory must not keep those from storing who have it.
        let recalled = match self.blob.recall(entries).await {
            Ok(recalled) => recalled,
            Err(error) => return Err((blob_outcome(tenant, &error), all(waiting))),
        };
        let mut entries = Vec::with_capacity(waiting.len());
        let mut messages = Vec::with_capacity(waiting.len());
        let mut answers = Vec::with_capacity(waiting.len());
        for (entry, (of_entry, to)) in recalled.into_iter().zip(waiting) {
            match entry {
                Ok(entry) => {
                    entries.push(entry);
                    answers.push(Answer { rows: of_entry.len(), to });
                    messages.push(of_entry);
                }
                // One that is lost is its own sender's to send again, and nobody else's.
                Err(error) => drop(to.send(Err(blob_outcome(tenant, &error)))),
            }
        }
        if entries.is_empty() {
            return Ok((Vec::new(), answers));
        }
        let Some(turn) = self.turns.turn(tenant).await else {
            warn!(%tenant, "too many packs wait to be stored");
            return Err((Outcome::Temporary, answers));
        };
        // A store of the tenant's own may stand still: nobody else's turn waits for it. Its lanes bound what does.
        let turn = (!self.blob.is_elsewhere(tenant).await).then_some(turn);
        let stored = match self.blob.store_pack(tenant, entries).await {
            Ok(stored) => stored,
            Err(error) => return Err((blob_outcome(tenant, &error), answers)),
        };
        let packed: Vec<_> = stored
            .into_iter()
            .zip(messages)
            .map(|(stored, messages)| PackedEntry { stored, messages })
            .collect();
        let turn = match turn {
            Some(turn) => Some(turn),
            None => self.turns.turn(tenant).await,
        };
        let Some(turn) = turn else {
            warn!(%tenant, "too many packs wait for their rows");
            return Err((Outcome::Temporary, answers));
        };
        let made = make_rows(&*self.index, &self.turns, turn, tenant, &packed).await;
        // Not before: what gathers meanwhile shares a commit too, and commits of one tenant wait for each other's rows.
        drop(lane);
        match made {
            Ok(outcomes) => Ok((outcomes, answers)),
            Err(outcome) => Err((outcome, answers)),
        }
    }
}

/// Who waits for the outcomes of so many rows.
struct Answer {
    rows: usize,
    to: oneshot::Sender<Result<Vec<RowOutcome>, Outcome>>,
}

/// The place of a pack that is being stored, until dropped.
struct Lane {
    shared: Arc<Shared>,
    tenant: TenantId,
}

impl Lane {
    async fn store(self, pack: Vec<Waiting>) {
        let (shared, tenant) = (Arc::clone(&self.shared), self.tenant);
        // Those who wait may have gone meanwhile: then nobody is told.
        match shared.store(tenant, self, pack).await {
            Ok((outcomes, answers)) => {
                let mut outcomes = outcomes.into_iter();
                for Answer { rows, to } in answers {
                    let _gone = to.send(Ok(outcomes.by_ref().take(rows).collect()));
                }
            }
            Err((outcome, answers)) => {
                for Answer { to, .. } in answers {
                    let _gone = to.send(Err(outcome));
                }
            }
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(lanes) = self.shared.lock().get_mut(&self.tenant) {
            lanes.storing -= 1;
        }
        self.shared.begin_packs(self.tenant);
    }
}

/// Makes the rows of a pack, trying again when the database went away: [`Index::deliver_pack`] may be repeated, so
/// a commit whose answer was lost is found out about instead of being delivered twice. The turn is given back for the
/// pauses: one tenant's trouble is not the others'.
pub(crate) async fn make_rows(
    index: &dyn Index,
    turns: &FairGate,
    turn: FairPermit,
    tenant: TenantId,
    packed: &[PackedEntry],
) -> Result<Vec<RowOutcome>, Outcome> {
    let mut turn = Some(turn);
    let mut attempt = 1;
    loop {
        match index.deliver_pack(tenant, packed).await {
            Err(error) if error.is_retryable() && attempt < ROW_ATTEMPTS => {
                warn!(%tenant, attempt, %error, "rows of a stored pack will be tried again");
                drop(turn.take());
                tokio::time::sleep(ROW_PAUSE * attempt).await;
                // Where none is to be had, it is gone on without: the index bounds what it does at once by itself.
                turn = turns.turn(tenant).await;
                attempt += 1;
            }
            result => return result.map_err(|error| rows_failed(tenant, &error)),
        }
    }
}

fn rows_failed(tenant: TenantId, error: &IndexError) -> Outcome {
    error!(%tenant, error = error as &dyn std::error::Error, "rows of a stored pack could not be made");
    Outcome::Temporary
}
