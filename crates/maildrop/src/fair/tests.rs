use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use proptest::prelude::*;

use super::*;

type Waiting = Pin<Box<dyn Future<Output = Result<FairPermit, Overloaded>>>>;

fn tenants<const N: usize>() -> [TenantId; N] {
    std::array::from_fn(|_| TenantId::generate())
}

/// Asks for a permit and polls once.
fn ask(gate: &FairGate, tenant: TenantId) -> (Waiting, Poll<Result<FairPermit, Overloaded>>) {
    let gate = gate.clone();
    let mut waiting: Waiting = Box::pin(async move { gate.acquire(tenant).await });
    let first = poll(&mut waiting);
    (waiting, first)
}

fn poll(waiting: &mut Waiting) -> Poll<Result<FairPermit, Overloaded>> {
    waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

#[track_caller]
fn permit(polled: Poll<Result<FairPermit, Overloaded>>) -> FairPermit {
    match polled {
        Poll::Ready(Ok(permit)) => permit,
        other => panic!("{other:?}"),
    }
}

/// The waiter must still wait.
#[track_caller]
fn wait(gate: &FairGate, tenant: TenantId) -> Waiting {
    let (waiting, first) = ask(gate, tenant);
    assert!(first.is_pending(), "{first:?}");
    waiting
}

#[test]
fn a_free_permit_is_had_at_once_and_nothing_is_kept_for_the_idle() {
    let gate = FairGate::new(2, 1);
    let [a, b] = tenants();
    let held = [permit(ask(&gate, a).1), permit(ask(&gate, b).1)];
    assert_eq!(gate.stats(), FairStats { waiting: 0, in_use: 2 });
    drop(held);
    assert_eq!(gate.stats(), FairStats::default());
    let state = gate.shared.lock();
    assert!(state.tenants.is_empty() && state.next.is_empty());
}

#[test]
fn a_tenants_queue_is_bounded_and_only_its_own() {
    let gate = FairGate::new(1, 2);
    let [a, b] = tenants();
    let _held = permit(ask(&gate, a).1);
    let _queue = [wait(&gate, a), wait(&gate, a)];
    assert!(matches!(ask(&gate, a).1, Poll::Ready(Err(Overloaded))));
    let _other = wait(&gate, b);
    assert_eq!(gate.stats(), FairStats { waiting: 3, in_use: 1 });
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_waited_for_ten_seconds_and_then_forgotten() {
    let gate = FairGate::new(1, 2);
    let [a, b] = tenants();
    let held = gate.turn(a).await.unwrap();
    let before = tokio::time::Instant::now();
    assert!(gate.turn(b).await.is_none());
    assert_eq!(before.elapsed(), TURN_MAX);
    assert_eq!(gate.stats(), FairStats { waiting: 0, in_use: 1 }, "who gave up waits no longer");
    drop(held);
    assert!(gate.turn(b).await.is_some());
}

#[test]
fn one_waiter_passes_fifty_of_another_tenant() {
    for capacity in 1..5 {
        let gate = FairGate::new(capacity, 100);
        let [a, b] = tenants();
        let mut held: Vec<_> = (0..capacity).map(|_| permit(ask(&gate, a).1)).collect();
        let mut crowd: Vec<_> = (0..50).map(|_| wait(&gate, a)).collect();
        let mut one = wait(&gate, b);
        held.pop();
        drop(permit(poll(&mut one)));
        // And when it has been, the crowd goes on, first come, first served.
        held.push(permit(poll(&mut crowd[0])));
        assert!(poll(&mut crowd[1]).is_pending());
    }
}

#[test]
fn permits_are_shared_out_evenly_and_in_turn() {
    let gate = FairGate::new(3, 100);
    let tenants = tenants::<3>();
    let mut held: Vec<_> = (0..3).map(|_| permit(ask(&gate, tenants[0]).1)).collect();
    let mut waiting: Vec<(TenantId, Waiting)> = Vec::new();
    for tenant in tenants {
        waiting.extend((0..30).map(|_| (tenant, wait(&gate, tenant))));
    }
    let mut served: HashMap<TenantId, usize> = HashMap::new();
    for _ in 0..60 {
        drop(held.remove(0));
        let at = waiting.iter_mut().position(|(_, waiting)| match poll(waiting) {
            Poll::Ready(done) => {
                held.push(done.unwrap());
                true
            }
            Poll::Pending => false,
        });
        *served.entry(waiting.remove(at.unwrap()).0).or_default() += 1;
        // The one that held them all at first is behind by its three at most.
        let counts = tenants.map(|tenant| served.get(&tenant).copied().unwrap_or(0));
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 3, "{counts:?}");
    }
}

#[test]
fn a_waiter_that_goes_away_leaves_the_queue_or_passes_its_permit_on() {
    let gate = FairGate::new(1, 10);
    let [a, b] = tenants();
    let held = permit(ask(&gate, a).1);
    let [gone, told, mut last] = [wait(&gate, a), wait(&gate, b), wait(&gate, a)];
    drop(gone);
    assert_eq!(gate.stats().waiting, 2);
    // Has got its permit, and is dropped before it looks.
    drop(held);
    assert_eq!(gate.stats(), FairStats { waiting: 1, in_use: 1 });
    drop(told);
    drop(permit(poll(&mut last)));
    assert_eq!(gate.stats(), FairStats::default());
}

#[test]
fn a_crowd_leaves_room_for_those_who_were_at_work_a_moment_ago() {
    let gate = FairGate::sharing(12, 2, 100);
    let [crowd, b, c] = tenants();
    // Alone, it may have all there is.
    let mut held: Vec<_> = (0..12).map(|_| permit(ask(&gate, crowd).1)).collect();
    let mut waiting: Vec<_> = (0..50).map(|_| wait(&gate, crowd)).collect();
    // Two others come, and go: from now on a third each is kept free for them.
    let (mut one, mut other) = (wait(&gate, b), wait(&gate, c));
    held.truncate(10);
    let (first, second) = (permit(poll(&mut one)), permit(poll(&mut other)));
    drop((first, second));
    held.clear();
    let got: Vec<_> = waiting.iter_mut().map(poll).filter(Poll::is_ready).map(permit).collect();
    assert_eq!(got.len(), 4, "its share, of what three may have");
    assert_eq!(gate.stats(), FairStats { waiting: 46, in_use: 4 });
    let others: Vec<_> = (0..4).map(|_| permit(ask(&gate, b).1)).collect();
    let fifth = wait(&gate, b);
    assert_eq!(gate.stats(), FairStats { waiting: 47, in_use: 8 });
    drop((fifth, others, got));
    // A second later only the crowd is left, and has it all.
    std::thread::sleep(ACTIVE + Duration::from_millis(50));
    drop(permit(ask(&gate, crowd).1));
    assert_eq!(gate.stats().in_use, 12);
    drop(waiting);
    assert_eq!(gate.stats(), FairStats::default());
}

#[test]
fn whoever_holds_nothing_has_a_permit_while_there_is_one() {
    let gate = FairGate::sharing(4, 1, 10);
    let tenants = tenants::<4>();
    let held: Vec<_> = tenants.iter().map(|tenant| permit(ask(&gate, *tenant).1)).collect();
    assert_eq!(gate.stats().in_use, 4);
    drop(held);
    let _one = permit(ask(&gate, tenants[0]).1);
    let _second_of_the_same = wait(&gate, tenants[0]);
    let _other = permit(ask(&gate, tenants[1]).1);
}

/// What a test does next.
#[derive(Debug, Clone)]
enum Act {
    Ask(usize),
    DropWaiter(prop::sample::Index),
    DropPermit(prop::sample::Index),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..4_usize).prop_map(Act::Ask),
        1 => any::<prop::sample::Index>().prop_map(Act::DropWaiter),
        3 => any::<prop::sample::Index>().prop_map(Act::DropPermit),
    ]
}

