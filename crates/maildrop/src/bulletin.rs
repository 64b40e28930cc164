//! Bulletins: an operator's message, stored once, shown once to every mailbox of a tenant.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use time::OffsetDateTime;
use tracing::{error, warn};

use crate::{
    Actor, Address, BulletinEnvelope, BulletinId, Digest, EntryEnvelope, Extent, FairGate, Measure,
    MessageOctets, Outcome, TenantCache, TenantId,
    deliver::{DELIVERED_TO_MAX, blob_outcome},
    downgrade::AsciiExtra,
    port::{self, BlobStore, EntryWriter, IndexError},
};

/// How often, and after how long a pause, the row is tried again when the database went away in the middle.
const ROW_ATTEMPTS: u32 = 6;
const ROW_PAUSE: Duration = Duration::from_millis(250);

/// A bulletin, as the index has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bulletin {
    /// What it is called by.
    pub id: BulletinId,
    /// The how manieth of its tenant it is, from 1; 0 until the index counted it.
    pub number: u64,
    /// What its author calls it.
    pub note: String,
    /// How far it has come.
    pub state: BulletinState,
    /// Whether mailboxes that are created after it get it, too, until it is over.
    pub new_mailboxes: bool,
    /// From when on no mailbox gets it any more that does not have it.
    pub expires_at: Option<OffsetDateTime>,
    /// Where it lies.
    pub extent: Extent,
    /// Its octets, without `Delivered-To`.
    pub octets: MessageOctets,
    /// Octets of its stored header.
    pub header_octets: u64,
    /// Hash of its stored octets.
    pub digest: Digest,
    /// Mailboxes that got it.
    pub delivered: u64,
    /// Mailboxes it was taken from when it was withdrawn.
    pub removed: u64,
    /// Who posted it.
    pub created_by: String,
    /// When.
    pub created_at: OffsetDateTime,
    /// When it was over, or the withdrawal was.
    pub ended_at: Option<OffsetDateTime>,
}

/// How far a bulletin has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BulletinState {
    /// The mailboxes that were there when it was posted get it.
    RollingOut,
    /// They have it; mailboxes that are created get it.
    Active,
    /// No further mailbox gets it.
    Ended,
    /// It is taken from the mailboxes that hold it.
    Withdrawing,
    /// None holds it any more.
    Withdrawn,
}

impl BulletinState {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::RollingOut, Self::Active, Self::Ended, Self::Withdrawing, Self::Withdrawn];

    /// Its name, as in the index and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RollingOut => "rolling_out",
            Self::Active => "active",
            Self::Ended => "ended",
            Self::Withdrawing => "withdrawing",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl Bulletin {
    /// Whether no mailbox gets it any more, at this time.
    pub fn has_expired(&self, at: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|end| end <= at)
    }

    /// What it is for a mailbox: with `Delivered-To` of the mailbox's own address.
    pub fn octets_for(&self, address: &Address) -> MessageOctets {
        self.octets.delivered_to(address)
    }
}

/// A bulletin about to come in.
#[derive(Clone, Debug)]
pub struct NewBulletin {
    /// Whose mailboxes get it.
    pub tenant: TenantId,
    /// What its author calls it.
    pub note: String,
    /// Whether mailboxes that are created after it get it, too.
    pub new_mailboxes: bool,
    /// From when on no mailbox gets it any more that does not have it.
    pub expires_at: Option<OffsetDateTime>,
    /// When it came in.
    pub created_at: OffsetDateTime,
}

/// Why a bulletin was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BulletinError {
    /// The tenant is gone.
    #[error("there is no such tenant")]
    NoTenant,
    /// It is longer than a listing can say.
    #[error("the message is too large")]
    TooLarge,
    /// The blob store has no room.
    #[error("the blob store is full")]
    StorageFull,
    /// Not now.
    #[error("a part of the system does not answer")]
    Unavailable,
    /// The index did not take it.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl BulletinError {
    fn of_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::StorageFull => Self::StorageFull,
            Outcome::TooLarge => Self::TooLarge,
            Outcome::Unknown => Self::NoTenant,
            Outcome::Delivered(_) | Outcome::OverQuota | Outcome::Temporary => Self::Unavailable,
        }
    }
}

/// Takes bulletins in.
#[derive(Clone, Debug)]
pub struct Bulletins {
    index: Arc<dyn port::Bulletins>,
    blob: Arc<dyn BlobStore>,
    tenants: TenantCache,
    /// Turns for storing what came in.
    storing: FairGate,
}

impl Bulletins {
    /// The service over these ports; `storing` as for [`Deliveries`](crate::Deliveries).
    pub fn new(
        index: Arc<dyn port::Bulletins>,
        blob: Arc<dyn BlobStore>,
        tenants: TenantCache,
        storing: FairGate,
    ) -> Self {
        Self { index, blob, tenants, storing }
    }

