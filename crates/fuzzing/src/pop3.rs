//! The POP3 core in every state, before any back end.

mod form;

use std::collections::BTreeSet;

use pop3_proto::{
    Authorization, AuthorizationStep, ByteStuffer, CloseReason, DropListing, Line, LineBuffer,
    MAX_LINE_OCTETS, MAX_SASL_LINE_OCTETS, MAX_TOKEN_OCTETS, Mechanism, MessageNumber, Policy, Refusal,
    Request, SaslChallenged, SaslExchange, SaslStep, Terms, Tls, Token, TopLimit, Transaction,
    TransactionStep, replies, texts,
};

pub(crate) use form::check_forwarded;
use form::{check_content, check_reply, check_status};

use crate::script::Script;

/// Messages that were seen to trip servers up.
const CONTENTS: [&[u8]; 6] = [
    b"Subject: a\r\n\r\n.first\r\n..\r\n.\r\n",
    b"",
    b".",
    b"no line end",
    b"a\n.\nb\r.\r\n\r\n.\r\n",
    b"Only: header\r\n",
];

/// Plays a session in one piece and in several, against back ends that answer anything, and holds each reply to the
/// form that RFC 1939 §3 asks for.
pub fn pop3(input: &[u8]) {
    let Some(script) = Script::new(input) else { return };
    let mut whole = Session::new(&script);
    whole.feed(script.rest);
    let mut split = Session::new(&script);
    for piece in script.pieces(script.rest) {
        split.feed(piece);
    }
    // What is behind STLS in the same packet ends the session, and what comes later does not.
    if !whole.started_tls && !split.started_tls {
        assert_eq!(whole.out, split.out, "what is said depends on how the octets come");
        assert_eq!(whole.steps, split.steps, "what is asked for depends on how the octets come");
    }
}

enum State {
    Authorization(Authorization),
    Sasl(SaslChallenged),
    Transaction(Transaction),
    Over,
}

struct Session<'a> {
    state: State,
    input: LineBuffer,
    out: Vec<u8>,
    steps: Vec<String>,
    contents: Vec<&'a [u8]>,
    answers: Box<dyn Iterator<Item = u8>>,
    marked: BTreeSet<u32>,
    refused: u32,
    max_refused: u32,
    apop: bool,
    commits: bool,
    terms: Terms,
    started_tls: bool,
    logged_in: bool,
    script: Script<'a>,
}

fn policy(script: &Script<'_>) -> Policy {
    let mut policy =
        Policy::new("POP3 <server> \r\nréady", if script.bit(0) { "Postern\r\n+OK" } else { "" });
    policy.tls = [Tls::Unavailable, Tls::Available, Tls::Active][usize::from(script.setup[1]) % 3];
    policy.plaintext_login = script.bit(1);
    policy.forwarding = script.bit(2);
    policy.apop = script.bit(3).then(|| "<1.2@host.test>".into());
    policy.login_delay_secs = script.bit(4).then_some(300);
    policy.expire_days = script.bit(5).then_some(30);
    let bits = u16::from_le_bytes([script.setup[2], script.setup[3]]);
    let mechanisms = Mechanism::ALL.iter().enumerate();
    policy.mechanisms =
        mechanisms.filter(|(number, _)| bits >> number & 1 == 1).map(|(_, mechanism)| *mechanism).collect();
    policy.max_bad_commands = u32::from(script.setup[4] % 24) + 1;
    policy.max_refused_logins = u32::from(script.setup[5] % 6) + 1;
    policy
}

