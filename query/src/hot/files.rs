//! Files, decoded and packed, by name.

use std::sync::Arc;

use arrow::{array::RecordBatch, compute::concat_batches};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use quick_cache::{OptionsBuilder, Weighter, sync::Cache};
use rows::Packed;
use tokio::{runtime::Handle, sync::Semaphore};

use crate::Pinned;

/// Part of the memory (one in so many) that a file may take while it is decoded; larger ones are left to the engine.
const DECODED_PART: u64 = 2;
/// Bytes of a value while it is decoded, about.
const DECODED_BYTES: u64 = 16;
/// Bytes of a packed value, about.
const PACKED_BYTES: u64 = 3;

/// A file's rows, all columns.
pub(super) struct File {
    /// `None` where they cannot be searched, which is not tried again.
    pub(super) rows: Option<Packed>,
    bytes: u64,
}

/// Files in memory.
pub(super) struct Files {
    cache: Cache<Arc<str>, Arc<File>, Bytes>,
    bytes_max: u64,
    /// Reads files; holds no tables.
    ctx: SessionContext,
    /// Where they are decoded.
    threads: Handle,
    /// Held while one is decoded: that takes several times the memory that it takes then.
    decoding: Semaphore,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Arc<str>, Arc<File>> for Bytes {
    fn weight(&self, key: &Arc<str>, file: &Arc<File>) -> u64 {
        file.bytes + key.len() as u64
    }
}

impl Files {
    pub(super) fn new(bytes_max: u64, ctx: SessionContext, threads: Handle) -> Self {
        /// Few files are smaller: it only sizes tables of the cache.
        const FILE_BYTES: u64 = 64 << 10;
        /// What has been asked for once takes the other half: a file that comes in the place of another must not be the first to go.
        const OFTEN: f64 = 0.5;
        let items = usize::try_from(bytes_max / FILE_BYTES).unwrap_or(usize::MAX).clamp(64, 1 << 16);
        // In several shards a file could take no more than a shard's part.
        let options = OptionsBuilder::new()
            .shards(1)
            .hot_allocation(OFTEN)
            .estimated_items_capacity(items)
            .weight_capacity(bytes_max)
            .build()
            .expect("all that must be set is");
        let cache = Cache::with_options(options, Bytes, Default::default(), Default::default());
        Self { cache, bytes_max, ctx, threads, decoding: Semaphore::new(1) }
    }

    pub(super) fn threads(&self) -> &Handle {
        &self.threads
    }

    pub(super) fn get(&self, name: &Arc<str>) -> Option<Arc<File>> {
        self.cache.get(name)
    }

    pub(super) fn has(&self, name: &Arc<str>) -> bool {
        self.cache.contains_key(name)
    }

    pub(super) fn forget(&self, name: &Arc<str>) {
        self.cache.remove(name);
    }

    /// Whether files of so many rows together are a small part of what there is room for.
    pub(super) fn fit(&self, rows: u64, columns: usize) -> bool {
        rows * columns as u64 * PACKED_BYTES <= self.bytes_max / 2
    }

    /// The file at a place of the snapshot's, decoded once for all who ask meanwhile, whether or not they still wait for it then; `None` where it cannot be read now: the engine will say
    /// why.
    pub(super) async fn decoded(
        self: &Arc<Self>,
        pinned: &Arc<Pinned>,
        name: &Arc<str>,
        at: usize,
    ) -> Option<Arc<File>> {
        let (files, pinned, name) = (self.clone(), pinned.clone(), name.clone());
        let decoding = self.threads.spawn(async move {
            let decode = async {
                let _one = files.decoding.acquire().await.map_err(drop)?;
                files.decode(&pinned, at).await.ok_or(())
            };
            files.cache.get_or_insert_async(&name, decode).await.ok()
        });
        decoding.await.ok().flatten()
    }

    /// Reads a file and checks the order of its rows.
    async fn decode(&self, pinned: &Pinned, at: usize) -> Option<Arc<File>> {
        let (spec, snapshot, schema) = (pinned.spec(), pinned.snapshot()?, pinned.read_schema());
        let file = snapshot.files[at].clone();
        let (path, counted) = (file.path.clone(), file.rows);
        let unsearchable = |why: &str| {
            tracing::warn!(table = spec.name, path, "{why}; queries of this file are slower");
            Some(Arc::new(File { rows: None, bytes: 0 }))
        };
        if counted * schema.fields().len() as u64 * DECODED_BYTES > self.bytes_max / DECODED_PART {
            return unsearchable("a file is too large for query.hot-memory");
        }
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let read = async {
            let rows = snapshot.sorted_scan(&self.ctx, vec![file], &names, vec![])?;
            rows.try_collect::<Vec<RecordBatch>>().await.map_err(lake::Error::Scan)
        };
        let batches = match read.await {
            Ok(batches) => batches,
            Err(error) => {
                tracing::warn!(
                    table = spec.name,
                    path,
                    error = &error as &dyn std::error::Error,
                    "a file cannot be read"
                );
                return None;
            }
        };
        let Ok(rows) = concat_batches(&schema, &batches) else { return unsearchable("a file has other columns") };
        drop(batches);
        let Ok(packed) = Packed::pack(&rows) else { return unsearchable("a file cannot be packed") };
        if rows.num_rows() as u64 != counted || !packed.ascend(spec.sort_columns) {
            return unsearchable("rows of a file are not those, or not in the order, of the table");
        }
        let bytes = packed.size() as u64;
        Some(Arc::new(File { rows: Some(packed), bytes }))
    }

    /// Bytes in memory.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }
}