proptest! {
    /// Never more than the capacity, none idle while somebody waits, none lost.
    #[test]
    fn permits_are_neither_lost_nor_made(capacity in 1..4_usize, acts in prop::collection::vec(act(), 0..200)) {
        let gate = FairGate::new(capacity, 5);
        let tenants = tenants::<4>();
        let (mut held, mut waiting): (Vec<FairPermit>, Vec<Waiting>) = (Vec::new(), Vec::new());
        for act in acts {
            match act {
                Act::Ask(tenant) => match ask(&gate, tenants[tenant]) {
                    (_, Poll::Ready(Ok(permit))) => held.push(permit),
                    (_, Poll::Ready(Err(Overloaded))) => {}
                    (waiter, Poll::Pending) => waiting.push(waiter),
                },
                Act::DropWaiter(at) if !waiting.is_empty() => drop(waiting.remove(at.index(waiting.len()))),
                Act::DropPermit(at) if !held.is_empty() => drop(held.remove(at.index(held.len()))),
                Act::DropWaiter(_) | Act::DropPermit(_) => {}
            }
            waiting.retain_mut(|waiter| match poll(waiter) {
                Poll::Ready(permit) => {
                    held.push(permit.unwrap());
                    false
                }
                Poll::Pending => true,
            });
            let stats = gate.stats();
            prop_assert_eq!(stats, FairStats { waiting: waiting.len(), in_use: held.len() });
            prop_assert!(held.len() <= capacity);
            prop_assert!(waiting.is_empty() || held.len() == capacity);
        }
        drop((held, waiting));
        prop_assert_eq!(gate.stats(), FairStats::default());
        prop_assert!(gate.shared.lock().tenants.is_empty());
    }
}

/// The same on threads, with waiters that give up at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_that_gives_up_loses_no_permit() {
    let gate = FairGate::new(3, 1000);
    let tenants = Arc::new(tenants::<5>());
    let at_work = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..400_u64)
        .map(|i| {
            let (gate, tenants, at_work) = (gate.clone(), Arc::clone(&tenants), Arc::clone(&at_work));
            tokio::spawn(async move {
                for turn in 0..20 {
                    let patience = Duration::from_micros((i * 37 + turn * 101) % 500);
                    let asked = gate.acquire(tenants[(i % 5) as usize]);
                    let Ok(Ok(_permit)) = tokio::time::timeout(patience, asked).await else { continue };
                    assert!(at_work.fetch_add(1, Ordering::SeqCst) < 3);
                    tokio::task::yield_now().await;
                    at_work.fetch_sub(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(gate.stats(), FairStats::default());
    assert!(gate.shared.lock().tenants.is_empty());
}
