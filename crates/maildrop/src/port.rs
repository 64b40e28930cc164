//! The ports: what the domain needs from the world. Each has one contract suite that every adapter passes.

mod blob;
mod clock;
mod directory;
mod index;

pub use blob::{BlobError, BlobStore, BodyStream, EntryWriter, Read};
pub use clock::{Clock, SystemClock};
pub use directory::{Account, Directory, ResolvedRecipient};
pub use index::{
    CommitOutcome, Conflict, Index, IndexError, NewMessage, OpenOutcome, OpenRequest, Opened, RowOutcome,
};