impl<'a> Session<'a> {
    fn new(script: &Script<'a>) -> Self {
        let policy = policy(script);
        let (apop, max_refused) = (policy.apop.is_some(), policy.max_refused_logins);
        let state = Authorization::new(policy);
        let mut out = Vec::new();
        state.greeting(&mut out);
        assert_eq!(out.contains(&b'<'), apop, "the banner shows <…> where APOP is taken, and nowhere else");
        check_status(&out, true);
        let mut input = LineBuffer::default();
        input.set_max_auth_octets(MAX_SASL_LINE_OCTETS);
        let mut contents: Vec<&[u8]> =
            CONTENTS.into_iter().take(usize::from(script.setup[6]) % (CONTENTS.len() + 1)).collect();
        // One that nobody has thought of.
        if script.bit(6) {
            contents.push(&script.rest[..script.rest.len().min(2048)]);
        }
        let terms = Terms {
            login_delay_secs: script.bit(7).then_some(u32::MAX),
            expire_days: script.bit(56).then_some(0),
            read_only: script.bit(57),
        };
        Self {
            state: State::Authorization(state),
            input,
            out,
            steps: Vec::new(),
            contents,
            answers: Box::new(script.answers()),
            marked: BTreeSet::new(),
            refused: 0,
            max_refused,
            apop,
            commits: script.bit(58),
            terms,
            started_tls: false,
            logged_in: false,
            script: *script,
        }
    }

    fn answer(&mut self) -> u8 {
        self.answers.next().unwrap_or_default()
    }

    fn feed(&mut self, octets: &[u8]) {
        if matches!(self.state, State::Over) {
            return;
        }
        self.input.push(octets);
        if self.input.is_tls_client_hello() {
            self.state = State::Over;
            self.steps.push("TLS".into());
        }
        while !matches!(self.state, State::Over) {
            let mut input = std::mem::take(&mut self.input);
            let Some(line) = input.next_line() else {
                // A line that begins with AUTH may be as long as any token.
                assert!(input.buffered() < MAX_SASL_LINE_OCTETS, "{} octets are held", input.buffered());
                self.input = input;
                return;
            };
            let mark = self.out.len();
            match self.line(line) {
                Said::Nothing => {
                    assert_eq!(self.out.len(), mark, "a peer of another protocol is told something");
                }
                Said::Reply => check_reply(&self.out[mark..], self.utf8()),
                Said::Content(number, lines) => {
                    let content = self.contents[number];
                    let shown = lines.map_or(content.len(), |lines| TopLimit::new(lines).push(content));
                    check_content(&self.out[mark..], &content[..shown]);
                }
                Said::StartTls => {
                    check_reply(&self.out[mark..], false);
                    self.started_tls = true;
                    if !input.is_empty() {
                        self.steps.push("injection".into());
                        self.state = State::Over;
                    }
                    input = LineBuffer::default();
                    input.set_max_auth_octets(MAX_SASL_LINE_OCTETS);
                }
            }
            let in_exchange = matches!(self.state, State::Sasl(_));
            input.set_max_octets(if in_exchange { MAX_SASL_LINE_OCTETS } else { MAX_LINE_OCTETS });
            self.input = input;
        }
    }

    /// Whether texts may hold more than ASCII.
    fn utf8(&self) -> bool {
        match &self.state {
            State::Authorization(state) => state.policy().wording.utf8,
            State::Transaction(state) => state.wording().utf8,
            // The last reply, and one within an exchange: not known any more.
            State::Sasl(_) | State::Over => true,
        }
    }

