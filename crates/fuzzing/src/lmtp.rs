//! The LMTP core in every state, before any back end.

use lmtp_proto::{Config, Event, MAX_BODY_EVENT_OCTETS, Outcome, RecipientAnswer, Session, Step};

use crate::script::Script;

/// The longest reply to one line: LHLO's, with a host name of 255 characters.
const REPLY_OCTETS: usize = 1536;

/// Plays a session in one piece and in several, against a back end that answers anything.
pub fn lmtp(input: &[u8]) {
    let Some(script) = Script::new(input) else { return };
    let mut whole = Connection::new(&script);
    whole.feed(script.rest);
    let mut split = Connection::new(&script);
    for piece in script.pieces(script.rest) {
        split.feed(piece);
    }
    assert_eq!(whole.out, split.out, "what is said depends on how the octets come");
    assert_eq!(whole.events, split.events, "what is asked for depends on how the octets come");
    assert_eq!(whole.delivered, split.delivered, "what is delivered depends on how the octets come");
    assert_eq!(whole.closed, split.closed);
}

fn config(script: &Script<'_>) -> Config {
    let mut config = Config::new(if script.bit(0) { "host.test" } else { "h\r\n\u{e9}" });
    config.max_message_octets = [20, 400, 1 << 20][usize::from(script.setup[1]) % 3];
    config.max_recipients = usize::from(script.setup[2] % 4) + 1;
    config.max_bad_commands = u32::from(script.setup[3] % 24) + 1;
    config
}

struct Connection {
    session: Session,
    config: Config,
    out: Vec<u8>,
    events: Vec<String>,
    delivered: Vec<Vec<u8>>,
    closed: bool,
    /// What has come of a message, from `Data` to its end.
    message: Option<Vec<u8>>,
    in_transaction: bool,
    accepted: usize,
    answers: Box<dyn Iterator<Item = u8>>,
}

impl Connection {
    fn new(script: &Script<'_>) -> Self {
        let config = config(script);
        let session = Session::new(config.clone());
        let mut out = Vec::new();
        session.greeting(&mut out);
        check_replies(&out, 1);
        Self {
            session,
            config,
            out,
            events: Vec::new(),
            delivered: Vec::new(),
            closed: false,
            message: None,
            in_transaction: false,
            accepted: 0,
            answers: Box::new(script.answers()),
        }
    }

    fn answer(&mut self) -> u8 {
        self.answers.next().unwrap_or_default()
    }

