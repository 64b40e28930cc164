//! `postern admin mailbox import`: many mailboxes from a file, as they are read.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, IsTerminal as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::{
    client::{Client, reason},
    output::Answer,
};

/// Lines of one request at most: the API's own limit.
const LINES_OF_REQUEST: usize = 100_000;
/// Lines that are read ahead.
const LINES_AHEAD: usize = 200;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The tenant
    tenant: String,
    /// The file, or - for standard input: a JSON object a line, or CSV with a first line that names the fields
    file: PathBuf,
    /// How the file is written; by its name where it is not said, and NDJSON where that does not tell
    #[arg(long)]
    format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A JSON object a line
    Ndjson,
    /// Comma-separated values: address, password, password_hash, quota_octets, quota_messages, suspended
    Csv,
}

/// A line of the file: its number, and what is to be sent of it or why it cannot be.
type Line = (u64, Result<String, String>);

/// What has come of an import so far.
#[derive(Debug, Default)]
struct Tally {
    created: u64,
    failed: u64,
    /// The last line of the file that was answered.
    answered: Option<u64>,
}

impl Tally {
    /// What there is to say where the answer ends before the lines do.
    fn broken_off(&self) -> String {
        let Self { created, failed, answered } = self;
        let until = match answered {
            Some(number) => format!("line {number} was the last that was answered"),
            None => "no line was answered".to_owned(),
        };
        format!(
            "the answer broke off: {until} ({created} created, {failed} failed); what comes after it may have been \
             created or not, and can be imported again"
        )
    }
}

/// Runs the import. Some lines may fail: then it fails, after the others were created.
pub(super) async fn run(client: &Client, args: ImportArgs, json: bool) -> anyhow::Result<Answer> {
    let format = args.format.unwrap_or_else(|| Format::of(&args.file));
    let bar = progress(&args.file)?;
    let mut source = Source::open(&args.file, format)?;
    let mut tally = Tally::default();
    let began = std::time::Instant::now();
    while source.has_more().await {
        source = request(client, &args.tenant, source, &mut tally, &bar).await?;
    }
    bar.finish_and_clear();
    let Tally { created, failed, .. } = tally;
    let seconds = began.elapsed().as_secs_f64();
    let summary = json!({ "created": created, "failed": failed, "seconds": (seconds * 10.0).round() / 10.0 });
    Answer::One(summary).print(json)?;
    if failed > 0 {
        bail!("{failed} of {} lines failed", created + failed);
    }
    Ok(Answer::Nothing)
}

impl Format {
    fn of(file: &Path) -> Self {
        let is_csv = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        if is_csv { Self::Csv } else { Self::Ndjson }
    }
}

/// A bar where somebody looks at it; its length where the file tells.
fn progress(file: &Path) -> anyhow::Result<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let bar = if file.as_os_str() == "-" {
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("{spinner} {pos} lines, {per_sec}, {elapsed} {msg}")?);
        bar
    } else {
        let lines = BufReader::new(open(file)?).split(b'\n').count() as u64;
        let bar = ProgressBar::new(lines);
        bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len}, {per_sec}, {eta} left {msg}")?);
        bar
    };
    Ok(bar)
}

fn open(file: &Path) -> anyhow::Result<File> {
    File::open(file).with_context(|| file.display().to_string())
}

