//! TRANSACTION: the maildrop is open and locked (RFC 1939 §5).

use crate::capabilities::{self, Phase};
use crate::command::{Command, Unusable};
use crate::language::{Language, Wording};
use crate::line::Line;
use crate::marks::DeletionMarks;
use crate::number::MessageNumber;
use crate::policy::{CloseReason, Policy};
use crate::replies;
use crate::texts::{self, Text};
use crate::update::Update;

/// How many messages there are and how many octets they have: what STAT answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DropListing {
    /// The messages.
    pub messages: u32,
    /// Their octets on the wire, before byte-stuffing. 64 bits: a maildrop of 4 GiB is not a small one.
    pub octets: u64,
}

/// The state after login. It keeps how many messages there are and which are marked as deleted; sizes,
/// unique-ids and content are the driver's.
#[derive(Debug)]
pub struct Transaction {
    policy: Policy,
    listing: DropListing,
    deleted: DeletionMarks,
    deleted_listing: DropListing,
    bad_commands: u32,
    read_only: bool,
}

/// What a login is told of its maildrop, where that depends on whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// The least seconds between logins, announced as LOGIN-DELAY (RFC 2449 §6.5).
    pub login_delay_secs: Option<u32>,
    /// After how many days mail is removed by the server, announced as EXPIRE (RFC 2449 §6.7).
    pub expire_days: Option<u32>,
    /// Whether DELE is refused.
    pub read_only: bool,
}

/// What the driver does next. It flushes `out` first, whatever the step.
#[derive(Debug)]
#[must_use]
pub enum TransactionStep {
    /// Take the next line.
    Continue(Transaction),
    /// Answer the request with [`crate::replies`], then take the next line.
    Request(Transaction, Request),
    /// Commit the update, answer by [`Update::committed`] or [`Update::failed`], and close.
    Quit(Update),
    /// Flush and close. No message is removed.
    Close(CloseReason),
}

/// What only the driver can answer. Every number is in range and not marked as deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The scan listing of one message, or of all that are not marked.
    List(Option<MessageNumber>),
    /// The unique-id of one message, or of all that are not marked.
    UniqueIds(Option<MessageNumber>),
    /// The whole message.
    Retrieve(MessageNumber),
    /// The header, the blank line and that many lines of the body. `u64::MAX` stands for any larger count.
    Top(MessageNumber, u64),
    /// Look up the message's octets and answer by [`Transaction::deleted`].
    Delete(MessageNumber),
}

impl Transaction {
    pub(crate) fn new(policy: Policy, listing: DropListing, bad_commands: u32) -> Self {
        let (deleted, deleted_listing) = (DeletionMarks::default(), DropListing::default());
        Self { policy, listing, deleted, deleted_listing, bad_commands, read_only: false }
    }

    /// The same under these terms, which CAPA announces from now on.
    #[must_use]
    pub fn under(mut self, terms: Terms) -> Self {
        // What was announced before login was another's, perhaps.
        self.policy.login_delay_secs = terms.login_delay_secs;
        self.policy.expire_days = terms.expire_days;
        self.read_only = terms.read_only;
        self
    }

    /// How the client wants to be answered.
    pub fn wording(&self) -> Wording {
        self.policy.wording
    }

    /// Whether the message is marked as deleted.
    pub fn is_deleted(&self, number: MessageNumber) -> bool {
        self.deleted.contains(number)
    }

    /// The messages not marked as deleted, and their octets.
    pub fn totals(&self) -> DropListing {
        DropListing {
            messages: self.listing.messages.saturating_sub(self.deleted_listing.messages),
            octets: self.listing.octets.saturating_sub(self.deleted_listing.octets),
        }
    }

    /// Corrects what the login was given, once the driver has read the listing itself. Without effect
    /// while a message is marked as deleted: numbers hold still from then on.
    pub fn totals_replaced(&mut self, listing: DropListing) {
        if self.deleted.is_empty() {
            self.listing = listing;
        }
    }

    /// Answers [`Request::Delete`]: marks the message, whose octets leave the totals.
    pub fn deleted(&mut self, number: MessageNumber, octets: u64, out: &mut Vec<u8>) {
        if number.get() > self.listing.messages || !self.deleted.insert(number) {
            return replies::no_such_message(self.policy.wording, out);
        }
        self.deleted_listing.messages += 1;
        self.deleted_listing.octets = self.deleted_listing.octets.saturating_add(octets);
        replies::ok(self.policy.wording, texts::MESSAGE_DELETED, out);
    }

