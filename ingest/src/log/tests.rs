//! The contract on the simulated log, and the rule of consumers as a property: whatever the schedule, what is handed out after an
//! assignment is exactly the records from `next_offset` on.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use proptest::prelude::*;

use super::contract::{self, FixedPositions};
use super::*;

#[tokio::test]
async fn contract_on_a_kind_log() {
    contract::check(&SimulatedLog::new(1, Schedule::default())).await;
}

#[tokio::test]
async fn contract_on_unkind_logs() {
    for seed in 0..30 {
        let schedule = Schedule {
            kafka_partitions: 1 + (seed % 7) as i32,
            max_poll_records: 1 + (seed as usize * 13) % 60,
            rebalance_one_in: 20,
            hole_one_in: 10,
            fail_append_one_in: 4,
            poll: std::time::Duration::ZERO,
        };
        show_seed(seed);
        contract::check(&SimulatedLog::new(seed, schedule)).await;
    }
}

/// Shown when the test fails.
fn show_seed(seed: u64) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "seed {seed}");
}

#[derive(Debug, Clone)]
enum Op {
    Append(usize),
    Next {
        consumer: usize,
        times: usize,
    },
    /// The table commits what the consumer has read.
    Commit {
        consumer: usize,
    },
    Seek {
        consumer: usize,
        kafka_partition: i32,
        next_offset: i64,
    },
    Rebalance {
        rotate: bool,
    },
    Hole {
        kafka_partition: i32,
        count: i64,
    },
    Retain {
        kafka_partition: i32,
        offset: i64,
    },
    /// The consumer dies and another one joins.
    Restart {
        consumer: usize,
    },
}

const PARTITIONS: i32 = 3;
const CONSUMERS: usize = 3;

fn op() -> impl Strategy<Value = Op> {
    let consumer = || 0..CONSUMERS;
    let partition = || 0..PARTITIONS;
    prop_oneof![
        3 => (1..40_usize).prop_map(Op::Append),
        6 => (consumer(), 1..8_usize).prop_map(|(consumer, times)| Op::Next { consumer, times }),
        2 => consumer().prop_map(|consumer| Op::Commit { consumer }),
        1 => (consumer(), partition(), 0..100_i64)
            .prop_map(|(consumer, kafka_partition, next_offset)| Op::Seek { consumer, kafka_partition, next_offset }),
        1 => any::<bool>().prop_map(|rotate| Op::Rebalance { rotate }),
        1 => (partition(), 1..20_i64).prop_map(|(kafka_partition, count)| Op::Hole { kafka_partition, count }),
        1 => (partition(), 0..100_i64).prop_map(|(kafka_partition, offset)| Op::Retain { kafka_partition, offset }),
        1 => consumer().prop_map(|consumer| Op::Restart { consumer }),
    ]
}

/// What one consumer was given of one partition since it was assigned or sought.
#[derive(Default)]
struct Session {
    start: i64,
    next: i64,
    read: Vec<i64>,
    gaps: Vec<(i64, i64)>,
}

impl Session {
    fn at(start: i64) -> Self {
        Self { start, next: start, ..Self::default() }
    }

    /// The rule.
    fn check(&self, log: &SimulatedLog, kafka_partition: i32) {
        let lost = |offset: i64| self.gaps.iter().any(|(from, to)| (*from..*to).contains(&offset));
        let expected: Vec<i64> = log
            .records()
            .iter()
            .filter(|record| record.kafka_partition == kafka_partition)
            .map(|record| record.offset)
            .filter(|offset| (self.start..self.next).contains(offset) && !lost(*offset))
            .collect();
        assert_eq!(self.read, expected, "partition {kafka_partition} from {}", self.start);
    }
}

struct Member {
    consumer: Box<dyn Consumer>,
    sessions: BTreeMap<i32, Session>,
}