/// Sends up to a request's worth of lines and hears what became of them.
async fn request(
    client: &Client,
    tenant: &str,
    source: Source,
    tally: &mut Tally,
    bar: &ProgressBar,
) -> anyhow::Result<Source> {
    let sending = Arc::new(Mutex::new(Sending::default()));
    let (give_back, given_back) = tokio::sync::oneshot::channel();
    let state = Some((source, give_back, 0usize));
    let noted = Arc::clone(&sending);
    let body = stream::unfold(state, move |state| {
        let noted = Arc::clone(&noted);
        async move {
            let (mut source, give_back, sent) = state?;
            loop {
                let next = if sent < LINES_OF_REQUEST { source.next().await } else { None };
                match next {
                    None => break,
                    Some((number, Ok(text))) => {
                        noted.lock().unwrap_or_else(PoisonError::into_inner).numbers.push_back(number);
                        let line = Ok::<_, std::io::Error>(Bytes::from(text + "\n"));
                        return Some((line, Some((source, give_back, sent + 1))));
                    }
                    Some((number, Err(why))) => {
                        noted.lock().unwrap_or_else(PoisonError::into_inner).refused.push((number, why));
                    }
                }
            }
            let _ = give_back.send(source);
            None
        }
    });
    let path = ["tenants", tenant, "mailboxes", "bulk"];
    let answer =
        client.send(&path, Vec::new(), "application/x-ndjson", reqwest::Body::wrap_stream(body)).await?;
    let mut answer = answer.bytes_stream();
    let mut buffer = BytesMut::new();
    while let Some(chunk) = answer.next().await {
        buffer.extend_from_slice(&chunk.with_context(|| tally.broken_off())?);
        while let Some(end) = buffer.iter().position(|octet| *octet == b'\n') {
            let line = buffer.split_to(end + 1);
            let number = sending.lock().unwrap_or_else(PoisonError::into_inner).numbers.pop_front();
            hear(&serde_json::from_slice(&line)?, number, tally, bar)?;
        }
    }
    let Sending { numbers, refused } =
        std::mem::take(&mut *sending.lock().unwrap_or_else(PoisonError::into_inner));
    for (number, why) in refused {
        fail(number, "", &why, tally, bar);
    }
    if !numbers.is_empty() {
        bail!(tally.broken_off());
    }
    // The rest of the file goes with the request, where that is over before its body is.
    given_back.await.map_err(|_| anyhow::anyhow!(tally.broken_off()))
}

/// Lines that were sent and not heard of yet, and those that could not be sent.
#[derive(Debug, Default)]
struct Sending {
    numbers: VecDeque<u64>,
    refused: Vec<(u64, String)>,
}

/// Notes what became of a line.
fn hear(result: &Value, number: Option<u64>, tally: &mut Tally, bar: &ProgressBar) -> anyhow::Result<()> {
    let status = result.get("status").and_then(Value::as_u64).context("the answer has no status")?;
    tally.answered = number.or(tally.answered);
    if status == 201 {
        tally.created += 1;
        bar.inc(1);
        return Ok(());
    }
    let Some(number) = number else {
        // The API says that the request itself went wrong.
        bail!("{status}: {}", reason(result.get("problem").unwrap_or(&Value::Null)));
    };
    let address = result.get("address").and_then(Value::as_str).unwrap_or("");
    let why = format!("{status}: {}", reason(result.get("problem").unwrap_or(&Value::Null)));
    fail(number, address, &why, tally, bar);
    Ok(())
}

#[expect(clippy::print_stderr, reason = "each line that failed is named, apart from what was asked for")]
fn fail(number: u64, address: &str, why: &str, tally: &mut Tally, bar: &ProgressBar) {
    tally.failed += 1;
    bar.inc(1);
    bar.set_message(format!("{} failed", tally.failed));
    let address = if address.is_empty() { String::new() } else { format!("{address}: ") };
    bar.suspend(|| eprintln!("line {number}: {address}{why}"));
}

/// The lines of the file, read ahead by a thread of their own.
struct Source {
    lines: mpsc::Receiver<Line>,
    /// The next line, where it was looked at already.
    peeked: Option<Line>,
}

impl Source {
    fn open(file: &Path, format: Format) -> anyhow::Result<Self> {
        let reader: Box<dyn BufRead + Send> = if file.as_os_str() == "-" {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            Box::new(BufReader::new(open(file)?))
        };
        let (sender, lines) = mpsc::channel(LINES_AHEAD);
        tokio::task::spawn_blocking(move || match format {
            Format::Ndjson => read_ndjson(reader, &sender),
            Format::Csv => read_csv(reader, &sender),
        });
        Ok(Self { lines, peeked: None })
    }

    async fn has_more(&mut self) -> bool {
        if self.peeked.is_none() {
            self.peeked = self.lines.recv().await;
        }
        self.peeked.is_some()
    }

    async fn next(&mut self) -> Option<Line> {
        match self.peeked.take() {
            Some(line) => Some(line),
            None => self.lines.recv().await,
        }
    }
}

fn read_ndjson(reader: impl BufRead, lines: &mpsc::Sender<Line>) {
    for (number, line) in (1..).zip(reader.lines()) {
        let is_over = line.is_err();
        if lines.blocking_send((number, line.map_err(|error| error.to_string()))).is_err() || is_over {
            return;
        }
    }
}

