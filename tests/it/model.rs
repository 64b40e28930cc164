//! A maildrop as it should be: what two sessions and a sender do at random is done to a model as well, and each answer is
//! compared (P2, P3, P4).
//!
//! Seeded; `POSTERN_TEST_MODEL_SEED` and `POSTERN_TEST_MODEL_STEPS` for another or a longer run.

use std::fmt::Write as _;

use crate::support::{Dice, Node, NodeOptions, Pop3, deliver, unstuffed, wait_for};

const STEPS: u64 = 600;

/// The maildrop: tags and contents, in order.
#[derive(Default)]
struct Maildrop {
    messages: Vec<Kept>,
    delivered: u64,
}

#[derive(Clone, PartialEq, Debug)]
struct Kept {
    /// What LIST and UIDL said of it, once they did.
    known: Option<(String, [u64; 2])>,
    content: Vec<u8>,
}

/// A session with the lock, and what it saw when it took it.
struct Session {
    pop3: Pop3,
    utf8: bool,
    /// Positions in the maildrop at the login, and whether they are marked.
    seen: Vec<(usize, bool)>,
}

struct Model {
    node: Node,
    user: String,
    maildrop: Maildrop,
    session: Option<Session>,
    dice: Dice,
    log: String,
}

#[test]
fn two_sessions_and_a_sender_agree_with_the_model_on_local_stores() {
    run(&NodeOptions::embedded(), 1);
}

#[test]
fn two_sessions_and_a_sender_agree_with_the_model_on_servers() {
    run(&NodeOptions::servers(), 2);
}

fn run(options: &NodeOptions, seed: u64) {
    let number = |name, default| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let seed = number("POSTERN_TEST_MODEL_SEED", seed);
    let (node, user) = Node::start(options).with_mailbox("a");
    let mut model = Model {
        node,
        user,
        maildrop: Maildrop::default(),
        session: None,
        dice: Dice::new(seed),
        log: format!("seed {seed}\n"),
    };
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        (0..number("POSTERN_TEST_MODEL_STEPS", STEPS)).for_each(|_| model.step());
        model.end();
    }));
    if let Err(panic) = done {
        eprintln!("{}", model.log);
        std::panic::resume_unwind(panic);
    }
    println!("seed {seed}: {} delivered, {} left", model.maildrop.delivered, model.maildrop.messages.len());
}

impl Model {
    fn step(&mut self) {
        match self.dice.roll(20) {
            0..3 => self.deliver(),
            3..5 => self.log_in(),
            n => match self.session.take() {
                None => self.log_in(),
                Some(session) => self.command(session, n),
            },
        }
    }

    fn note(&mut self, what: &str) {
        writeln!(self.log, "{what}").unwrap();
    }

    /// A message of lines of any octets.
    fn deliver(&mut self) {
        let tag = self.maildrop.delivered;
        let mut content = format!("From: {tag}\r\n").into_bytes();
        for _ in 0..self.dice.roll(4) {
            content
                .extend_from_slice(["X: ", "Subject: ", "To: ", " "][self.dice.roll(4) as usize].as_bytes());
            self.line(&mut content);
        }
        content.extend_from_slice(b"\r\n");
        for _ in 0..self.dice.roll(30) {
            self.line(&mut content);
        }
        self.note(&format!("deliver {:?}", String::from_utf8_lossy(&content)));
        deliver(self.node.lmtp, &self.user, &content);
        self.maildrop.delivered += 1;
        self.maildrop.messages.push(Kept { known: None, content });
    }

    fn line(&mut self, content: &mut Vec<u8>) {
        if self.dice.roll(4) == 0 {
            content.push(b'.');
        }
        let any = self.dice.roll(2) == 0;
        for _ in 0..self.dice.roll(60) {
            let octet = if any { self.dice.roll(256) } else { 32 + self.dice.roll(95) } as u8;
            content.push(if octet == b'\n' || octet == b'\r' { b'.' } else { octet });
        }
        content.extend_from_slice(b"\r\n");
    }

    fn log_in(&mut self) {
        let utf8 = self.dice.roll(4) == 0;
        self.note(&format!("log in, UTF-8 {utf8}, while another is {}", self.session.is_some()));
        let mut pop3 = Pop3::connect(self.node.pop3).unwrap();
        if utf8 {
            pop3.ok("UTF8");
        }
        pop3.ok(&format!("USER {}", self.user));
        let reply = pop3.command("PASS pw").unwrap();
        if self.session.is_some() {
            assert!(reply.starts_with("-ERR [IN-USE]"), "{reply}");
            return;
        }
        assert!(reply.starts_with("+OK"), "{reply}");
        let seen = (0..self.maildrop.messages.len()).map(|i| (i, false)).collect();
        self.session = Some(Session { pop3, utf8, seen });
    }

    fn command(&mut self, mut session: Session, what: u64) {
        let number = self.dice.roll(session.seen.len() as u64 + 2) as usize;
        let there = number.checked_sub(1).and_then(|i| session.seen.get(i)).filter(|(_, marked)| !marked);
        let there = there.map(|(position, _)| *position);
        match what {
            5..7 => self.stat_and_list(&mut session),
            7..10 => match there {
                Some(position) => self.retrieve(&mut session, number, position),
                None => drop(session.pop3.err(&format!("RETR {number}"))),
            },
            10..12 => match there {
                Some(position) => self.top(&mut session, number, position),
                None => drop(session.pop3.err(&format!("TOP {number} 1"))),
            },
            12..15 => {
                self.note(&format!("DELE {number}"));
                let command = format!("DELE {number}");
                if there.is_some() {
                    session.pop3.ok(&command);
                    session.seen[number - 1].1 = true;
                } else {
                    session.pop3.err(&command);
                }
            }
            15 => {
                self.note("RSET");
                session.pop3.ok("RSET");
                session.seen.iter_mut().for_each(|(_, marked)| *marked = false);
            }
            16 => drop(session.pop3.ok("NOOP")),
            17 => {
                // Whoever just goes deletes nothing.
                self.note("gone");
                drop(session);
                return self.wait_until_free();
            }
            _ => return self.quit(session),
        }
        self.session = Some(session);
    }

