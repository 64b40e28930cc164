//! Delivery: a message comes in, its octets go to the blob store, then its rows to the index, then it is
//! acknowledged (P1).

use std::sync::Arc;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tracing::{error, warn};

use crate::{
    Address, EntryEnvelope, FairGate, FairPermit, GatherConfig, MailboxId, Measure, Measured, MessageOctets,
    State, SuspendedReply, TenantCache, TenantId, Throttle, Uid,
    downgrade::AsciiExtra,
    gather::{Gatherer, make_rows},
    party_of,
    port::{
        BlobError, BlobStore, Directory, EntryWriter, Index, IndexError, NewMessage, PackedEntry, RowOutcome,
        Sealed,
    },
};

/// Octets sealed in one turn.
const PIECE_OCTETS: usize = 64 * 1024;
/// More than `Delivered-To` ever has.
pub(crate) const DELIVERED_TO_MAX: u64 = 4096;

/// The delivery service.
#[derive(Clone, Debug)]
pub struct Deliveries {
    directory: Arc<dyn Directory>,
    index: Arc<dyn Index>,
    blob: Arc<dyn BlobStore>,
    tenants: TenantCache,
    throttle: Throttle,
    /// Turns for looking recipients up, by domain.
    asking: FairGate,
    /// Turns for storing what came in.
    storing: FairGate,
    gatherer: Gatherer,
}

/// A mailbox a message goes to, and the address that led there.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// The mailbox's tenant.
    pub tenant: TenantId,
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The address, served as `Delivered-To`.
    pub address: Address,
    /// The largest message it takes, or no limit.
    pub message_octets_max: Option<u64>,
}

/// What RCPT learns of an address.
#[derive(Clone, Debug)]
pub enum RecipientCheck {
    /// Mail for it is taken.
    Accepted(Recipient),
    /// Nobody has this address.
    Unknown,
    /// The mailbox is full, or the message's announced size does not fit in.
    OverQuota {
        /// The mailbox's tenant.
        tenant: TenantId,
    },
    /// The message's announced size is more than the mailbox takes.
    TooLarge,
    /// The mailbox or its tenant is suspended, and this is what senders are to be told.
    Suspended(SuspendedReply),
    /// The mailbox or its tenant takes no more mail for now: its rate is used up.
    Throttled {
        /// The mailbox's tenant.
        tenant: TenantId,
    },
}

/// A message about to come in.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    /// The reverse-path, empty for a bounce.
    pub sender: String,
    /// Where it goes, of any tenant, in the order of the outcomes.
    pub recipients: Vec<Recipient>,
    /// Trace fields to be stored in front of it ([`crate::Trace`]).
    pub trace: Vec<u8>,
    /// When it came in.
    pub received_at: OffsetDateTime,
}

/// What became of the message for one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is durable and in the maildrop; under which uid, unless it was deleted there again already.
    Delivered(Option<Uid>),
    /// The mailbox's quota does not hold it.
    OverQuota,
    /// It is larger than the mailbox takes.
    TooLarge,
    /// The mailbox went away meanwhile.
    Unknown,
    /// The blob store has no room.
    StorageFull,
    /// Not now: the sender shall try again.
    Temporary,
}

impl Deliveries {
    /// The service over these ports. `asking` bounds how many recipients are looked up at once, `storing` what is
    /// stored; both are fair, the one between domains, the other between tenants.
    pub fn new(
        directory: Arc<dyn Directory>,
        index: Arc<dyn Index>,
        blob: Arc<dyn BlobStore>,
        tenants: TenantCache,
        throttle: Throttle,
        asking: FairGate,
        storing: FairGate,
    ) -> Self {
        let (to, rows) = (Arc::clone(&blob), Arc::clone(&index));
        let gatherer = Gatherer::new(to, rows, storing.clone(), GatherConfig::default());
        Self { directory, index, blob, tenants, throttle, asking, storing, gatherer }
    }

