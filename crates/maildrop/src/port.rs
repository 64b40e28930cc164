//! The ports: what the domain needs from the world. Each has one contract suite that every adapter passes.

mod blob;
mod buckets;
mod bulletins;
mod checks;
mod clock;
mod directory;
mod failures;
mod garbage;
mod index;
mod manifests;
mod records;

pub use blob::{
    BlobError, BlobStore, BodyStream, EntryWriter, MessageReader, Read, Sealed, SealedEntry, SealedOctets,
};
pub use buckets::{OwnBuckets, ProbeError};
pub use bulletins::{BULLETINS_MAX, BulletinStep, Bulletins};
pub use checks::{Checks, PackFacts, Pointers, WrongCounters};
pub use clock::{Clock, SystemClock};
pub use directory::{
    APP_PASSWORDS_MAX, Account, AppPasswordHash, Directory, HostCertificate, LoginDomain, LoginLookup,
    MailboxQuery, MailboxUpdate, ResolvedRecipient, StorePacks, TenantDeletion, TenantUpdate,
};
pub use failures::{FailureChange, FailureKey, FailureScore, Failures, SharedFailures};
pub use garbage::{
    GARBAGE_SHARDS, Garbage, HELD_MARGIN, Held, Inspected, LiveEntry, MOVED_ROWS_MAX, MovedEntry,
    PACK_AGE_MAX, PackPage, PackStore, Rewritten, RewrittenPack, Sweep,
};
pub use index::{
    CommitOutcome, Conflict, Index, IndexError, KeptMore, NewMessage, OpenOutcome, OpenRequest, Opened,
    PackedEntry, Pulse, REBUILD_TASK, RowOutcome, SessionInfo, Usage,
};
pub use manifests::{
    FoundEntry, FoundMessage, MailboxRecord, ManifestPart, ManifestRound, ManifestStore, Manifests,
    MessageRecord, PackContents, Record, Restored, RestoredPack, RestoredRows,
};
pub use records::{
    AUDIT_KEPT_DAYS_MIN, AuditEntry, AuditQuery, Claim, IdempotencyKey, Note, Records, StoredAnswer, Traffic,
    TrafficDay, TrafficDelta,
};
