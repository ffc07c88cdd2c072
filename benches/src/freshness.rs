//! Freshness: how long after the broker has acknowledged a record does the table have it?
//!
//! A producer appends at a steady rate, on the same cores as the worker; the table's log is looked at every 50 ms.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use e2e::activity;
use ingest::log::{KafkaLog, Log, kafka_partition_of};
use lake::Lake;
use schemas::EVENTS;

use crate::contest::Contest;

/// The topic of freshness.
pub const TOPIC: &str = "fresh";
/// Partitions of every topic here.
pub const PARTITIONS: u32 = 6;
/// Length of the run, and from one append to the next.
const LENGTH: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(50);
/// The group has to form first; that is no matter of freshness.
const GROUP: Duration = Duration::from_secs(5);
/// Longest wait for what was appended.
const WAIT: Duration = Duration::from_secs(60);

/// Seconds from each acknowledged append to the table commit that has all of its records, at `rate` records a second.
///
/// # Panics
/// Where a part does not do its work.
pub async fn of_worker(contest: &Contest, producer: &KafkaLog, rate: f64) -> Vec<f64> {
    let (ticks, size) = (LENGTH.as_millis() / TICK.as_millis(), (rate * TICK.as_secs_f64()) as usize);
    let mut records = activity::generator(ticks as u64 * size as u64).map(activity::record);
    // Made beforehand: the generator has no share of the cores while it counts.
    let batches: Vec<Vec<_>> = (0..ticks).map(|_| records.by_ref().take(size).collect()).collect();
    let folder = contest.folder.join(TOPIC);
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let table = Lake::open(&folder.join("lake").display().to_string(), &[]).expect("a folder is a lake").table(&EVENTS);
    let mut program = contest.start_worker(TOPIC, TOPIC, &folder);
    tokio::time::sleep(GROUP).await;
    let started = Instant::now();
    let mut head = loop {
        if let Some(head) = table.head().await.expect("the table can be read") {
            break head;
        }
        program.lives();
        assert!(started.elapsed() < WAIT, "the worker has made no table within {WAIT:?}");
        tokio::time::sleep(TICK).await;
    };

    // Where each partition ends with an append, and when that was acknowledged.
    let mut ends = [0_i64; PARTITIONS as usize];
    let mut waiting: VecDeque<([i64; PARTITIONS as usize], Instant)> = VecDeque::new();
    let mut seconds = Vec::new();
    let mut timer = tokio::time::interval(TICK);
    let mut batches = batches.into_iter();
    loop {
        timer.tick().await;
        if let Some(batch) = batches.next() {
            for record in &batch {
                ends[kafka_partition_of(&record.key, PARTITIONS as i32) as usize] += 1;
            }
            producer.append(batch).await.expect("the broker serves");
            waiting.push_back((ends, Instant::now()));
        } else if waiting.is_empty() {
            break;
        }
        table.refresh(&mut head).await.expect("the table can be read");
        let mut there = [0_i64; PARTITIONS as usize];
        for (app_id, next_offset) in head.txns() {
            // daybook/<identity of the log>/<partition>
            let partition = app_id.rsplit('/').next().and_then(|number| number.parse::<usize>().ok());
            there[partition.expect("our application ids end with the partition")] = *next_offset;
        }
        while let Some((ends, since)) = waiting.front() {
            assert!(since.elapsed() < WAIT, "not in the table after {WAIT:?}");
            if ends.iter().zip(&there).any(|(end, there)| there < end) {
                break;
            }
            seconds.push(since.elapsed().as_secs_f64());
            waiting.pop_front();
        }
        program.lives();
    }
    program.end(true);
    seconds
}
