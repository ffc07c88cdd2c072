//! The consumer of the in-process logs (embedded, simulated): group membership, positions, gaps, waiting.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::group::{Group, Step};
use super::{Consumer, Event, Positions, Record, Result};

/// Where the records come from.
#[async_trait]
pub(super) trait Source: Send + Sync + 'static {
    fn group(&self) -> &Group;

    /// Called at the start of each `next`; the simulated log may rebalance here.
    fn before_next(&self) {}

    /// `(low, high)`.
    fn watermarks(&self, kafka_partition: i32) -> Result<(i64, i64)>;

    /// Some records at or after the wanted positions, ascending per partition; empty when there are none. The positions lie within
    /// the watermarks, but retention may overtake the call: then records above are returned, and the gap is noticed by the consumer.
    async fn read(&self, wanted: &BTreeMap<i32, i64>) -> Result<Vec<Record>>;
}

pub(super) struct LocalConsumer<S: Source> {
    source: Arc<S>,
    positions: Arc<dyn Positions>,
    member: u64,
    /// Next offset to hand out, per owned and announced partition.
    next: BTreeMap<i32, i64>,
    /// Taken from the group, but the table's position is not known yet.
    taken: Vec<i32>,
}

impl<S: Source> LocalConsumer<S> {
    pub(super) fn join(source: Arc<S>, positions: Arc<dyn Positions>) -> Self {
        let member = source.group().join();
        Self { source, positions, member, next: BTreeMap::new(), taken: Vec::new() }
    }

    /// The first partition whose position lies outside the log.
    fn gap(&mut self) -> Result<Option<Event>> {
        for (partition, next) in &mut self.next {
            let (low, high) = self.source.watermarks(*partition)?;
            let to = (*next).clamp(low, high);
            if to != *next {
                let from = std::mem::replace(next, to);
                return Ok(Some(Event::Gap { kafka_partition: *partition, from, to }));
            }
        }
        Ok(None)
    }

    /// One round without waiting; every `await` in it may be cancelled.
    async fn try_next(&mut self) -> Result<Option<Event>> {
        if self.taken.is_empty() {
            match self.source.group().step(self.member) {
                Step::Release(partitions) => {
                    for partition in &partitions {
                        self.next.remove(partition);
                    }
                    return Ok(Some(Event::Revoked(partitions)));
                }
                Step::Take(partitions) => self.taken = partitions,
                Step::Read => {}
            }
        }
        if !self.taken.is_empty() {
            let found = self.positions.next_offsets(&self.taken).await?;
            let assigned: Vec<(i32, i64)> = std::mem::take(&mut self.taken)
                .into_iter()
                .map(|partition| (partition, found.get(&partition).copied().unwrap_or(0)))
                .collect();
            self.next.extend(assigned.iter().copied());
            return Ok(Some(Event::Assigned(assigned)));
        }
        if let Some(gap) = self.gap()? {
            return Ok(Some(gap));
        }
        let records = self.source.read(&self.next).await?;
        if records.is_empty() {
            return Ok(None);
        }
        // Retention may have overtaken the read; what it freed is reported before what it left.
        if let Some(gap) = self.gap()? {
            return Ok(Some(gap));
        }
        for record in &records {
            self.next.insert(record.kafka_partition, record.offset + 1);
        }
        Ok(Some(Event::Records(records)))
    }
}

#[async_trait]
impl<S: Source> Consumer for LocalConsumer<S> {
    async fn next(&mut self) -> Result<Event> {
        self.source.before_next();
        loop {
            let seen = self.source.group().version();
            if let Some(event) = self.try_next().await? {
                return Ok(event);
            }
            self.source.group().changed_since(seen).await;
        }
    }

    async fn seek(&mut self, kafka_partition: i32, next_offset: i64) -> Result<()> {
        if let Some(next) = self.next.get_mut(&kafka_partition) {
            *next = next_offset;
        }
        Ok(())
    }

    async fn commit_offsets(&mut self, _: &BTreeMap<i32, i64>) -> Result<()> {
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl<S: Source> Drop for LocalConsumer<S> {
    fn drop(&mut self) {
        self.source.group().leave(self.member);
    }
}
