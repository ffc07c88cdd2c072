//! The Kafka log against librdkafka's mock cluster. It has no transactions, no `CreateTopics` and no retention by hand; `e2e` runs the same
//! contract against a real broker.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::*;
use crate::log::contract::{self, CheckedConsumer, FixedPositions};
use crate::log::{Event, kafka_partition_of};

const TOPIC: &str = "daybook-events";

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(partitions: i32) -> (Cluster, KafkaSettings) {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(TOPIC, partitions, 1).expect("a topic");
    // A member learns of a rebalance by its heartbeat.
    let properties = [("heartbeat.interval.ms".to_owned(), "200".to_owned())].into();
    let settings = KafkaSettings {
        bootstrap_servers: cluster.bootstrap_servers(),
        topic: TOPIC.into(),
        properties,
        ..KafkaSettings::default()
    };
    (cluster, settings)
}

fn records(range: std::ops::Range<usize>, value_bytes: usize) -> Vec<Append> {
    let value = Bytes::from(vec![b'x'; value_bytes]);
    let one = |n: usize| Append {
        key: Bytes::from(format!("key-{n}")),
        value: value.clone(),
        headers: vec![("n".into(), Bytes::from(n.to_string()))],
    };
    range.map(one).collect()
}

const LIMIT: Duration = Duration::from_secs(60);

/// Reads until this many records came.
async fn read(consumer: &mut CheckedConsumer, count: usize) -> Vec<crate::log::Record> {
    let mut all = Vec::new();
    while all.len() < count {
        if let Event::Records(records) = consumer.next(LIMIT).await.expect("an event") {
            all.extend(records);
        }
    }
    all
}

