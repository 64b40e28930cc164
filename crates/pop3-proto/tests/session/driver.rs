//! A driver without I/O, and the transcript check built on it.

use pop3_proto::{
    Authorization, AuthorizationStep, ByteStuffer, CloseReason, DropListing, ForwardedAddress, LineBuffer,
    MAX_LINE_OCTETS, MAX_SASL_LINE_OCTETS, Mechanism, MessageNumber, Policy, Refusal, Request,
    SaslChallenged, SaslExchange, SaslStep, Tls, Token, TopLimit, Transaction, TransactionStep, replies,
};

/// The maildrop of RFC 1939 §10: two messages of 120 and 200 octets.
pub(crate) fn two_messages() -> Vec<(&'static str, String)> {
    vec![("whqtswO00WBw418f9t5JxYwZ", message(120)), ("QhdPYR:00WBw1Ph7x7", message(200))]
}

/// A message of `octets` octets: a header, and a body that begins with a dot.
fn message(octets: usize) -> String {
    let start = "Subject: hello\r\n\r\n.first\r\nsecond\r\n";
    format!("{start}{}\r\n", "x".repeat(octets - start.len() - 2))
}

/// One connection, its driver, and a mailbox `mrose` with the password `secret`.
pub(crate) struct Connection {
    pub(crate) out: Vec<u8>,
    /// What the core asked for, in order.
    pub(crate) steps: Vec<String>,
    /// The messages UPDATE removed, if there was one.
    pub(crate) removed: Option<Vec<u32>>,
    pub(crate) closed: Option<CloseReason>,
    pub(crate) input: LineBuffer,
    state: State,
    maildrop: Vec<(&'static str, String)>,
    commit_fails: bool,
}

enum State {
    Authorization(Authorization),
    /// An exchange, and the login name LOGIN was told.
    Sasl(SaslChallenged, Option<Vec<u8>>),
    Transaction(Transaction),
    Over,
}

impl Connection {
    pub(crate) fn new(policy: Policy) -> Self {
        let state = Authorization::new(policy);
        let mut out = Vec::new();
        state.greeting(&mut out);
        let mut input = LineBuffer::default();
        input.set_max_auth_octets(MAX_SASL_LINE_OCTETS);
        Self {
            out,
            steps: Vec::new(),
            removed: None,
            closed: None,
            input,
            state: State::Authorization(state),
            maildrop: two_messages(),
            commit_fails: false,
        }
    }

