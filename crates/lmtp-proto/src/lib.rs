//! LMTP as values: a server core for RFC 2033 over RFC 5321 that owns no socket, clock, runtime or store.
//!
//! Octets go into a [`Session`], steps come out. The driver flushes what was written to `out`, does what an
//! [`Event`] asks and answers it; until then the session stands still, and what the client pipelined waits.
//!
//! ```text
//!  LHLO ──▶ MAIL ──▶ RCPT ──▶ DATA ── 354 ──▶ octets ──▶ CRLF . CRLF ──┐
//!            │  ▲    │  ▲ └──▶ BDAT n ──▶ n octets ──▶ BDAT n LAST ─────┤
//!   Event::Mail │    │  │      Event::Data  Event::Body …  Event::BodyEnd│
//!               │    │  └─ recipient(answer)                            │
//!               │   Event::Recipient                                    │
//!               └────────── delivered(outcomes): one reply a recipient ◀┘
//! ```
//!
//! A message reaches the driver in canonical form, however it was transferred: CRLF line ends, not
//! byte-stuffed, ending in CRLF unless it is empty.

mod address;
mod answer;
mod body;
mod command;
mod config;
mod event;
mod input;
mod path;
mod reply;
mod session;

pub use address::Address;
pub use answer::{Outcome, RecipientAnswer};
pub use body::Canonicaliser;
pub use config::Config;
pub use event::{BodyType, Envelope, Event, MAX_BODY_EVENT_OCTETS, Step};
pub use session::Session;
