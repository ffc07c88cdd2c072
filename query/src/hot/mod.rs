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
//! 3. Memory is bounded by `query.hot-memory`; what has been asked for least goes first. One file at a time is decoded, on top, and pages in work hold what
//!    they read.
//! 4. Nothing is decoded on the threads that answer.
//! 5. A new version is shown when its files are decoded, and in any case where the old one has not been the newest for twice `query.snapshot-age-max`.

mod files;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
use datafusion::prelude::SessionContext;
use jiff::civil::Date;
use lake::Snapshot;
use rows::{After, Packed, gather, json, sort};
use schemas::{OrgId, TableSpec};
use tokio::{runtime::Handle, sync::Semaphore, task::yield_now, time::Instant};

use self::files::{File, Files};
use crate::{Pinned, fence::ORG_COLUMN};

/// Files that a request has decoded while it waits; where more are missing, the engine answers it and they are decoded behind it.
const AWAITED_MAX: usize = 4;

/// Longest time that a page is worked on without a yield, but for a day that takes longer.
const WITHOUT_YIELD: Duration = Duration::from_millis(1);

/// The files in memory.
pub(crate) struct Hot(Option<Arc<Inner>>);

struct Inner {
    files: Arc<Files>,
    /// Held while files are decoded behind a request.
    warming: Semaphore,
    /// By table.
    shown: Mutex<HashMap<&'static str, Shown>>,
    /// How old what is known of a table may be. A newer version waits for its files until the one before has not been the newest for twice as long.
    age_max: Duration,
}

/// The version of a table that is answered from.
struct Shown {
    pinned: Arc<Pinned>,
    /// When it was last known to be the newest.
    newest_at: Instant,
    next: Option<Next>,
}

/// A newer one.
struct Next {
    pinned: Arc<Pinned>,
    /// Its files are in memory where the shown version's are. Nobody else holding it, nobody waits for them.
    ready: Arc<AtomicBool>,
}

/// Rows of one organisation, asked for.
pub(crate) struct Wanted<'a> {
    pub(crate) days: (Date, Date),
    /// Columns that each hold one of some values.
    pub(crate) conditions: &'a [(&'static str, BTreeSet<String>)],
    /// The key (day and sort columns but the organisation's) after which rows begin.
    pub(crate) after: Option<&'a [String]>,
    pub(crate) rows_max: usize,
}

/// Files of a version by day: the names they have in memory, and their places among the snapshot's.
pub(crate) type Days = BTreeMap<Date, Vec<(Arc<str>, usize)>>;

/// The files of `snapshot`; `None` where one is of no day.
pub(crate) fn by_day(spec: &TableSpec, snapshot: &Snapshot) -> Option<Days> {
    let mut days = Days::new();
    for (at, file) in snapshot.files.iter().enumerate() {
        days.entry(file.partition_value?).or_default().push((format!("{}/{}", spec.name, file.path).into(), at));
    }
    Some(days)
}

impl Hot {
    /// `bytes_max` = 0: nothing is kept. `age_max` is that of the catalog's versions; 0: a newer one never waits. `threads` decode.
    pub(crate) fn new(bytes_max: u64, age_max: Duration, ctx: SessionContext, threads: Handle) -> Self {
        let inner = || {
            let files = Arc::new(Files::new(bytes_max, ctx, threads));
            Arc::new(Inner { files, warming: Semaphore::new(1), shown: Mutex::default(), age_max })
        };
        Self((bytes_max > 0).then(inner))
    }

