//! How many requests at once: fewer when the store says that they are too many, slowly more while it answers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Never fewer than this, if there may be so many: somebody has to find out that it is better.
const FLOOR: usize = 4;
/// Refusals within this time of the last lowering are answers to requests sent before it.
const HOLD: Duration = Duration::from_secs(1);

/// A number of places that goes down by half on a throttling answer and up by one after as many answers as
/// there are places (AIMD). Places are given in the order they were asked for.
#[derive(Debug)]
pub struct Limit {
    places: Arc<Semaphore>,
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    /// Places to be taken away when those who have them give them back.
    owed: usize,
    lowered: Option<Instant>,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    limit: Arc<Limit>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Limit {
    /// Begins with all of `max` places, one at least.
    pub fn new(max: usize) -> Arc<Self> {
        let max = max.max(1);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(max)),
            max,
            state: Mutex::new(State { limit: max as f64, owed: 0, lowered: None }),
        })
    }

    /// Waits for a place, at most for `patience`; `None` where there was none.
    pub async fn place(self: &Arc<Self>, patience: Duration) -> Option<Place> {
        let place = Arc::clone(&self.places).acquire_owned();
        let permit = tokio::time::timeout(patience, place).await.ok()?.ok()?;
        Some(Place { limit: Arc::clone(self), permit: Some(permit) })
    }

    /// The store has answered that it is asked too much.
    pub fn throttled(&self) {
        let mut state = self.state();
        if state.lowered.is_some_and(|at| at.elapsed() < HOLD) {
            return;
        }
        state.lowered = Some(Instant::now());
        let before = state.limit as usize;
        state.limit = (state.limit / 2.0).max(FLOOR.min(self.max) as f64);
        let fewer = before - state.limit as usize;
        state.owed += fewer - self.places.forget_permits(fewer);
    }

    /// The store has answered.
    pub fn answered(&self) {
        let mut state = self.state();
        let before = state.limit as usize;
        state.limit = (state.limit + 1.0 / state.limit).min(self.max as f64);
        let more = state.limit as usize - before;
        let kept = more.min(state.owed);
        state.owed -= kept;
        self.places.add_permits(more - kept);
    }

    /// Requests at once, now.
    pub fn current(&self) -> usize {
        self.state().limit as usize
    }

    /// Whether that is fewer than there may be.
    pub fn is_lowered(&self) -> bool {
        self.current() < self.max
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers are never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.limit.state();
        if let (Some(owed), Some(permit)) = (state.owed.checked_sub(1), self.permit.take()) {
            state.owed = owed;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn free(limit: &Arc<Limit>) -> usize {
        let mut places = Vec::new();
        while let Some(place) = limit.place(Duration::ZERO).await {
            places.push(place);
        }
        places.len()
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_halve_it_once_a_second_down_to_a_floor() {
        let limit = Limit::new(32);
        assert_eq!(free(&limit).await, 32);
        for _ in 0..10 {
            limit.throttled();
        }
        assert_eq!((limit.current(), free(&limit).await), (16, 16), "a burst of refusals is one");
        for expected in [8, 4, 4, 4] {
            tokio::time::advance(HOLD).await;
            limit.throttled();
            assert_eq!((limit.current(), free(&limit).await), (expected, expected));
        }
        assert!(limit.is_lowered());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_raise_it_by_one_a_round_up_to_the_maximum() {
        let limit = Limit::new(16);
        limit.throttled();
        assert_eq!(limit.current(), 8);
        let mut answers = 0;
        while limit.current() < 9 {
            limit.answered();
            answers += 1;
        }
        assert!((8..=9).contains(&answers), "{answers}");
        for _ in 0..1000 {
            limit.answered();
        }
        assert_eq!((limit.current(), free(&limit).await), (16, 16));
        assert!(!limit.is_lowered());
    }

    #[tokio::test(start_paused = true)]
    async fn places_under_way_are_taken_away_when_they_come_back() {
        let limit = Limit::new(16);
        let mut held = Vec::new();
        for _ in 0..12 {
            held.push(limit.place(Duration::ZERO).await.unwrap());
        }
        limit.throttled();
        assert_eq!(free(&limit).await, 0, "8 may be, 12 are");
        held.truncate(9);
        assert_eq!(free(&limit).await, 0);
        held.truncate(5);
        assert_eq!(free(&limit).await, 3);
        // One owed is forgiven rather than taken and given.
        let waiting = tokio::spawn({
            let limit = Arc::clone(&limit);
            async move {
                for _ in 0..3 {
                    limit.place(Duration::from_secs(9)).await.unwrap().permit.take().unwrap().forget();
                }
                limit.place(Duration::from_secs(9)).await.is_some()
            }
        });
        tokio::task::yield_now().await;
        held.clear();
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_maximum_is_its_own_floor() {
        let limit = Limit::new(2);
        limit.throttled();
        assert_eq!((limit.current(), free(&limit).await), (2, 2));
        assert!(Limit::new(0).place(Duration::ZERO).await.is_some());
    }
}
