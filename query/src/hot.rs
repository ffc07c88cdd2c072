//! Files of tables in memory: pages of rows without the engine.
//!
//! ```text
//!   day   file (rows ascend by org_id, user_key, …)      the organisation's rows       a person's, after a cursor
//!   ───   ──────────────────────────────────────────     ─────────────────────────     ──────────────────────────
//!   1st   [a a a b b b b b b c c]                    ─►        [b b b b b b]      ─►            [b b]
//!   2nd   [a a b b b b b c c c]                      ─►        [b b b b b]        ─►            [b]           ─► one batch
//! ```
//!
//! A file never changes. So what is kept, decoded, is files and not versions: a new version of a table brings some, and the others stay. A page is a few
//! binary searches in each. Whatever cannot be had in this way (files that are not in memory and are many, rows that are seen under other names, a file that
//! another program wrote in another order) is read by the engine, through the fence.
//!
//! Invariants:
//! 1. Rows of one organisation alone: the one whose rows the caller may see whole, by the column itself.
//! 2. Every file is checked when it is decoded: its rows ascend by the sort columns, and none of those is null. Searches rely on it.
//! 3. Memory is bounded by `query.hot-memory`; what has been asked for least goes first. Pages in work hold what they read on top.
//! 4. Nothing is decoded on the threads that answer.
//! 5. A new version is shown when its files are decoded, and in any case after `query.snapshot-age-max`: see [`Hot::shown`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arrow::{array::RecordBatch, compute::concat_batches, datatypes::SchemaRef, error::ArrowError};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use jiff::civil::Date;
use lake::{DataFile, Snapshot};
use quick_cache::{Weighter, sync::Cache};
use schemas::{OrgId, TableSpec};
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};

use crate::{Pinned, fence::ORG_COLUMN};
use rows::{After, Packed, gather, json, sort};

/// Files that a request has decoded while it waits; where more are missing, the engine answers it and they are decoded behind it.
const AWAITED_MAX: usize = 4;
/// Bytes of a value in memory, about: to tell what is too much before it is read.
const VALUE_BYTES: u64 = 3;

/// The files in memory.
pub(crate) struct Hot(Option<Arc<Inner>>);

struct Inner {
    files: Cache<Arc<str>, Arc<File>, Bytes>,
    bytes_max: u64,
    /// Reads files; holds no tables.
    ctx: SessionContext,
    /// Where they are decoded.
    threads: Handle,
    /// Held while files are decoded behind a request.
    warming: Semaphore,
    /// By table.
    shown: Mutex<HashMap<&'static str, Shown>>,
    /// Longest time that a newer version waits for its files.
    wait_max: Duration,
}

/// The version of a table that is answered from.
struct Shown {
    pinned: Arc<Pinned>,
    next: Option<Next>,
}

/// A newer one.
struct Next {
    pinned: Arc<Pinned>,
    since: Instant,
    /// Its files are in memory where the shown version's are.
    ready: Arc<AtomicBool>,
}

/// Rows of one organisation, asked for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) days: (Date, Date),
    /// Columns that each hold one of some values.
    pub(crate) conditions: &'a [(&'static str, BTreeSet<String>)],
    /// The key (day and sort columns but the organisation's) after which rows begin.
    pub(crate) after: Option<&'a [String]>,
    pub(crate) rows_max: usize,
}

/// A file's rows, all columns.
struct File {
    /// `None` where they cannot be searched.
    rows: Option<Packed>,
    bytes: u64,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Arc<str>, Arc<File>> for Bytes {
    fn weight(&self, key: &Arc<str>, file: &Arc<File>) -> u64 {
        file.bytes + key.len() as u64
    }
}

/// Files of a version by day, under the names they have in memory.
pub(crate) type Days = BTreeMap<Date, Vec<(Arc<str>, DataFile)>>;

/// The files of `snapshot`; `None` where one is of no day.
pub(crate) fn by_day(spec: &TableSpec, snapshot: &Snapshot) -> Option<Days> {
    let mut days = Days::new();
    for file in &snapshot.files {
        days.entry(file.partition_value?)
            .or_default()
            .push((format!("{}/{}", spec.name, file.path).into(), file.clone()));
    }
    Some(days)
}

impl Hot {
    /// `bytes_max` = 0: nothing is kept. `threads` decode.
    pub(crate) fn new(bytes_max: u64, wait_max: Duration, ctx: SessionContext, threads: Handle) -> Self {
        /// Few files are smaller: it only sizes tables of the cache.
        const FILE_BYTES: u64 = 64 << 10;
        let inner = || {
            let items = usize::try_from(bytes_max / FILE_BYTES).unwrap_or(usize::MAX).clamp(64, 1 << 16);
            let files = Cache::with_weighter(items, bytes_max, Bytes);
            let (warming, shown) = (Semaphore::new(1), Mutex::default());
            Arc::new(Inner { files, bytes_max, ctx, threads, warming, shown, wait_max })
        };
        Self((bytes_max > 0).then(inner))
    }