    pub(crate) fn failing_commits(mut self) -> Self {
        self.commit_fails = true;
        self
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Takes in what the client sent and drives the session as far as that goes.
    pub(crate) fn feed(&mut self, octets: &[u8]) {
        if self.is_over() {
            return;
        }
        self.input.push(octets);
        if self.input.is_tls_client_hello() {
            self.state = State::Over;
            self.closed = Some(CloseReason::ForeignProtocol);
        }
        while !self.is_over() {
            let Some(line) = self.input.next_line() else { return };
            match std::mem::replace(&mut self.state, State::Over) {
                State::Authorization(state) => {
                    let step = state.line(line, &mut self.out);
                    self.authorization(step);
                }
                State::Sasl(challenged, name) => {
                    let step = challenged.line(line, &mut self.out);
                    self.input.set_max_octets(MAX_LINE_OCTETS);
                    match step {
                        SaslStep::Response(exchange, token) => self.respond(exchange, Some(&token), name),
                        SaslStep::Ended(step) => self.authorization(step),
                    }
                }
                State::Transaction(state) => {
                    let step = state.line(line, &mut self.out);
                    self.transaction(step);
                }
                State::Over => {}
            }
        }
    }

    fn authorization(&mut self, step: AuthorizationStep) {
        match step {
            AuthorizationStep::Continue(state) => self.state = State::Authorization(state),
            AuthorizationStep::Login(login, credentials) => {
                self.steps.push(format!("Login {} {:?}", credentials.login, credentials.password.expose()));
                let refusal = match (credentials.login.as_str(), credentials.password.expose()) {
                    ("mrose", b"secret") => {
                        let listing = self.listing();
                        let state = login.accept(listing, &mut self.out);
                        self.state = State::Transaction(state);
                        return;
                    }
                    ("busy", _) => Refusal::InUse,
                    ("down", _) => Refusal::Temporary,
                    ("gone", _) => Refusal::Permanent,
                    ("soon", _) => Refusal::LoginDelay,
                    _ => Refusal::BadCredentials,
                };
                let step = login.refuse(refusal, &mut self.out);
                self.authorization(step);
            }
            AuthorizationStep::Apop(login, credentials) => {
                self.steps.push(format!("Apop {} {:02x?}", credentials.login, credentials.digest));
                let step = login.refuse(Refusal::BadCredentials, &mut self.out);
                self.authorization(step);
            }
            AuthorizationStep::Sasl(exchange, initial) => self.respond(exchange, initial.as_ref(), None),
            AuthorizationStep::StartTls(start_tls) => {
                self.steps.push("StartTls".to_owned());
                if !self.input.is_empty() {
                    self.steps.push("injection".to_owned());
                    return;
                }
                self.input = LineBuffer::default();
                self.state = State::Authorization(start_tls.established());
            }
            AuthorizationStep::Forwarded(forwarding, client) => {
                self.steps.push(format!("{client:?}"));
                let local = client.address == Some(ForwardedAddress::Known([127, 0, 0, 1].into()));
                self.state = State::Authorization(forwarding.accept(local, &mut self.out));
            }
            AuthorizationStep::Close(reason) => self.closed = Some(reason),
        }
    }

    /// PLAIN and LOGIN as far as a transcript needs them.
    fn respond(&mut self, exchange: SaslExchange, token: Option<&Token>, name: Option<Vec<u8>>) {
        let mechanism = exchange.mechanism();
        let Some(token) = token else {
            let prompt: &[u8] = if mechanism == Mechanism::Login { b"User Name\0" } else { b"" };
            return self.challenge(exchange, prompt, None);
        };
        self.steps.push(format!("{} {}", mechanism.as_str(), String::from_utf8_lossy(token.expose())));
        let good = match (mechanism, name) {
            (Mechanism::Login, None) => {
                return self.challenge(exchange, b"Password\0", Some(token.expose().to_vec()));
            }
            (Mechanism::Login, Some(name)) => name == b"mrose" && token.expose() == b"secret",
            _ => token.expose() == b"\0mrose\0secret",
        };
        let login = exchange.end();
        if good {
            let listing = self.listing();
            self.state = State::Transaction(login.accept(listing, &mut self.out));
        } else {
            let step = login.refuse(Refusal::BadCredentials, &mut self.out);
            self.authorization(step);
        }
    }

    fn challenge(&mut self, exchange: SaslExchange, octets: &[u8], name: Option<Vec<u8>>) {
        self.state = State::Sasl(exchange.challenge(octets, &mut self.out), name);
        self.input.set_max_octets(MAX_SASL_LINE_OCTETS);
    }

    fn transaction(&mut self, step: TransactionStep) {
        match step {
            TransactionStep::Continue(state) => self.state = State::Transaction(state),
            TransactionStep::Request(mut state, request) => {
                self.steps.push(format!("{request:?}"));
                self.answer(&mut state, request);
                self.state = State::Transaction(state);
            }
            TransactionStep::Quit(update) => {
                self.steps.push("Quit".to_owned());
                if self.commit_fails {
                    update.failed(&mut self.out);
                } else {
                    self.removed = Some(update.deleted().map(MessageNumber::get).collect());
                    assert_eq!(self.removed.as_ref().map(Vec::len), Some(update.len() as usize));
                    update.committed(&mut self.out);
                }
            }
            TransactionStep::Close(reason) => self.closed = Some(reason),
        }
    }

    fn answer(&mut self, state: &mut Transaction, request: Request) {
        let out = &mut self.out;
        let kept = |number: &MessageNumber| !state.is_deleted(*number);
        let numbers = (0..self.maildrop.len()).filter_map(MessageNumber::from_index).filter(kept);
        match request {
            Request::List(None) => {
                replies::list_header(state.wording(), state.totals(), out);
                numbers.for_each(|number| replies::scan_line(number, octets(&self.maildrop, number), out));
                replies::terminator(out);
            }
            Request::UniqueIds(None) => {
                replies::unique_id_header(state.wording(), out);
                numbers
                    .for_each(|number| replies::unique_id_line(number, self.maildrop[number.index()].0, out));
                replies::terminator(out);
            }
            Request::List(Some(number)) => replies::list_one(number, octets(&self.maildrop, number), out),
            Request::UniqueIds(Some(number)) => {
                replies::unique_id_one(number, self.maildrop[number.index()].0, out);
            }
            Request::Retrieve(number) => {
                replies::retrieve_header(state.wording(), octets(&self.maildrop, number), out);
                stuff(self.maildrop[number.index()].1.as_bytes(), out);
            }
            Request::Top(number, lines) => {
                replies::top_header(state.wording(), out);
                let message = self.maildrop[number.index()].1.as_bytes();
                stuff(&message[..TopLimit::new(lines).push(message)], out);
            }
            Request::Delete(number) => state.deleted(number, octets(&self.maildrop, number), out),
        }
    }

    fn listing(&self) -> DropListing {
        DropListing {
            messages: self.maildrop.len() as u32,
            octets: self.maildrop.iter().map(|(_, message)| message.len() as u64).sum(),
        }
    }
}

fn octets(maildrop: &[(&str, String)], number: MessageNumber) -> u64 {
    maildrop[number.index()].1.len() as u64
}

fn stuff(content: &[u8], out: &mut Vec<u8>) {
    let mut stuffer = ByteStuffer::new();
    stuffer.push(content, out);
    stuffer.finish(out);
}

/// A listener that takes passwords in plaintext and has no TLS.
pub(crate) fn open_policy() -> Policy {
    let mut policy = Policy::new("POP3 server ready", "Postern");
    policy.plaintext_login = true;
    policy
}

/// A plaintext listener that asks for STLS first.
pub(crate) fn strict_policy() -> Policy {
    let mut policy = open_policy();
    policy.plaintext_login = false;
    policy.tls = Tls::Available;
    policy
}

/// A plaintext listener that asks for STLS first, and whose peer is a proxy that is trusted.
pub(crate) fn proxy_policy() -> Policy {
    let mut policy = strict_policy();
    policy.forwarding = true;
    policy
}

/// Plays the `C:` lines and compares the `S:` lines, all of them, in order.
#[track_caller]
pub(crate) fn check(connection: Connection, transcript: &str) -> Connection {
    let mut connection = connection;
    for exchange in transcript.trim_start().split("C: ") {
        let mut lines = exchange.lines();
        // What comes before the first `C:` is the greeting.
        if let Some(command) = lines.next().filter(|line| !line.trim_start().starts_with("S:")) {
            connection.feed(format!("{command}\r\n").as_bytes());
        } else {
            lines = exchange.lines();
        }
        let said = String::from_utf8(std::mem::take(&mut connection.out)).expect("replies are UTF-8");
        let expected: Vec<_> = lines
            .map(str::trim_start)
            .filter(|line| !line.is_empty())
            .map(|line| line.strip_prefix("S: ").or_else(|| line.strip_prefix("S:")).expect("S: or C:"))
            .map(|line| format!("{line}\r\n"))
            .collect();
        assert_eq!(said, expected.concat(), "after C: {:?}", exchange.lines().next());
    }
    connection
}

/// A connection that is logged in, with nothing in `out`.
pub(crate) fn logged_in() -> Connection {
    let mut connection = Connection::new(open_policy());
    connection.feed(b"USER mrose\r\nPASS secret\r\n");
    connection.out.clear();
    connection.steps.clear();
    connection
}