impl Member {
    fn join(log: &SimulatedLog, positions: &Arc<FixedPositions>) -> Self {
        let consumer = log.subscribe(positions.clone()).now_or_never().expect("no waiting").expect("subscribe");
        Self { consumer, sessions: BTreeMap::new() }
    }

    /// `false` when there is nothing now.
    fn next(&mut self, log: &SimulatedLog, positions: &FixedPositions) -> bool {
        let Some(event) = self.consumer.next().now_or_never() else { return false };
        match event.expect("next") {
            Event::Assigned(partitions) => {
                for (partition, next) in partitions {
                    assert_eq!(next, positions.get(partition));
                    assert!(self.sessions.insert(partition, Session::at(next)).is_none());
                }
            }
            Event::Revoked(partitions) => {
                for partition in partitions {
                    self.sessions.remove(&partition).expect("it was ours").check(log, partition);
                }
            }
            Event::Records(records) => {
                for record in records {
                    let session =
                        self.sessions.get_mut(&record.kafka_partition).expect("records only of our partitions");
                    session.read.push(record.offset);
                    session.next = record.offset + 1;
                }
            }
            Event::Gap { kafka_partition, from, to } => {
                let session = self.sessions.get_mut(&kafka_partition).expect("gaps only of our partitions");
                assert_eq!(session.next, from);
                if to < from {
                    // A position beyond the end (a seek of this test): reading starts anew.
                    std::mem::replace(session, Session::at(to)).check(log, kafka_partition);
                } else {
                    session.next = to;
                    session.gaps.push((from, to));
                }
            }
        }
        true
    }

    fn check(&self, log: &SimulatedLog) {
        self.sessions.iter().for_each(|(partition, session)| session.check(log, *partition));
    }
}

