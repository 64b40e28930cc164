//! Where a password's new hash goes.

use async_trait::async_trait;
use maildrop::{MailboxId, TenantId};

/// Takes the new hash of a password that was stored under an outdated one: by another scheme, or with other
/// parameters than are configured.
///
/// The password is the same, so this is no change of the credential: its version stays, and what was
/// verified under it still counts. Whether it could be stored is the implementation's to log; if not, the
/// next good login hashes again.
#[async_trait]
pub trait Rehash: Send + Sync + std::fmt::Debug {
    /// Puts `new_hash` in the place of `old_hash`, if that is still what is stored (compare and swap): a
    /// password that was changed meanwhile must not come back.
    async fn rehash(&self, tenant: TenantId, mailbox: MailboxId, old_hash: &str, new_hash: &str);
}