    fn stat_and_list(&mut self, session: &mut Session) {
        self.note("STAT, LIST, UIDL");
        let stat = session.pop3.ok("STAT");
        let octets = numbered(&session.pop3.list("LIST"));
        let unique_ids = numbered(&session.pop3.list("UIDL"));
        let sum: u64 = octets.iter().map(|(_, octets)| octets.parse::<u64>().unwrap()).sum();
        assert_eq!(stat, format!("+OK {} {sum}", octets.len()));
        let kept = session.seen.iter().enumerate().filter(|(_, (_, marked))| !marked);
        let expected: Vec<_> = kept.map(|(i, (position, _))| (i + 1, *position)).collect();
        assert_eq!((octets.len(), unique_ids.len()), (expected.len(), expected.len()));
        for (i, (number, position)) in expected.into_iter().enumerate() {
            assert_eq!((octets[i].0, unique_ids[i].0), (number, number));
            let octets: u64 = octets[i].1.parse().unwrap();
            let form = usize::from(session.utf8);
            let known =
                self.maildrop.messages[position].known.get_or_insert((unique_ids[i].1.clone(), [0; 2]));
            assert_eq!(known.0, unique_ids[i].1, "a unique-id changed");
            assert!(known.1[form] == 0 || known.1[form] == octets, "octets changed");
            known.1[form] = octets;
        }
        let mut all: Vec<_> =
            self.maildrop.messages.iter().filter_map(|kept| Some(&kept.known.as_ref()?.0)).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "a unique-id repeats");
    }

    fn retrieve(&mut self, session: &mut Session, number: usize, position: usize) {
        self.note(&format!("LIST, RETR {number}"));
        let listed = session.pop3.ok(&format!("LIST {number}"));
        let message = session.pop3.retr(number);
        assert_eq!(listed, format!("+OK {number} {}", message.len()), "P4");
        let content = &self.maildrop.messages[position].content;
        let (sent, expected) = (parts(behind_trace(&message)), parts(content));
        assert_eq!(sent.1, expected.1, "the body");
        if session.utf8 || expected.0.is_ascii() {
            assert_eq!(sent.0, expected.0, "the header");
        } else {
            assert!(sent.0.is_ascii(), "the header in ASCII");
        }
    }

    fn top(&mut self, session: &mut Session, number: usize, position: usize) {
        let lines = self.dice.roll(12) as usize;
        self.note(&format!("TOP {number} {lines}"));
        session.pop3.ok(&format!("TOP {number} {lines}"));
        let top = unstuffed(&session.pop3.body().unwrap());
        let body = parts(&self.maildrop.messages[position].content).1;
        let expected: Vec<u8> =
            body.split_inclusive(|&octet| octet == b'\n').take(lines).flatten().copied().collect();
        assert_eq!(parts(behind_trace(&top)).1, expected);
    }

    fn quit(&mut self, mut session: Session) {
        self.note("QUIT");
        session.pop3.ok("QUIT");
        let gone: Vec<usize> =
            session.seen.iter().filter(|(_, marked)| *marked).map(|(position, _)| *position).collect();
        let mut position = 0;
        self.maildrop.messages.retain(|_| {
            position += 1;
            !gone.contains(&(position - 1))
        });
    }

    fn wait_until_free(&mut self) {
        wait_for("a lock that was left", std::time::Duration::from_secs(20), || {
            let mut pop3 = Pop3::connect(self.node.pop3).unwrap();
            pop3.ok(&format!("USER {}", self.user));
            let free = pop3.command("PASS pw").unwrap().starts_with("+OK");
            free.then(|| pop3.ok("QUIT"))
        });
    }

    /// Everything there, once more.
    fn end(&mut self) {
        if let Some(session) = self.session.take() {
            self.quit(session);
        }
        self.log_in();
        let mut session = self.session.take().unwrap();
        self.stat_and_list(&mut session);
        for i in 0..session.seen.len() {
            self.retrieve(&mut session, i + 1, i);
        }
        self.quit(session);
    }
}

fn numbered(lines: &[String]) -> Vec<(usize, String)> {
    let parts = |line: &String| {
        let (number, rest) = line.split_once(' ').unwrap();
        (number.parse().unwrap(), rest.to_owned())
    };
    lines.iter().map(parts).collect()
}

/// What was sent of a message, without the trace fields in front. A rewritten field may be folded at its start.
fn behind_trace(message: &[u8]) -> &[u8] {
    let from = message.windows(7).position(|w| w == b"\r\nFrom:");
    &message[from.expect("a From field") + 2..]
}

/// Header, and body behind the blank line.
fn parts(message: &[u8]) -> (&[u8], &[u8]) {
    let blank = message.windows(4).position(|w| w == b"\r\n\r\n");
    message.split_at(blank.map_or(message.len(), |blank| blank + 4))
}
