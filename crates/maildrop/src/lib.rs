//! The mail domain: what a tenant, a mailbox and a maildrop are, the services that deliver, open, list,
//! retrieve and commit, and the ports they need.
//!
//! Nothing here names a database, a cloud, a socket or a protocol. Adapters (`index`, `blob`) implement the
//! traits in [`port`]; the frontends and the admin API call the services.
//!
//! ```text
//!   frontend ──► Deliveries ──► BlobStore (bytes first) ──► Index (row second)  = acknowledged (P1)
//!   frontend ──► Maildrops ──► OpenMaildrop (lock token) ──► commit by token    = deleted     (P2, P3)
//! ```

mod address;
mod bucket;
mod bulletin;
mod deliver;
mod downgrade;
mod fair;
mod fsck;
#[doc(hidden)]
pub mod fuzzing;
mod garbage;
mod gather;
mod housekeeping;
mod id;
mod listing;
mod login;
mod manifest;
mod measure;
mod message;
mod open;
mod policy;
pub mod port;
mod rebuild;
mod scrub;
mod tenant;
mod throttle;
mod trace;
mod traffic;
mod unique_id;

pub use address::{Address, AddressError, DomainName};
pub use bucket::{BucketPlace, BucketSettings, Buckets, KnownBucket, TenantBuckets};
pub use bulletin::{Bulletin, BulletinError, BulletinState, BulletinWriter, Bulletins, NewBulletin};
pub use deliver::{Deliveries, Delivery, NewDelivery, Outcome, Recipient, RecipientCheck};
pub use fair::{FairGate, FairPermit, FairStats, Overloaded, Pace, Pacer, party_of};
pub use fsck::{Finding, FindingKind, Fsck, FsckError, FsckOptions, FsckReport, FsckState};
pub use garbage::{GarbageCollector, GarbageConfig, GarbageStats};
pub use gather::GatherConfig;
pub use housekeeping::{Housekeeping, HousekeepingConfig};
pub use id::{
    ApiKeyId, BulletinId, Credential, CredentialId, LockToken, MailboxId, NodeId, PackId, SessionId,
    StoreNumber, TenantId, Uid,
};
pub use listing::{Listing, ListingEntry, ReceivedMessage};
pub use login::{
    HttpBackend, Introspection, LdapBackend, LdapSearch, LoginSettings, OauthIssuer, PasswordBackend,
    SecretSource, SecretText, TenantLogin,
};
pub use manifest::{ManifestConfig, ManifestStats, ManifestWriter};
pub use measure::{Measure, Measured};
pub use message::{
    BulletinEnvelope, Digest, EntryEnvelope, Extent, Form, MessageInfo, MessageOctets, MessageRow, SealedKey,
    StoredEntry, View,
};
pub use open::{
    Access, CommitError, Maildrops, OpenError, OpenMaildrop, Releaser, RetrieveError, Retrieved, Silence,
};
pub use policy::{
    ClientWorkaround, DeleMeaning, LoginMechanism, MessageOrder, Policy, Rules, SuspendedReply, TenantLimits,
};
pub use rebuild::{
    Progress, ProgressSink, Rebuild, RebuildError, RebuildOptions, RebuildReport, TenantRebuild,
};
pub use scrub::{ScrubConfig, ScrubStats, Scrubber};
pub use tenant::{
    Actor, Alias, AliasAddress, ApiKey, AppPassword, Certificate, Domain, LoginScope, Mailbox,
    MailboxSettings, NewCredential, NewMailbox, Role, State, Tenant, TenantCache, TenantName, TenantSettings,
};
pub use throttle::Throttle;
pub use trace::{Trace, delivered_to};
pub use traffic::TrafficLog;
pub use unique_id::{UniqueId, UniqueIdError, UniqueIdPrefix};
