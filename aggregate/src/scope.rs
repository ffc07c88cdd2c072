//! Which days a run computes: those that what is new may touch, or all of them.
//!
//! ```text
//! versions of `events` since the last run ─┬─ new files ──────────► days between their first and last event, in every zone
//!                                          ├─ compaction ─────────► none
//!                                          └─ rows taken away, or the log is cleaned up that far ──► all
//! watermark, then and now ─────────────────► days that became final in between
//! an organisation counts its days otherwise ► all days, of that organisation
//! other definitions ───────────────────────► all
//! a day changed what a later one takes from it (first day, plan) ──► all days after it
//! ```
//!
//! Of a day that may have changed, the people are computed whom new events name, from all of their events of that day: exact whatever
//! came, by the same code as a full run. Where these are many, and where a day becomes final, it is everyone.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    pin::pin,
    sync::Arc,
};

use arrow::{array::AsArray, datatypes::DataType};
use datafusion::prelude::SessionContext;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use jiff::civil::Date;
use lake::{DataFile, Snapshot, Table};
use schemas::EVENTS;

use crate::{
    Error, Result,
    calendar::{OrgCalendar, OrgDays, days_of, next},
    columns::{take, times},
};

/// More people than this are looked for by reading everyone.
const PEOPLE_MAX: usize = 1_024;
/// New files that are looked into at once.
const READ_AT_ONCE: usize = 8;

/// Whose rows of a day are computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Everyone,
    These(Arc<These>),
}

/// People who are named, and whole organisations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct These {
    /// People with these keys, in whichever organisation.
    pub(crate) people: BTreeSet<String>,
    /// Everyone of these organisations.
    pub(crate) orgs: BTreeSet<String>,
}

/// Days to compute.
pub(crate) type Days = BTreeMap<Date, Who>;

/// What the rollup stands for, as its table says.
pub(crate) struct Since {
    /// Version of `events`.
    pub(crate) events_version: i64,
    /// Newest `recorded_time` of that version (µs).
    pub(crate) watermark_us: i64,
}

/// What is new since a run.
pub(crate) struct New {
    /// Days that may come out otherwise than they stand.
    pub(crate) days: Days,
    /// Newest `recorded_time` of all events (µs).
    pub(crate) watermark_us: i64,
}

/// What `events` has that `rollup` does not stand for. `None`: only computing everything tells.
///
/// # Errors
/// Where the log of `events` or a new file cannot be read.
pub(crate) async fn what_is_new(
    context: &SessionContext,
    table: &Table,
    events: &Snapshot,
    rollup: &Snapshot,
    calendar: &OrgCalendar,
    since: &Since,
) -> Result<Option<New>> {
    let news = table.news(since.events_version, events.version).await.map_err(Error::table(&EVENTS))?;
    let Some(news) = news.filter(|news| !news.rows_removed) else { return Ok(None) };
    let zones = calendar.zones();
    let mut new = New { days: Days::new(), watermark_us: since.watermark_us };
    // A file that was merged into another since may be deleted by now: what the log says of it has to do.
    let active: HashSet<&str> = events.files.iter().map(|file| file.path.as_str()).collect();
    let (there, merged): (Vec<_>, Vec<_>) =
        news.added.into_iter().partition(|file| active.contains(file.path.as_str()));
    if !merged.is_empty() {
        new.watermark_us = watermark(context, events).await?.unwrap_or(i64::MIN).max(new.watermark_us);
    }
    for file in &merged {
        new.touch(&zones, file, &Who::Everyone)?;
    }
    let looks: Vec<_> = there.into_iter().map(|file| look_into(table, file).boxed()).collect();
    let mut looks = futures::stream::iter(looks).buffered(READ_AT_ONCE);
    while let Some((file, who, newest_us)) = looks.try_next().await? {
        new.watermark_us = new.watermark_us.max(newest_us);
        new.touch(&zones, &file, &who)?;
    }
    let settling = settling(&rollup.dates(), calendar, since.watermark_us, new.watermark_us);
    new.days.extend(settling.into_iter().map(|date| (date, Who::Everyone)));
    Ok(Some(new))
}

impl New {
    /// Adds the days that events of a file may lie in, for the people whose events it holds.
    fn touch(&mut self, zones: &[&OrgDays], file: &DataFile, who: &Who) -> Result<()> {
        let date = file.partition_value.ok_or_else(|| Error::Partition { path: file.path.clone() })?;
        let first_us = file.min_time_us("event_time").unwrap_or(i64::MIN);
        let last_us = file.max_time_us("event_time").unwrap_or(i64::MAX);
        for day in days_of(zones, date, first_us, last_us)? {
            self.add(day, who);
        }
        Ok(())
    }

