//! The two keyspaces on disk.

use fjall::{Database, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use super::codec::{offset_of, store_key};
use super::{EmbeddedSettings, sync_dir};
use crate::log::{Error, Result};

/// Watermarks of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    /// First offset that can be read.
    pub(super) low: i64,
    /// Next offset to be written.
    pub(super) high: i64,
}

pub(super) struct Store {
    db: Database,
    pub(super) records: fjall::Keyspace,
    meta: fjall::Keyspace,
}

const IDENTITY: &str = "identity";
const PARTITIONS: &str = "partitions";

/// Records freed by one write.
const FREE_RECORDS: i64 = 8192;

fn low_key(kafka_partition: i32) -> String {
    format!("low/{kafka_partition}")
}

impl Store {
    pub(super) fn open(settings: &EmbeddedSettings) -> Result<Self> {
        let dir = &settings.dir;
        let failed = |e: fjall::Error| match e {
            fjall::Error::Locked => Error::Fatal {
                what: format!("open the log in {}: another process has it open", dir.display()),
                source: None,
            },
            e => Error::fatal(format!("open the log in {}", dir.display()), e),
        };
        let db = Database::builder(dir)
            .cache_size(16 << 20)
            .max_journaling_size(128 << 20)
            .worker_threads(1)
            .open()
            .map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(16 << 20);
        let records = db.keyspace("records", options).map_err(failed)?;
        let meta = db.keyspace("meta", KeyspaceCreateOptions::default).map_err(failed)?;
        let store = Self { db, records, meta };
        match store.meta.get(PARTITIONS).map_err(failed)? {
            None => {
                let mut batch = store.batch();
                batch.insert(&store.meta, PARTITIONS, settings.partitions.to_be_bytes());
                batch.insert(&store.meta, IDENTITY, format!("embedded/{}", uuid::Uuid::new_v4()));
                batch.commit().map_err(failed)?;
                for dir in [Some(dir.as_path()), dir.parent().filter(|parent| !parent.as_os_str().is_empty())] {
                    dir.map_or(Ok(()), sync_dir).map_err(|e| Error::fatal("sync the log's directory", e))?;
                }
            }
            Some(found) if *found == settings.partitions.to_be_bytes() => {}
            Some(found) => {
                let found = <[u8; 4]>::try_from(&*found).map(i32::from_be_bytes).unwrap_or(-1);
                return Err(Error::Settings(vec![format!(
                    "the log in {} has {found} partitions, the settings say {}; the number is fixed at creation",
                    dir.display(),
                    settings.partitions
                )]));
            }
        }
        Ok(store)
    }

    /// A batch that is synced to disk by its commit.
    pub(super) fn batch(&self) -> OwnedWriteBatch {
        self.db.batch().durability(Some(PersistMode::SyncAll))
    }

    pub(super) fn identity(&self) -> Result<String> {
        let found = self.meta.get(IDENTITY).map_err(|e| Error::fatal("read the log's identity", e))?;
        found
            .and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())
            .ok_or(Error::Fatal { what: "read the log's identity: there is none".into(), source: None })
    }

    pub(super) fn recover_marks(&self, partitions: i32) -> Result<Vec<Marks>> {
        (0..partitions)
            .map(|partition| {
                let damaged = |e| Error::fatal(format!("recover partition {partition}"), e);
                let stored = self.meta.get(low_key(partition)).map_err(damaged)?;
                let low = stored.and_then(|bytes| bytes[..].try_into().ok()).map_or(0, i64::from_be_bytes);
                // A crash may have come between the low watermark and the removal of the records below it.
                let mut left = self.range(partition, 0, low);
                if let Some((first, _)) = left.next().transpose()? {
                    drop(left);
                    self.free(partition, first, low)?;
                }
                let last = self.range(partition, low, i64::MAX).next_back().transpose()?;
                Ok(Marks { low, high: last.map_or(low, |(offset, _)| offset + 1) })
            })
            .collect()
    }

    /// Offset and encoded record of `[from, to)`.
    pub(super) fn range(
        &self,
        kafka_partition: i32,
        from: i64,
        to: i64,
    ) -> impl DoubleEndedIterator<Item = Result<(i64, fjall::Slice)>> + use<> {
        let range = store_key(kafka_partition, from)..store_key(kafka_partition, to.max(from));
        self.records.range(range).map(move |guard| {
            let damaged = |e| Error::fatal(format!("read partition {kafka_partition}"), e);
            let (key, value) = guard.into_inner().map_err(damaged)?;
            let offset =
                offset_of(&key).ok_or(Error::Fatal { what: "a key of the log is damaged".into(), source: None })?;
            Ok((offset, value))
        })
    }

    /// Removes the records of `[from, to)` and makes `to` the low watermark. Not synced: after a crash the records may be back below the
    /// low watermark, or the low watermark where it was with the records there; both are harmless.
    pub(super) fn free(&self, kafka_partition: i32, from: i64, to: i64) -> Result<()> {
        let mut start = from;
        while start < to {
            let end = to.min(start + FREE_RECORDS);
            let mut batch = self.db.batch();
            if start == from {
                batch.insert(&self.meta, low_key(kafka_partition), to.to_be_bytes());
            }
            for offset in start..end {
                batch.remove(&self.records, store_key(kafka_partition, offset));
            }
            batch.commit().map_err(|e| Error::unavailable("free records of the log", e))?;
            start = end;
        }
        Ok(())
    }
}
