//! What the driver answers, and the reply each answer becomes (RFC 5321 §4.2, RFC 3463).

use crate::reply::Reply;

/// The answer to RCPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientAnswer {
    /// There is such a mailbox and it takes mail: one outcome will be reported for it.
    Accepted,
    /// There is no such mailbox.
    Unknown,
    /// The mailbox has no room now.
    OverQuota,
    /// The size MAIL announced is more than this mailbox takes.
    TooLarge,
    /// The mailbox takes no mail.
    Disabled,
    /// The mailbox takes no mail for now.
    Suspended,
    /// The mailbox, or all of its kind, gets more mail than it may (RFC 3463 §3.8, X.7.1).
    Throttled,
    /// Something of ours failed and may work later.
    Temporary,
    /// Send the rest in another transaction, because this one is for as many mailboxes as it can be or
    /// because the mailbox is of another tenant.
    TooMany,
}

/// What became of a message for one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable.
    Delivered,
    /// There is no such mailbox any more.
    Unknown,
    /// The mailbox has no room now.
    OverQuota,
    /// The mailbox never has room for a message of this size.
    TooLarge,
    /// The mailbox takes no mail.
    Disabled,
    /// The message is not taken, by policy.
    Refused,
    /// There is no room left to store anything (RFC 3463 §3.4, X.3.1).
    StorageFull,
    /// Something of ours failed and may work later.
    Temporary,
}

const UNKNOWN: Reply = Reply("550 5.1.1 no such mailbox");
const OVER_QUOTA: Reply = Reply("452 4.2.2 the mailbox is over quota");
const TOO_LARGE: Reply = Reply("552 5.2.3 the message is too large for the mailbox");
const DISABLED: Reply = Reply("550 5.2.1 the mailbox is disabled");
const TEMPORARY: Reply = Reply("451 4.3.0 temporary failure, please try again");

impl RecipientAnswer {
    pub(crate) fn reply(self) -> Reply {
        match self {
            Self::Accepted => Reply("250 2.1.5 recipient ok"),
            Self::Unknown => UNKNOWN,
            Self::OverQuota => OVER_QUOTA,
            Self::TooLarge => TOO_LARGE,
            Self::Disabled => DISABLED,
            Self::Suspended => Reply("450 4.2.1 the mailbox is disabled for now"),
            Self::Throttled => Reply("451 4.7.1 too much mail at once, please try again"),
            Self::Temporary => TEMPORARY,
            Self::TooMany => crate::reply::TOO_MANY_RECIPIENTS,
        }
    }
}

impl Outcome {
    pub(crate) fn reply(self) -> Reply {
        match self {
            Self::Delivered => Reply("250 2.0.0 delivered"),
            Self::Unknown => UNKNOWN,
            Self::OverQuota => OVER_QUOTA,
            Self::TooLarge => TOO_LARGE,
            Self::Disabled => DISABLED,
            Self::Refused => Reply("554 5.7.1 the message is refused"),
            Self::StorageFull => Reply("452 4.3.1 insufficient storage, please try again"),
            Self::Temporary => TEMPORARY,
        }
    }
}
