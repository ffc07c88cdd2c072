//! Notices a partition that has stopped without a word (F14, rust-rdkafka#665).
//!
//! Every few seconds librdkafka reports where it is fetching each partition and where the log ends; that costs nothing per record. A
//! partition is *quiet* while neither its `next_offset` nor the position of its fetches moves. Quiet is no fault: most partitions have nothing
//! to say for hours. It is stuck when it is quiet for longer than `stall-after` although the log goes on beyond the position of its
//! fetches. (Not beyond `next_offset`: markers of transactions and aborted records are fetched and never handed out.)
//!
//! | quiet for | the log's end | then |
//! |---|---|---|
//! | less than `stall-after` | | nothing |
//! | longer | known to lie beyond | it is started anew |
//! | longer | not known to | the broker is asked: a partition that is not fetched does not learn of its end |
//! | longer, started anew three times | beyond | [`crate::log::Error::Stalled`]: the subscription is started anew |
//!
//! While the buffer is full nobody reads, and nothing is judged.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// A partition is started anew so many times before the whole subscription is.
const RESTARTS_MAX: u32 = 3;

/// What librdkafka says of a partition (its STATISTICS.md). Negative = not known.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) partition: i32,
    /// Where it fetches next.
    #[serde(rename = "next_offset")]
    pub(super) fetch: i64,
    /// High watermark.
    #[serde(rename = "hi_offset")]
    pub(super) high: i64,
    /// Last stable offset: the end for a reader of committed records.
    #[serde(rename = "ls_offset")]
    pub(super) stable: i64,
}

/// Reads what concerns us of librdkafka's statistics.
pub(super) fn parse(json: &[u8], topic: &str) -> serde_json::Result<Vec<Seen>> {
    #[derive(Deserialize)]
    struct Statistics {
        #[serde(default)]
        topics: HashMap<String, Topic>,
    }
    #[derive(Deserialize)]
    struct Topic {
        #[serde(default)]
        partitions: HashMap<String, Seen>,
    }
    let mut statistics: Statistics = serde_json::from_slice(json)?;
    let partitions = statistics.topics.remove(topic).map(|topic| topic.partitions).unwrap_or_default();
    Ok(partitions.into_values().filter(|seen| seen.partition >= 0).collect())
}

/// What to do about a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It moves, or may be quiet.
    Fine,
    /// Ask the broker where it ends.
    AskEnd,
    /// Start it anew.
    Restart,
    /// That was in vain, several times.
    GiveUp,
}

/// How long a partition has not moved.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    next: i64,
    fetch: i64,
    since: Instant,
    restarts: u32,
}

pub(super) struct Watchdog {
    stall_after: Duration,
    partitions: BTreeMap<i32, Quiet>,
}

impl Watchdog {
    pub(super) fn new(stall_after: Duration) -> Self {
        Self { stall_after, partitions: BTreeMap::new() }
    }

    /// Forgets how long partitions have been quiet: they are not read now, or only since now.
    pub(super) fn excuse(&mut self) {
        self.partitions.clear();
    }

    /// Judges one partition of ours. `end` is the broker's answer, where it was asked.
    pub(super) fn judge(&mut self, now: Instant, next: i64, seen: Seen, end: Option<i64>) -> Verdict {
        let new = Quiet { next, fetch: seen.fetch, since: now, restarts: 0 };
        let quiet = self.partitions.entry(seen.partition).or_insert(new);
        if next != quiet.next || seen.fetch > quiet.fetch {
            *quiet = new;
            return Verdict::Fine;
        }
        if now - quiet.since < self.stall_after {
            return Verdict::Fine;
        }
        let position = next.max(seen.fetch);
        if end.unwrap_or(seen.stable).max(seen.stable) > position {
            return if quiet.restarts < RESTARTS_MAX { Verdict::Restart } else { Verdict::GiveUp };
        }
        if end.is_some() {
            // It may be quiet for as long again.
            quiet.since = now;
            return Verdict::Fine;
        }
        Verdict::AskEnd
    }

