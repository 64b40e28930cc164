//! What a session asks of its driver.

use std::fmt;

use crate::address::Address;

/// The most octets of one [`Event::Body`].
pub const MAX_BODY_EVENT_OCTETS: usize = 64 * 1024;

/// What the driver does next. It flushes `out` first, whatever the step.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Feed more of what the client sends. Also returned while an event awaits its answer.
    NeedInput,
    /// See to the event, answer it if it has an answer, and step again.
    Event(Event),
    /// Flush and close.
    Close,
}

/// What happened in the session.
#[derive(PartialEq, Eq)]
pub enum Event {
    /// A transaction began, and is accepted already; what an earlier one left behind is void. No answer.
    Mail(Envelope),
    /// Is there such a mailbox? Answered by [`crate::Session::recipient`].
    Recipient(Address),
    /// A message is about to come. Answered by [`crate::Session::data_ready`] or
    /// [`crate::Session::data_refused`].
    Data,
    /// The next octets of the message, in canonical form; [`MAX_BODY_EVENT_OCTETS`] at most. No answer.
    Body(Vec<u8>),
    /// The message is complete. Answered by [`crate::Session::delivered`], after it is durable.
    BodyEnd {
        /// The octets of all [`Event::Body`] together.
        octets: u64,
    },
    /// The transaction, or the message that was coming, is void: drop what was gathered. No answer.
    Reset,
}

/// What MAIL said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The reverse-path; `None` is `<>`, of a bounce.
    pub sender: Option<Address>,
    /// The size the client expects the message to have (RFC 1870 §3).
    pub size: Option<u64>,
    /// What the client says about the body (RFC 6152 §2). Octets are taken as they come, whatever it says.
    pub body: BodyType,
    /// Whether the message, or an address of it, is internationalised (RFC 6531 §3.4).
    pub smtputf8: bool,
}

/// The value of the BODY parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyType {
    /// 7BIT, and when there is no parameter.
    #[default]
    SevenBit,
    /// 8BITMIME.
    EightBitMime,
}

// Written by hand because message octets have no place in a log.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mail(envelope) => f.debug_tuple("Mail").field(envelope).finish(),
            Self::Recipient(address) => f.debug_tuple("Recipient").field(address).finish(),
            Self::Data => f.write_str("Data"),
            Self::Body(octets) => write!(f, "Body({} octets)", octets.len()),
            Self::BodyEnd { octets } => f.debug_struct("BodyEnd").field("octets", octets).finish(),
            Self::Reset => f.write_str("Reset"),
        }
    }
}
