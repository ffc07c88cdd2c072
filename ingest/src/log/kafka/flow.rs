//! Between the polling thread and `next`: order, limits, and what a seek or a revocation makes void. No Kafka in here.
//!
//! ```text
//! polling thread ──items──► channel ──► ready (filtered) ──► next
//!        ▲                                                    │
//!        └──────────────── Budget: bytes and records ◄────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::UnboundedReceiver;

use crate::log::{Error, Event, Record, Result, Standing};

/// What the polling thread reports, in order.
pub(super) enum Item {
    /// Anything but records.
    Event(Event),
    /// Records that share one buffer of `bytes`.
    Batch { records: Vec<Record>, bytes: usize },
    /// From here on the records of the partition are those after the seek.
    Sought { kafka_partition: i32, token: u64 },
    /// The last item.
    Failed(Error),
}

/// What was fetched and not yet taken. The channel itself is unbounded: the polling thread stops fetching when the budget is spent.
pub(super) struct Budget {
    /// Its `buffered_bytes` are counted here.
    pub(super) standing: Arc<Standing>,
    records: AtomicUsize,
    limit_bytes: usize,
    limit_records: usize,
}

impl Budget {
    pub(super) fn new(limit_bytes: usize, limit_records: usize) -> Self {
        Self { standing: Arc::default(), records: AtomicUsize::new(0), limit_bytes, limit_records }
    }

    pub(super) fn spend(&self, bytes: usize, records: usize) {
        self.standing.buffered_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize, records: usize) {
        self.standing.buffered_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.records.fetch_sub(records, Ordering::Relaxed);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.standing.buffered_bytes.load(Ordering::Relaxed) >= self.limit_bytes
            || self.records.load(Ordering::Relaxed) >= self.limit_records
    }

    /// Half of it is free: worth resuming for.
    pub(super) fn has_room(&self) -> bool {
        self.standing.buffered_bytes.load(Ordering::Relaxed) <= self.limit_bytes / 2
            && self.records.load(Ordering::Relaxed) <= self.limit_records / 2
    }
}

/// The async side.
pub(super) struct Inbox {
    items: UnboundedReceiver<Item>,
    ready: VecDeque<Item>,
    /// Partitions whose records are void until the polling thread has sought, with the token of the latest seek.
    seeking: BTreeMap<i32, u64>,
    budget: Arc<Budget>,
}

impl Inbox {
    pub(super) fn new(items: UnboundedReceiver<Item>, budget: Arc<Budget>) -> Self {
        Self { items, ready: VecDeque::new(), seeking: BTreeMap::new(), budget }
    }

    /// Nothing of the partition is handed out until [`Item::Sought`] with this token.
    pub(super) fn begin_seek(&mut self, kafka_partition: i32, token: u64) {
        while let Ok(item) = self.items.try_recv() {
            self.accept(item);
        }
        self.void(&[kafka_partition]);
        self.seeking.insert(kafka_partition, token);
    }

    #[cfg(test)]
    pub(super) fn buffered_bytes(&self) -> usize {
        self.budget.standing.buffered_bytes.load(Ordering::Relaxed)
    }

    /// Cancel-safe: the only wait is for the channel.
    pub(super) async fn next(&mut self) -> Result<Event> {
        loop {
            while let Ok(item) = self.items.try_recv() {
                self.accept(item);
            }
            match self.ready.pop_front() {
                Some(Item::Event(event)) => return Ok(event),
                Some(Item::Batch { records, bytes }) => {
                    self.budget.give_back(bytes, records.len());
                    return Ok(Event::Records(records));
                }
                Some(Item::Failed(error)) => return Err(error),
                Some(Item::Sought { .. }) => {}
                None => {
                    let item = self.items.recv().await.ok_or(Error::Closed)?;
                    self.accept(item);
                }
            }
        }
    }

    fn accept(&mut self, item: Item) {
        match item {
            Item::Sought { kafka_partition, token } => {
                if self.seeking.get(&kafka_partition) == Some(&token) {
                    self.seeking.remove(&kafka_partition);
                }
            }
            Item::Event(Event::Revoked(partitions)) => {
                // The next owner reads these records from the table's position: nobody could commit them here.
                self.void(&partitions);
                self.ready.push_back(Item::Event(Event::Revoked(partitions)));
            }
            Item::Event(Event::Gap { kafka_partition, .. }) if self.seeking.contains_key(&kafka_partition) => {}
            Item::Batch { records, bytes } if !self.seeking.is_empty() => {
                let seeking: Vec<i32> = self.seeking.keys().copied().collect();
                if let Some(batch) = self.without(records, bytes, &seeking) {
                    self.ready.push_back(batch);
                }
            }
            item => self.ready.push_back(item),
        }
    }