    /// It was started anew, and has its time to move.
    pub(super) fn restarted(&mut self, kafka_partition: i32, now: Instant) {
        if let Some(quiet) = self.partitions.get_mut(&kafka_partition) {
            quiet.restarts += 1;
            quiet.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At second, next_offset, fetch position, known end, answered end, verdict.
    type Step = (u64, i64, i64, i64, Option<i64>, Verdict);

    fn seen(fetch: i64, stable: i64) -> Seen {
        Seen { partition: 0, fetch, high: stable, stable }
    }

    #[test]
    fn f14_stuck_is_quiet_for_long_with_records_ahead() {
        use Verdict::{AskEnd, Fine, GiveUp, Restart};
        let start = Instant::now();
        // One partition each, stall-after 60 s.
        let check = |name: &str, steps: &[Step]| {
            let mut watchdog = Watchdog::new(Duration::from_secs(60));
            for (at, next, fetch, stable, end, expected) in steps {
                let now = start + Duration::from_secs(*at);
                let verdict = watchdog.judge(now, *next, seen(*fetch, *stable), *end);
                assert_eq!(verdict, *expected, "{name} at {at} s");
                if verdict == Restart {
                    watchdog.restarted(0, now);
                }
            }
        };
        check("moving", &[(0, 5, 5, 90, None, Fine), (50, 6, 6, 90, None, Fine), (109, 6, 6, 90, None, Fine)]);
        check("records ahead", &[(0, 5, 5, 90, None, Fine), (59, 5, 5, 90, None, Fine), (60, 5, 5, 90, None, Restart)]);
        check("nothing ahead", &[(0, 5, 5, 5, None, Fine), (61, 5, 5, 5, None, AskEnd), (61, 5, 5, 5, Some(5), Fine)]);
        check(
            "asked not too often",
            &[(0, 5, 5, 5, None, Fine), (61, 5, 5, 5, Some(5), Fine), (99, 5, 5, 5, None, Fine)],
        );
        check("the end was not known", &[(0, 5, 5, 5, None, Fine), (61, 5, 5, 5, Some(6), Restart)]);
        check("never fetched", &[(0, 5, -1001, -1, None, Fine), (60, 5, -1001, -1, Some(7), Restart)]);
        check("the end is a marker", &[(0, 5, 7, 7, None, Fine), (61, 5, 7, 7, Some(7), Fine)]);
        check(
            "markers are being fetched",
            &[(0, 5, 5, 90, None, Fine), (59, 5, 40, 90, None, Fine), (99, 5, 40, 90, None, Fine)],
        );
        check(
            "in vain",
            &[
                (0, 5, 5, 9, None, Fine),
                (60, 5, 5, 9, None, Restart),
                (119, 5, 5, 9, None, Fine),
                (120, 5, 5, 9, None, Restart),
                (180, 5, 5, 9, None, Restart),
                (240, 5, 5, 9, None, GiveUp),
            ],
        );
        check(
            "a restart that helped is forgotten",
            &[
                (0, 5, 5, 9, None, Fine),
                (60, 5, 5, 9, None, Restart),
                (61, 9, 9, 9, None, Fine),
                (200, 9, 9, 20, None, Restart),
            ],
        );
        check("a seek is a move", &[(0, 5, 5, 9, None, Fine), (59, 2, 2, 9, None, Fine), (61, 2, 2, 9, None, Fine)]);
    }

    #[test]
    fn statistics_are_read() {
        let json = br#"{"name":"x","ts":5,"brokers":{"b":{"rtt":{"p50":1}}},"topics":{"other":{"partitions":{}},"t":{"topic":"t","partitions":
            {"3":{"partition":3,"fetchq_cnt":1,"next_offset":7,"hi_offset":9,"ls_offset":8,"fetch_state":"active"},
             "-1":{"partition":-1,"next_offset":0,"hi_offset":-1001,"ls_offset":-1001}}}}}"#;
        assert_eq!(parse(json, "t").unwrap(), [Seen { partition: 3, fetch: 7, high: 9, stable: 8 }]);
        assert_eq!(parse(json, "nowhere").unwrap(), []);
        assert!(parse(b"[", "t").is_err());
    }
}