    /// The same, with messages that come in at the same time gathered by `config`.
    #[must_use]
    pub fn gathering(self, config: GatherConfig) -> Self {
        let (to, rows) = (Arc::clone(&self.blob), Arc::clone(&self.index));
        Self { gatherer: Gatherer::new(to, rows, self.storing.clone(), config), ..self }
    }

    /// Checks the address of one RCPT. `announced` is the size the sender gave (RFC 1870), if any.
    pub async fn recipient(
        &self,
        address: Address,
        announced: Option<u64>,
    ) -> Result<RecipientCheck, IndexError> {
        let turn = self.asking.turn(party_of(address.domain())).await;
        let turn = turn.ok_or_else(|| IndexError::Unreached("too many recipients wait".into()))?;
        let found = self.directory.all_tenants_recipients(std::slice::from_ref(&address)).await?;
        drop(turn);
        let Some(Some(found)) = found.into_iter().next() else { return Ok(RecipientCheck::Unknown) };
        let policy = &found.rules.mailbox;
        if found.state != State::Active {
            return Ok(RecipientCheck::Suspended(policy.suspended_reply.unwrap_or_default()));
        }
        if policy.message_octets_max.is_some_and(|max| announced.unwrap_or(0) > max) {
            return Ok(RecipientCheck::TooLarge);
        }
        let full = found.free_octets.is_some_and(|free| free == 0 || announced.unwrap_or(0) > free);
        if full || found.free_messages == Some(0) {
            return Ok(RecipientCheck::OverQuota { tenant: found.tenant });
        }
        if !self.throttle.delivery(found.tenant, found.mailbox, &found.rules) {
            return Ok(RecipientCheck::Throttled { tenant: found.tenant });
        }
        Ok(RecipientCheck::Accepted(Recipient {
            tenant: found.tenant,
            mailbox: found.mailbox,
            address,
            message_octets_max: policy.message_octets_max,
        }))
    }

    /// Begins to take a message in. What goes wrong for one tenant does not touch another's recipients; it
    /// shows in the outcomes.
    pub async fn begin(&self, new: NewDelivery) -> Delivery {
        let mut shares: Vec<Share> = Vec::new();
        let mut places = Vec::with_capacity(new.recipients.len());
        for recipient in new.recipients {
            let share = match shares.iter().position(|s| s.tenant == recipient.tenant) {
                Some(i) => i,
                None => {
                    shares.push(Share { tenant: recipient.tenant, recipients: vec![], writer: Err(None) });
                    shares.len() - 1
                }
            };
            let in_share = &mut shares[share].recipients;
            // Two addresses of one mailbox in one transaction make one message, not two.
            let row = match in_share.iter().position(|known| known.mailbox == recipient.mailbox) {
                Some(i) => i,
                None => {
                    in_share.push(recipient);
                    in_share.len() - 1
                }
            };
            places.push((share, row));
        }
        for share in &mut shares {
            let envelope = EntryEnvelope {
                received_at: new.received_at,
                sender: new.sender.clone(),
                recipients: share
                    .recipients
                    .iter()
                    .map(|recipient| (recipient.mailbox, recipient.address.as_str().to_owned()))
                    .collect(),
                bulletin: None,
            };
            share.writer = self.open_writer(share.tenant, envelope).await;
        }
        let mut delivery = Delivery {
            index: Arc::clone(&self.index),
            turns: self.storing.clone(),
            gatherer: self.gatherer.clone(),
            shares,
            places,
            measure: Measure::default(),
            ascii: AsciiExtra::default(),
            received_at: new.received_at,
        };
        delivery.write(&new.trace).await;
        delivery
    }

    async fn open_writer(
        &self,
        tenant: TenantId,
        envelope: EntryEnvelope,
    ) -> Result<Box<dyn EntryWriter>, Option<Outcome>> {
        let tenant = match self.tenants.get(tenant).await {
            Ok(Some(tenant)) => tenant,
            Ok(None) => return Err(Some(Outcome::Unknown)),
            Err(error) => {
                warn!(%tenant, %error, "tenant could not be read for a delivery");
                return Err(Some(Outcome::Temporary));
            }
        };
        self.blob
            .writer(tenant.id, &tenant.key, envelope)
            .await
            .map_err(|error| Some(blob_outcome(tenant.id, &error)))
    }
}

