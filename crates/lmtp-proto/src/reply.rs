//! What the server says. Nothing a client sent is ever repeated in a reply.

/// A reply of one line: code, enhanced status code (RFC 2034 §4), text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply(pub(crate) &'static str);

impl Reply {
    /// Appends the line.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

pub(crate) const OK: Reply = Reply("250 2.0.0 ok");
pub(crate) const SENDER_OK: Reply = Reply("250 2.1.0 sender ok");
pub(crate) const CHUNK_OK: Reply = Reply("250 2.0.0 chunk received");
pub(crate) const BYE: Reply = Reply("221 2.0.0 bye");
pub(crate) const HELP: Reply = Reply("214 2.0.0 LMTP, RFC 2033");
pub(crate) const CANNOT_VERIFY: Reply = Reply("252 2.5.0 send RCPT to find out");
// RFC 2034 §4: a 3xx reply has no enhanced code.
pub(crate) const START_DATA: Reply = Reply("354 end the message with CRLF . CRLF");

pub(crate) const TOO_MANY_RECIPIENTS: Reply = Reply("452 4.5.3 too many recipients");
pub(crate) const DATA_REFUSED: Reply = Reply("451 4.3.0 the message cannot be taken now");

pub(crate) const UNKNOWN_COMMAND: Reply = Reply("500 5.5.1 unknown command");
pub(crate) const USE_LHLO: Reply = Reply("500 5.5.1 this is LMTP, send LHLO");
pub(crate) const LINE_TOO_LONG: Reply = Reply("500 5.5.2 the line is too long");
pub(crate) const BAD_CHARACTERS: Reply = Reply("500 5.5.2 the line has characters that no command has");
pub(crate) const BAD_SYNTAX: Reply = Reply("501 5.5.4 syntax error in arguments");
pub(crate) const BAD_SENDER: Reply = Reply("501 5.1.7 syntax error in the sender's address");
pub(crate) const BAD_RECIPIENT: Reply = Reply("501 5.1.3 syntax error in the recipient's address");
pub(crate) const BAD_SEQUENCE: Reply = Reply("503 5.5.1 bad sequence of commands");
pub(crate) const NO_RECIPIENTS: Reply = Reply("503 5.5.1 no valid recipients");
pub(crate) const UNKNOWN_PARAMETER: Reply = Reply("555 5.5.4 parameter not supported");
pub(crate) const NEEDS_SMTPUTF8: Reply = Reply("553 5.6.7 a non-ASCII address needs SMTPUTF8");
pub(crate) const MESSAGE_TOO_LARGE: Reply = Reply("552 5.3.4 the message is too large");

// RFC 5321 §3.8: a server that closes says 421 first.
pub(crate) const SHUTTING_DOWN: Reply = Reply("421 4.3.2 shutting down");
pub(crate) const TOO_MANY_CONNECTIONS: Reply = Reply("421 4.3.2 too many connections");
pub(crate) const IDLE: Reply = Reply("421 4.4.2 closing after too long a silence");
pub(crate) const TOO_MANY_BAD_COMMANDS: Reply = Reply("421 4.7.0 too many bad commands");
pub(crate) const OUT_OF_STEP: Reply = Reply("421 4.5.2 that is not LMTP with CRLF line ends");
