//! The change feed: what each version of `rollup_daily` changed, day by day, and the final rows that it put others in the place of.
//!
//! ```text
//! log of rollup_daily, since the version that the feed stands for ──► versions ──► for each date: old rows, new rows, key by key
//!                                                                                   │                    │
//!                                                          final rows that are gone ◄                    ► counts by organisation
//!                                                          1. commit of rollup_superseded       2. commit of rollup_revisions
//! ```
//!
//! It follows the log and keeps nothing in memory, so that no change is lost where a run ends after its commit, and none is told that was not committed.
//!
//! Invariants:
//! 1. Each version of `rollup_daily` is in each of the two tables once: a commit carries the version that it goes to, compare-and-swap on the one before.
//! 2. Rows that another engine merely moved (compaction) are no change.
//! 3. Where a vacuum was faster, or the log does not reach back, a day's counts are null, and never guessed.

use std::{cmp::Ordering, collections::BTreeMap};

use arrow::{
    array::{RecordBatch, UInt64Array},
    compute::{concat_batches, take_record_batch},
};
use futures::TryStreamExt as _;
use jiff::civil::Date;
use lake::{DataFile, Lake, Swap, Table, Version};
use schemas::{
    revisions::{ROLLUP_REVISIONS, ROLLUP_SUPERSEDED},
    rollup::ROLLUP_DAILY,
};

use crate::{
    Error, Result,
    attempt::ATTEMPTS_MAX,
    revise::{FINAL, HISTORY, PROVISIONAL, RESTATED, Standing, cmp_keys},
    standing::{filled, names, sorted},
    told::{Kept, Revision, Told},
};

/// Versions that are told by one commit.
const VERSIONS_AT_ONCE: i64 = 64;

/// What a table of the feed knows the rollup as.
fn app_id(rollup_table_id: &str) -> String {
    format!("daybook/feed/{rollup_table_id}")
}

/// Tells what is new in the log of `rollup_daily`; gives the number of revisions told.
///
/// # Errors
/// Where a table cannot be read or written, or others committed first every time.
pub(crate) async fn follow(lake: &Lake) -> Result<u64> {
    let mut attempt = 1;
    let mut told = 0;
    loop {
        match step(lake).await {
            Ok((revisions, is_all)) => {
                told += revisions;
                if is_all {
                    return Ok(told);
                }
            }
            Err(error) if error.is_lost_race() && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Tells some versions; gives the number of revisions, and whether these are all there are.
async fn step(lake: &Lake) -> Result<(u64, bool)> {
    let rollup = lake.table(&ROLLUP_DAILY);
    let Some(head) = rollup.head().await.map_err(Error::table(&ROLLUP_DAILY))? else { return Ok((0, true)) };
    let (revisions, superseded) = (lake.table(&ROLLUP_REVISIONS), lake.table(&ROLLUP_SUPERSEDED));
    let mut superseded_head = superseded.create_if_missing().await.map_err(Error::table(&ROLLUP_SUPERSEDED))?;
    let mut revisions_head = revisions.create_if_missing().await.map_err(Error::table(&ROLLUP_REVISIONS))?;
    let app_id = app_id(head.table_id());
    let stands_for = |head: &lake::Head| head.txns().get(&app_id).copied();
    let (since, kept_since) = (stands_for(&revisions_head), stands_for(&superseded_head));
    // Of a rollup that is older than the feed, the latest versions are told.
    let from = since.unwrap_or_else(|| (head.version() - VERSIONS_AT_ONCE).max(0));
    if from >= head.version() {
        return Ok((0, true));
    }
    let up_to = head.version().min(from + VERSIONS_AT_ONCE);
    let versions = rollup.versions(from, up_to).await.map_err(Error::table(&ROLLUP_DAILY))?;
    let (told, kept) = match versions {
        Some(versions) => tell(&rollup, &versions, kept_since.unwrap_or(from)).await?,
        None => {
            tracing::warn!(from, up_to, "the log of rollup_daily does not reach back: these changes are in no feed");
            (Told::default(), Kept::default())
        }
    };
    let swap = |head: &lake::Head| Swap::from_held(head.txns(), app_id.clone(), up_to);
    if kept_since.is_none_or(|kept_since| kept_since < up_to) {
        let change = kept.change(&superseded, swap(&superseded_head)).await?;
        superseded.commit(&mut superseded_head, change).await.map_err(|source| Error::Commit { source })?;
    }
    let count = told.rows.len() as u64;
    let change = told.change(&revisions, swap(&revisions_head)).await?;
    revisions.commit(&mut revisions_head, change).await.map_err(|source| Error::Commit { source })?;
    Ok((count, up_to == head.version()))
}

/// What versions changed; of the rows that were final, those gone after the version `kept_since`.
async fn tell(rollup: &Table, versions: &[Version], kept_since: i64) -> Result<(Told, Kept)> {
    let (mut told, mut kept) = (Told::default(), Kept::default());
    for version in versions {
        let mut dates: BTreeMap<Date, [Vec<DataFile>; 2]> = BTreeMap::new();
        for (side, files) in [&version.removed, &version.added].into_iter().enumerate() {
            for file in files {
                let date = file.partition_value.expect("a file of a partitioned table has a date");
                dates.entry(date).or_default()[side].push(file.clone());
            }
        }
        for (date, [removed, added]) in dates {
            let (old, new) = (side(rollup, &removed).await?, side(rollup, &added).await?);
            let (by_org, gone) = compare(old.as_ref(), new.as_ref());
            if version.number > kept_since
                && !gone.is_empty()
                && let Some(rows) = whole(rollup, &removed, date, gone).await?
            {
                kept.rows.push((version.number, version.committed_ms, rows));
            }
            let knows = (old.is_some(), new.is_some());
            let changed = by_org.into_iter().filter(|(_, day)| day.is_changed());
            told.rows.extend(changed.map(|(org, day)| Revision::new(version, date, org, day, knows)));
        }
    }
    Ok((told, kept))
}

/// What of a row tells whether and how it changed.
fn telling() -> Vec<&'static str> {
    ROLLUP_DAILY.sort_columns.iter().chain(&HISTORY).chain(&["events_received"]).copied().collect()
}

/// Rows of files of one date with some columns, as they are in the files; `None` where a file is gone.
async fn read(rollup: &Table, files: &[DataFile], names: &[&str]) -> Result<Option<Vec<RecordBatch>>> {
    match rollup.read_newest(files.to_vec(), names).try_collect().await {
        Err(error) if error.is_gone() => {
            tracing::warn!(%error, "a file of rollup_daily was deleted before its change was told");
            Ok(None)
        }
        batches => batches.map(Some).map_err(Error::table(&ROLLUP_DAILY)),
    }
}

/// The rows of one side, sorted by key; `None` where a file is gone.
async fn side(rollup: &Table, files: &[DataFile]) -> Result<Option<Standing>> {
    let Some(batches) = read(rollup, files, &telling()).await? else { return Ok(None) };
    let rows = match batches.first() {
        Some(first) => concat_batches(&first.schema(), &batches)?,
        None => RecordBatch::new_empty(ROLLUP_DAILY.schema()),
    };
    Standing::new(&in_order(files, rows)?).map(Some)
}

/// Some rows of the old side, with all columns of the table.
async fn whole(rollup: &Table, files: &[DataFile], date: Date, rows: Vec<u64>) -> Result<Option<RecordBatch>> {
    let Some(batches) = read(rollup, files, &names(&ROLLUP_DAILY.file_schema())).await? else { return Ok(None) };
    let all = in_order(files, filled(&ROLLUP_DAILY, &batches, date)?)?;
    Ok(Some(take_record_batch(&all, &UInt64Array::from(rows))?))
}

/// A file is sorted by itself.
fn in_order(files: &[DataFile], rows: RecordBatch) -> Result<RecordBatch> {
    if files.len() > 1 { sorted(&ROLLUP_DAILY, &rows) } else { Ok(rows) }
}

/// A day of an organisation, before or after.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Side {
    pub(crate) rows: i64,
    pub(crate) events: i64,
    provisional: bool,
    restated: bool,
}

impl Side {
    fn add(&mut self, rows: &Standing, row: usize) {
        let state = rows.state.value(row);
        self.rows += 1;
        self.events += rows.events.value(row);
        self.provisional |= state == PROVISIONAL;
        self.restated |= state == RESTATED;
    }

    pub(crate) fn state(&self) -> Option<&'static str> {
        let state = if self.provisional {
            PROVISIONAL
        } else if self.restated {
            RESTATED
        } else {
            FINAL
        };
        (self.rows > 0).then_some(state)
    }
}