    /// Processes one line.
    pub fn line(mut self, line: Line<'_>, out: &mut Vec<u8>) -> TransactionStep {
        match Command::parse(line) {
            Ok(Command::Stat) => self.stat(out),
            Ok(Command::Noop) => replies::ok(self.policy.wording, texts::NOTHING_DONE, out),
            Ok(Command::Rset) => self.reset(out),
            Ok(Command::Capa) => capabilities::list(&self.policy, Phase::Transaction, out),
            Ok(Command::Lang(None)) => replies::languages(self.policy.wording, out),
            Ok(Command::Lang(Some(range))) => match Language::for_range(range) {
                Some(language) => {
                    self.policy.wording.language = language;
                    replies::language_changed(self.policy.wording, out);
                }
                None => return self.bad(texts::NO_SUCH_LANGUAGE, out),
            },
            Ok(Command::List(None)) => return TransactionStep::Request(self, Request::List(None)),
            Ok(Command::Uidl(None)) => return TransactionStep::Request(self, Request::UniqueIds(None)),
            Ok(Command::List(Some(number))) => return self.request(number, Request::List(Some(number)), out),
            Ok(Command::Uidl(Some(number))) => {
                return self.request(number, Request::UniqueIds(Some(number)), out);
            }
            Ok(Command::Retr(number)) => return self.request(number, Request::Retrieve(number), out),
            Ok(Command::Top(number, lines)) => return self.request(number, Request::Top(number, lines), out),
            Ok(Command::Dele(_)) if self.read_only => {
                replies::permanent_failure(self.policy.wording, texts::READ_ONLY, out);
            }
            Ok(Command::Dele(number)) => return self.request(number, Request::Delete(number), out),
            Ok(Command::Quit) => return TransactionStep::Quit(self.quit()),
            // RFC 2595 §4, RFC 6856 §2.1: STLS and UTF8 are permitted in AUTHORIZATION only.
            Ok(
                Command::User(_)
                | Command::Pass(_)
                | Command::Apop(..)
                | Command::Auth(_)
                | Command::Stls
                | Command::Utf8
                | Command::Xclient(_),
            ) => {
                return self.bad(texts::LOGGED_IN_ALREADY, out);
            }
            Err(Unusable::Bad(text)) => return self.bad(text, out),
            Err(Unusable::Foreign) => return TransactionStep::Close(CloseReason::ForeignProtocol),
        }
        TransactionStep::Continue(self)
    }

    fn stat(&self, out: &mut Vec<u8>) {
        let totals = self.totals();
        out.extend_from_slice(b"+OK ");
        replies::integer(u64::from(totals.messages), out);
        out.push(b' ');
        replies::integer(totals.octets, out);
        out.extend_from_slice(b"\r\n");
    }

    fn reset(&mut self, out: &mut Vec<u8>) {
        self.deleted = DeletionMarks::default();
        self.deleted_listing = DropListing::default();
        out.extend_from_slice(b"+OK ");
        self.policy.wording.write(texts::MAILDROP_HAS, out);
        out.push(b' ');
        replies::drop_summary(self.policy.wording, self.totals(), out);
        out.extend_from_slice(b"\r\n");
    }

    /// Lets the request through if its number names a message.
    fn request(self, number: MessageNumber, request: Request, out: &mut Vec<u8>) -> TransactionStep {
        if number.get() > self.listing.messages || self.deleted.contains(number) {
            replies::no_such_message(self.policy.wording, out);
            return TransactionStep::Continue(self);
        }
        TransactionStep::Request(self, request)
    }

    /// Enters UPDATE. This is the only way to build an [`Update`] (RFC 1939 §6).
    fn quit(self) -> Update {
        Update::new(self.deleted, self.policy.wording)
    }

    fn bad(mut self, text: Text, out: &mut Vec<u8>) -> TransactionStep {
        self.bad_commands += 1;
        if self.bad_commands >= self.policy.max_bad_commands {
            replies::err(self.policy.wording, texts::TOO_MANY_BAD_COMMANDS_KEPT, out);
            return TransactionStep::Close(CloseReason::TooManyBadCommands);
        }
        replies::err(self.policy.wording, text, out);
        TransactionStep::Continue(self)
    }
}
