//! Breaker, hedge, replica and retry budget, each by itself.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use blob::{
    BlobKey, ObjectBody, ObjectPage, ObjectStore, S3Config, S3Store, StaticCredentials, Upload, collect,
    weather::{Breaker, BreakerConfig, Circuit, CircuitState, HedgeConfig, Hedged, Replicated, Watch},
};
use bytes::Bytes;
use maildrop::port::BlobError;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::support::MemoryStore;

/// A store in memory that is away when told so, and takes the time it is told for each read.
#[derive(Debug, Clone, Default)]
struct Moody {
    memory: MemoryStore,
    away: Arc<AtomicBool>,
    /// Writes fail although it says that it is ready.
    read_only: Arc<AtomicBool>,
    /// How long the next reads take; those after them take [`USUAL`].
    delays: Arc<Mutex<VecDeque<Duration>>>,
    requests: Arc<AtomicU64>,
    under_way: Arc<AtomicU64>,
}

const USUAL: Duration = Duration::from_millis(10);

/// Counts down when dropped, done or not.
struct UnderWay(Arc<AtomicU64>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Moody {
    fn ask(&self) -> Result<(), BlobError> {
        self.requests.fetch_add(1, Relaxed);
        if self.away.load(Relaxed) { Err(BlobError::Unavailable("away".into())) } else { Ok(()) }
    }

    fn holding(octets: &'static [u8]) -> Self {
        let store = Self::default();
        store.memory.replace("k", octets);
        store
    }
}

#[async_trait]
impl ObjectStore for Moody {
    async fn put(&self, key: &BlobKey, body: Bytes) -> Result<(), BlobError> {
        self.ask()?;
        if self.read_only.load(Relaxed) {
            return Err(BlobError::Unavailable("read only".into()));
        }
        self.memory.put(key, body).await
    }

    async fn upload(&self, key: &BlobKey) -> Result<Box<dyn Upload>, BlobError> {
        self.ask()?;
        self.memory.upload(key).await
    }

    async fn get(&self, key: &BlobKey, range: Range<u64>) -> Result<ObjectBody, BlobError> {
        self.ask()?;
        self.under_way.fetch_add(1, Relaxed);
        let _under_way = UnderWay(Arc::clone(&self.under_way));
        let delay = self.delays.lock().unwrap().pop_front().unwrap_or(USUAL);
        tokio::time::sleep(delay).await;
        self.memory.get(key, range).await
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>, BlobError> {
        self.ask()?;
        self.memory.size(key).await
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<(), BlobError> {
        self.ask()?;
        self.memory.delete(keys).await
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<ObjectPage, BlobError> {
        self.ask()?;
        self.memory.list(prefix, after).await
    }

    async fn ready(&self) -> Result<(), BlobError> {
        self.ask()
    }
}

#[derive(Debug, Default)]
struct Counted(Mutex<BTreeMap<String, u64>>);

impl Counted {
    fn count(&self, what: String) {
        *self.0.lock().unwrap().entry(what).or_default() += 1;
    }

    fn of(&self, what: &str) -> u64 {
        self.0.lock().unwrap().get(what).copied().unwrap_or(0)
    }
}

impl Watch for Counted {
    fn attempt(&self, kind: &'static str, result: &'static str) {
        self.count(format!("{kind} {result}"));
    }

    fn hedge(&self, outcome: &'static str) {
        self.count(format!("hedge {outcome}"));
    }

    fn replica(&self, outcome: &'static str) {
        self.count(format!("replica {outcome}"));
    }
}

fn key() -> BlobKey {
    BlobKey::try_from("k").unwrap()
}

fn breaker(store: &Moody) -> (Breaker, Arc<Circuit>) {
    let circuit = Arc::new(Circuit::new(BreakerConfig::default()));
    (Breaker::new(Arc::new(store.clone()), Arc::clone(&circuit)), circuit)
}

async fn put(store: &dyn ObjectStore) -> Result<(), BlobError> {
    store.put(&key(), Bytes::from_static(b"x")).await
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_open_the_circuit_and_an_answer_closes_it() {
    let store = Moody::default();
    let (breaker, circuit) = breaker(&store);
    store.away.store(true, Relaxed);
    for _ in 0..4 {
        put(&breaker).await.unwrap_err();
    }
    // Something that works in between begins the count anew; what is refused is an answer.
    store.away.store(false, Relaxed);
    assert!(matches!(breaker.get(&key(), 0..1).await, Err(BlobError::NotFound(_))));
    store.away.store(true, Relaxed);
    for _ in 0..5 {
        assert_eq!(circuit.state(), CircuitState::Closed);
        put(&breaker).await.unwrap_err();
    }
    assert_eq!(circuit.state(), CircuitState::Open);
    let before = store.requests.load(Relaxed);
    for _ in 0..1000 {
        assert!(matches!(put(&breaker).await, Err(BlobError::Unavailable(_))));
    }
    assert_eq!(store.requests.load(Relaxed), before, "nothing is sent");
    // It is asked now and then, less and less often.
    tokio::time::sleep(Duration::from_mins(1)).await;
    let asked = store.requests.load(Relaxed) - before;
    assert!((12..30).contains(&asked), "{asked} in a minute");
    assert_eq!(circuit.state(), CircuitState::Open);
    store.away.store(false, Relaxed);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(circuit.state(), CircuitState::HalfOpen, "nobody has asked for anything yet");
    put(&breaker).await.unwrap();
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn half_open_lets_one_through_and_forgets_who_went_away() {
    let store = Moody::holding(b"octets");
    let (breaker, circuit) = breaker(&store);
    let breaker = Arc::new(breaker);
    store.away.store(true, Relaxed);
    for _ in 0..5 {
        put(&*breaker).await.unwrap_err();
    }
    store.away.store(false, Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    store.delays.lock().unwrap().push_back(Duration::from_secs(5));
    let slow = tokio::spawn({
        let breaker = Arc::clone(&breaker);
        async move { breaker.get(&key(), 0..1).await.map(drop) }
    });
    tokio::task::yield_now().await;
    assert!(matches!(put(&*breaker).await, Err(BlobError::Unavailable(_))), "one at a time");
    slow.abort();
    slow.await.unwrap_err();
    put(&*breaker).await.unwrap();
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_only_says_that_it_is_ready_stays_shut_off() {
    let store = Moody::default();
    let (breaker, circuit) = breaker(&store);
    store.read_only.store(true, Relaxed);
    let before = store.requests.load(Relaxed);
    let end = Instant::now() + Duration::from_mins(2);
    while Instant::now() < end {
        put(&breaker).await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_ne!(circuit.state(), CircuitState::Closed);
    let sent = store.requests.load(Relaxed) - before;
    assert!(sent < 100, "{sent} of 12000");
}

#[tokio::test(start_paused = true)]
async fn requests_from_before_say_nothing_of_after() {
    let store = Moody::holding(b"octets");
    let (breaker, circuit) = breaker(&store);
    let breaker = Arc::new(breaker);
    // One that began when all was well and is still under way.
    store.delays.lock().unwrap().push_back(Duration::from_millis(100));
    let early = tokio::spawn({
        let breaker = Arc::clone(&breaker);
        async move { breaker.get(&key(), 0..1).await.map(drop) }
    });
    tokio::task::yield_now().await;
    store.away.store(true, Relaxed);
    for _ in 0..5 {
        put(&*breaker).await.unwrap_err();
    }
    early.await.unwrap().unwrap();
    assert_eq!(circuit.state(), CircuitState::Open);
}

fn hedged(store: &Moody, calm: bool) -> (Hedged, Arc<Counted>) {
    let watch = Arc::new(Counted::default());
    let store = Arc::new(store.clone());
    let counted: Arc<dyn Watch> = watch.clone();
    (Hedged::new(store, HedgeConfig::default(), Arc::new(move || calm), counted), watch)
}

/// Reads, and gives the time it took.
async fn timed(store: &dyn ObjectStore) -> Duration {
    let began = Instant::now();
    let body = store.get(&key(), 0..6).await.unwrap();
    assert_eq!(&collect(body).await.unwrap()[..], b"octets");
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_slow_read_is_asked_for_again_and_the_first_answer_wins() {
    let store = Moody::holding(b"octets");
    let (hedged, watch) = hedged(&store, true);
    for _ in 0..64 {
        assert_eq!(timed(&hedged).await, USUAL);
    }
    assert_eq!(store.requests.load(Relaxed), 64);
    store.delays.lock().unwrap().push_back(Duration::from_secs(9));
    let took = timed(&hedged).await;
    assert!(took < Duration::from_millis(40), "{took:?}");
    assert_eq!((watch.of("hedge second"), store.requests.load(Relaxed)), (1, 66));
    assert_eq!(store.under_way.load(Relaxed), 0, "the other one is given up");
    // The first may still be the first.
    store.delays.lock().unwrap().extend([Duration::from_millis(25), Duration::from_secs(9)]);
    assert_eq!(timed(&hedged).await, Duration::from_millis(25));
    assert_eq!(watch.of("hedge first"), 1);
}

#[tokio::test(start_paused = true)]
async fn hedges_are_within_their_share() {
    let store = Moody::holding(b"octets");
    let (hedged, watch) = hedged(&store, true);
    for _ in 0..100 {
        timed(&hedged).await;
    }
    // Every other read slow, for long: the p95 learns, and until then the budget holds.
    for _ in 0..2000 {
        store.delays.lock().unwrap().push_back(Duration::from_millis(21));
        timed(&hedged).await;
    }
    let asked = store.requests.load(Relaxed);
    assert!(asked <= 2100 + 2100 / 20, "{asked} requests for 2100 reads");
    assert!(asked > 2100, "none was hedged");
    assert_eq!(watch.of("hedge first") + watch.of("hedge second"), asked - 2100);
}

#[tokio::test(start_paused = true)]
async fn a_store_under_load_is_asked_once() {
    let store = Moody::holding(b"octets");
    let (hedged, watch) = hedged(&store, false);
    for _ in 0..100 {
        timed(&hedged).await;
    }
    store.delays.lock().unwrap().push_back(Duration::from_secs(2));
    assert_eq!(timed(&hedged).await, Duration::from_secs(2));
    assert_eq!((watch.of("hedge withheld"), store.requests.load(Relaxed)), (1, 101));
}

#[tokio::test(start_paused = true)]
async fn the_second_is_waited_for_where_the_first_fails() {
    let store = Moody::holding(b"octets");
    let (hedged, watch) = hedged(&store, true);
    for _ in 0..64 {
        timed(&hedged).await;
    }
    // The first fails late, the second comes later still.
    store.delays.lock().unwrap().extend([Duration::from_millis(50), Duration::from_millis(60)]);
    store.memory.failing.store(1, Relaxed);
    assert_eq!(timed(&hedged).await, Duration::from_millis(80));
    assert_eq!(watch.of("hedge second"), 1);
}

#[tokio::test]
async fn a_replica_gives_what_the_bucket_does_not() {
    let (main, replica) = (Moody::default(), Moody::holding(b"octets"));
    let watch = Arc::new(Counted::default());
    let counted: Arc<dyn Watch> = watch.clone();
    let both = Replicated::new(Arc::new(main.clone()), Arc::new(replica.clone()), counted);
    timed(&both).await;
    main.away.store(true, Relaxed);
    timed(&both).await;
    assert_eq!(watch.of("replica ok"), 2);
    // Writes are not for it.
    assert!(matches!(put(&both).await, Err(BlobError::Unavailable(_))));
    assert!(matches!(both.delete(&[key()]).await, Err(BlobError::Unavailable(_))));
    assert!(both.upload(&key()).await.is_err() && both.list("", None).await.is_err());
    assert_eq!(replica.requests.load(Relaxed), 2);
    // Gone for good only where both say so.
    main.away.store(false, Relaxed);
    replica.away.store(true, Relaxed);
    assert!(matches!(both.get(&key(), 0..1).await, Err(BlobError::Unavailable(_))));
    replica.away.store(false, Relaxed);
    replica.memory.objects.lock().unwrap().clear();
    assert!(matches!(both.get(&key(), 0..1).await, Err(BlobError::NotFound(_))));
    main.memory.replace("k", &b"octets"[..]);
    timed(&both).await;
    assert_eq!((watch.of("replica not_found"), watch.of("replica unavailable")), (1, 1));
}

/// A server that answers each request with this status, and how many it got.
async fn answering(status: &'static str, body: &'static str) -> (String, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut some = [0; 4096];
                while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                    match client.read(&mut some).await {
                        Ok(octets @ 1..) => head.extend_from_slice(&some[..octets]),
                        _ => return,
                    }
                }
                counted.fetch_add(1, Relaxed);
                let text = format!(
                    "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                client.write_all(text.as_bytes()).await.unwrap();
                client.shutdown().await.unwrap();
                while matches!(client.read(&mut some).await, Ok(1..)) {}
            });
        }
    });
    (format!("http://{address}"), requests)
}

fn config(endpoint: String) -> S3Config {
    S3Config {
        endpoint: Some(endpoint),
        credentials: Some(StaticCredentials { access_key: "any".into(), secret_key: "any".into() }),
        ..S3Config::new("any")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_always_fails_gets_no_more_retries_than_the_budget() {
    let (endpoint, requests) = answering("500 Internal Server Error", "").await;
    let watch = Arc::new(Counted::default());
    let store = S3Store::watched(config(endpoint), watch.clone()).await;
    // Different sizes have different deadlines, and must have the same budget.
    let mut all = Vec::new();
    for number in 0..200_usize {
        let store = store.clone();
        all.push(tokio::spawn(async move {
            let octets = [10, 1_500_000, 10, 3_000_000][number % 4];
            match number % 3 {
                0 => store.get(&key(), 0..10).await.map(drop),
                _ => store.put(&key(), Bytes::from(vec![0; octets])).await,
            }
        }));
    }
    for one in all {
        assert!(matches!(one.await.unwrap(), Err(BlobError::Unavailable(_))));
    }
    let sent = requests.load(Relaxed);
    println!("200 requests, {sent} attempts");
    assert!((201..=230).contains(&sent), "{sent} attempts at 200 requests");
    let attempts: u64 = watch.0.lock().unwrap().values().sum();
    assert_eq!(attempts, sent, "{:?}", watch.0.lock().unwrap());
    assert!(watch.of("get failed") >= 67 && watch.of("put failed") >= 133);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_down_halves_the_requests_at_once() {
    let body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let (endpoint, _) = answering("503 Slow Down", body).await;
    let watch = Arc::new(Counted::default());
    let store = S3Store::watched(S3Config { requests_max: 64, ..config(endpoint) }, watch.clone()).await;
    assert_eq!(store.limit().current(), 64);
    let put = put(&store).await;
    assert!(matches!(put, Err(BlobError::Unavailable(_))), "{put:?}");
    assert_eq!(watch.of("put throttled"), 3);
    assert!(store.limit().current() <= 32, "{}", store.limit().current());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_attempts_together_have_a_deadline_and_dropped_ones_are_counted() {
    // It takes connections and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let watch = Arc::new(Counted::default());
    let timeouts = (Duration::from_millis(200), Duration::from_millis(300));
    let config = S3Config {
        connect_timeout: timeouts.0,
        read_timeout: timeouts.1,
        attempts_max: 10,
        ..config(endpoint)
    };
    let store = S3Store::watched(config, watch.clone()).await;
    let began = Instant::now();
    let got = store.get(&key(), 0..10).await.map(drop);
    assert!(matches!(got, Err(BlobError::Unavailable(_))), "{got:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let before = watch.of("get timeout");
    assert!((2..=4).contains(&before), "{before}");
    tokio::time::timeout(Duration::from_millis(100), store.get(&key(), 0..10)).await.map(drop).unwrap_err();
    assert_eq!(watch.of("get cancelled"), 1);
}