    fn feed(&mut self, octets: &[u8]) {
        let lines = octets.iter().filter(|&&octet| octet == b'\n').count();
        let mark = self.out.len();
        self.session.feed(octets);
        loop {
            let mark = self.out.len();
            let step = self.session.step(&mut self.out);
            check_form(&self.out[mark..]);
            match step {
                Step::NeedInput => break,
                Step::Event(event) => self.event(event),
                Step::Close => {
                    self.closed = true;
                    break;
                }
            }
        }
        // Each line has one reply, save that the end of a message has one for each recipient.
        let bound = (lines + 1) * REPLY_OCTETS * self.config.max_recipients;
        assert!(self.out.len() - mark <= bound, "{} octets for {lines} lines", self.out.len() - mark);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Mail(envelope) => {
                // What an earlier one left behind is void, whether that was told of or not.
                self.forget();
                assert!(envelope.size.is_none_or(|octets| octets <= self.config.max_message_octets));
                if let Some(sender) = &envelope.sender {
                    assert!(!sender.as_str().chars().any(char::is_control), "{sender:?}");
                    assert!(envelope.smtputf8 || sender.as_str().is_ascii());
                }
                self.events.push(format!("{envelope:?}"));
                self.in_transaction = true;
            }
            Event::Recipient(address) => {
                assert!(self.in_transaction && self.message.is_none());
                assert!(!address.as_str().chars().any(char::is_control), "{address:?}");
                self.events.push(format!("{address:?}"));
                self.stands_still();
                self.recipient();
            }
            Event::Data => {
                assert!(self.in_transaction && self.accepted > 0 && self.message.is_none());
                self.events.push("Data".into());
                self.stands_still();
                let (mark, answer) = (self.out.len(), self.answer());
                if answer == 0 {
                    self.session.data_refused(&mut self.out);
                    // After BDAT the octets come all the same, and are answered where they end.
                    if self.out.len() > mark {
                        self.forget();
                    }
                } else {
                    self.session.data_ready(&mut self.out);
                    self.message = Some(Vec::new());
                }
                check_form(&self.out[mark..]);
            }
            Event::Body(octets) => {
                assert!(!octets.is_empty() && octets.len() <= MAX_BODY_EVENT_OCTETS);
                let message = self.message.as_mut().expect("a body comes behind Data");
                message.extend_from_slice(&octets);
                assert!(
                    message.len() as u64 <= self.config.max_message_octets,
                    "it is larger than any taken"
                );
            }
            Event::BodyEnd { octets } => {
                let message = self.message.take().expect("an end comes behind Data");
                assert_eq!(octets, message.len() as u64);
                check_canonical(&message);
                self.delivered.push(message);
                self.stands_still();
                self.delivered();
            }
            Event::Reset => {
                self.events.push("Reset".into());
                // A message that has grown too large is void, and its transaction is not over before its octets are.
                if self.message.take().is_none() {
                    self.forget();
                }
                if !self.session.has_transaction() {
                    self.forget();
                }
            }
        }
        if !self.session.has_transaction() {
            self.forget();
        }
    }

    /// Nothing goes on without the answer.
    fn stands_still(&mut self) {
        let mut said = Vec::new();
        assert_eq!(self.session.step(&mut said), Step::NeedInput);
        assert!(said.is_empty());
        assert!(!self.session.is_between_commands());
    }

    fn recipient(&mut self) {
        use RecipientAnswer as Answer;
        let answer = match self.answer() % 16 {
            0 => Answer::Unknown,
            1 => Answer::OverQuota,
            2 => Answer::TooLarge,
            3 => Answer::Disabled,
            4 => Answer::Suspended,
            5 => Answer::Throttled,
            6 => Answer::Temporary,
            7 => Answer::TooMany,
            _ => Answer::Accepted,
        };
        self.accepted += usize::from(answer == Answer::Accepted);
        assert!(self.accepted <= self.config.max_recipients);
        let mark = self.out.len();
        self.session.recipient(answer, &mut self.out);
        check_replies(&self.out[mark..], 1);
    }

    fn delivered(&mut self) {
        const OUTCOMES: [Outcome; 8] = [
            Outcome::Delivered,
            Outcome::Unknown,
            Outcome::OverQuota,
            Outcome::TooLarge,
            Outcome::Disabled,
            Outcome::Refused,
            Outcome::StorageFull,
            Outcome::Temporary,
        ];
        // Also fewer than there should be, and more.
        let count = self.accepted + usize::from(self.answer() % 3) - 1;
        let outcomes: Vec<_> =
            (0..count).map(|_| OUTCOMES[usize::from(self.answer()) % OUTCOMES.len()]).collect();
        let mark = self.out.len();
        self.session.delivered(&outcomes, &mut self.out);
        check_replies(&self.out[mark..], self.accepted);
        // What nobody answers for is not said to be delivered (P1).
        let good =
            self.out[mark..].split(|&octet| octet == b'\n').filter(|line| line.starts_with(b"250")).count();
        let told =
            outcomes.iter().take(self.accepted).filter(|outcome| **outcome == Outcome::Delivered).count();
        assert_eq!(good, told);
        self.forget();
    }

    fn forget(&mut self) {
        (self.message, self.in_transaction, self.accepted) = (None, false, 0);
    }
}

/// Replies of RFC 5321 §4.2, and so many of them.
fn check_replies(replies: &[u8], expected: usize) {
    assert_eq!(check_form(replies), expected);
}

fn check_form(replies: &[u8]) -> usize {
    let text = str::from_utf8(replies).expect("replies are UTF-8");
    assert!(text.is_empty() || text.ends_with("\r\n"), "{text:?}");
    let mut count = 0;
    for line in text.split_terminator("\r\n") {
        // RFC 5321 §4.5.3.1.5: 512 octets with the line end; names of hosts may be of more than one octet each.
        assert!(line.len() <= REPLY_OCTETS && !line.chars().any(char::is_control), "{line:?}");
        let (code, rest) = line.split_at_checked(3).expect("a reply has a code");
        assert!(matches!(code.as_bytes(), [b'2'..=b'5', b'0'..=b'5', b'0'..=b'9']), "{line:?}");
        match rest.as_bytes() {
            [b' ', ..] => count += 1,
            [b'-', ..] => {}
            _ => panic!("{line:?}"),
        }
    }
    count
}

/// A message as it is stored: every LF behind a CR, and a line end at its end.
fn check_canonical(message: &[u8]) {
    let bare = message
        .iter()
        .enumerate()
        .any(|(at, &octet)| octet == b'\n' && (at == 0 || message[at - 1] != b'\r'));
    assert!(!bare, "a bare LF");
    assert!(message.is_empty() || message.ends_with(b"\r\n"), "no line end at the end");
}