/// How a day of an organisation changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Day {
    pub(crate) before: Side,
    pub(crate) after: Side,
    pub(crate) added: i64,
    pub(crate) changed: i64,
    pub(crate) removed: i64,
    pub(crate) finalised: i64,
}

impl Day {
    fn is_changed(&self) -> bool {
        self.added + self.changed + self.removed + self.finalised > 0
    }
}

/// Compares the rows of a date key by key: how each organisation's day changed, and the old rows that were final and are not as they were.
fn compare(old: Option<&Standing>, new: Option<&Standing>) -> (BTreeMap<String, Day>, Vec<u64>) {
    let (mut by_org, mut gone) = (BTreeMap::new(), Vec::new());
    let (old_rows, new_rows) = (old.map_or(0, |old| old.rows), new.map_or(0, |new| new.rows));
    let (mut i, mut j) = (0, 0);
    while i < old_rows || j < new_rows {
        let before = old.filter(|_| i < old_rows);
        let after = new.filter(|_| j < new_rows);
        let order = match (before, after) {
            (Some(old), Some(new)) => cmp_keys(&old.key, i, &new.key, j),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let (before, after) = (before.filter(|_| order.is_le()), after.filter(|_| order.is_ge()));
        let org = before.map(|old| old.key[0].value(i)).or_else(|| after.map(|new| new.key[0].value(j)));
        let day: &mut Day = by_org.entry(org.expect("one of both has a row").to_owned()).or_default();
        if let Some(old) = before {
            day.before.add(old, i);
        }
        if let Some(new) = after {
            day.after.add(new, j);
        }
        let is_same = before.zip(after).is_some_and(|(old, new)| old.revision.value(i) == new.revision.value(j));
        match (before, after) {
            (Some(old), Some(new)) if is_same => day.finalised += i64::from(old.state.value(i) != new.state.value(j)),
            (Some(_), Some(_)) => day.changed += 1,
            (Some(_), None) => day.removed += 1,
            _ => day.added += 1,
        }
        if !is_same && before.is_some_and(|old| old.state.value(i) != PROVISIONAL) {
            gone.push(i as u64);
        }
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
    (by_org, gone)
}