fn read_csv(reader: impl BufRead, lines: &mpsc::Sender<Line>) {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_reader(reader);
    let names = match reader.headers() {
        Ok(names) => names.clone(),
        Err(error) => {
            let _ = lines.blocking_send((1, Err(error.to_string())));
            return;
        }
    };
    let mut record = csv::StringRecord::new();
    loop {
        let read = reader.read_record(&mut record);
        let number = record.position().map_or(0, csv::Position::line);
        let line = match read {
            Ok(false) => return,
            Ok(true) => body_of(&names, &record),
            Err(error) => Err(error.to_string()),
        };
        if lines.blocking_send((number, line)).is_err() || reader.is_done() {
            return;
        }
    }
}

/// A record as the body of a creation. What is empty is not given.
fn body_of(names: &csv::StringRecord, record: &csv::StringRecord) -> Result<String, String> {
    let mut body = Map::new();
    for (name, text) in names.iter().zip(record).filter(|(_, text)| !text.is_empty()) {
        let value = match name {
            "quota_octets" | "quota_messages" => {
                json!(text.trim().parse::<u64>().map_err(|_| format!("{name}: \"{text}\" is no number"))?)
            }
            "suspended" => {
                json!(
                    text.trim()
                        .parse::<bool>()
                        .map_err(|_| format!("{name}: \"{text}\" is not true or false"))?
                )
            }
            "address" => json!(text.trim()),
            // A password may begin or end with a space.
            _ => json!(text),
        };
        body.insert(name.to_owned(), value);
    }
    Ok(Value::Object(body).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, format: Format) -> Vec<Line> {
        let (sender, mut lines) = mpsc::channel(100);
        match format {
            Format::Ndjson => read_ndjson(text.as_bytes(), &sender),
            Format::Csv => read_csv(text.as_bytes(), &sender),
        }
        drop(sender);
        std::iter::from_fn(|| lines.blocking_recv()).collect()
    }

    #[test]
    fn csv_becomes_bodies_with_the_lines_they_stand_on() {
        let text = "address, password,quota_octets,suspended\na@x.test,\" p,w\",5,true\nb@x.test,,,\nc@x.test,x,y,\n\
                    d@x.test,x\n";
        let lines = read(text, Format::Csv);
        let body =
            |index: usize| -> Value { serde_json::from_str(lines[index].1.as_ref().unwrap()).unwrap() };
        assert_eq!(
            body(0),
            json!({ "address": "a@x.test", "password": " p,w", "quota_octets": 5, "suspended": true })
        );
        assert_eq!(body(1), json!({ "address": "b@x.test" }));
        assert!(lines[2].1.as_ref().unwrap_err().contains("quota_octets"));
        assert!(lines[3].1.is_err(), "a record that is too short");
        assert_eq!(lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3, 4, 5]);
    }

    /// Imports a file of three mailboxes from an API that says `answer` and goes away.
    async fn broken_off(answer: &'static str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        // As `main` does; another test may have.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"0\r\n\r\n") {
                assert!(peer.read_buf(&mut heard).await.unwrap() > 0);
            }
            peer.write_all(answer.as_bytes()).await.unwrap();
        });
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mailboxes.csv");
        std::fs::write(&file, "address\na@x.test\nb@x.test\nc@x.test\n").unwrap();
        let args = ImportArgs { tenant: "one".into(), file, format: None };
        let client = Client::new(&url, "token").unwrap();
        let error = run(&client, args, true).await.unwrap_err().to_string();
        api.await.unwrap();
        error
    }

    #[tokio::test]
    async fn an_answer_that_ends_early_is_an_error_that_names_the_last_line() {
        let cut = broken_off(concat!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "f\r\n{\"status\":201}\n\r\nf\r\n{\"status\":201}\n\r\n"
        ))
        .await;
        assert!(cut.contains("line 3 was the last that was answered (2 created, 0 failed)"), "{cut}");
        // It ends in order, but before the lines do.
        let ended = broken_off(concat!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 15\r\n\r\n",
            "{\"status\":201}\n"
        ))
        .await;
        assert!(ended.contains("line 2 was the last that was answered (1 created, 0 failed)"), "{ended}");
        let none = broken_off("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(none.contains("no line was answered"), "{none}");
    }

    #[test]
    fn ndjson_is_sent_as_it_is() {
        let lines = read("{\"a\":1}\nrubbish", Format::Ndjson);
        assert_eq!(lines, [(1, Ok("{\"a\":1}".to_owned())), (2, Ok("rubbish".to_owned()))]);
        assert_eq!(Format::of(Path::new("x.CSV")), Format::Csv);
        assert_eq!(Format::of(Path::new("-")), Format::Ndjson);
    }
}
