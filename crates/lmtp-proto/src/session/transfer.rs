//! The message's way through the session, by DATA or by BDAT.

use super::{Chunk, Message, Phase, Progress, Session, Transaction};
use crate::body::Unstuffed;
use crate::event::{Event, MAX_BODY_EVENT_OCTETS};
use crate::input::Input;
use crate::reply;

/// How much is looked at for one event. Canonical octets are at most twice as many, and a CR that was withheld.
const MAX_TAKEN_OCTETS: usize = MAX_BODY_EVENT_OCTETS / 2 - 1;

impl Message {
    /// Takes the next octets, unless the message will not be taken. Returns false when it just grew too large.
    fn push(&mut self, octets: &[u8], max_octets: u64, body: &mut Vec<u8>) -> bool {
        if self.failure.is_some() {
            return true;
        }
        self.canonical.push(octets, body);
        self.fits(max_octets, body)
    }

    /// Completes the last line.
    fn finish(&mut self, max_octets: u64, body: &mut Vec<u8>) -> bool {
        if self.failure.is_some() {
            return true;
        }
        self.canonical.finish(body);
        self.fits(max_octets, body)
    }

    fn fits(&mut self, max_octets: u64, body: &mut Vec<u8>) -> bool {
        let fits = self.canonical.octets() <= max_octets;
        if !fits {
            self.failure = Some(reply::MESSAGE_TOO_LARGE);
            body.clear();
        }
        fits
    }
}

impl Session {
    /// The next octets of DATA.
    pub(super) fn next_data(&mut self, input: &mut Input) -> Progress {
        let (Phase::Data(unstuffer), Some(Transaction { message: Some(message), .. })) =
            (&mut self.phase, &mut self.transaction)
        else {
            return Progress::NeedInput;
        };
        let rest = input.rest();
        if rest.is_empty() {
            return Progress::NeedInput;
        }
        let rest = &rest[..rest.len().min(MAX_TAKEN_OCTETS)];
        let mut body = body_for(message, rest.len());
        let (mut fits, max_octets) = (true, self.config.max_message_octets);
        let Unstuffed { consumed, ended } =
            unstuffer.push(rest, |run| fits &= message.push(run, max_octets, &mut body));
        input.consume(consumed);
        if ended {
            self.phase = Phase::MessageEnd;
        }
        report(fits, body)
    }

    /// The next octets of a chunk, or its end. Without a message that is wanted they are drained.
    pub(super) fn next_of_chunk(&mut self, chunk: Chunk, input: &mut Input, out: &mut Vec<u8>) -> Progress {
        if chunk.octets_left == 0 {
            return self.chunk_end(chunk, out);
        }
        let most = usize::try_from(chunk.octets_left).unwrap_or(usize::MAX).min(MAX_TAKEN_OCTETS);
        let rest = input.rest();
        let rest = &rest[..rest.len().min(most)];
        if rest.is_empty() {
            return Progress::NeedInput;
        }
        let octets_left = chunk.octets_left - rest.len() as u64;
        self.phase = Phase::Chunk(Chunk { octets_left, ..chunk });
        let progress = match &mut self.transaction {
            Some(Transaction { message: Some(message), recipients: 1.., .. }) => {
                let mut body = body_for(message, rest.len());
                let fits = message.push(rest, self.config.max_message_octets, &mut body);
                report(fits, body)
            }
            _ => Progress::GoOn,
        };
        let taken = rest.len();
        input.consume(taken);
        progress
    }

    fn chunk_end(&mut self, chunk: Chunk, out: &mut Vec<u8>) -> Progress {
        self.phase = Phase::Command;
        match &mut self.transaction {
            Some(Transaction { message: Some(message), recipients: 1.., .. }) if chunk.last => {
                self.phase = Phase::MessageEnd;
                let mut body = Vec::new();
                let fits = message.finish(self.config.max_message_octets, &mut body);
                return report(fits, body);
            }
            Some(Transaction { message: Some(message), recipients: 1.., .. }) => {
                message.failure.unwrap_or(reply::CHUNK_OK).write(out);
            }
            // RFC 2033 §4.2 and RFC 3030 §2: one reply, though the octets came.
            Some(_) => reply::NO_RECIPIENTS.write(out),
            None => self.bad(reply::BAD_SEQUENCE, out),
        }
        if chunk.last {
            self.transaction = None;
        }
        Progress::GoOn
    }

    /// RFC 2033 §4.2: one reply for each accepted recipient, also when the message failed on its way.
    pub(super) fn message_end(&mut self, out: &mut Vec<u8>) -> Progress {
        let Some(Transaction { message: Some(message), recipients, .. }) = &self.transaction else {
            self.phase = Phase::Command;
            return Progress::GoOn;
        };
        if let Some(failure) = message.failure {
            (0..*recipients).for_each(|_| failure.write(out));
            self.transaction = None;
            self.phase = Phase::Command;
            return Progress::GoOn;
        }
        self.phase = Phase::AwaitDelivered;
        Progress::Event(Event::BodyEnd { octets: message.canonical.octets() })
    }
}

/// Room for the canonical form of `octets`, if they are wanted.
fn body_for(message: &Message, octets: usize) -> Vec<u8> {
    if message.failure.is_some() { Vec::new() } else { Vec::with_capacity(octets + 2) }
}

/// What the driver is told of the octets just taken.
fn report(fits: bool, body: Vec<u8>) -> Progress {
    match (fits, body.is_empty()) {
        (false, _) => Progress::Event(Event::Reset),
        (true, true) => Progress::GoOn,
        (true, false) => Progress::Event(Event::Body(body)),
    }
}