    fn line(&mut self, line: Line<'_>) -> Said {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Authorization(state) => {
                let step = state.line(line, &mut self.out);
                self.authorization(step)
            }
            State::Sasl(challenged) => match challenged.line(line, &mut self.out) {
                SaslStep::Response(exchange, token) => self.respond(exchange, Some(&token)),
                SaslStep::Ended(step) => self.authorization(step),
            },
            State::Transaction(state) => {
                let step = state.line(line, &mut self.out);
                self.transaction(step)
            }
            State::Over => panic!("a line is taken after the end"),
        }
    }

    fn authorization(&mut self, step: AuthorizationStep) -> Said {
        assert!(!self.logged_in, "who is logged in does not log in");
        match step {
            AuthorizationStep::Continue(state) => self.state = State::Authorization(state),
            AuthorizationStep::Login(login, credentials) => {
                assert!(!credentials.login.is_empty() && !credentials.password.expose().is_empty());
                assert!(credentials.login.len() <= 320 && !credentials.login.chars().any(char::is_control));
                self.steps.push(format!("Login {} {:?}", credentials.login, credentials.password.expose()));
                return self.log_in(login);
            }
            AuthorizationStep::Apop(login, credentials) => {
                assert!(self.apop, "APOP is taken where no timestamp was given");
                self.steps.push(format!("Apop {} {:?}", credentials.login, credentials.digest));
                return self.log_in(login);
            }
            AuthorizationStep::Sasl(exchange, initial) => {
                self.steps.push(exchange.mechanism().as_str().into());
                return self.respond(exchange, initial.as_ref());
            }
            AuthorizationStep::StartTls(start_tls) => {
                self.steps.push("StartTls".into());
                let state = start_tls.established();
                assert_eq!(state.policy().tls, Tls::Active);
                assert!(!state.policy().wording.utf8, "what was said in plaintext counts after STLS");
                self.state = State::Authorization(state);
                return Said::StartTls;
            }
            AuthorizationStep::Forwarded(forwarding, client) => {
                check_forwarded(&client);
                self.steps.push(format!("{client:?}"));
                let plaintext = self.answer() & 1 == 0;
                let state = forwarding.accept(plaintext, &mut self.out);
                assert_eq!(state.policy().plaintext_login, plaintext);
                self.state = State::Authorization(state);
            }
            AuthorizationStep::Close(reason) => return self.close(reason),
        }
        Said::Reply
    }

    fn log_in(&mut self, login: pop3_proto::Login) -> Said {
        let refusal = match self.answer() % 10 {
            0 => Refusal::BadCredentials,
            1 => Refusal::InUse,
            2 => Refusal::Temporary,
            3 => Refusal::Permanent,
            4 => Refusal::TlsRequired,
            5 => Refusal::LoginDelay,
            _ => {
                let listing = self.listing();
                let mut state = login.accept(DropListing::default(), &mut self.out).under(self.terms);
                state.totals_replaced(listing);
                self.logged_in = true;
                self.state = State::Transaction(state);
                return Said::Reply;
            }
        };
        self.refused += 1;
        assert!(self.refused <= self.max_refused, "refused {} times", self.refused);
        let step = login.refuse(refusal, &mut self.out);
        self.authorization(step)
    }

    fn respond(&mut self, exchange: SaslExchange, token: Option<&Token>) -> Said {
        if let Some(token) = token {
            assert!(token.expose().len() <= MAX_TOKEN_OCTETS);
            self.steps.push(format!("token of {} {:?}", token.expose().len(), token.expose().first()));
        }
        match self.answer() {
            octet @ 0..128 => {
                let challenge = vec![octet; usize::from(octet) * 8];
                self.state = State::Sasl(exchange.challenge(&challenge, &mut self.out));
                Said::Reply
            }
            _ => self.log_in(exchange.end()),
        }
    }

    fn transaction(&mut self, step: TransactionStep) -> Said {
        match step {
            TransactionStep::Continue(state) => {
                if self
                    .marked
                    .iter()
                    .any(|&number| !MessageNumber::new(number).is_some_and(|n| state.is_deleted(n)))
                {
                    // RSET takes all marks back, or none.
                    self.marked.clear();
                }
                self.check_totals(&state);
                self.state = State::Transaction(state);
            }
            TransactionStep::Request(mut state, request) => {
                self.steps.push(format!("{request:?}"));
                let said = self.request(&mut state, request);
                self.check_totals(&state);
                self.state = State::Transaction(state);
                return said;
            }
            TransactionStep::Quit(update) => {
                let removed: BTreeSet<u32> = update.deleted().map(MessageNumber::get).collect();
                assert_eq!(removed, self.marked, "what is removed is what DELE named");
                assert_eq!(update.len() as usize, removed.len());
                assert_eq!(update.is_empty(), removed.is_empty());
                self.steps.push(format!("Quit {removed:?}"));
                if self.commits { update.committed(&mut self.out) } else { update.failed(&mut self.out) }
            }
            TransactionStep::Close(reason) => return self.close(reason),
        }
        Said::Reply
    }

    fn close(&mut self, reason: CloseReason) -> Said {
        self.steps.push(format!("{reason:?}"));
        if reason == CloseReason::ForeignProtocol { Said::Nothing } else { Said::Reply }
    }

    fn check_totals(&self, state: &Transaction) {
        let kept = (1_u32..).zip(&self.contents).filter(|(number, _)| !self.marked.contains(number));
        let (messages, octets) = kept
            .fold((0, 0), |(messages, octets), (_, content)| (messages + 1, octets + content.len() as u64));
        assert_eq!(state.totals(), DropListing { messages, octets });
    }

    fn listing(&self) -> DropListing {
        DropListing {
            messages: self.contents.len() as u32,
            octets: self.contents.iter().map(|content| content.len() as u64).sum(),
        }
    }

    fn request(&mut self, state: &mut Transaction, request: Request) -> Said {
        let wording = state.wording();
        if let Request::List(Some(number))
        | Request::UniqueIds(Some(number))
        | Request::Retrieve(number)
        | Request::Top(number, _)
        | Request::Delete(number) = request
        {
            assert!(number.index() < self.contents.len(), "a message is asked for that there is not");
            assert!(!self.marked.contains(&number.get()), "a message is asked for that is marked");
            assert!(!state.is_deleted(number));
        }
        let refusal = self.answer();
        let out = &mut self.out;
        // Whatever is asked for may be away.
        match refusal {
            0 => replies::no_such_message(wording, out),
            1 => replies::temporary_failure(wording, texts::NOT_COMMITTED, out),
            _ => return self.serve(state, request),
        }
        Said::Reply
    }

    fn serve(&mut self, state: &mut Transaction, request: Request) -> Said {
        let (wording, out) = (state.wording(), &mut self.out);
        let octets = |number: MessageNumber| self.contents[number.index()].len() as u64;
        let kept = (0..self.contents.len())
            .filter_map(MessageNumber::from_index)
            .filter(|number| !self.marked.contains(&number.get()));
        match request {
            Request::List(None) => {
                replies::list_header(wording, state.totals(), out);
                kept.for_each(|number| replies::scan_line(number, octets(number), out));
                replies::terminator(out);
            }
            Request::UniqueIds(None) => {
                replies::unique_id_header(wording, out);
                kept.for_each(|number| replies::unique_id_line(number, "!unique~id", out));
                replies::terminator(out);
            }
            Request::List(Some(number)) => replies::list_one(number, octets(number), out),
            Request::UniqueIds(Some(number)) => replies::unique_id_one(number, "!unique~id", out),
            Request::Retrieve(number) => {
                replies::retrieve_header(wording, octets(number), out);
                stuff(&self.script, self.contents[number.index()], out);
                return Said::Content(number.index(), None);
            }
            Request::Top(number, lines) => {
                replies::top_header(wording, out);
                let content = self.contents[number.index()];
                let mut limit = TopLimit::new(lines);
                let mut shown = 0;
                for piece in self.script.pieces(content) {
                    let taken = limit.push(piece);
                    assert!(taken == piece.len() || limit.done());
                    shown += taken;
                }
                stuff(&self.script, &content[..shown], out);
                return Said::Content(number.index(), Some(lines));
            }
            Request::Delete(number) => {
                state.deleted(number, octets(number), out);
                self.marked.insert(number.get());
            }
        }
        Said::Reply
    }
}

/// What a line was answered with.
enum Said {
    Nothing,
    Reply,
    /// The message of this index, or the top of it with so many lines.
    Content(usize, Option<u64>),
    StartTls,
}

fn stuff(script: &Script<'_>, content: &[u8], out: &mut Vec<u8>) {
    let mut stuffer = ByteStuffer::new();
    for piece in script.pieces(content) {
        stuffer.push(piece, out);
    }
    stuffer.finish(out);
}