    /// The version to answer from, where `newest` is the newest known. While the files that it changed are decoded that is the one before, so that no request
    /// waits for them.
    pub(crate) fn shown(&self, newest: Arc<Pinned>) -> Arc<Pinned> {
        let Some(inner) = self.0.as_ref().filter(|inner| !inner.wait_max.is_zero()) else { return newest };
        let mut all = inner.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = all.entry(newest.spec().name).or_insert_with(|| Shown { pinned: newest.clone(), next: None });
        if shown.pinned.table_id != newest.table_id {
            *shown = Shown { pinned: newest, next: None };
            return shown.pinned.clone();
        }
        // Another request may have been told of a newer one.
        if shown.pinned.version >= newest.version {
            return shown.pinned.clone();
        }
        let known = shown.next.as_ref().is_some_and(|next| next.pinned.version >= newest.version);
        if !known {
            let ready = inner.prepare(&shown.pinned, &newest);
            // Versions that follow each other fast must not keep each other from being shown.
            let since = shown.next.as_ref().map_or_else(Instant::now, |next| next.since);
            shown.next = Some(Next { pinned: newest, since, ready });
        }
        if let Some(next) =
            shown.next.take_if(|next| next.ready.load(Ordering::Acquire) || next.since.elapsed() >= inner.wait_max)
        {
            shown.pinned = next.pinned;
        }
        shown.pinned.clone()
    }

    /// The first rows of `org` that are wanted, in the order of their keys; `None` where the engine has to read them.
    pub(crate) async fn find(&self, pinned: &Arc<Pinned>, org: &OrgId, wanted: &Wanted<'_>) -> Option<Found> {
        let inner = self.0.as_ref()?;
        let (days, spec) = (pinned.days()?, pinned.spec());
        let key: Vec<&str> = spec.sort_columns.iter().copied().filter(|name| *name != ORG_COLUMN).collect();
        let schema = pinned.read_schema();
        let after = match wanted.after {
            Some([day, rest @ ..]) => Some((day.parse::<Date>().ok()?, After::new(&schema, &key, rest)?)),
            Some([]) => return None,
            None => None,
        };
        let from = after.as_ref().map_or(wanted.days.0, |(day, _)| wanted.days.0.max(*day));
        let to = wanted.days.1;
        let asked = if from <= to { Some(days.range(from..=to)) } else { None };
        let (mut files, mut picked, mut awaited): (Vec<Arc<File>>, Vec<(usize, usize)>, _) = (vec![], vec![], 0);
        for (day, of_day) in asked.into_iter().flatten() {
            let after = after.as_ref().filter(|(from, _)| from == day).map(|(_, after)| after);
            let first = picked.len();
            for (name, file) in of_day {
                let Some(file) = inner.file(pinned, name, file, &mut awaited).await else {
                    inner.warm(pinned, *day..=to);
                    return None;
                };
                let rows = file.rows.as_ref()?.pick((ORG_COLUMN, org.as_str()), wanted.conditions, &key, after)?;
                picked.extend(rows.into_iter().map(|row| (files.len(), row)));
                files.push(file);
            }
            if of_day.len() > 1 {
                let files: Vec<&Packed> = files.iter().map(|file| file.rows.as_ref()).collect::<Option<_>>()?;
                sort(&files, &mut picked[first..], &key)?;
            }
            if picked.len() >= wanted.rows_max {
                break;
            }
        }
        picked.truncate(wanted.rows_max);
        Some(Found { files, picked, schema })
    }

    /// Bytes in memory.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.files.weight())
    }

    /// The latest day on which `org` has a row; the outer `None` where the engine has to look.
    pub(crate) async fn latest_day(&self, pinned: &Arc<Pinned>, org: &OrgId) -> Option<Option<Date>> {
        let inner = self.0.as_ref()?;
        let mut awaited = 0;
        for (day, files) in pinned.days()?.iter().rev() {
            for (name, file) in files {
                let file = inner.file(pinned, name, file, &mut awaited).await?;
                let rows = file.rows.as_ref()?;
                if !rows.own((ORG_COLUMN, org.as_str()))?.is_empty() {
                    return Some(Some(*day));
                }
            }
        }
        Some(None)
    }
}

/// Rows that were found, in order.
pub(crate) struct Found {
    files: Vec<Arc<File>>,
    /// File and row.
    picked: Vec<(usize, usize)>,
    schema: SchemaRef,
}

impl Found {
    /// How many.
    pub(crate) fn rows(&self) -> usize {
        self.picked.len()
    }

