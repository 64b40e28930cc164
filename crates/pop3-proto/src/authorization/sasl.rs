//! AUTH: a SASL exchange (RFC 5034).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::authorization::{Authorization, AuthorizationStep, Login};
use crate::credentials::Token;
use crate::line::Line;
use crate::mechanism::Mechanism;
use crate::texts;

/// The longest token taken, decoded: OAuth tokens, which some issuers fill with all a user may do.
pub const MAX_TOKEN_OCTETS: usize = 64 * 1024;

/// The longest line of an exchange, its line end included; AUTH with a token behind it as well.
pub const MAX_SASL_LINE_OCTETS: usize = MAX_TOKEN_OCTETS.div_ceil(3) * 4 + 64;

/// Padding is asked for by RFC 4648 §3.2, and left out by some clients.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A SASL exchange that waits for its mechanism. No line can be processed meanwhile.
#[derive(Debug)]
#[must_use]
pub struct SaslExchange {
    state: Authorization,
    mechanism: Mechanism,
}

/// A SASL exchange that waits for the client's response.
#[derive(Debug)]
#[must_use]
pub struct SaslChallenged(SaslExchange);

/// What the driver does after a line of an exchange. It flushes `out` first.
#[derive(Debug)]
#[must_use]
pub enum SaslStep {
    /// Give the token to the mechanism.
    Response(SaslExchange, Token),
    /// The exchange is over: cancelled by the client, or not base64.
    Ended(AuthorizationStep),
}

impl SaslExchange {
    pub(super) fn new(state: Authorization, mechanism: Mechanism) -> Self {
        Self { state, mechanism }
    }

    /// Which mechanism.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Sends the mechanism's challenge, an empty one too. The next line may be
    /// [`MAX_SASL_LINE_OCTETS`] long.
    pub fn challenge(self, octets: &[u8], out: &mut Vec<u8>) -> SaslChallenged {
        // The space belongs to it even where nothing follows (RFC 5034 §4).
        out.extend_from_slice(b"+ ");
        out.extend_from_slice(BASE64.encode(octets).as_bytes());
        out.extend_from_slice(b"\r\n");
        SaslChallenged(self)
    }

    /// The mechanism came to an end: what is left is to say of the login how it went.
    pub fn end(self) -> Login {
        Login::new(self.state)
    }
}

impl SaslChallenged {
    /// Processes one line of the client's.
    pub fn line(self, line: Line<'_>, out: &mut Vec<u8>) -> SaslStep {
        let Self(exchange) = self;
        match line {
            Line::TooLong => SaslStep::Ended(exchange.state.bad(texts::TOKEN_TOO_LONG, out)),
            // RFC 5034 §4: the client may give up.
            Line::Complete(b"*") => SaslStep::Ended(exchange.state.bad(texts::CANCELLED, out)),
            Line::Complete(line) => match decode(line) {
                Some(token) => SaslStep::Response(exchange, token),
                None => SaslStep::Ended(exchange.state.bad(texts::NOT_BASE64, out)),
            },
        }
    }
}

/// The initial response of AUTH: `=` is an empty one (RFC 5034 §4).
pub(super) fn initial(argument: &[u8]) -> Option<Token> {
    if argument == b"=" { Some(Token::new(Vec::new())) } else { decode(argument) }
}

fn decode(line: &[u8]) -> Option<Token> {
    let token = Token::new(BASE64.decode(line.trim_ascii_end()).ok()?);
    (token.expose().len() <= MAX_TOKEN_OCTETS).then_some(token)
}