#[tokio::test]
async fn contract_on_the_mock_cluster() {
    let (_cluster, settings) = cluster(4);
    contract::check(&KafkaLog::open(&settings).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_on_the_mock_cluster_with_threads() {
    let (_cluster, settings) = cluster(2);
    contract::check(&KafkaLog::open(&settings).unwrap()).await;
}

#[tokio::test]
async fn f24_identity_is_cluster_and_topic_id() {
    let (cluster, settings) = cluster(1);
    let identity = KafkaLog::open(&settings).unwrap().identity().await.unwrap();
    let (cluster_id, topic_id) = identity.split_once('/').unwrap();
    assert!(!cluster_id.is_empty() && topic_id.len() == 22, "{identity}");
    cluster.create_topic("other", 1, 1).unwrap();
    let other = KafkaSettings { topic: "other".into(), ..settings.clone() };
    let other = KafkaLog::open(&other).unwrap().identity().await.unwrap();
    assert!(other.starts_with(cluster_id) && other != identity, "{other}");
    assert_eq!(KafkaLog::open(&settings).unwrap().identity().await.unwrap(), identity, "asked again by another client");
}

#[tokio::test]
async fn our_partitioner_is_librdkafkas() {
    let (_cluster, settings) = cluster(7);
    let log = KafkaLog::open(&settings).unwrap();
    let mut batch = records(0..200, 1);
    batch[0].key = Bytes::new();
    log.append(batch).await.unwrap();
    let mut consumer = CheckedConsumer::join(&log, &FixedPositions::new(BTreeMap::new())).await;
    for record in read(&mut consumer, 200).await {
        assert_eq!(
            record.kafka_partition,
            kafka_partition_of(record.key.as_deref().unwrap_or_default(), 7),
            "{:?}",
            record.key
        );
    }
    consumer.close().await;
}

/// The mock cluster keeps 5 MiB a partition, so the beginning is gone.
#[tokio::test]
async fn f17_r6_retention_is_a_gap_and_reading_goes_on() {
    let (_cluster, mut settings) = cluster(2);
    settings.properties.insert("compression.type".into(), "none".into());
    let log = KafkaLog::open(&settings).unwrap();
    for part in 0..16 {
        log.append(records(part * 20..part * 20 + 20, 60_000)).await.unwrap();
    }
    let marks = [log.offsets(0).await.unwrap(), log.offsets(1).await.unwrap()];
    assert!(marks.iter().all(|(low, _)| *low > 1), "{marks:?}");
    let positions = FixedPositions::new(BTreeMap::from([(1, 1)]));
    let mut consumer = CheckedConsumer::join(&log, &positions).await;
    let left: i64 = marks.iter().map(|(low, high)| high - low).sum();
    let read = read(&mut consumer, left as usize).await;
    consumer.gaps.sort_unstable();
    assert_eq!(consumer.gaps, [(0, 0, marks[0].0), (1, 1, marks[1].0)]);
    for (partition, (low, high)) in marks.into_iter().enumerate() {
        let offsets: Vec<i64> =
            read.iter().filter(|r| r.kafka_partition == partition as i32).map(|r| r.offset).collect();
        assert_eq!(offsets, (low..high).collect::<Vec<_>>(), "partition {partition}");
    }
    // And a seek into what is gone does the same while reading.
    consumer.seek(0, 0).await;
    while consumer.gaps.len() < 3 {
        consumer.next(LIMIT).await.expect("an event");
    }
    assert_eq!(consumer.gaps[2], (0, 0, marks[0].0));
    consumer.close().await;
}

#[tokio::test]
async fn r6_a_position_beyond_the_end_is_a_gap_backwards() {
    let (_cluster, settings) = cluster(1);
    let log = KafkaLog::open(&settings).unwrap();
    log.append(records(0..10, 10)).await.unwrap();
    let mut consumer = CheckedConsumer::join(&log, &FixedPositions::new(BTreeMap::from([(0, 1000)]))).await;
    while consumer.gaps.is_empty() {
        consumer.next(LIMIT).await.expect("an event");
    }
    assert_eq!(consumer.gaps, [(0, 1000, 10)]);
    log.append(records(10..11, 10)).await.unwrap();
    assert_eq!(read(&mut consumer, 1).await[0].offset, 10);
    consumer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f18_f19_a_slow_reader_bounds_the_memory_and_keeps_its_partitions() {
    let (_cluster, mut settings) = cluster(2);
    settings.buffer = ByteSize::mib(1);
    settings.batch_records = 100;
    settings.properties.insert("max.poll.interval.ms".into(), "10000".into());
    settings.properties.insert("session.timeout.ms".into(), "6000".into());
    let log = KafkaLog::open(&settings).unwrap();
    for part in 0..7 {
        log.append(records(part * 1000..part * 1000 + 1000, 1000)).await.unwrap();
    }
    let positions: Arc<dyn Positions> = FixedPositions::new(BTreeMap::new());
    let identity = log.identity().await.unwrap();
    let mut consumer =
        consumer::KafkaConsumer::start(Arc::new(settings), log.access.clone(), identity, positions).unwrap();
    let mut next = [0, 0];
    let mut waited = false;
    while next[0] + next[1] < 7000 {
        match consumer.next().await.unwrap() {
            Event::Records(records) => {
                if !waited {
                    // Longer than the poll interval: only polling while paused keeps us in the group.
                    waited = true;
                    tokio::time::sleep(Duration::from_secs(13)).await;
                    assert!(consumer.buffered_bytes() < 2 << 20, "{} bytes", consumer.buffered_bytes());
                }
                for record in records {
                    let next = &mut next[record.kafka_partition as usize];
                    assert_eq!(record.offset, *next, "pausing loses and repeats nothing");
                    *next += 1;
                }
            }
            Event::Assigned(partitions) => assert_eq!(partitions, [(0, 0), (1, 0)]),
            event => panic!("unexpected {event:?}"),
        }
    }
    Box::new(consumer).close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f14_a_partition_that_stopped_is_started_anew() {
    let (_cluster, mut settings) = cluster(2);
    settings.stall_after = SignedDuration::from_secs(2);
    let log = KafkaLog::open(&settings).unwrap();
    log.append(records(0..100, 10)).await.unwrap();
    let positions: Arc<dyn Positions> = FixedPositions::new(BTreeMap::new());
    let identity = log.identity().await.unwrap();
    let mut consumer =
        consumer::KafkaConsumer::start(Arc::new(settings), log.access.clone(), identity, positions).unwrap();
    let standing = consumer.standing().unwrap();
    let mut next = [0, 0];
    for (round, total) in [(0, 100), (1, 200)] {
        while next[0] + next[1] < total {
            let event = tokio::time::timeout(LIMIT, consumer.next()).await.expect("the partition goes on").unwrap();
            let Event::Records(records) = event else { continue };
            for record in records {
                let next = &mut next[record.kafka_partition as usize];
                assert_eq!(record.offset, *next, "started anew where it stopped");
                *next += 1;
            }
        }
        if round == 0 {
            consumer.stop_behind_its_back(1);
            // Until it is stopped, and what was under way has come.
            tokio::time::sleep(Duration::from_secs(1)).await;
            log.append(records(100..200, 10)).await.unwrap();
        }
    }
    assert_eq!(standing.restarts.load(Ordering::Relaxed), 1, "the other partition was let alone");
    let ends = standing.high_watermarks().clone();
    assert_eq!(ends, BTreeMap::from([(0, next[0]), (1, next[1])]));
    Box::new(consumer).close().await.unwrap();
}

/// A member that has read 100 records, and one that has just joined.
async fn one_and_a_newcomer(log: &KafkaLog, positions: &Arc<FixedPositions>) -> (CheckedConsumer, CheckedConsumer) {
    log.append(records(0..100, 10)).await.unwrap();
    let mut old = CheckedConsumer::join(log, positions).await;
    read(&mut old, 100).await;
    (old, CheckedConsumer::join(log, positions).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_partitions_are_given_up_when_the_worker_asks_for_more() {
    let (_cluster, settings) = cluster(2);
    let log = KafkaLog::open(&settings).unwrap();
    let positions = FixedPositions::new(BTreeMap::new());
    let (mut old, mut new) = one_and_a_newcomer(&log, &positions).await;
    let revoked = loop {
        if let Event::Revoked(partitions) = old.next(LIMIT).await.expect("a rebalance") {
            break partitions;
        }
    };
    // The worker flushes: meanwhile nobody else has the partitions.
    assert_eq!(new.next(Duration::from_secs(4)).await, None, "not given up before it is flushed");
    for partition in &revoked {
        positions.set(*partition, 40);
    }
    let (_, assigned) = tokio::join!(old.next(Duration::from_secs(5)), new.next(LIMIT));
    let expected: Vec<(i32, i64)> = revoked.iter().map(|partition| (*partition, 40)).collect();
    assert_eq!(assigned, Some(Event::Assigned(expected)), "where the flush ended");
    new.close().await;
    old.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_worker_that_never_flushes_does_not_hold_up_the_group() {
    let (_cluster, settings) = cluster(2);
    let log = KafkaLog::open(&settings).unwrap();
    let positions = FixedPositions::new(BTreeMap::new());
    let (mut old, mut new) = one_and_a_newcomer(&log, &positions).await;
    assert!(
        matches!(new.next(Duration::from_secs(40)).await, Some(Event::Assigned(_))),
        "after a while it is given up"
    );
    // Closing amid a revocation that is not answered.
    let mut third = CheckedConsumer::join(&log, &positions).await;
    while !matches!(old.next(Duration::from_secs(5)).await, Some(Event::Revoked(_)) | None) {}
    old.close().await;
    assert!(matches!(third.next(Duration::from_secs(40)).await, Some(Event::Assigned(_))));
    third.close().await;
    new.close().await;
}

/// Fails twice, then answers.
struct Moody(AtomicUsize);

#[async_trait]
impl Positions for Moody {
    async fn next_offsets(&self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        if self.0.fetch_add(1, Ordering::Relaxed) < 2 {
            return Err(Error::unavailable("read the table", "away"));
        }
        Ok(partitions.iter().map(|partition| (*partition, 3)).collect())
    }
}

#[tokio::test]
async fn f03_no_record_before_the_position_is_known() {
    let (_cluster, settings) = cluster(1);
    let log = KafkaLog::open(&settings).unwrap();
    log.append(records(0..10, 10)).await.unwrap();
    let mut consumer = log.subscribe(Arc::new(Moody(0.into()))).await.unwrap();
    assert_eq!(consumer.next().await.unwrap(), Event::Assigned(vec![(0, 3)]));
    let Event::Records(records) = consumer.next().await.unwrap() else { panic!("records") };
    assert_eq!(records[0].offset, 3);
    consumer.commit_offsets(&BTreeMap::from([(0, 8), (9, 1)])).await.unwrap();
    consumer.close().await.unwrap();

    // Kafka's own idea of progress, 8 by now, is not asked.
    let mut consumer = CheckedConsumer::join(&log, &FixedPositions::new(BTreeMap::from([(0, 2)]))).await;
    assert_eq!(read(&mut consumer, 8).await[0].offset, 2);
    consumer.close().await;

    struct Broken;
    #[async_trait]
    impl Positions for Broken {
        async fn next_offsets(&self, _: &[i32]) -> Result<BTreeMap<i32, i64>> {
            Err(Error::fatal("read the table", "no such table"))
        }
    }
    let mut consumer = log.subscribe(Arc::new(Broken)).await.unwrap();
    assert!(matches!(consumer.next().await, Err(Error::Fatal { .. })));
    assert!(matches!(consumer.next().await, Err(Error::Closed)));
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn faults_of_appending_are_told_apart() {
    let (cluster, mut settings) = cluster(1);
    settings.delivery_timeout = SignedDuration::from_secs(2);
    settings.request_timeout = SignedDuration::from_secs(2);
    let log = KafkaLog::open(&settings).unwrap();
    let error = log.append(records(0..1, 2_000_000)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { bytes: 2_000_000 }), "{error:?}");
    cluster.broker_down(-1).unwrap();
    let error = log.append(records(0..3, 10)).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(log.partitions().await.is_err_and(|error| error.is_retryable()));
    cluster.broker_up(-1).unwrap();
    while let Err(error) = log.append(records(0..3, 10)).await {
        assert!(error.is_retryable(), "{error:?}");
    }
    assert!(log.offsets(0).await.unwrap().1 >= 3);
}

#[test]
fn settings_hide_secrets_and_refuse_what_would_break_promises() {
    let properties =
        [("sasl.password", "hunter2"), ("ssl.key.pem", "hunter2"), ("sasl.username", "ada"), ("acks", "1")];
    let settings = KafkaSettings {
        topic: String::new(),
        properties: properties.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..KafkaSettings::default()
    };
    let shown = format!("{settings:?} {}", serde_json::to_string(&settings).unwrap());
    assert!(!shown.contains("hunter2") && shown.contains("ada"), "{shown}");
    let Err(Error::Settings(faults)) = KafkaLog::open(&settings) else { panic!("refused") };
    assert_eq!(faults, ["topic is empty", "properties must not set acks: exactly-once rests on it"]);
    let parsed: KafkaSettings = serde_json::from_str(r#"{"request-timeout": "5s", "buffer": "8MiB"}"#).unwrap();
    assert_eq!((parsed.request_timeout, parsed.buffer), (SignedDuration::from_secs(5), ByteSize::mib(8)));
    assert!(serde_json::from_str::<KafkaSettings>(r#"{"bufer": "8MiB"}"#).is_err());
    let mut oidc = KafkaSettings::default();
    oidc.properties.insert("sasl.oauthbearer.method".into(), "oidc".into());
    let faults = oidc.faults();
    assert!(
        faults.len() == 1 && faults[0].contains("not built in") && faults[0].contains("oauth-token-file"),
        "{faults:?}"
    );
}

/// Not a bar: the mock cluster shares the machine and keeps 5 MiB a partition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_consumer() {
    let (_cluster, settings) = cluster(40);
    let log = KafkaLog::open(&settings).unwrap();
    let total = 300_000;
    let started = std::time::Instant::now();
    for first in (0..total).step_by(5000) {
        log.append(records(first..first + 5000, 300)).await.unwrap();
    }
    let appended = started.elapsed();
    let mut consumer = log.subscribe(FixedPositions::new(BTreeMap::new())).await.unwrap();
    let mut started = None;
    let mut count = 0;
    while count < total {
        if let Event::Records(records) = consumer.next().await.unwrap() {
            started.get_or_insert_with(std::time::Instant::now);
            count += records.len();
        }
    }
    let rate = |elapsed: Duration| total as f64 / elapsed.as_secs_f64();
    let (append, read) = (rate(appended), rate(started.unwrap().elapsed()));
    writeln!(std::io::stderr(), "mock cluster: append {append:.0} records/s, read {read:.0} records/s").unwrap();
}
