//! Which events the table has: what tells a client's retry from another event under the same id.
//!
//! ```text
//! newest files, at start ──┐
//! our commits ─────────────┼──► Known: (organisation, source, id) ► payload ◄── asked for each event that is read
//! commits of others ───────┘
//! ```
//!
//! Invariants:
//! 1. It is derived from `events`, and holds nothing that is not committed there (F29). What a batch holds that may yet be
//!    dropped stands in [`Identities`] of its own.
//! 2. `version` says up to which table version it is complete, as far as it reaches back. A commit that follows another
//!    version is refused, and its batch compared with what came between.
//! 3. Memory is bounded by two generations of rows: when the young one is full it becomes the old one, and what was old is
//!    forgotten. The newest rows, at least a generation of them, are always known.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow::{
    array::{AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use bytesize::ByteSize;
use futures::TryStreamExt;
use lake::{DataFile, Table};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Versions that are caught up on in one step.
const CAUGHT_UP_AT_ONCE: i64 = 8;

/// XXH3-64 of organisation, source and id. Two events of a million in memory share one with a chance of 1 in 10^13.
pub(crate) type Key = u64;

/// Payloads by key.
pub(crate) type Identities = HashMap<Key, i64, BuildHasherDefault<AsIs>>;

/// A hash is its own hash.
#[derive(Default)]
pub(crate) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// The key of an event; `id` as the column `event_id` has it. Each part seeds the hash of the next: parts do not run together.
pub(crate) fn key(org: &str, source: &str, id: &[u8]) -> Key {
    let of_source = xxh3_64_with_seed(source.as_bytes(), xxh3_64(org.as_bytes()));
    xxh3_64_with_seed(id, of_source)
}

/// The newest rows of `events`. Cheap to clone; clones share what they know.
#[derive(Clone)]
pub(crate) struct Known {
    table: Table,
    rows: Arc<Mutex<Rows>>,
}

/// What is known.
pub(crate) struct Rows {
    young: Identities,
    old: Identities,
    /// Rows of a generation.
    rows_max: usize,
    version: i64,
    /// How often rows of others were taken in.
    arrivals: u64,
}

impl Rows {
    /// The payload that was committed under `key`.
    pub(crate) fn payload(&self, key: Key) -> Option<i64> {
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    /// Changes whenever another worker's rows were taken in.
    pub(crate) fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// The first payload of a key stays.
    fn add(&mut self, key: Key, payload: i64) {
        if self.old.contains_key(&key) {
            return;
        }
        self.young.entry(key).or_insert(payload);
        if self.young.len() >= self.rows_max {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

/// Rows that one of two generations may have: a hash table takes 17 bytes for each slot, keeps one in eight of them free,
/// and doubles in size.
fn generation(memory: ByteSize) -> usize {
    let slots = (memory.as_u64() / 2 / 17).max(16);
    usize::try_from((1_u64 << slots.ilog2()) / 8 * 7).unwrap_or(usize::MAX)
}

impl Known {
    /// Takes in the newest rows of the table, as many as `memory` has room for.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub(crate) async fn open(table: Table, memory: ByteSize) -> lake::Result<Self> {
        let rows = Rows {
            young: Identities::default(),
            old: Identities::default(),
            rows_max: generation(memory),
            version: -1,
            arrivals: 0,
        };
        let known = Self { table, rows: Arc::new(Mutex::new(rows)) };
        known.fill().await?;
        Ok(known)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Rows> {
        // Only whole rows are ever added: a panic elsewhere leaves nothing half done.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was committed up to `version`, and gives the version up to which all is known now: that or a newer one.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub(crate) async fn catch_up(&self, version: i64) -> lake::Result<i64> {
        loop {
            let known = self.lock().version;
            if known >= version {
                return Ok(known);
            }
            // A step at a time: where the store fails in between, what was taken in is not asked for again.
            let next = version.min(known + CAUGHT_UP_AT_ONCE);
            match self.table.news(known, next).await? {
                Some(news) => {
                    self.take_in(news.added).await?;
                    self.lock().version = next;
                }
                // The log was cleaned up behind us.
                None => self.fill().await?,
            }
        }
    }

    /// Adds the rows of our own commit, which is the version after the last one that was known.
    pub(crate) fn committed(&self, identities: &Identities, version: i64) {
        let mut rows = self.lock();
        for (key, payload) in identities {
            rows.add(*key, *payload);
        }
        rows.version = version;
    }

    async fn fill(&self) -> lake::Result<()> {
        let snapshot = self.table.snapshot().await?;
        let mut files = snapshot.files.clone();
        files.sort_by_key(|file| std::cmp::Reverse(file.max_time_us("recorded_time")));
        let mut room = self.lock().rows_max as u64;
        // The file that fills the room is taken in too: one merged file may be larger than all of it, and `add` forgets in time.
        let newest = files.into_iter().take_while(|file| {
            let fits = room > 0;
            room = room.saturating_sub(file.rows);
            fits
        });
        let mut newest: Vec<DataFile> = newest.collect();
        // The newest last: what comes last is kept longest.
        newest.reverse();
        self.take_in(newest).await?;
        self.lock().version = snapshot.version;
        Ok(())
    }

    async fn take_in(&self, files: Vec<DataFile>) -> lake::Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let columns = ["org_id", "source", "event_id", "payload_hash"];
        let mut batches = pin!(self.table.read_newest(files, &columns));
        while let Some(batch) = batches.try_next().await? {
            let identities = identities(&batch);
            let mut rows = self.lock();
            for (key, payload) in identities {
                rows.add(key, payload);
            }
        }
        self.lock().arrivals += 1;
        Ok(())
    }
}

/// (key, payload) of each row.
fn identities(batch: &RecordBatch) -> Vec<(Key, i64)> {
    let column = |name: &str, kind: &DataType| {
        let array = batch.column_by_name(name).expect("the scan gives what it is asked for");
        cast(array, kind).expect("columns of `events` have the type that the schema says")
    };
    let (orgs, sources) = (column("org_id", &DataType::Utf8), column("source", &DataType::Utf8));
    let (ids, payloads) = (column("event_id", &DataType::Binary), column("payload_hash", &DataType::Int64));
    let (orgs, sources) = (orgs.as_string::<i32>(), sources.as_string::<i32>());
    let (ids, payloads) = (ids.as_binary::<i32>(), payloads.as_primitive::<Int64Type>());
    (0..batch.num_rows())
        .map(|row| (key(orgs.value(row), sources.value(row), ids.value(row)), payloads.value(row)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_newest_rows_stay() {
        let memory = ByteSize::kib(64);
        let max = generation(memory);
        let mut rows =
            Rows { young: Identities::default(), old: Identities::default(), rows_max: max, version: 0, arrivals: 0 };
        let hash = |number: u64| key("acme", "s", &number.to_be_bytes());
        for number in 0..20 * max as u64 {
            rows.add(hash(number), number.cast_signed());
            let slots = rows.young.capacity() + rows.old.capacity();
            assert!(slots * 17 <= 64 * 1024, "{slots} slots");
            for back in [0, max as u64 / 2, max as u64 - 1] {
                if let Some(number) = number.checked_sub(back) {
                    assert_eq!(rows.payload(hash(number)), Some(number.cast_signed()));
                }
            }
        }
        assert_eq!(rows.payload(hash(0)), None);
    }

    #[test]
    fn the_first_payload_stays() {
        let mut rows =
            Rows { young: Identities::default(), old: Identities::default(), rows_max: 2, version: 0, arrivals: 0 };
        for (key, payload) in [(1, 10), (1, 11), (2, 20), (2, 21), (3, 30)] {
            rows.add(key, payload);
        }
        assert_eq!([1, 2, 3].map(|key| rows.payload(key)), [Some(10), Some(20), Some(30)]);
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        assert_ne!(key("a", "bc", b"d"), key("ab", "c", b"d"));
        assert_ne!(key("a", "b", b"cd"), key("a", "bc", b"d"));
    }
}
