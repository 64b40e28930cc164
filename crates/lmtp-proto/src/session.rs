//! The session: which command may follow which, and who waits for whom.

mod commands;
mod transfer;

use crate::answer::{Outcome, RecipientAnswer};
use crate::body::{Canonicaliser, Unstuffer};
use crate::config::Config;
use crate::event::{Event, Step};
use crate::input::Input;
use crate::reply::{self, Reply};

/// One LMTP connection. See the crate's page for the order of things.
///
/// The driver feeds it what it reads, only when [`Step::NeedInput`] asks for more: then memory is bounded by a
/// command line, or by what was fed last; replies to it take some 20 times as much at most (nothing but LHLO).
/// An answer that no event waits for is ignored.
#[derive(Debug)]
pub struct Session {
    config: Config,
    input: Input,
    phase: Phase,
    /// What the client called itself in LHLO, once it was given.
    client_name: Option<Box<str>>,
    transaction: Option<Transaction>,
    bad_commands: u32,
}

/// What comes next on the wire, or whom it waits for.
#[derive(Debug)]
enum Phase {
    Command,
    AwaitRecipient,
    AwaitData(Transfer),
    /// Boxed for its size, which a session that waits for its next message should not have.
    Data(Box<Unstuffer>),
    Chunk(Chunk),
    /// The message has arrived and its end is to be reported.
    MessageEnd,
    AwaitDelivered,
    Closed,
}

/// How a message is going to come.
#[derive(Debug, Clone, Copy)]
enum Transfer {
    Data,
    Chunk(Chunk),
}

/// A BDAT command (RFC 3030 §2).
#[derive(Debug, Clone, Copy)]
struct Chunk {
    octets_left: u64,
    last: bool,
}

/// What MAIL began.
#[derive(Debug)]
struct Transaction {
    smtputf8: bool,
    /// How many were accepted: so many replies follow the message (RFC 2033 §4.2).
    recipients: usize,
    message: Option<Message>,
}

/// The message of a transaction, from its first BDAT or from DATA.
#[derive(Debug, Default)]
struct Message {
    canonical: Canonicaliser,
    /// Why it will not be taken. What comes of it is drained.
    failure: Option<Reply>,
}

