//! One tenant asks for fifty times its share, and the others hardly notice (P5).

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{Lmtp, Node, NodeOptions, Pop3, deliver, message};

/// Tenants that poll and read, one client each.
const QUIET: usize = 9;
/// Clients of the tenant that asks for more than its share.
const CROWD: usize = 50;
/// How often both loads are measured, one after the other, so that what else the machine does meets both.
const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(500);

/// What the others need for a login, a listing and a message while the loud tenant is one like them, and while it
/// has fifty clients that read, deliver and guess passwords.
#[test]
fn a_tenant_at_fifty_times_its_share_moves_the_others_p99_by_less_than_two() {
    let seconds =
        std::env::var("POSTERN_TEST_FAIRNESS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    let node = Node::start(&NodeOptions::servers());
    let quiet: Vec<String> = (0..QUIET)
        .map(|i| {
            node.tenant(&format!("quiet{i}"));
            node.mailbox(&format!("quiet{i}"), "a", None)
        })
        .collect();
    node.tenant("loud");
    let loud: Vec<String> = (0..CROWD).map(|i| node.mailbox("loud", &format!("a{i}"), None)).collect();
    for address in quiet.iter().chain(&loud) {
        deliver(node.lmtp, address, &message("fair", 20_000));
    }
    let (mut alike, mut crowded) = (Vec::new(), Vec::new());
    let (mut share, mut excess) = (0, 0);
    for _ in 0..ROUNDS {
        let (times, done) = measure(&node, &quiet, &loud[..1], seconds);
        alike.extend(times);
        share += done;
        let (times, done) = measure(&node, &quiet, &loud, seconds);
        crowded.extend(times);
        excess += done;
    }
    let (before, after) = (Percentiles::of(alike), Percentiles::of(crowded));
    let ratio = after.p99.as_secs_f64() / before.p99.as_secs_f64();
    println!(
        "fairness: {QUIET} tenants with one client each beside a loud one; loud with 1 client: {before}; loud \
         with {CROWD}: {after}; p99 x{ratio:.2}; the loud tenant did {share}, then {excess}"
    );
    assert!(excess > share, "the crowd was served too: {share}, then {excess}");
    assert!(ratio < 2.0, "p99 x{ratio:.2}: {before}, then {after}");
}

/// Runs both loads for a while: how long each visit of the quiet tenants took, and what the loud one got done.
fn measure(node: &Node, quiet: &[String], loud: &[String], seconds: u64) -> (Vec<Duration>, u64) {
    let (times, done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
    let (counting, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut clients = Vec::new();
    for (i, address) in loud.iter().cloned().enumerate() {
        let (pop3, lmtp, over) = (node.pop3, node.lmtp, Arc::clone(&over));
        let (done, counting) = (Arc::clone(&done), Arc::clone(&counting));
        clients.push(thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // The first reads, so that alone it is like the others.
                let served = match i % 3 {
                    0 => visit(pop3, &address).is_some(),
                    1 => Lmtp::connect(lmtp)
                        .and_then(|mut lmtp| lmtp.deliver(&[&address], &message("more", 20_000)))
                        .is_ok(),
                    _ => guess(pop3, &address).is_some(),
                };
                if served && counting.load(Ordering::Relaxed) {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    for address in quiet {
        let address = address.clone();
        let (pop3, times) = (node.pop3, Arc::clone(&times));
        let (counting, over) = (Arc::clone(&counting), Arc::clone(&over));
        clients.push(thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let counted = counting.load(Ordering::Relaxed);
                let took = visit(pop3, &address).expect("a quiet tenant is served, whatever another does");
                if counted {
                    times.lock().unwrap().push(took);
                }
            }
        }));
    }
    thread::sleep(WARM_UP);
    counting.store(true, Ordering::Relaxed);
    thread::sleep(Duration::from_secs(seconds));
    counting.store(false, Ordering::Relaxed);
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let times = std::mem::take(&mut *times.lock().unwrap());
    (times, done.load(Ordering::Relaxed))
}

/// Logs in, reads a message and leaves; how long that took.
fn visit(pop3: SocketAddr, address: &str) -> Option<Duration> {
    let start = Instant::now();
    let mut pop3 = Pop3::connect(pop3).ok()?;
    for command in [format!("USER {address}"), "PASS pw".into(), "STAT".into(), "RETR 1".into()] {
        pop3.command(&command).ok().filter(|reply| reply.starts_with("+OK"))?;
    }
    pop3.body().ok()?;
    pop3.command("QUIT").ok().filter(|reply| reply.starts_with("+OK"))?;
    Some(start.elapsed())
}

/// Guesses a password.
fn guess(pop3: SocketAddr, address: &str) -> Option<()> {
    let mut pop3 = Pop3::connect(pop3).ok()?;
    pop3.command(&format!("USER {address}")).ok()?;
    pop3.command("PASS wrong").ok().filter(|reply| reply.starts_with("-ERR [AUTH]"))?;
    pop3.command("QUIT").ok().map(drop)
}

struct Percentiles {
    count: usize,
    p50: Duration,
    p99: Duration,
}

impl Percentiles {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        Self { count: times.len(), p50: at(50), p99: at(99) }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} visits, p50 {:.1?}, p99 {:.1?}", self.count, self.p50, self.p99)
    }
}
