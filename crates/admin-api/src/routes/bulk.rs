//! Many mailboxes in one request: lines come in, answers go out, a chunk at a time.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{Request, State},
    http::header,
    response::{IntoResponse as _, Response},
};
use bytes::BytesMut;
use futures_util::{StreamExt as _, stream};
use maildrop::{NewMailbox, State as TenantState, Tenant};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    extract::{media_type, parse},
    mailboxes::new_mailbox,
};
use crate::{
    Problem, STREAM_IDLE,
    api::Shared,
    auth::Caller,
    guard::TheTenant,
    problem::{Document, shorten},
    request::RequestId,
    resources::NewMailboxBody,
};

/// The media type of lines of JSON.
pub(super) const NDJSON: &str = "application/x-ndjson";
/// Lines of a request at most.
const LINES_MAX: u64 = 100_000;
/// The longest time that a request may take.
const TIME_MAX: Duration = Duration::from_hours(1);
/// The longest line.
const LINE_OCTETS_MAX: usize = 64 * 1024;
/// Lines that are carried out together, in one transaction.
const CHUNK_LINES: usize = 100;
/// A client that sends no more for so long gets answers to what it has sent.
const CHUNK_LINGER: Duration = Duration::from_millis(50);
/// Passwords of one request that are hashed at once: logins need their turn, too.
const HASHES_AT_ONCE: usize = 4;
/// Chunks whose answers wait for a client to read them. While they do, no more of the request is read.
const ANSWERS_WAITING: usize = 4;
/// What is repeated of an address at most: no address that can be is longer.
const ECHO_OCTETS_MAX: usize = 320;
/// What is said of a problem at most: it may repeat what was sent.
const DETAIL_OCTETS_MAX: usize = 200;

/// Create many mailboxes.
///
/// Each line is the body of a creation, each answer a line with its number, in order; what is wrong with one line
/// does not touch the others. A client must read while it sends. To send the same again is safe: what is there
/// already is answered with 409. One request has 100,000 lines at most, of 64 KiB at most, and takes an hour at
/// most. Where its key or its tenant ends before it does, a last line says so, and nothing after it is carried out.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/mailboxes/bulk", operation_id = "createMailboxes",
    tag = "mailboxes",
    request_body(content = String, content_type = "application/x-ndjson", description = "a NewMailboxBody a line"),
    responses((status = 200, description = "a BulkResult a line", body = String, content_type = "application/x-ndjson")))]
pub(super) async fn create(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    RequestId(request_id): RequestId,
    request: Request,
) -> Result<Response, Problem> {
    if !media_type(request.headers()).is_some_and(|sent| sent.eq_ignore_ascii_case(NDJSON)) {
        return Err(Problem::media_type(NDJSON));
    }
    let (answers, waiting) = mpsc::channel::<Bytes>(ANSWERS_WAITING);
    let import = Import { api, caller, tenant, request_id, answers };
    let lines = Lines::new(request.into_body().into_data_stream(), Instant::now() + TIME_MAX);
    // A chunk that is being carried out is carried out to its end; what comes after it is not begun where nobody
    // reads the answers any more.
    tokio::spawn(import.run(lines));
    let body = stream::unfold(waiting, |mut waiting| async move {
        waiting.recv().await.map(|chunk| (Ok::<_, Infallible>(chunk), waiting))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response())
}

/// What became of a line.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct BulkResult {
    /// The line, from 1.
    line: u64,
    /// The address, where the line could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    address: Option<String>,
    /// The status that a request of its own would have had.
    status: u16,
    /// What is wrong with it, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Document, nullable = false, required = false)]
    problem: Option<Problem>,
}

struct Import {
    api: Shared,
    caller: Caller,
    tenant: Tenant,
    request_id: String,
    answers: mpsc::Sender<Bytes>,
}

impl Import {
    async fn run(self, mut lines: Lines) {
        let mut number = 0;
        loop {
            let chunk = lines.chunk().await;
            let (first, mut is_end) = (number + 1, chunk.is_empty());
            number += chunk.len() as u64;
            let mut results = Vec::new();
            if is_end {
                results.extend(lines.broken.take().map(|problem| self.failed(first, None, problem)));
            } else {
                match self.may_go_on().await {
                    Ok(()) => results = self.create(first, chunk).await,
                    // It could not be asked: that costs the chunk, as where the chunk cannot be written.
                    Err(problem) if problem.status().is_server_error() => {
                        results.extend((first..=number).map(|line| self.failed(line, None, problem.clone())));
                    }
                    Err(problem) => {
                        results.push(self.failed(first, None, problem));
                        is_end = true;
                    }
                }
            }
            let mut text = Vec::new();
            for result in &results {
                if serde_json::to_writer(&mut text, result).is_ok() {
                    text.push(b'\n');
                }
            }
            let heard = matches!(timeout(STREAM_IDLE, self.answers.send(text.into())).await, Ok(Ok(())));
            if is_end || !heard {
                return;
            }
        }
    }