    /// Leaves the first `rows`.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.picked.truncate(rows);
    }

    /// The last of them alone.
    pub(crate) fn last(&self) -> Self {
        let last = self.picked.last().copied().into_iter().collect();
        Self { files: self.files.clone(), picked: last, schema: self.schema.clone() }
    }

    /// These columns, in one batch; text is `Utf8View`.
    pub(crate) fn batch(&self, columns: &[&str]) -> Result<RecordBatch, ArrowError> {
        let places = self.places(columns)?;
        gather(&self.searched(), &self.picked, &places, Arc::new(self.schema.project(&places)?))
    }

    /// These columns as JSON objects, with `between` them and `after` each what the format wants; as [`crate::formats`] writes them.
    pub(crate) fn json(&self, columns: &[&str], between: &[u8], after: &[u8]) -> Result<Vec<u8>, ArrowError> {
        Ok(json(&self.searched(), &self.picked, &self.places(columns)?, columns, (between, after)))
    }

    fn places(&self, columns: &[&str]) -> Result<Vec<usize>, ArrowError> {
        columns.iter().map(|name| self.schema.index_of(name)).collect()
    }

    fn searched(&self) -> Vec<&Packed> {
        self.files.iter().filter_map(|file| file.rows.as_ref()).collect()
    }
}

impl Inner {
    /// A file, if it is in memory or there is time to decode it: `awaited` counts those.
    async fn file(
        self: &Arc<Self>,
        pinned: &Arc<Pinned>,
        name: &Arc<str>,
        file: &DataFile,
        awaited: &mut usize,
    ) -> Option<Arc<File>> {
        if let Some(file) = self.files.get(name) {
            return Some(file);
        }
        *awaited += 1;
        if *awaited <= AWAITED_MAX { self.decoded(pinned, name, file).await } else { None }
    }

    /// The file's rows, decoded once for all who ask meanwhile; `None` where it cannot be read: the engine will say why.
    async fn decoded(self: &Arc<Self>, pinned: &Arc<Pinned>, name: &Arc<str>, file: &DataFile) -> Option<Arc<File>> {
        let decode = async {
            let (inner, pinned, file) = (self.clone(), pinned.clone(), file.clone());
            self.threads.spawn(async move { decode(&inner.ctx, &pinned, file).await }).await.ok().flatten().ok_or(())
        };
        self.files.get_or_insert_async(name, decode).await.ok()
    }

    /// Decodes the files of `next` that take the place of files in memory; says when it has.
    fn prepare(self: &Arc<Self>, shown: &Pinned, next: &Arc<Pinned>) -> Arc<AtomicBool> {
        let is_here = |(name, _): &(Arc<str>, DataFile)| self.files.contains_key(name);
        let days = shown.days().into_iter().flatten().filter(|(_, files)| files.iter().any(is_here));
        let changed = days.filter_map(|(day, _)| next.days()?.get(day));
        let missing: Vec<_> = changed.flatten().filter(|file| !is_here(file)).cloned().collect();
        let ready = Arc::new(AtomicBool::new(missing.is_empty()));
        if !missing.is_empty() {
            let (inner, next, ready) = (self.clone(), next.clone(), ready.clone());
            self.threads.spawn(async move {
                for (name, file) in missing {
                    let _ = inner.decoded(&next, &name, &file).await;
                }
                ready.store(true, Ordering::Release);
            });
        }
        ready
    }

    /// Decodes the files of some days behind the request, the latest first, where they are not a large part of what there is room for.
    fn warm(self: &Arc<Self>, pinned: &Arc<Pinned>, days: RangeInclusive<Date>) {
        let Some(known) = pinned.days() else { return };
        let files = known.range(days).rev().flat_map(|(_, files)| files);
        let missing: Vec<_> = files.filter(|(name, _)| !self.files.contains_key(name)).cloned().collect();
        let columns = pinned.read_schema().fields().len() as u64;
        let bytes: u64 = missing.iter().map(|(_, file)| file.rows * columns * VALUE_BYTES).sum();
        if bytes > self.bytes_max / 2 {
            return;
        }
        let (inner, pinned) = (self.clone(), pinned.clone());
        self.threads.spawn(async move {
            let Ok(_warming) = inner.warming.try_acquire() else { return };
            for (name, file) in missing {
                let _ = inner.decoded(&pinned, &name, &file).await;
            }
        });
    }
}

/// Reads a file and checks the order of its rows.
async fn decode(ctx: &SessionContext, pinned: &Pinned, file: DataFile) -> Option<Arc<File>> {
    let (spec, snapshot) = (pinned.spec(), pinned.snapshot()?);
    let schema = pinned.read_schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let (path, counted) = (file.path.clone(), file.rows);
    let read =
        async { snapshot.sorted_scan(ctx, vec![file], &names, vec![])?.try_collect().await.map_err(lake::Error::Scan) };
    let batches: Vec<RecordBatch> = match read.await {
        Ok(batches) => batches,
        Err(error) => {
            tracing::debug!(
                table = spec.name,
                path,
                error = &error as &dyn std::error::Error,
                "a file is not kept in memory"
            );
            return None;
        }
    };
    let rows = concat_batches(&schema, &batches).ok()?;
    let packed = Packed::pack(&rows).ok().filter(|_| rows.num_rows() as u64 == counted);
    let searchable = packed.filter(|rows| rows.ascend(spec.sort_columns));
    if searchable.is_none() {
        tracing::warn!(
            table = spec.name,
            path,
            "rows of a file are not in the table's order; queries of them are slower"
        );
    }
    let bytes = searchable.as_ref().map_or(0, |rows| rows.size() as u64);
    Some(Arc::new(File { rows: searchable, bytes }))
}