/// A message coming in. Dropping it forgets the message: nothing was promised yet.
pub struct Delivery {
    index: Arc<dyn Index>,
    turns: FairGate,
    gatherer: Gatherer,
    shares: Vec<Share>,
    /// Per recipient: its tenant's share and its row there.
    places: Vec<(usize, usize)>,
    measure: Measure,
    ascii: AsciiExtra,
    received_at: OffsetDateTime,
}

/// One tenant's part of a delivery: the message is stored once per tenant, under that tenant's key.
struct Share {
    tenant: TenantId,
    recipients: Vec<Recipient>,
    /// The writer, or why there is none any more.
    writer: Result<Box<dyn EntryWriter>, Option<Outcome>>,
}

impl Delivery {
    /// Takes the next octets (canonical: CRLF line ends).
    pub async fn write(&mut self, chunk: &[u8]) {
        self.measure.update(chunk);
        self.ascii.push(chunk);
        for share in &mut self.shares {
            if let Err(outcome) = share.write(&self.turns, chunk).await {
                share.writer = Err(Some(outcome));
            }
        }
    }

    /// Whether no recipient can get the message any more, so that its rest need not be read with care.
    pub fn is_lost(&self) -> bool {
        self.shares.iter().all(|s| s.writer.is_err())
    }

    /// How long the message is so far, without `Delivered-To`.
    pub fn octets(&self) -> MessageOctets {
        MessageOctets::stored(self.measure.octets(), self.ascii.clone().finish())
    }

    /// Ends the message: stores it, then makes its rows. One outcome per recipient, in their order.
    /// `Delivered` is said only of what is durable and in the maildrop (P1).
    pub async fn finish(self) -> Vec<Outcome> {
        let (measured, ascii_extra) = (self.measure.finish(), self.ascii.finish());
        let taken = Taken { measured, ascii_extra, received_at: self.received_at };
        // All at once: one tenant's trouble must not use up the patience of the sender for the others.
        let shares = self.shares.into_iter();
        let outcomes: Vec<Vec<Outcome>> =
            join_all(shares.map(|share| share.finish(&*self.index, &self.turns, &self.gatherer, taken)))
                .await;
        self.places
            .iter()
            .map(|(share, row)| outcomes[*share].get(*row).copied().unwrap_or(Outcome::Temporary))
            .collect()
    }
}

