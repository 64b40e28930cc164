//! POP3 as values: a server core that owns no socket, clock, runtime or store.
//!
//! Bytes go into a [`LineBuffer`], lines go into the state, a step comes out. The driver flushes what was
//! written to `out`, does what the step asks, and reports back on the value the step handed it. There is one
//! type per state of RFC 1939 §3, so that what a state does not allow cannot be written down:
//!
//! ```text
//!                    ┌── STLS ──▶ StartTls ── established ──┐
//!                    │                                      ▼
//!  connect ──▶ Authorization ◀── refuse ── Login      Authorization (TLS active, USER forgotten)
//!                    │                      ▲ │
//!                    ├──── USER, PASS ──────┤ └── accept ──▶ Transaction ── QUIT ──▶ Update
//!                    ├──── APOP ────────────┤                     │               committed │ failed
//!                    ├─ AUTH ▶ SaslExchange ┘ end                 │
//!                    │              ▲ │ challenge                 │
//!                    │     response │ ▼                           │
//!                    │        SaslChallenged                      │
//!                    └── QUIT, HTTP, TLS bytes, too many errors ──┴──▶ closed
//! ```
//!
//! A proxy that is trusted may say in AUTHORIZATION for whom it speaks (XCLIENT, XOIP: [`Forwarding`]).
//!
//! An [`Update`] is built by QUIT in TRANSACTION and by nothing else, so a session that ends in any other way
//! cannot remove mail (RFC 1939 §6).
//!
//! What SASL mechanisms say is not this core's: it carries their tokens, and knows which of them a connection is
//! fit for. What is deliberately absent: LAST and XTND (gone since RFC 1460).

mod authorization;
mod capabilities;
mod command;
mod credentials;
mod foreign;
mod forwarded;
mod language;
mod line;
mod marks;
mod mechanism;
mod number;
mod policy;
pub mod replies;
mod stuffing;
pub mod texts;
mod top;
mod transaction;
mod update;
mod verb;
mod wipe;

pub use authorization::{
    Authorization, AuthorizationStep, Forwarding, Login, MAX_SASL_LINE_OCTETS, MAX_TOKEN_OCTETS, Refusal,
    SaslChallenged, SaslExchange, SaslStep, StartTls,
};
pub use credentials::{ApopCredentials, Credentials, Password, Token};
pub use forwarded::{ForwardedAddress, ForwardedClient};
pub use language::{Language, Wording};
pub use line::{Line, LineBuffer, MAX_LINE_OCTETS};
pub use mechanism::{Mechanism, Mechanisms};
pub use number::MessageNumber;
pub use policy::{CloseReason, Policy, Tls};
pub use stuffing::ByteStuffer;
pub use top::TopLimit;
pub use transaction::{DropListing, Request, Terms, Transaction, TransactionStep};
pub use update::Update;
pub use verb::Verb;