fn run(seed: u64, ops: &[Op]) {
    let schedule = Schedule {
        kafka_partitions: PARTITIONS,
        max_poll_records: 20,
        rebalance_one_in: 15,
        hole_one_in: 8,
        fail_append_one_in: 6,
        poll: std::time::Duration::ZERO,
    };
    let log = SimulatedLog::new(seed, schedule);
    let positions = FixedPositions::new(BTreeMap::new());
    let mut members: Vec<Member> = (0..CONSUMERS).map(|_| Member::join(&log, &positions)).collect();
    for op in ops {
        match op.clone() {
            Op::Append(count) => {
                let record =
                    |n: usize| Append { key: Bytes::from(format!("k{n}")), value: Bytes::new(), headers: Vec::new() };
                let appended = log.append((0..count).map(record).collect()).now_or_never().expect("no waiting");
                assert!(appended.as_ref().err().is_none_or(Error::is_retryable));
            }
            Op::Next { consumer, times } => {
                for _ in 0..times {
                    members[consumer].next(&log, &positions);
                }
            }
            Op::Commit { consumer } => {
                members[consumer]
                    .sessions
                    .iter()
                    .for_each(|(partition, session)| positions.set(*partition, session.next));
            }
            Op::Seek { consumer, kafka_partition, next_offset } => {
                let Member { consumer, sessions } = &mut members[consumer];
                consumer.seek(kafka_partition, next_offset).now_or_never().expect("no waiting").expect("seek");
                if let Some(session) = sessions.get_mut(&kafka_partition) {
                    std::mem::replace(session, Session::at(next_offset)).check(&log, kafka_partition);
                }
            }
            Op::Rebalance { rotate } => log.rebalance(rotate),
            Op::Hole { kafka_partition, count } => log.hole(kafka_partition, count),
            Op::Retain { kafka_partition, offset } => log.retain_from(kafka_partition, offset),
            Op::Restart { consumer } => {
                members[consumer].check(&log);
                drop(members.remove(consumer));
                members.insert(consumer, Member::join(&log, &positions));
            }
        }
    }
    // Once all is quiet everything is owned by someone and read to the end.
    log.calm();
    while members.iter_mut().filter_map(|member| member.next(&log, &positions).then_some(())).count() > 0 {}
    let mut owned: Vec<i32> = members.iter().flat_map(|member| member.sessions.keys().copied()).collect();
    owned.sort_unstable();
    assert_eq!(owned, (0..PARTITIONS).collect::<Vec<_>>(), "each partition has one owner");
    for member in &members {
        member.check(&log);
        for (partition, session) in &member.sessions {
            let (low, _) = log.offsets(*partition).now_or_never().expect("no waiting").expect("offsets");
            let rest = log
                .records()
                .iter()
                .filter(|r| r.kafka_partition == *partition && r.offset >= session.next.max(low))
                .count();
            assert_eq!(rest, 0, "partition {partition} was read to its end");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn consumers_read_exactly_from_next_offset_on(seed: u64, ops in prop::collection::vec(op(), 1..150)) {
        run(seed, &ops);
    }
}

#[test]
fn the_same_seed_gives_the_same_events() {
    let events = |seed| {
        let log = SimulatedLog::new(seed, Schedule { rebalance_one_in: 5, hole_one_in: 3, ..Schedule::default() });
        let record = |n: usize| Append { key: Bytes::from(format!("k{n}")), value: Bytes::new(), headers: Vec::new() };
        log.append((0..300).map(record).collect()).now_or_never().expect("no waiting").expect("append");
        let mut consumer =
            log.subscribe(FixedPositions::new(BTreeMap::new())).now_or_never().expect("no waiting").expect("subscribe");
        (0..40).map_while(|_| consumer.next().now_or_never()).map(|event| event.expect("next")).collect::<Vec<_>>()
    };
    assert_eq!(events(7), events(7));
    assert_ne!(events(7), events(8));
}

#[test]
fn r6_a_lost_tail_is_a_gap_backwards_and_a_recreated_topic_another_identity() {
    let log = SimulatedLog::new(1, Schedule { kafka_partitions: 1, ..Schedule::default() });
    for _ in 0..10 {
        log.append_raw(0, None, None, Vec::new());
    }
    let positions = FixedPositions::new(BTreeMap::from([(0, 10)]));
    let mut consumer = log.subscribe(positions).now_or_never().expect("no waiting").expect("subscribe");
    let mut next = || consumer.next().now_or_never().map(|event| event.expect("next"));
    assert_eq!(next(), Some(Event::Assigned(vec![(0, 10)])));
    assert_eq!(next(), None);
    log.lose_tail(0, 6);
    assert_eq!(next(), Some(Event::Gap { kafka_partition: 0, from: 10, to: 6 }));
    let before = log.identity().now_or_never();
    log.recreate();
    assert_ne!(format!("{before:?}"), format!("{:?}", log.identity().now_or_never()));
}

#[test]
fn positions_that_cannot_be_read_are_asked_again() {
    struct Away(std::sync::atomic::AtomicBool);
    #[async_trait]
    impl Positions for Away {
        async fn next_offsets(&self, _: &[i32]) -> Result<BTreeMap<i32, i64>> {
            if self.0.swap(false, std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::unavailable("read the table", "away"));
            }
            Ok(BTreeMap::from([(0, 1)]))
        }
    }
    let log = SimulatedLog::new(1, Schedule { kafka_partitions: 1, ..Schedule::default() });
    for _ in 0..2 {
        log.append_raw(0, None, None, Vec::new());
    }
    let mut consumer =
        log.subscribe(Arc::new(Away(true.into()))).now_or_never().expect("no waiting").expect("subscribe");
    let mut next = || consumer.next().now_or_never().expect("no waiting");
    assert!(next().is_err_and(|error| error.is_retryable()));
    assert_eq!(next().expect("now it works"), Event::Assigned(vec![(0, 1)]));
    assert!(
        matches!(next().expect("records"), Event::Records(records) if records.len() == 1 && records[0].offset == 1)
    );
}