    /// The version to answer from, where `newest` is the newest known. While the files that it changed are decoded that is the one before, so that no request
    /// waits for them; but not one that has not been the newest for long.
    pub(crate) fn shown(&self, newest: Arc<Pinned>) -> Arc<Pinned> {
        let Some(inner) = self.0.as_ref().filter(|inner| !inner.age_max.is_zero()) else { return newest };
        let now = Instant::now();
        let mut all = inner.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Shown { pinned: newest.clone(), newest_at: now, next: None };
        let shown = all.entry(newest.spec().name).or_insert_with(new);
        if shown.pinned.table_id != newest.table_id {
            *shown = new();
            return newest;
        }
        // Another request may have been told of a newer one.
        if shown.pinned.version >= newest.version {
            if shown.pinned.version == newest.version {
                shown.newest_at = now;
            }
            return shown.pinned.clone();
        }
        if shown.next.as_ref().is_none_or(|next| next.pinned.version < newest.version) {
            let ready = inner.prepare(&shown.pinned, &newest);
            shown.next = Some(Next { pinned: newest, ready });
        }
        // What is known of the table is as old as that, too.
        let is_late = now - shown.newest_at >= 2 * inner.age_max;
        if let Some(next) = shown.next.take_if(|next| is_late || next.ready.load(Ordering::Acquire)) {
            inner.forget(&shown.pinned, &next.pinned);
            shown.pinned = next.pinned;
            shown.newest_at = now;
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
        if from > to {
            return Some(Found { files: vec![], picked: vec![], schema });
        }
        let known: Vec<_> =
            days.range(from..=to).flat_map(|(_, files)| files).map(|(name, _)| inner.files.get(name)).collect();
        let missing = known.iter().filter(|file| file.is_none()).count();
        let (mut known, mut began) = (known.into_iter(), Instant::now());
        let (mut files, mut picked): (Vec<Arc<File>>, Vec<(usize, usize)>) = (vec![], vec![]);
        for (day, of_day) in days.range(from..=to) {
            let after = after.as_ref().filter(|(from, _)| from == day).map(|(_, after)| after);
            let first = picked.len();
            for (name, at) in of_day {
                let file = match known.next().flatten() {
                    Some(file) => file,
                    None if missing <= AWAITED_MAX => inner.files.decoded(pinned, name, *at).await?,
                    None => {
                        inner.warm(pinned, *day..=to);
                        return None;
                    }
                };
                // Rows of one file come in order; of several, any may be among the first.
                let most = if of_day.len() == 1 { wanted.rows_max - picked.len() } else { usize::MAX };
                let rows =
                    file.rows.as_ref()?.pick((ORG_COLUMN, org.as_str()), wanted.conditions, &key, after, most)?;
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
            // So that a deadline and others come through.
            if began.elapsed() >= WITHOUT_YIELD {
                yield_now().await;
                began = Instant::now();
            }
        }
        picked.truncate(wanted.rows_max);
        Some(Found { files, picked, schema })
    }

    /// Bytes in memory.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.files.bytes())
    }

    /// The latest day on which `org` has a row; the outer `None` where the engine has to look.
    pub(crate) async fn latest_day(&self, pinned: &Arc<Pinned>, org: &OrgId) -> Option<Option<Date>> {
        let inner = self.0.as_ref()?;
        let mut awaited = 0;
        for (day, files) in pinned.days()?.iter().rev() {
            for (name, at) in files {
                let file = match inner.files.get(name) {
                    Some(file) => file,
                    None if awaited < AWAITED_MAX => {
                        awaited += 1;
                        inner.files.decoded(pinned, name, *at).await?
                    }
                    None => return None,
                };
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
    /// Decodes the files of `next` that take the place of files in memory; says when it has.
    fn prepare(&self, shown: &Pinned, next: &Arc<Pinned>) -> Arc<AtomicBool> {
        let is_here = |(name, _): &(Arc<str>, usize)| self.files.has(name);
        let days = shown.days().into_iter().flatten().filter(|(_, files)| files.iter().any(is_here));
        let changed = days.filter_map(|(day, _)| next.days()?.get(day));
        let missing: Vec<_> = changed.flatten().filter(|file| !is_here(file)).cloned().collect();
        let ready = Arc::new(AtomicBool::new(missing.is_empty()));
        if !missing.is_empty() {
            let (files, next, done) = (self.files.clone(), next.clone(), ready.clone());
            self.files.threads().spawn(async move {
                for (name, at) in missing {
                    // A newer one has come, or this one is shown as it is.
                    if Arc::strong_count(&done) == 1 {
                        return;
                    }
                    let _ = files.decoded(&next, &name, at).await;
                }
                done.store(true, Ordering::Release);
            });
        }
        ready
    }

    /// Forgets the files of `old` that `new` does not have.
    fn forget(&self, old: &Pinned, new: &Pinned) {
        let (Some(old), Some(new)) = (old.days(), new.days()) else { return };
        for (day, files) in old {
            let kept = new.get(day).map_or(&[][..], |files| files);
            for (name, _) in files.iter().filter(|(name, _)| kept.iter().all(|(kept, _)| kept != name)) {
                self.files.forget(name);
            }
        }
    }

    /// Decodes the files of some days behind the request, the latest first, where they are not a large part of what there is room for.
    fn warm(self: &Arc<Self>, pinned: &Arc<Pinned>, days: RangeInclusive<Date>) {
        let (Some(known), Some(snapshot)) = (pinned.days(), pinned.snapshot()) else { return };
        let files = known.range(days).rev().flat_map(|(_, files)| files);
        let missing: Vec<_> = files.filter(|(name, _)| !self.files.has(name)).cloned().collect();
        let rows = missing.iter().map(|(_, at)| snapshot.files[*at].rows).sum();
        if !self.files.fit(rows, pinned.read_schema().fields().len()) {
            return;
        }
        let (inner, pinned) = (self.clone(), pinned.clone());
        self.files.threads().spawn(async move {
            let Ok(_warming) = inner.warming.try_acquire() else { return };
            for (name, at) in missing {
                let _ = inner.files.decoded(&pinned, &name, at).await;
            }
        });
    }
}
