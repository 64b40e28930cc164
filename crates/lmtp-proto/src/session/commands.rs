//! Commands and their sequence (RFC 5321 §4.1.4, RFC 2033 §4).

use super::{Chunk, Message, Phase, Progress, Session, Transaction, Transfer};
use crate::address::Address;
use crate::command::{Command, Unusable};
use crate::event::{Envelope, Event};
use crate::input::Input;
use crate::reply::{self, Reply};

impl Session {
    pub(super) fn next_command(&mut self, input: &mut Input, out: &mut Vec<u8>) -> Progress {
        let Some(line) = input.line() else { return Progress::NeedInput };
        match Command::parse(line) {
            Ok(Command::Lhlo(name)) => return self.lhlo(name, out),
            Ok(Command::Mail(envelope)) => return self.mail(envelope, out),
            Ok(Command::Rcpt(address)) => return self.rcpt(address, out),
            Ok(Command::Data) => return self.data(out),
            Ok(Command::Bdat { octets, last }) => return self.bdat(Chunk { octets_left: octets, last }),
            Ok(Command::Rset) => {
                reply::OK.write(out);
                return self.reset();
            }
            Ok(Command::Noop) => reply::OK.write(out),
            Ok(Command::Vrfy) => reply::CANNOT_VERIFY.write(out),
            Ok(Command::Help) => reply::HELP.write(out),
            Ok(Command::Quit) => self.close(reply::BYE, out),
            Err(Unusable::Bad(reply)) => self.bad(reply, out),
            Err(Unusable::OutOfStep) => self.close(reply::OUT_OF_STEP, out),
        }
        Progress::GoOn
    }

    /// RFC 2033 §4.1: LHLO has the semantics of EHLO, whose reply has no enhanced codes (RFC 2034 §4).
    fn lhlo(&mut self, name: String, out: &mut Vec<u8>) -> Progress {
        self.client_name = Some(name.into());
        out.extend_from_slice(b"250-");
        self.hostname(out);
        out.extend_from_slice(b"\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n");
        out.extend_from_slice(b"250-CHUNKING\r\n250-SMTPUTF8\r\n250 SIZE ");
        out.extend_from_slice(self.config.max_message_octets.to_string().as_bytes());
        out.extend_from_slice(b"\r\n");
        self.reset()
    }

    fn mail(&mut self, envelope: Envelope, out: &mut Vec<u8>) -> Progress {
        if self.client_name.is_none() || self.transaction.is_some() {
            self.bad(reply::BAD_SEQUENCE, out);
            return Progress::GoOn;
        }
        // RFC 1870 §6.1: refused before it is sent.
        if envelope.size.is_some_and(|octets| octets > self.config.max_message_octets) {
            reply::MESSAGE_TOO_LARGE.write(out);
            return Progress::GoOn;
        }
        reply::SENDER_OK.write(out);
        self.transaction = Some(Transaction { smtputf8: envelope.smtputf8, recipients: 0, message: None });
        Progress::Event(Event::Mail(envelope))
    }

    fn rcpt(&mut self, address: Address, out: &mut Vec<u8>) -> Progress {
        let Some(transaction) = self.transaction.as_ref().filter(|transaction| transaction.message.is_none())
        else {
            self.bad(reply::BAD_SEQUENCE, out);
            return Progress::GoOn;
        };
        if !transaction.smtputf8 && !address.is_ascii() {
            reply::NEEDS_SMTPUTF8.write(out);
        } else if transaction.recipients >= self.config.max_recipients {
            reply::TOO_MANY_RECIPIENTS.write(out);
        } else {
            self.phase = Phase::AwaitRecipient;
            return Progress::Event(Event::Recipient(address));
        }
        Progress::GoOn
    }

    fn data(&mut self, out: &mut Vec<u8>) -> Progress {
        match &self.transaction {
            Some(Transaction { message: None, recipients: 1.., .. }) => {
                self.phase = Phase::AwaitData(Transfer::Data);
                return Progress::Event(Event::Data);
            }
            // RFC 2033 §4.2: without a successful RCPT, DATA must fail with 503. A client that pipelines sends it
            // nevertheless, so it is not counted as a bad command.
            Some(Transaction { message: None, .. }) => reply::NO_RECIPIENTS.write(out),
            // RFC 3030 §2: DATA and BDAT do not mix.
            Some(_) | None => self.bad(reply::BAD_SEQUENCE, out),
        }
        Progress::GoOn
    }

    /// The octets follow whatever becomes of them (RFC 3030 §2).
    fn bdat(&mut self, chunk: Chunk) -> Progress {
        if let Some(transaction) = &mut self.transaction
            && transaction.message.is_none()
        {
            if transaction.recipients > 0 {
                self.phase = Phase::AwaitData(Transfer::Chunk(chunk));
                return Progress::Event(Event::Data);
            }
            // A recipient that is accepted later must not get a message without its beginning.
            transaction.message = Some(Message::default());
        }
        self.phase = Phase::Chunk(chunk);
        Progress::GoOn
    }

    fn reset(&mut self) -> Progress {
        match self.transaction.take() {
            Some(_) => Progress::Event(Event::Reset),
            None => Progress::GoOn,
        }
    }

    /// Answers a line that is of no use, or comes at the wrong time, and counts it.
    pub(super) fn bad(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.bad_commands += 1;
        if self.bad_commands >= self.config.max_bad_commands {
            self.close(reply::TOO_MANY_BAD_COMMANDS, out);
        } else {
            reply.write(out);
        }
    }
}