impl Share {
    /// Takes the next octets, piece by piece, each in the tenant's turn. Whoever waits for room holds no turn: others
    /// give room back only when they get theirs.
    async fn write(&mut self, turns: &FairGate, chunk: &[u8]) -> Result<(), Outcome> {
        let Ok(writer) = &mut self.writer else { return Ok(()) };
        let failed = |error| blob_outcome(self.tenant, &error);
        for piece in chunk.chunks(PIECE_OCTETS) {
            writer.room(piece.len()).await.map_err(failed)?;
            let _turn = turn(turns, self.tenant).await?;
            writer.write(piece).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn finish(
        self,
        index: &dyn Index,
        turns: &FairGate,
        gatherer: &Gatherer,
        taken: Taken,
    ) -> Vec<Outcome> {
        let Taken { measured, ascii_extra, .. } = taken;
        let rows = self.recipients.len();
        let writer = match self.writer {
            Ok(writer) => writer,
            Err(outcome) => return vec![outcome.unwrap_or(Outcome::Temporary); rows],
        };
        let octets = MessageOctets::stored(measured.octets, ascii_extra);
        // Listings hold sizes of 32 bits. What is longer in ASCII is no mail.
        let listable = octets.ascii < u64::from(u32::MAX) - DELIVERED_TO_MAX;
        let fits = |recipient: &Recipient| {
            listable && recipient.message_octets_max.is_none_or(|max| measured.octets <= max)
        };
        let messages: Vec<_> = self
            .recipients
            .iter()
            .filter(|recipient| fits(recipient))
            .map(|recipient| taken.message(recipient))
            .collect();
        if messages.is_empty() {
            // Nobody takes it: what was written is forgotten with the writer.
            return vec![Outcome::TooLarge; rows];
        }
        match store(self.tenant, writer, messages, index, turns, gatherer, measured).await {
            Ok(outcomes) => {
                let mut outcomes = outcomes.into_iter().map(row_outcome);
                let of = |recipient| {
                    if fits(recipient) {
                        outcomes.next().unwrap_or(Outcome::Temporary)
                    } else {
                        Outcome::TooLarge
                    }
                };
                self.recipients.iter().map(of).collect()
            }
            Err(outcome) => vec![outcome; rows],
        }
    }
}

/// Makes a message durable, then its rows.
async fn store(
    tenant: TenantId,
    mut writer: Box<dyn EntryWriter>,
    messages: Vec<NewMessage>,
    index: &dyn Index,
    turns: &FairGate,
    gatherer: &Gatherer,
    measured: Measured,
) -> Result<Vec<RowOutcome>, Outcome> {
    // The end of the message needs room, too, and nobody waits for room in a turn.
    writer.room(0).await.map_err(|error| blob_outcome(tenant, &error))?;
    // A store of the tenant's own is waited for without one.
    let elsewhere = writer.is_elsewhere();
    let mut held = if elsewhere { None } else { Some(turn(turns, tenant).await?) };
    match writer.seal(measured).await.map_err(|error| blob_outcome(tenant, &error))? {
        Sealed::Stored(stored) => {
            let turn = match held.take() {
                Some(turn) => turn,
                None => turn(turns, tenant).await?,
            };
            make_rows(index, turns, turn, tenant, &[PackedEntry { stored, messages }]).await
        }
        Sealed::Entry(entry) => {
            // A pack has a turn of its own.
            drop(held);
            gatherer.store(tenant, entry, messages).await
        }
    }
}

async fn turn(turns: &FairGate, tenant: TenantId) -> Result<FairPermit, Outcome> {
    turns.turn(tenant).await.ok_or_else(|| {
        warn!(%tenant, "too many messages wait to be stored");
        Outcome::Temporary
    })
}

/// What came in, once it is complete.
#[derive(Clone, Copy)]
struct Taken {
    measured: Measured,
    ascii_extra: Option<i64>,
    received_at: OffsetDateTime,
}

impl Taken {
    /// As it goes into a recipient's maildrop.
    fn message(&self, recipient: &Recipient) -> NewMessage {
        let Self { measured, ascii_extra, received_at } = *self;
        let octets = MessageOctets::stored(measured.octets, ascii_extra).delivered_to(&recipient.address);
        NewMessage {
            mailbox: recipient.mailbox,
            octets: octets.ascii,
            ascii_extra: octets.ascii_extra,
            header_octets: measured.header_octets,
            digest: measured.digest,
            delivered_to: recipient.address.as_str().to_owned(),
            unique_id: None,
            received_at,
        }
    }
}

fn row_outcome(outcome: RowOutcome) -> Outcome {
    match outcome {
        RowOutcome::Delivered(uid) => Outcome::Delivered(Some(uid)),
        RowOutcome::DeliveredBefore => Outcome::Delivered(None),
        RowOutcome::OverQuota => Outcome::OverQuota,
        RowOutcome::Unknown => Outcome::Unknown,
    }
}

pub(crate) fn blob_outcome(tenant: TenantId, error: &BlobError) -> Outcome {
    match error {
        BlobError::Unavailable(_) => {
            warn!(%tenant, %error, "message could not be stored");
            Outcome::Temporary
        }
        BlobError::Full(_) => {
            error!(%tenant, %error, "message could not be stored");
            Outcome::StorageFull
        }
        BlobError::NotFound(_)
        | BlobError::Corrupt(_)
        | BlobError::Misconfigured(_)
        | BlobError::WrongKey => {
            error!(%tenant, %error, "message could not be stored");
            Outcome::Temporary
        }
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("recipients", &self.places.len()).finish_non_exhaustive()
    }
}
