use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::{GatherConfig, Lanes, Next, Waiting};
use crate::{
    Digest, MailboxId,
    port::{NewMessage, SealedEntry, SealedOctets},
};

const CONFIG: GatherConfig =
    GatherConfig { linger: Duration::from_millis(100), octets_max: 1000, messages_max: 4, lanes: 2 };

type Caller = oneshot::Receiver<Result<Vec<crate::port::RowOutcome>, crate::Outcome>>;

fn wait(lanes: &mut Lanes, octets: usize, since: Instant) -> Caller {
    let (answer, caller) = oneshot::channel();
    let entry = SealedEntry { octets: SealedOctets::Memory(vec![0; octets]), room: Vec::new() };
    let message = NewMessage {
        mailbox: MailboxId::generate(),
        octets: octets as u64,
        ascii_extra: None,
        header_octets: 0,
        digest: Digest([0; 32]),
        delivered_to: String::new(),
        unique_id: None,
        received_at: time::OffsetDateTime::UNIX_EPOCH,
    };
    lanes.octets += octets as u64;
    // Messages of seven octets have two recipients.
    let messages = vec![message; if octets == 7 { 2 } else { 1 }];
    lanes.messages += messages.len();
    lanes.waiting.push_back(Waiting { entry, messages, since, answer });
    caller
}

fn sizes(next: Next) -> Vec<u64> {
    match next {
        Next::Pack(pack) => pack.iter().map(|waiting| waiting.entry.octets.len()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_goes_out_at_once_and_the_others_together() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    let _first = wait(&mut lanes, 10, now);
    assert_eq!(sizes(lanes.next(now, &CONFIG)), [10]);
    lanes.storing = 1;
    let _others = [wait(&mut lanes, 20, now), wait(&mut lanes, 30, now + Duration::from_millis(5))];
    // While the first is being stored they gather, for as long as the oldest may wait.
    let Next::At(due) = lanes.next(now, &CONFIG) else { panic!("nothing is due yet") };
    assert_eq!(due, now + CONFIG.linger);
    lanes.storing = 0;
    assert_eq!(sizes(lanes.next(now, &CONFIG)), [20, 30]);
    assert!(matches!(lanes.next(now, &CONFIG), Next::Nothing));
    assert_eq!(lanes.octets, 0);
}

#[test]
fn what_has_waited_long_enough_takes_another_lane() {
    let (mut lanes, now) = (Lanes { storing: 1, ..Lanes::default() }, Instant::now());
    let _callers = [wait(&mut lanes, 20, now), wait(&mut lanes, 30, now)];
    assert_eq!(sizes(lanes.next(now + CONFIG.linger, &CONFIG)), [20, 30]);
    // And none is taken that is not there.
    let _late = wait(&mut lanes, 40, now);
    lanes.storing = CONFIG.lanes;
    assert!(matches!(lanes.next(now + CONFIG.linger * 9, &CONFIG), Next::Nothing));
}

#[test]
fn a_full_pack_takes_another_lane_at_once() {
    let (mut lanes, now) = (Lanes { storing: 1, ..Lanes::default() }, Instant::now());
    let mut callers = vec![wait(&mut lanes, 600, now)];
    assert!(matches!(lanes.next(now, &CONFIG), Next::At(_)));
    callers.push(wait(&mut lanes, 600, now));
    // No more octets than a pack has, unless one message alone has them.
    assert_eq!(sizes(lanes.next(now, &CONFIG)), [600]);
    callers.push(wait(&mut lanes, 5000, now));
    lanes.storing = 0;
    assert_eq!(sizes(lanes.next(now, &CONFIG)), [600]);
    assert_eq!(sizes(lanes.next(now, &CONFIG)), [5000]);
    lanes.storing = 1;
    callers.extend((0..6).map(|_| wait(&mut lanes, 1, now)));
    assert_eq!(sizes(lanes.next(now, &CONFIG)), [1, 1, 1, 1]);
    lanes.storing = 0;
    assert_eq!(sizes(lanes.next(now, &CONFIG)), [1, 1]);
    // Recipients count.
    callers.extend((0..3).map(|_| wait(&mut lanes, 7, now)));
    assert_eq!(sizes(lanes.next(now, &CONFIG)), [7, 7]);
    assert_eq!((lanes.messages, lanes.octets), (2, 7));
}

#[test]
fn who_has_gone_is_not_stored() {
    let (mut lanes, now) = (Lanes { storing: 1, ..Lanes::default() }, Instant::now());
    let gone = [wait(&mut lanes, 1, now), wait(&mut lanes, 3, now)];
    let mut callers = vec![wait(&mut lanes, 2, now)];
    callers.push({
        let (first, second) = gone.into();
        drop(first);
        second
    });
    drop(callers.pop());
    lanes.storing = 0;
    assert_eq!(sizes(lanes.next(now, &CONFIG)), [2]);
    assert_eq!(lanes.octets, 0);
    drop(wait(&mut lanes, 1, now));
    assert!(matches!(lanes.next(now, &CONFIG), Next::Nothing));
    assert!(lanes.waiting.is_empty());
}