    /// Adds people of a day.
    pub(crate) fn add(&mut self, day: Date, who: &Who) {
        self.days.entry(day).and_modify(|known| known.add(who)).or_insert_with(|| who.clone());
    }
}

impl Who {
    fn of(these: These) -> Self {
        if these.people.len() > PEOPLE_MAX { Self::Everyone } else { Self::These(Arc::new(these)) }
    }

    /// Everyone of some organisations.
    pub(crate) fn of_orgs(orgs: BTreeSet<String>) -> Self {
        Self::of(These { orgs, ..These::default() })
    }

    /// Whether a person is one of them.
    pub(crate) fn has(&self, org: &str, user: &str) -> bool {
        match self {
            Self::Everyone => true,
            Self::These(these) => these.people.contains(user) || these.orgs.contains(org),
        }
    }

    fn add(&mut self, others: &Self) {
        let both = |these: &BTreeSet<String>, others: &BTreeSet<String>| these.union(others).cloned().collect();
        *self = match (&*self, others) {
            (Self::These(these), Self::These(others)) => {
                Self::of(These { people: both(&these.people, &others.people), orgs: both(&these.orgs, &others.orgs) })
            }
            _ => Self::Everyone,
        };
    }
}

/// Whose events a file holds, and the newest `recorded_time` among them.
async fn look_into(table: &Table, file: DataFile) -> Result<(DataFile, Who, i64)> {
    let mut batches = pin!(table.read_newest(vec![file.clone()], &["user_key", "recorded_time"]));
    let (mut people, mut newest_us) = (BTreeSet::new(), i64::MIN);
    while let Some(batch) = batches.try_next().await.map_err(Error::table(&EVENTS))? {
        newest_us = times(&batch, "recorded_time")?.iter().copied().fold(newest_us, i64::max);
        let keys = take(&batch, "user_key", &DataType::Utf8)?;
        let mut last = None;
        // Files are sorted: a person's rows mostly lie together.
        for key in keys.as_string::<i32>().iter().flatten() {
            if people.len() > PEOPLE_MAX {
                break;
            }
            if last != Some(key) && !people.contains(key) {
                people.insert(key.to_owned());
            }
            last = Some(key);
        }
    }
    Ok((file, Who::of(These { people, ..These::default() }), newest_us))
}

/// Latest `recorded_time` of all events (µs); `None` where there are none.
///
/// The log's statistics are rounded up to the millisecond; the exact value is read from the files that may hold it.
pub(crate) async fn watermark(context: &SessionContext, events: &Snapshot) -> Result<Option<i64>> {
    let bound = |file: &DataFile| file.max_time_us("recorded_time");
    let newest = events.files.iter().filter_map(bound).max();
    let files = events.files.iter().filter(|file| bound(file).is_none() || bound(file) == newest);
    let mut newest_files = events.clone();
    newest_files.files = files.cloned().collect();
    let frame = context.read_table(newest_files.provider()).and_then(|frame| frame.select_columns(&["recorded_time"]));
    let mut stream = frame.map_err(Error::Scan)?.execute_stream().await.map_err(Error::Scan)?;
    let mut latest = None;
    while let Some(batch) = stream.try_next().await.map_err(Error::Scan)? {
        let times = times(&batch, "recorded_time")?;
        latest = latest.max(times.iter().copied().max());
    }
    Ok(latest)
}

/// Days from `from` to `to` that have rows, or may have events.
pub(crate) fn days_between(
    rollup: &Snapshot,
    events: &Snapshot,
    from: Option<Date>,
    to: Option<Date>,
) -> impl Iterator<Item = Date> + use<> {
    // A day of any zone touches the UTC date of the same name, the one before or the one after.
    let around = |date: Date| [date.yesterday().ok(), Some(date), date.tomorrow().ok()].into_iter().flatten();
    let with_events = events.dates().into_iter().flat_map(around);
    rollup
        .dates()
        .into_iter()
        .chain(with_events)
        .filter(move |date| from.is_none_or(|from| *date >= from) && to.is_none_or(|to| *date <= to))
}

/// Those of `dates` that became final for some organisation when the watermark moved.
fn settling(dates: &BTreeSet<Date>, calendar: &OrgCalendar, before_us: i64, now_us: i64) -> BTreeSet<Date> {
    let newly = |days: &OrgDays| {
        let newest_first = dates.iter().rev().map(|date| (*date, days.final_at_us(days.start_us(next(*date)))));
        let settled = newest_first.skip_while(|(_, final_us)| *final_us > now_us);
        settled.take_while(|(_, final_us)| *final_us > before_us).map(|(date, _)| date).collect::<Vec<_>>()
    };
    calendar.ways().into_iter().flat_map(newly).collect()
}
