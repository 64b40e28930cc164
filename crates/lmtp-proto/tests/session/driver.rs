//! A driver without I/O, and the transcript check built on it.

use lmtp_proto::{Config, Event, MAX_BODY_EVENT_OCTETS, Outcome, RecipientAnswer, Session, Step};

/// One connection and its driver. What a recipient's local part says, becomes of it.
pub(crate) struct Connection {
    pub(crate) session: Session,
    pub(crate) out: Vec<u8>,
    /// What the core asked for, in order; the octets of a message are gathered in `message`.
    pub(crate) events: Vec<String>,
    /// What was delivered.
    pub(crate) messages: Vec<String>,
    pub(crate) closed: bool,
    message: Vec<u8>,
    recipients: Vec<Outcome>,
    refuses_data: bool,
}

impl Connection {
    /// Greeted by both sides.
    pub(crate) fn new(config: Config) -> Self {
        let mut connection = Self::before_lhlo(config);
        connection.feed(b"LHLO client.example\r\n");
        connection.out.clear();
        connection
    }

    pub(crate) fn before_lhlo(config: Config) -> Self {
        let session = Session::new(config);
        let mut out = Vec::new();
        session.greeting(&mut out);
        Self {
            session,
            out,
            events: Vec::new(),
            messages: Vec::new(),
            closed: false,
            message: Vec::new(),
            recipients: Vec::new(),
            refuses_data: false,
        }
    }

    pub(crate) fn refusing_data(mut self) -> Self {
        self.refuses_data = true;
        self
    }

    /// Takes in what the client sent and drives the session as far as that goes.
    pub(crate) fn feed(&mut self, octets: &[u8]) {
        self.session.feed(octets);
        loop {
            match self.session.step(&mut self.out) {
                Step::NeedInput => return,
                Step::Event(event) => self.event(event),
                Step::Close => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Mail(envelope) => {
                self.forget();
                let sender = envelope.sender.map_or_else(|| "<>".to_owned(), |sender| sender.to_string());
                self.events.push(format!("Mail {sender}"));
            }
            Event::Recipient(address) => {
                self.events.push(format!("Recipient {address}"));
                // Nothing goes on without the answer.
                assert_eq!(self.session.step(&mut Vec::new()), Step::NeedInput);
                let (answer, outcome) = answers(address.local());
                self.recipients.extend((answer == RecipientAnswer::Accepted).then_some(outcome));
                self.session.recipient(answer, &mut self.out);
            }
            Event::Data if self.refuses_data => {
                self.events.push("Data".to_owned());
                self.session.data_refused(&mut self.out);
            }
            Event::Data => {
                self.events.push("Data".to_owned());
                self.session.data_ready(&mut self.out);
            }
            Event::Body(octets) => {
                assert!(!octets.is_empty() && octets.len() <= MAX_BODY_EVENT_OCTETS);
                self.message.extend_from_slice(&octets);
            }
            Event::BodyEnd { octets } => {
                assert_eq!(octets, self.message.len() as u64);
                let message = String::from_utf8_lossy(&self.message).into_owned();
                self.events.push(format!("BodyEnd {message:?}"));
                self.messages.push(message);
                assert_eq!(self.session.step(&mut Vec::new()), Step::NeedInput);
                self.session.delivered(&self.recipients, &mut self.out);
                self.forget();
            }
            Event::Reset => {
                self.events.push("Reset".to_owned());
                self.forget();
            }
        }
    }

    fn forget(&mut self) {
        self.message.clear();
        self.recipients.clear();
    }

    /// The codes of the replies so far, and forgets them.
    pub(crate) fn codes(&mut self) -> String {
        let said = String::from_utf8(std::mem::take(&mut self.out)).expect("replies are UTF-8");
        let codes: Vec<_> = said.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>()).collect();
        codes
            .iter()
            .map(|code| if code[0] == "354" { code[0].to_owned() } else { code.join(" ") })
            .collect::<Vec<_>>()
            .join(", ")
    }
}

fn answers(local: &str) -> (RecipientAnswer, Outcome) {
    use RecipientAnswer as Answer;
    match local {
        "unknown" | "jones" => (Answer::Unknown, Outcome::Unknown),
        "full" => (Answer::OverQuota, Outcome::OverQuota),
        "small" => (Answer::TooLarge, Outcome::TooLarge),
        "disabled" => (Answer::Disabled, Outcome::Disabled),
        "suspended" => (Answer::Suspended, Outcome::Temporary),
        "down" => (Answer::Temporary, Outcome::Temporary),
        "many" => (Answer::TooMany, Outcome::Temporary),
        "green" => (Answer::Accepted, Outcome::OverQuota),
        "later" => (Answer::Accepted, Outcome::Temporary),
        "removed" => (Answer::Accepted, Outcome::Unknown),
        "spam" => (Answer::Accepted, Outcome::Refused),
        _ => (Answer::Accepted, Outcome::Delivered),
    }
}

pub(crate) fn config() -> Config {
    Config::new("foo.edu")
}

/// Plays the `C:` lines and compares the `S:` lines, all of them, in order.
#[track_caller]
pub(crate) fn check(connection: Connection, transcript: &str) -> Connection {
    let mut connection = connection;
    let (mut sent, mut expected) = (String::new(), String::new());
    for line in transcript.lines().map(str::trim_start).chain(["C: "]) {
        if let Some(reply) = line.strip_prefix("S: ") {
            expected.push_str(reply);
            expected.push_str("\r\n");
        } else if let Some(next) = line.strip_prefix("C: ").or_else(|| line.strip_prefix("C:")) {
            let said = String::from_utf8(std::mem::take(&mut connection.out)).expect("replies are UTF-8");
            assert_eq!(said, expected, "after C: {sent}");
            expected.clear();
            next.clone_into(&mut sent);
            if !next.is_empty() {
                connection.feed(format!("{next}\r\n").as_bytes());
            }
        }
    }
    connection
}
