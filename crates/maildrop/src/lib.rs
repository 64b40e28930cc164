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
mod deliver;
mod fair;
mod id;
mod listing;
mod measure;
mod message;
mod open;
pub mod port;
mod tenant;
mod trace;
mod unique_id;

pub use address::{Address, AddressError, DomainName};
pub use deliver::{Deliveries, Delivery, NewDelivery, Outcome, Recipient, RecipientCheck};
pub use fair::{FairGate, FairPermit, FairStats, Overloaded};
pub use id::{LockToken, MailboxId, NodeId, PackId, SessionId, TenantId, Uid};
pub use listing::{Listing, ListingEntry};
pub use measure::{Measure, Measured};
pub use message::{Digest, EntryEnvelope, Extent, MessageRow, SealedKey, StoredEntry};
pub use open::{CommitError, Maildrops, OpenError, OpenMaildrop, Releaser, RetrieveError, Retrieved};
pub use tenant::{Actor, Domain, Mailbox, NewMailbox, Tenant, TenantCache, TenantName};
pub use trace::{Trace, delivered_to};
pub use unique_id::{UniqueId, UniqueIdError, UniqueIdPrefix};
