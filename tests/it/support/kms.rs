//! A key service that speaks AWS KMS's JSON protocol, with whatever weather a test wants.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

/// What it does with requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weather {
    Fair,
    /// Answers after so many milliseconds.
    Slow(u64),
    /// Refuses every second request for being too many.
    Throttling,
    /// Accepts connections and says nothing.
    Silent,
    /// The key is disabled.
    Disabled,
}

/// A key service. It serves until the test ends.
pub(crate) struct Kms {
    pub(crate) address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    weather: Weather,
    /// Requests by operation.
    counts: HashMap<String, u64>,
    /// What was wrong with requests.
    faults: Vec<String>,
}

impl Kms {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared { weather: Weather::Fair, counts: HashMap::new(), faults: Vec::new() };
        let shared = Arc::new(Mutex::new(shared));
        let of_server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&of_server);
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn key(name: &str) -> String {
        format!("arn:aws:kms:us-east-1:111122223333:key/{name}")
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.shared.lock().unwrap().weather = weather;
    }

    /// How often `Encrypt` or `Decrypt` was asked for.
    pub(crate) fn count(&self, operation: &str) -> u64 {
        self.shared.lock().unwrap().counts.get(operation).copied().unwrap_or_default()
    }

    /// What was wrong with requests so far.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.shared.lock().unwrap().faults.clone()
    }
}

fn serve(stream: TcpStream, shared: &Mutex<Shared>) {
    let mut reader = BufReader::new(stream);
    while let Some((headers, body)) = request(&mut reader) {
        let target = headers.get("x-amz-target").cloned().unwrap_or_default();
        let operation = target.strip_prefix("TrentService.").unwrap_or(&target).to_owned();
        let (weather, nth) = {
            let mut shared = shared.lock().unwrap();
            let nth = shared.counts.entry(operation.clone()).or_default();
            *nth += 1;
            let nth = *nth;
            (shared.weather, nth)
        };
        let signed = headers.get("authorization").is_some_and(|given| {
            given.starts_with("AWS4-HMAC-SHA256 Credential=")
                && given.contains("/us-east-1/kms/aws4_request")
                && given.contains("x-amz-target")
        });
        if !signed {
            shared.lock().unwrap().faults.push(format!("{operation} is not signed"));
        }
        let (status, answer) = match weather {
            Weather::Silent => {
                thread::sleep(Duration::from_secs(120));
                return;
            }
            Weather::Throttling if nth % 2 == 1 => refuse("ThrottlingException"),
            Weather::Disabled => refuse("DisabledException"),
            _ => {
                if let Weather::Slow(millis) = weather {
                    thread::sleep(Duration::from_millis(millis));
                }
                answer(&operation, &body, shared)
            }
        };
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} x\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        let stream = reader.get_mut();
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(answer.as_bytes())).is_err() {
            return;
        }
    }
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<(HashMap<String, String>, Value)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|octets| *octets > 0)?;
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let octets = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; octets];
    reader.read_exact(&mut body).ok()?;
    Some((headers, serde_json::from_slice(&body).ok()?))
}

fn refuse(code: &str) -> (u16, Value) {
    (400, json!({ "__type": code, "message": "said the test" }))
}

/// What is sealed says with which key and for what, as the real one's does where nobody sees it.
fn answer(operation: &str, body: &Value, shared: &Mutex<Shared>) -> (u16, Value) {
    let key = body["KeyId"].as_str().unwrap_or_default();
    let context = &body["EncryptionContext"];
    let tenant = context["postern:tenant"].as_str().unwrap_or_default();
    if tenant.len() != 36 || !key.starts_with("arn:aws:kms:us-east-1:111122223333:key/") {
        shared.lock().unwrap().faults.push(format!("{operation}: {body}"));
    }
    match operation {
        "Encrypt" => {
            let plain = BASE64_STANDARD.decode(body["Plaintext"].as_str().unwrap()).unwrap();
            let hidden: Vec<u8> = plain.iter().map(|octet| octet ^ 0x5a).collect();
            let sealed = json!({ "key": key, "context": context, "hidden": hidden }).to_string();
            (200, json!({ "CiphertextBlob": BASE64_STANDARD.encode(sealed), "KeyId": key }))
        }
        "Decrypt" => {
            let sealed = BASE64_STANDARD.decode(body["CiphertextBlob"].as_str().unwrap()).unwrap();
            let Ok(sealed) = serde_json::from_slice::<Value>(&sealed) else {
                return refuse("InvalidCiphertextException");
            };
            if sealed["key"] != key {
                return refuse("IncorrectKeyException");
            }
            if sealed["context"] != *context {
                return refuse("InvalidCiphertextException");
            }
            let hidden = sealed["hidden"].as_array().unwrap();
            let plain: Vec<u8> = hidden.iter().map(|octet| octet.as_u64().unwrap() as u8 ^ 0x5a).collect();
            (200, json!({ "Plaintext": BASE64_STANDARD.encode(plain), "KeyId": key }))
        }
        _ => refuse("UnknownOperationException"),
    }
}
