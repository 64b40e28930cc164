//! Bad weather on the way to an object store: a proxy that breaks requests on demand or by chance.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::Dice;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The connection is reset before the server has seen anything.
    Reset,
    /// It is reset in the middle of the request's body.
    ResetInRequest,
    /// The server does it, and its answer is lost.
    AnswerLost,
    /// The connection is reset in the middle of the answer's body.
    ResetInBody,
    /// The answer's body ends in the middle.
    Truncated,
    /// One octet of the answer's body is another.
    WrongOctet,
    /// One octet of the request's body is another.
    WrongOctetSent,
    /// Nothing for so long, and then the answer.
    Late(Duration),
    /// The answer's body stops for so long in the middle.
    Stalled(Duration),
    /// The answer comes in small pieces.
    Drip,
    /// 500.
    Failed,
    /// 503 SlowDown.
    SlowDown,
}

/// Faults that come by chance.
#[derive(Debug, Clone)]
pub(crate) struct Chance {
    /// Of a hundred requests, so many.
    pub(crate) percent: u64,
    pub(crate) faults: Vec<Fault>,
}

#[derive(Debug)]
struct Sky {
    server: String,
    always: Option<Fault>,
    /// Only requests of this method have faults.
    method: Option<&'static str>,
    chance: Option<Chance>,
    dice: Dice,
    requests: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
}

/// A proxy in front of an object store. It passes everything on as it is, the signed Host included.
#[derive(Clone)]
pub(crate) struct Weather {
    addr: SocketAddr,
    sky: Arc<Mutex<Sky>>,
}

impl Weather {
    /// Fair weather in front of the server at this URL.
    pub(crate) fn before(endpoint: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let sky = Arc::new(Mutex::new(Sky {
            server: endpoint.trim_start_matches("http://").to_owned(),
            always: None,
            method: None,
            chance: None,
            dice: Dice::new(seed),
            requests: BTreeMap::new(),
            faults: BTreeMap::new(),
        }));
        let shared = Arc::clone(&sky);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let sky = Arc::clone(&shared);
                // A connection that breaks is what this is for.
                thread::spawn(move || drop(serve(client, &sky)));
            }
        });
        Self { addr, sky }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every request has this fault, or of one method alone.
    pub(crate) fn always(&self, fault: Fault, method: Option<&'static str>) {
        let mut sky = self.sky.lock().unwrap();
        (sky.always, sky.method) = (Some(fault), method);
    }

    pub(crate) fn by_chance(&self, chance: Chance) {
        self.sky.lock().unwrap().chance = Some(chance);
    }

    pub(crate) fn clear(&self) {
        let mut sky = self.sky.lock().unwrap();
        (sky.always, sky.method, sky.chance) = (None, None, None);
    }

    /// Requests that came, all of them or of one method.
    pub(crate) fn requests(&self, method: Option<&str>) -> u64 {
        let sky = self.sky.lock().unwrap();
        sky.requests.iter().filter(|(m, _)| method.is_none_or(|method| method == *m)).map(|(_, n)| n).sum()
    }

    /// Faults that there were, by their names.
    pub(crate) fn faults(&self) -> BTreeMap<String, u64> {
        self.sky.lock().unwrap().faults.clone()
    }
}

impl Sky {
    fn fault(&mut self, method: &str) -> Option<Fault> {
        *self.requests.entry(method.to_owned()).or_default() += 1;
        let by_chance = |sky: &mut Self| {
            let chance = sky.chance.clone()?;
            (sky.dice.roll(100) < chance.percent)
                .then(|| chance.faults[sky.dice.roll(chance.faults.len() as u64) as usize])
        };
        let here = self.method.is_none_or(|only| only == method);
        let fault = self.always.filter(|_| here).or_else(|| by_chance(self));
        if let Some(fault) = fault {
            let name = format!("{fault:?}").split('(').next().unwrap().to_owned();
            *self.faults.entry(name).or_default() += 1;
        }
        fault
    }
}

/// One request: each has a connection of its own, to the server too.
fn serve(client: TcpStream, sky: &Mutex<Sky>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    let (mut head, mut length, mut expects) = (Vec::new(), 0, false);
    loop {
        let start = head.len();
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&head[start..]).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        expects |= line.starts_with("expect:");
        assert!(!line.starts_with("transfer-encoding:"), "not known here");
        if line == "\r\n" {
            break;
        }
    }
    let method = String::from_utf8_lossy(&head).split(' ').next().unwrap().to_owned();
    let (fault, server) = {
        let mut sky = sky.lock().unwrap();
        (sky.fault(&method), sky.server.clone())
    };
    if fault == Some(Fault::Reset) {
        return reset(&client);
    }
    if expects {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = vec![0; length];
    if fault == Some(Fault::ResetInRequest) {
        reader.read_exact(&mut body[..length / 2])?;
        return reset(&client);
    }
    reader.read_exact(&mut body)?;
    match fault {
        Some(Fault::Failed) => return refuse(client, "500 Internal Server Error", "InternalError"),
        Some(Fault::SlowDown) => return refuse(client, "503 Slow Down", "SlowDown"),
        Some(Fault::Late(time)) => thread::sleep(time),
        Some(Fault::WrongOctetSent) if length > 0 => body[length / 2] ^= 1,
        _ => {}
    }
    let mut upstream = TcpStream::connect(&server)?;
    upstream.set_read_timeout(Some(Duration::from_secs(60)))?;
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    upstream.write_all(&head)?;
    upstream.write_all(&body)?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    while answer.starts_with(b"HTTP/1.1 100") {
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        answer.drain(..end + 4);
    }
    let start = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let middle = usize::midpoint(start, answer.len());
    match fault {
        Some(Fault::AnswerLost) => reset(&client),
        Some(Fault::ResetInBody) => {
            client.write_all(&answer[..middle])?;
            // What was written is to get there before the reset, which overtakes it.
            thread::sleep(Duration::from_millis(20));
            reset(&client)
        }
        Some(Fault::Truncated) => client.write_all(&answer[..middle]),
        Some(Fault::Stalled(time)) => {
            client.write_all(&answer[..middle])?;
            thread::sleep(time);
            client.write_all(&answer[middle..])
        }
        Some(Fault::Drip) => {
            for piece in answer.chunks((answer.len() / 20).max(1)) {
                client.write_all(piece)?;
                thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        }
        Some(Fault::WrongOctet) if middle > start => {
            answer[middle] ^= 1;
            client.write_all(&answer)
        }
        _ => client.write_all(&answer),
    }
}

fn refuse(mut client: TcpStream, status: &str, code: &str) -> std::io::Result<()> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    client.write_all(head.as_bytes())?;
    client.write_all(body.as_bytes())
}

/// Ends a connection by a reset.
fn reset(client: &TcpStream) -> std::io::Result<()> {
    socket2::SockRef::from(client).set_linger(Some(Duration::ZERO))?;
    // Both handles must be gone for it, and the other one goes with the caller's frame.
    Ok(())
}