    /// Whether what let the request begin still holds: it may take long, and a key that was deleted is good for nothing
    /// from then on.
    async fn may_go_on(&self) -> Result<(), Problem> {
        if !self.api.is_still_good(&self.caller).await? {
            return Err(Problem::unauthorized());
        }
        let tenant = self.api.directory.tenant(self.tenant.id).await?;
        if tenant.is_none_or(|tenant| tenant.state == TenantState::Deleting) {
            return Err(Problem::not_found("tenant"));
        }
        Ok(())
    }

    /// Carries a chunk out: reads its lines, hashes their passwords, and creates what can be created in one
    /// transaction.
    async fn create(&self, first: u64, chunk: Vec<Line>) -> Vec<BulkResult> {
        let prepared: Vec<_> =
            stream::iter(chunk).map(|line| self.prepare(line)).buffered(HASHES_AT_ONCE).collect().await;
        let (mut places, mut mailboxes) = (Vec::new(), Vec::new());
        for prepared in prepared {
            places.push(match prepared {
                Ok(mailbox) => {
                    let address = Some(mailbox.address.to_string());
                    mailboxes.push(mailbox);
                    Ok(address)
                }
                Err((address, problem)) => Err((address, problem)),
            });
        }
        let created = self.create_all(mailboxes).await;
        let mut created = created.into_iter();
        (first..)
            .zip(places)
            .map(|(line, place)| match place {
                Ok(address) => match created.next().unwrap_or_else(|| Err(Problem::internal())) {
                    Ok(()) => BulkResult { line, address, status: 201, problem: None },
                    Err(problem) => self.failed(line, address, problem),
                },
                Err((address, problem)) => self.failed(line, address, problem),
            })
            .collect()
    }

    async fn prepare(&self, line: Line) -> Result<NewMailbox, (Option<String>, Problem)> {
        let line = line.map_err(|problem| (None, problem))?;
        let (body, _) = parse::<NewMailboxBody>(&line).map_err(|problem| (None, problem))?;
        let address = body.address.clone();
        new_mailbox(&self.api, &self.tenant, body).await.map_err(|problem| (Some(address), problem))
    }

    async fn create_all(&self, mailboxes: Vec<NewMailbox>) -> Vec<Result<(), Problem>> {
        if mailboxes.is_empty() {
            return Vec::new();
        }
        let at = self.api.now();
        let created =
            self.api.directory.create_mailboxes(self.tenant.id, &mailboxes, &self.caller.actor, at).await;
        match created {
            Ok(created) => created.into_iter().map(|one| one.map(|_| ()).map_err(Problem::from)).collect(),
            Err(error) => {
                let problem = Problem::from(error);
                mailboxes.iter().map(|_| Err(problem.clone())).collect()
            }
        }
    }

    /// What is answered to a line that failed: short, however much the line was.
    fn failed(&self, line: u64, address: Option<String>, problem: Problem) -> BulkResult {
        let status = problem.status().as_u16();
        let problem = problem.shortened(DETAIL_OCTETS_MAX).of_request(&self.request_id);
        let address = address.map(|mut address| {
            shorten(&mut address, ECHO_OCTETS_MAX);
            address
        });
        BulkResult { line, address, status, problem: Some(problem) }
    }
}

/// A line that was read, or why it could not be.
type Line = Result<Vec<u8>, Problem>;

/// The lines of a body, as they come in. It holds one line and what came with it, never the body.
struct Lines {
    body: BodyDataStream,
    buffer: BytesMut,
    /// When it ends, whatever else may come.
    until: Instant,
    /// Lines given so far.
    given: u64,
    /// Whether the line that comes in is too long: the rest of it is thrown away.
    overlong: bool,
    /// Whether nothing more comes in.
    ended: bool,
    /// Why it ended before its end, if it did.
    broken: Option<Problem>,
}

impl Lines {
    fn new(body: BodyDataStream, until: Instant) -> Self {
        Self { body, buffer: BytesMut::new(), until, given: 0, overlong: false, ended: false, broken: None }
    }

