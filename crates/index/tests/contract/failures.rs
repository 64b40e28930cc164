//! Failed logins, and from where accounts are logged in to.

use std::time::Duration;

use maildrop::port::{FailureChange, FailureKey, FailureScore};
use time::OffsetDateTime;

use crate::{backend::Backend, fixture::AT};

const HALF_LIFE: Duration = Duration::from_hours(24);

pub(crate) async fn sources_are_known_for_a_while(backend: &Backend) {
    let failures = &backend.store.failures;
    let [one, two]: [FailureKey; 2] = [[1; 16], [2; 16]];
    let hour = time::Duration::HOUR;
    assert!(!failures.is_known_source(one, AT).await.unwrap());
    failures.note_sources(&[one, two, one], AT).await.unwrap();
    assert!(failures.is_known_source(one, AT).await.unwrap());
    assert!(!failures.is_known_source(one, AT + hour).await.unwrap());
    failures.note_sources(&[one], AT + hour).await.unwrap();
    failures.note_sources(&[one], AT).await.unwrap();
    assert!(failures.is_known_source(one, AT + hour).await.unwrap(), "time does not go back");
    failures.note_sources(&[], AT).await.unwrap();
    failures.forget_sources(AT + hour).await.unwrap();
    assert!(failures.is_known_source(one, AT).await.unwrap());
    assert!(!failures.is_known_source(two, AT).await.unwrap());
    failures.forget_failures(AT).await.unwrap();
}

/// On PostgreSQL; an embedded index has nobody to share with.
pub(crate) async fn nodes_share_what_failed(backend: &Backend) {
    let failures = &backend.store.failures;
    let change = |key: u8, added| FailureChange { key: [key; 16], forgiven: false, added };
    let begin = OffsetDateTime::UNIX_EPOCH;
    let share = async |changes: &[FailureChange], since| {
        failures.share_failures(changes, HALF_LIFE, since).await.unwrap()
    };
    let find = |scores: &[FailureScore], key: u8| scores.iter().find(|f| f.key == [key; 16]).map(|f| f.score);
    let about = |score: Option<f64>, expected: f64| {
        assert!((score.unwrap() - expected).abs() < 0.01, "{score:?}, not {expected}");
    };
    let shared = share(&[change(2, 1.0), change(1, 2.0)], begin).await;
    about(find(&shared.scores, 1), 2.0);
    about(find(&shared.scores, 2), 1.0);
    let shared = share(&[change(1, 1.5)], shared.until).await;
    about(find(&shared.scores, 1), 3.5);
    // What was forgiven begins anew, with what failed since.
    let forgiven = FailureChange { forgiven: true, ..change(1, 1.0) };
    let shared = share(&[forgiven], begin).await;
    about(find(&shared.scores, 1), 1.0);
    about(find(&shared.scores, 2), 1.0);
    // With time it is worth less.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let shared = failures.share_failures(&[], Duration::from_secs(1), begin).await.unwrap();
    assert!(find(&shared.scores, 1).unwrap() < 0.6, "{shared:?}");
    let far = OffsetDateTime::now_utc() + time::Duration::HOUR;
    assert!(share(&[], far).await.scores.is_empty(), "nothing has changed since");
    failures.forget_failures(far).await.unwrap();
    assert!(share(&[], begin).await.scores.is_empty());
    // Many nodes at once, in whatever order.
    let rounds = (0..8).map(|i| {
        let mut changes: Vec<_> = (0..50).map(|key| change(key, 1.0)).collect();
        changes.rotate_left(i * 6);
        async move { share(&changes, begin).await }
    });
    futures_util::future::join_all(rounds).await;
    let shared = share(&[], begin).await;
    for key in 0..50 {
        about(find(&shared.scores, key), 8.0);
    }
}