    /// Drops what waits of these partitions, except for assignments and revocations.
    fn void(&mut self, partitions: &[i32]) {
        for item in std::mem::take(&mut self.ready) {
            match item {
                Item::Batch { records, bytes } => {
                    let rest = self.without(records, bytes, partitions);
                    self.ready.extend(rest);
                }
                Item::Event(Event::Gap { kafka_partition, .. }) if partitions.contains(&kafka_partition) => {}
                item => self.ready.push_back(item),
            }
        }
    }

    /// The buffer stays as long as one record is left, so its bytes do too.
    fn without(&self, mut records: Vec<Record>, bytes: usize, partitions: &[i32]) -> Option<Item> {
        let before = records.len();
        records.retain(|record| !partitions.contains(&record.kafka_partition));
        self.budget.give_back(if records.is_empty() { bytes } else { 0 }, before - records.len());
        (!records.is_empty()).then_some(Item::Batch { records, bytes })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn batch(budget: &Budget, of: &[(i32, i64)]) -> Item {
        let records = of.iter().map(|(kafka_partition, offset)| Record {
            kafka_partition: *kafka_partition,
            offset: *offset,
            key: None,
            value: None,
            headers: Vec::new(),
            append_time_ms: -1,
        });
        budget.spend(10, of.len());
        Item::Batch { records: records.collect(), bytes: 10 }
    }

    fn offsets(event: Event) -> Vec<(i32, i64)> {
        let Event::Records(records) = event else { panic!("records, not {event:?}") };
        records.iter().map(|record| (record.kafka_partition, record.offset)).collect()
    }

    #[tokio::test]
    async fn a_revocation_voids_what_waits() {
        let (send, receive) = mpsc::unbounded_channel();
        let budget = Arc::new(Budget::new(20, 100));
        let mut inbox = Inbox::new(receive, budget.clone());
        send.send(batch(&budget, &[(0, 1), (1, 1)])).ok();
        send.send(batch(&budget, &[(1, 2)])).ok();
        assert!(budget.is_spent());
        send.send(Item::Event(Event::Gap { kafka_partition: 1, from: 3, to: 5 })).ok();
        send.send(Item::Event(Event::Revoked(vec![1]))).ok();
        assert_eq!(offsets(inbox.next().await.unwrap()), [(0, 1)]);
        assert_eq!(inbox.next().await.unwrap(), Event::Revoked(vec![1]));
        assert!(
            budget.has_room()
                && budget.standing.buffered_bytes.load(Ordering::Relaxed) == 0
                && budget.records.load(Ordering::Relaxed) == 0
        );
        drop(send);
        assert!(matches!(inbox.next().await, Err(Error::Closed)));
    }

    #[tokio::test]
    async fn f03_nothing_from_before_a_seek_comes_after_it() {
        let (send, receive) = mpsc::unbounded_channel();
        let budget = Arc::new(Budget::new(1000, 1000));
        let mut inbox = Inbox::new(receive, budget.clone());
        send.send(batch(&budget, &[(0, 1), (1, 1)])).ok();
        inbox.begin_seek(0, 7);
        send.send(batch(&budget, &[(0, 2), (1, 2)])).ok();
        inbox.begin_seek(0, 8);
        send.send(Item::Sought { kafka_partition: 0, token: 7 }).ok();
        send.send(batch(&budget, &[(0, 3)])).ok();
        send.send(Item::Sought { kafka_partition: 0, token: 8 }).ok();
        send.send(batch(&budget, &[(0, 0)])).ok();
        assert_eq!(offsets(inbox.next().await.unwrap()), [(1, 1)]);
        assert_eq!(offsets(inbox.next().await.unwrap()), [(1, 2)]);
        assert_eq!(offsets(inbox.next().await.unwrap()), [(0, 0)]);
        assert_eq!(budget.standing.buffered_bytes.load(Ordering::Relaxed), 0);
    }
}