    /// The next lines: those that are there, up to a chunk. None at the end.
    async fn chunk(&mut self) -> Vec<Line> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_LINES {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() && !self.ended {
                self.break_off(Problem::out_of_time(
                    "a request takes an hour at most; send the rest in another",
                ));
            }
            if let Some(line) = self.next_line() {
                chunk.push(line);
                continue;
            }
            if self.ended {
                break;
            }
            let patience = if chunk.is_empty() { STREAM_IDLE } else { CHUNK_LINGER };
            match timeout(patience.min(left), self.body.next()).await {
                Ok(Some(Ok(octets))) => self.buffer.extend_from_slice(&octets),
                Ok(Some(Err(_))) => self.break_off(Problem::broken_off()),
                Ok(None) => self.ended = true,
                // Said above.
                Err(_) if left <= patience => {}
                Err(_) if chunk.is_empty() => self.break_off(Problem::broken_off()),
                Err(_) => break,
            }
        }
        chunk
    }

    /// Ends it: what came in of a last line is not a line.
    fn break_off(&mut self, problem: Problem) {
        self.ended = true;
        self.broken = Some(problem);
        self.buffer.clear();
        self.overlong = false;
    }

    fn next_line(&mut self) -> Option<Line> {
        let line = match self.buffer.iter().position(|octet| *octet == b'\n') {
            Some(end) => {
                let mut line = self.buffer.split_to(end + 1);
                line.truncate(end);
                line
            }
            // The last line may come without its end.
            None if self.ended && (self.overlong || !self.buffer.is_empty()) => self.buffer.split(),
            None => {
                if self.buffer.len() > LINE_OCTETS_MAX {
                    self.overlong = true;
                    self.buffer.clear();
                }
                return None;
            }
        };
        if self.given == LINES_MAX {
            self.break_off(Problem::too_large("a request has 100,000 lines at most"));
            return None;
        }
        self.given += 1;
        if std::mem::take(&mut self.overlong) || line.len() > LINE_OCTETS_MAX {
            return Some(Err(Problem::too_large("a line has 64 KiB at most")));
        }
        Some(Ok(line.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a body that comes in pieces: their lengths, or `None` for one that cannot be taken.
    async fn lengths(pieces: Vec<Result<Vec<u8>, std::io::Error>>) -> (Vec<Option<usize>>, bool) {
        let body = Body::from_stream(stream::iter(pieces));
        let mut lines = Lines::new(body.into_data_stream(), Instant::now() + TIME_MAX);
        let mut lengths = Vec::new();
        loop {
            let chunk = lines.chunk().await;
            if chunk.is_empty() {
                return (lengths, lines.broken.is_some());
            }
            assert!(chunk.len() <= CHUNK_LINES);
            lengths.extend(chunk.into_iter().map(|line| line.ok().map(|line| line.len())));
        }
    }

    #[tokio::test]
    async fn lines_are_found_however_they_come() {
        let text = b"a\nbcd\r\n\nlast";
        for size in 1..=text.len() {
            let pieces = text.chunks(size).map(|piece| Ok(piece.to_vec())).collect();
            assert_eq!(lengths(pieces).await, (vec![Some(1), Some(4), Some(0), Some(4)], false), "{size}");
        }
        assert_eq!(lengths(vec![]).await, (vec![], false));
        let many = vec![Ok(b"x\n".repeat(250))];
        assert_eq!(lengths(many).await, (vec![Some(1); 250], false));
    }

    #[tokio::test]
    async fn an_overlong_line_costs_itself_alone() {
        let long = |end: &[u8]| [vec![b'x'; LINE_OCTETS_MAX * 3], end.to_vec()].concat();
        for size in [1000, LINE_OCTETS_MAX, LINE_OCTETS_MAX * 4] {
            let text = [b"a\n".to_vec(), long(b"\n"), b"bc\n".to_vec(), long(b"")].concat();
            let pieces = text.chunks(size).map(|piece| Ok(piece.to_vec())).collect();
            assert_eq!(lengths(pieces).await, (vec![Some(1), None, Some(2), None], false), "{size}");
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_gives_its_whole_lines() {
        let broken = || Err(std::io::Error::other("gone"));
        let pieces = vec![Ok(b"a\nb\nhalf".to_vec()), broken()];
        assert_eq!(lengths(pieces).await, (vec![Some(1), Some(1)], true));
    }

    #[tokio::test]
    async fn there_is_an_end_to_it() {
        let pieces = (0..101).map(|_| Ok(b"\n".repeat(1000))).collect();
        let (lengths, broken) = lengths(pieces).await;
        assert!(lengths.len() as u64 == LINES_MAX && broken);
    }

    #[tokio::test]
    async fn time_is_up_however_steadily_lines_come() {
        let trickle = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((Ok::<_, Infallible>("x\n"), ()))
        });
        let silence = stream::pending::<Result<Bytes, Infallible>>();
        for body in [Body::from_stream(trickle), Body::from_stream(silence)] {
            let began = Instant::now();
            let mut lines = Lines::new(body.into_data_stream(), began + Duration::from_millis(200));
            while !lines.chunk().await.is_empty() {}
            assert!(began.elapsed() < STREAM_IDLE / 2);
            assert_eq!(lines.broken.map(|problem| problem.status().as_u16()), Some(504));
        }
    }
}
