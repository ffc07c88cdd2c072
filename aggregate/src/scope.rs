//! Which days a run computes: those that what is new may touch, or all of them.
//!
//! ```text
//! versions of `events` since the last run ─┬─ new files ──────────► days between their first and last event, in every zone
//!                                          ├─ compaction ─────────► none
//!                                          └─ rows taken away, or the log is cleaned up that far ──► all
//! watermark, then and now ─────────────────► days that became final in between
//! another calendar, other definitions ─────► all
//! a day changed what a later one takes from it (first day, plan) ──► all days after it
//! ```
//!
//! Days that may have changed are computed whole, from all of their events: exact whatever came, and as simple as a full run.

use std::collections::BTreeSet;

use jiff::civil::Date;
use lake::{DataFile, Snapshot, Table};
use schemas::EVENTS;

use crate::{
    Error, Result,
    calendar::{OrgCalendar, OrgDays, YEARS, next},
};

/// Zones are at most this far from UTC (hours), with a day of repeated evening on top.
const ZONES_APART_HOURS: i64 = 48;
const HOUR_US: i64 = 3_600_000_000;

/// What the rollup stands for, as its table says.
pub(crate) struct Standing {
    /// Version of `events`.
    pub(crate) events_version: i64,
    /// Newest `recorded_time` of that version (µs).
    pub(crate) watermark_us: i64,
}

/// The days of `rollup` (dates with rows) and `events` that may come out otherwise than they stand. `None`: all, whichever they are.
///
/// # Errors
/// Where the log of `events` cannot be read.
pub(crate) async fn days_to_compute(
    table: &Table,
    events: &Snapshot,
    rollup: &Snapshot,
    calendar: &OrgCalendar,
    standing: &Standing,
    watermark_us: i64,
) -> Result<Option<BTreeSet<Date>>> {
    let news = table.news(standing.events_version, events.version).await.map_err(Error::table(&EVENTS))?;
    let Some(news) = news.filter(|news| !news.rows_removed) else { return Ok(None) };
    let mut days = touched(&news.added, calendar)?;
    let dates: BTreeSet<Date> = rollup.files.iter().filter_map(|file| file.partition_value).collect();
    days.extend(settling(dates, calendar, standing.watermark_us, watermark_us));
    Ok(Some(days))
}

/// Days from `from` to `to` that have rows, or may have events.
pub(crate) fn days_between(
    rollup: &Snapshot,
    events: &Snapshot,
    from: Option<Date>,
    to: Option<Date>,
) -> impl Iterator<Item = Date> {
    // A day of any zone touches the UTC date of the same name, the one before or the one after.
    let around = |date: Date| [date.yesterday().ok(), Some(date), date.tomorrow().ok()].into_iter().flatten();
    let with_rows = rollup.files.iter().filter_map(|file| file.partition_value);
    let with_events = events.files.iter().filter_map(|file| file.partition_value).flat_map(around);
    with_rows
        .chain(with_events)
        .filter(move |date| from.is_none_or(|from| *date >= from) && to.is_none_or(|to| *date <= to))
}

/// Days that events of these files may lie in.
fn touched(files: &[DataFile], calendar: &OrgCalendar) -> Result<BTreeSet<Date>> {
    let (zones, utc) = (calendar.zones(), OrgDays::default());
    let mut days = BTreeSet::new();
    for file in files {
        let date = file.partition_value.ok_or_else(|| Error::Partition { path: file.path.clone() })?;
        let outside = || Error::Date { date: date.to_string() };
        if !YEARS.contains(&date.year()) {
            return Err(outside());
        }
        let first_us = file.min_time_us("event_time").unwrap_or(i64::MIN).max(utc.start_us(date));
        let last_us = file.max_time_us("event_time").unwrap_or(i64::MAX).min(utc.start_us(next(date)) - 1);
        for zone in &zones {
            let last = zone.date_of(last_us).ok_or_else(outside)?;
            let mut day = zone.date_of(first_us).ok_or_else(outside)?;
            while day <= last {
                days.insert(day);
                day = next(day);
            }
        }
    }
    Ok(days)
}

/// Those of `dates` that became final for some organisation when the watermark moved.
fn settling(dates: BTreeSet<Date>, calendar: &OrgCalendar, before_us: i64, now_us: i64) -> impl Iterator<Item = Date> {
    let ways = calendar.ways();
    let utc = OrgDays::default();
    let longest_us = ways.iter().map(|days| days.final_at_us(0)).max().unwrap_or(0);
    dates.into_iter().filter(move |date| {
        let end_us = utc.start_us(next(*date));
        let apart_us = ZONES_APART_HOURS * HOUR_US;
        let may = now_us >= end_us - apart_us && before_us <= end_us.saturating_add(longest_us) + apart_us;
        may && ways.iter().any(|days| {
            let final_us = days.final_at_us(days.start_us(next(*date)));
            before_us < final_us && final_us <= now_us
        })
    })
}