    /// Begins to take a bulletin in. Nothing is promised until [`BulletinWriter::finish`].
    pub async fn begin(&self, new: NewBulletin) -> Result<BulletinWriter, BulletinError> {
        let tenant = match self.tenants.get(new.tenant).await {
            Ok(Some(tenant)) => tenant,
            Ok(None) => return Err(BulletinError::NoTenant),
            Err(error) => {
                warn!(tenant = %new.tenant, %error, "tenant could not be read for a bulletin");
                return Err(BulletinError::Unavailable);
            }
        };
        let id = BulletinId::generate();
        let envelope = EntryEnvelope {
            received_at: new.created_at,
            sender: String::new(),
            recipients: Vec::new(),
            bulletin: Some(BulletinEnvelope {
                id,
                new_mailboxes: new.new_mailboxes,
                expires_at: new.expires_at,
                note: new.note.clone(),
            }),
        };
        let writer = self.blob.writer(tenant.id, &tenant.key, envelope).await;
        let writer = writer.map_err(|error| BulletinError::of_outcome(blob_outcome(tenant.id, &error)))?;
        Ok(BulletinWriter {
            index: Arc::clone(&self.index),
            turns: self.storing.clone(),
            id,
            new,
            writer: Ok(writer),
            measure: Measure::default(),
            ascii: AsciiExtra::default(),
        })
    }
}

/// A bulletin coming in. Dropping it forgets it: nothing was promised yet.
pub struct BulletinWriter {
    index: Arc<dyn port::Bulletins>,
    turns: FairGate,
    id: BulletinId,
    new: NewBulletin,
    /// The writer, or why there is none any more.
    writer: Result<Box<dyn EntryWriter>, BulletinError>,
    measure: Measure,
    ascii: AsciiExtra,
}

impl BulletinWriter {
    /// Takes the next octets (canonical: CRLF line ends). What goes wrong shows at the end.
    pub async fn write(&mut self, chunk: &[u8]) {
        self.measure.update(chunk);
        self.ascii.push(chunk);
        let Ok(writer) = &mut self.writer else { return };
        // A store of the tenant's own is waited for without one.
        let turn = if writer.is_elsewhere() {
            Ok(None)
        } else {
            self.turns.turn(self.new.tenant).await.map(Some).ok_or(())
        };
        let Ok(_turn) = turn else {
            warn!(tenant = %self.new.tenant, "too many messages wait to be stored");
            self.writer = Err(BulletinError::Unavailable);
            return;
        };
        if let Err(error) = writer.write(chunk).await {
            self.writer = Err(BulletinError::of_outcome(blob_outcome(self.new.tenant, &error)));
        }
    }

    /// Ends the message: stores it, then notes it in the index. What this gives is durable, and on its way to the
    /// mailboxes (P1).
    pub async fn finish(self, actor: Actor) -> Result<Bulletin, BulletinError> {
        let Self { index, turns, id, new, writer, measure, ascii } = self;
        let (measured, ascii_extra) = (measure.finish(), ascii.finish());
        let octets = MessageOctets::stored(measured.octets, ascii_extra);
        // Listings hold sizes of 32 bits.
        if octets.ascii >= u64::from(u32::MAX) - DELIVERED_TO_MAX {
            return Err(BulletinError::TooLarge);
        }
        let busy = || {
            warn!(tenant = %new.tenant, "too many messages wait to be stored");
            BulletinError::Unavailable
        };
        let writer = writer?;
        let elsewhere = writer.is_elsewhere();
        let turn = if elsewhere { None } else { Some(turns.turn(new.tenant).await.ok_or_else(busy)?) };
        let entry = writer.finish(measured).await;
        let _turn = match turn {
            Some(turn) => turn,
            None => turns.turn(new.tenant).await.ok_or_else(busy)?,
        };
        let entry = entry.map_err(|error| BulletinError::of_outcome(blob_outcome(new.tenant, &error)))?;
        let bulletin = Bulletin {
            id,
            number: 0,
            note: new.note,
            state: BulletinState::RollingOut,
            new_mailboxes: new.new_mailboxes,
            expires_at: new.expires_at,
            extent: entry.extent,
            octets,
            header_octets: measured.header_octets,
            digest: measured.digest,
            delivered: 0,
            removed: 0,
            created_by: actor.name.clone(),
            created_at: new.created_at,
            ended_at: None,
        };
        let mut attempt = 1;
        loop {
            match index.create_bulletin(new.tenant, &bulletin, &entry, &actor).await {
                Ok(true) => return Ok(bulletin),
                Ok(false) => return Err(BulletinError::NoTenant),
                Err(error) if error.is_retryable() && attempt < ROW_ATTEMPTS => {
                    warn!(tenant = %new.tenant, attempt, %error, "the row of a bulletin will be tried again");
                    tokio::time::sleep(ROW_PAUSE * attempt).await;
                    attempt += 1;
                }
                Err(error) => {
                    if error.is_retryable() {
                        error!(tenant = %new.tenant, %error, "the row of a stored bulletin could not be made");
                    }
                    return Err(error.into());
                }
            }
        }
    }
}

impl std::fmt::Debug for BulletinWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BulletinWriter").field("id", &self.id).finish_non_exhaustive()
    }
}