impl Session {
    /// A fresh connection.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            input: Input::default(),
            phase: Phase::Command,
            client_name: None,
            transaction: None,
            bad_commands: 0,
        }
    }

    /// Writes the greeting, which the driver sends once, at the start of the connection.
    pub fn greeting(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"220 ");
        self.hostname(out);
        out.push(b' ');
        text(&self.config.greeting, out);
        out.extend_from_slice(b"\r\n");
    }

    /// Takes in what was read from the client.
    pub fn feed(&mut self, octets: &[u8]) {
        if !matches!(self.phase, Phase::Closed) {
            self.input.push(octets);
        }
    }

    /// Goes on as far as it can. While an event awaits its answer it does nothing and returns
    /// [`Step::NeedInput`].
    pub fn step(&mut self, out: &mut Vec<u8>) -> Step {
        // Taken out so that a line can be borrowed from it while the session changes.
        let mut input = std::mem::take(&mut self.input);
        let step = loop {
            let progress = match &self.phase {
                Phase::Command => self.next_command(&mut input, out),
                Phase::Data(_) => self.next_data(&mut input),
                Phase::Chunk(chunk) => self.next_of_chunk(*chunk, &mut input, out),
                Phase::MessageEnd => self.message_end(out),
                Phase::AwaitRecipient | Phase::AwaitData(_) | Phase::AwaitDelivered => Progress::NeedInput,
                Phase::Closed => break Step::Close,
            };
            match progress {
                Progress::GoOn => {}
                Progress::NeedInput => break Step::NeedInput,
                Progress::Event(event) => break Step::Event(event),
            }
        };
        if step != Step::Close {
            self.input = input;
        }
        step
    }

    /// Answers [`Event::Recipient`].
    pub fn recipient(&mut self, answer: RecipientAnswer, out: &mut Vec<u8>) {
        if let (Phase::AwaitRecipient, Some(transaction)) = (&self.phase, &mut self.transaction) {
            transaction.recipients += usize::from(answer == RecipientAnswer::Accepted);
            answer.reply().write(out);
            self.phase = Phase::Command;
        }
    }

    /// Answers [`Event::Data`]: the message may come.
    pub fn data_ready(&mut self, out: &mut Vec<u8>) {
        if let (Phase::AwaitData(transfer), Some(transaction)) = (&self.phase, &mut self.transaction) {
            transaction.message = Some(Message::default());
            self.phase = match *transfer {
                Transfer::Data => {
                    reply::START_DATA.write(out);
                    Phase::Data(Box::new(Unstuffer::new()))
                }
                Transfer::Chunk(chunk) => Phase::Chunk(chunk),
            };
        }
    }

    /// Answers [`Event::Data`]: no message can be taken now. After DATA the transaction is over; after BDAT the
    /// chunks, which come anyway, are drained and answered so.
    pub fn data_refused(&mut self, out: &mut Vec<u8>) {
        if let (Phase::AwaitData(transfer), Some(transaction)) = (&self.phase, &mut self.transaction) {
            match *transfer {
                Transfer::Data => {
                    reply::DATA_REFUSED.write(out);
                    self.transaction = None;
                    self.phase = Phase::Command;
                }
                Transfer::Chunk(chunk) => {
                    let failure = Some(reply::DATA_REFUSED);
                    transaction.message = Some(Message { failure, ..Message::default() });
                    self.phase = Phase::Chunk(chunk);
                }
            }
        }
    }

    /// Answers [`Event::BodyEnd`]: one outcome for each accepted recipient, in the order of their RCPT
    /// (RFC 2033 §4.2). A recipient without one is answered as a temporary failure; nothing is lost by that.
    pub fn delivered(&mut self, outcomes: &[Outcome], out: &mut Vec<u8>) {
        if let (Phase::AwaitDelivered, Some(transaction)) = (&self.phase, &self.transaction) {
            let missing = std::iter::repeat(&Outcome::Temporary);
            for outcome in outcomes.iter().chain(missing).take(transaction.recipients) {
                outcome.reply().write(out);
            }
            self.transaction = None;
            self.phase = Phase::Command;
        }
    }

    /// What the client called itself in LHLO: unverified, without control characters, within a command line.
    pub fn client_name(&self) -> Option<&str> {
        self.client_name.as_deref()
    }

    /// Whether the next octets are a command's, so that a drain may end the session here.
    pub fn is_between_commands(&self) -> bool {
        matches!(self.phase, Phase::Command)
    }

    /// Whether a transaction is open.
    pub fn has_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Ends the session because the node is going away.
    pub fn shutting_down(&mut self, out: &mut Vec<u8>) {
        self.close(reply::SHUTTING_DOWN, out);
    }

    /// Ends the session because nothing came for too long (RFC 5321 §4.5.3.2).
    pub fn idle_timeout(&mut self, out: &mut Vec<u8>) {
        self.close(reply::IDLE, out);
    }

    /// Ends the session in place of the greeting.
    pub fn too_many_connections(&mut self, out: &mut Vec<u8>) {
        self.close(reply::TOO_MANY_CONNECTIONS, out);
    }

    fn close(&mut self, reply: Reply, out: &mut Vec<u8>) {
        if !matches!(self.phase, Phase::Closed) {
            reply.write(out);
            self.phase = Phase::Closed;
            self.transaction = None;
            self.input = Input::default();
        }
    }

    fn hostname(&self, out: &mut Vec<u8>) {
        text(&self.config.hostname, out);
    }
}

/// Writes text of the configuration, as far as it fits into a reply (RFC 5321 §4.5.3.1.5).
fn text(text: &str, out: &mut Vec<u8>) {
    let text = text.chars().filter(|c| !c.is_control()).take(255);
    text.for_each(|c| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()));
}

/// What came of one thing done in [`Session::step`].
enum Progress {
    GoOn,
    NeedInput,
    Event(Event),
}
