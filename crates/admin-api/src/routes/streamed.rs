//! Messages that come in as the body of a request, octet by octet.

use std::future::Future;

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use futures_util::StreamExt as _;
use lmtp_proto::Canonicaliser;
use maildrop::{BulletinWriter, Delivery};
use tokio::time::timeout;

use super::extract::media_type;
use crate::{Problem, STREAM_IDLE};

/// The media type of a message.
pub(super) const RFC822: &str = "message/rfc822";

/// What takes a message in. What goes wrong there shows at its end.
pub(super) trait Takes {
    /// Takes the next octets.
    fn take(&mut self, chunk: &[u8]) -> impl Future<Output = ()> + Send;
}

impl Takes for Delivery {
    async fn take(&mut self, chunk: &[u8]) {
        self.write(chunk).await;
    }
}

impl Takes for BulletinWriter {
    async fn take(&mut self, chunk: &[u8]) {
        self.write(chunk).await;
    }
}

/// How long the message will be, as its request says, if it does. It is refused before it comes where it is none, or too
/// long.
pub(super) fn announced(headers: &HeaderMap, octets_max: u64) -> Result<Option<u64>, Problem> {
    if !media_type(headers).is_some_and(|sent| sent.eq_ignore_ascii_case(RFC822)) {
        return Err(Problem::media_type(RFC822));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|length| length.parse::<u64>().ok()) {
        Some(octets) if octets > octets_max => Err(message_too_large()),
        announced => Ok(announced),
    }
}

/// Takes the octets in as they come, with their line ends made canonical; gives how many that is.
pub(super) async fn receive(taker: &mut impl Takes, body: Body, octets_max: u64) -> Result<u64, Problem> {
    let mut body = body.into_data_stream();
    let mut canonicaliser = Canonicaliser::default();
    let mut out = Vec::new();
    loop {
        let chunk = match timeout(STREAM_IDLE, body.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => return Err(Problem::broken_off()),
        };
        canonicaliser.push(&chunk, &mut out);
        if canonicaliser.octets() > octets_max {
            return Err(message_too_large());
        }
        taker.take(&out).await;
        out.clear();
    }
    canonicaliser.finish(&mut out);
    taker.take(&out).await;
    if canonicaliser.octets() == 0 {
        return Err(Problem::invalid("body", "a message has at least one octet"));
    }
    Ok(canonicaliser.octets())
}

pub(super) fn message_too_large() -> Problem {
    Problem::too_large("the message is larger than is taken")
}
