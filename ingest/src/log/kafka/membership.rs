//! The callbacks of the client. The one that matters: at an assignment the table is asked where to start, and the partitions are assigned
//! with those offsets, before a first record can be polled (F01, F02, F03).
//!
//! A revocation is only taken note of here: the poller gives the partitions up when the worker has flushed what it holds of them, and goes
//! on polling meanwhile (librdkafka pauses fetching until then). There is nobody to wait for when they are lost already, or while closing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::runtime::Handle;

use super::access::Access;
use super::watchdog::{self, Seen};
use super::{log_line, sort_error};
use crate::log::{Error, Positions, Result};

/// How long a rebalance may wait for the table; far below `max.poll.interval.ms`.
const POSITIONS_LIMIT: Duration = Duration::from_secs(60);

/// The callbacks; all run inside `poll`, on the polling thread.
pub(super) struct Membership {
    pub(super) positions: Arc<dyn Positions>,
    pub(super) runtime: Handle,
    pub(super) topic: String,
    pub(super) access: Arc<Access>,
    /// Whether `actions` or `statistics` are worth locking.
    pub(super) news: AtomicBool,
    /// What the rebalance did, for the loop to report after the records that came before.
    pub(super) actions: Mutex<Vec<Action>>,
    /// What librdkafka last reported of the partitions.
    pub(super) statistics: Mutex<Option<Vec<Seen>>>,
    pub(super) closing: Arc<AtomicBool>,
}

pub(super) enum Action {
    Assigned(Vec<(i32, i64)>),
    /// Done: they are lost, or we are closing.
    Revoked(Vec<i32>),
    /// To be done once the worker has flushed.
    Release(Vec<i32>),
    Failed(Error),
}

impl Membership {
    fn report(&self, action: Action) {
        self.actions.lock().unwrap_or_else(PoisonError::into_inner).push(action);
        self.news.store(true, Ordering::Relaxed);
    }

    fn start_offsets(&self, partitions: &[i32]) -> Result<Vec<(i32, i64)>> {
        let started = Instant::now();
        let mut wait = Duration::from_millis(100);
        loop {
            let asked = self.runtime.block_on(async {
                let answer = tokio::time::timeout(POSITIONS_LIMIT, self.positions.next_offsets(partitions)).await;
                answer.unwrap_or_else(|limit| Err(Error::unavailable("read positions from the table", limit)))
            });
            match asked {
                Ok(found) => {
                    let start = |partition| found.get(partition).copied().unwrap_or(0).max(0);
                    return Ok(partitions.iter().map(|partition| (*partition, start(partition))).collect());
                }
                Err(error) => {
                    let give_up = started.elapsed() + wait > POSITIONS_LIMIT || self.closing.load(Ordering::Relaxed);
                    if !error.is_retryable() || give_up {
                        return Err(error);
                    }
                    tracing::warn!(error = &error as &dyn std::error::Error, "positions not readable, trying again");
                }
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }
}

impl ClientContext for Membership {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.access.token()
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match watchdog::parse(statistics, &self.topic) {
            Ok(seen) => {
                *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
                self.news.store(true, Ordering::Relaxed);
            }
            Err(error) => tracing::debug!(%error, "librdkafka's statistics are not understood"),
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.access.note(&error, reason);
        tracing::warn!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Membership {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let ids: Vec<i32> =
            partitions.elements_for_topic(&self.topic).iter().map(|element| element.partition()).collect();
        if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let mut start = partitions.clone();
            let outcome = if ids.is_empty() { Ok(Vec::new()) } else { self.start_offsets(&ids) };
            let action = outcome.and_then(|assigned| {
                start = offsets_list(&self.topic, assigned.iter().copied())?;
                Ok(Action::Assigned(assigned))
            });
            // After a failure the assignment is only accepted so that the group can be left in order; the loop ends before another poll.
            let accepted = consumer.incremental_assign(&start);
            match (action, accepted) {
                (Ok(action), Ok(())) => self.report(action),
                (Err(error), _) => self.report(Action::Failed(error)),
                (_, Err(error)) => self.report(Action::Failed(sort_error("accept an assignment", error))),
            }
        } else if consumer.assignment_lost() || self.closing.load(Ordering::Relaxed) {
            give_up(consumer, partitions);
            self.report(Action::Revoked(ids));
        } else {
            self.report(Action::Release(ids));
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "group offset commit failed; it only shows lag");
        }
    }
}

/// Gives partitions back to the group.
pub(super) fn give_up(consumer: &BaseConsumer<Membership>, partitions: &TopicPartitionList) {
    if let Err(error) = consumer.incremental_unassign(partitions) {
        tracing::debug!(%error, "incremental unassign refused, giving up all partitions");
        let _ = consumer.unassign();
    }
}

pub(super) fn offsets_list(topic: &str, offsets: impl Iterator<Item = (i32, i64)>) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (partition, next_offset) in offsets {
        list.add_partition_offset(topic, partition, Offset::Offset(next_offset.max(0)))
            .map_err(|e| Error::fatal("set a start offset", e))?;
    }
    Ok(list)
}
