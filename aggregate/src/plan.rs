//! Which days a rollup computes together, and which files it reads for them.
//!
//! `events` is partitioned by UTC date; an organisation's day touches one such date, or two or three. Where all zones are UTC, a pass is
//! one day and reads one partition, once. Otherwise passes span some days, so that few partitions are read twice: seven days of
//! zones on both sides of UTC read nine partitions, not twenty-one.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use lake::{DataFile, ROW_GROUP_ROWS};

use crate::{
    Result,
    calendar::{OrgCalendar, days_of, next},
    scope::{Days, Who},
};

/// Most days of one pass.
const PASS_DAYS_MAX: usize = 7;
/// Most rows that a pass of several days has in memory, all of its files together; see [`rows_held`].
const PASS_ROWS_MAX: u64 = 8 << 20;

/// Consecutive days that are computed by one walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    pub(crate) first: Date,
    pub(crate) days: usize,
    /// UTC dates whose files hold the days' events.
    pub(crate) utc_dates: BTreeSet<Date>,
    /// Bounds of all organisations' days together, half-open (µs).
    pub(crate) from_us: i64,
    pub(crate) to_us: i64,
    /// Whose rows, the same on each day.
    pub(crate) who: Who,
}

/// The passes over `files` (rows that files of a UTC date hold in memory), in order of date. Each day that may have events is in exactly one; of those
/// days, `wanted` are computed, or all.
///
/// # Errors
/// Where a date is outside the years that we know.
pub(crate) fn passes(files: &BTreeMap<Date, u64>, calendar: &OrgCalendar, wanted: Option<&Days>) -> Result<Vec<Pass>> {
    let zones = calendar.zones();
    let mut sources: BTreeMap<Date, BTreeSet<Date>> = BTreeMap::new();
    for date in files.keys() {
        for day in days_of(&zones, *date, i64::MIN, i64::MAX)? {
            if wanted.is_none_or(|wanted| wanted.contains_key(&day)) {
                sources.entry(day).or_default().insert(*date);
            }
        }
    }
    let dates: BTreeSet<&Date> = sources.values().flatten().collect();
    let shared = sources.values().any(|dates| dates.len() > 1) || sources.len() > dates.len();
    // At least two passes, so that two may run at once.
    let width = if shared { sources.len().div_ceil(2).clamp(1, PASS_DAYS_MAX) } else { 1 };
    let mut passes: Vec<Pass> = Vec::new();
    for (day, dates) in sources {
        let from_us = zones.iter().map(|zone| zone.start_us(day)).min().expect("there is a default zone");
        let to_us = zones.iter().map(|zone| zone.start_us(next(day))).max().expect("there is a default zone");
        let who = wanted.and_then(|wanted| wanted.get(&day)).cloned().unwrap_or(Who::Everyone);
        if let Some(pass) = passes.last_mut().filter(|pass| pass.who == who) {
            let follows = pass.to_us >= from_us && pass.end() == day;
            let rows = pass.utc_dates.union(&dates).map(|date| files[date]).sum::<u64>();
            if follows && pass.days < width && rows <= PASS_ROWS_MAX {
                pass.days += 1;
                pass.utc_dates.extend(dates);
                pass.to_us = pass.to_us.max(to_us);
                continue;
            }
        }
        passes.push(Pass { first: day, days: 1, utc_dates: dates, from_us, to_us, who });
    }
    Ok(passes)
}

/// Rows of which a file that is being read holds bytes in memory, compressed or not: those of a row group; a small one still takes what
/// its columns' readers take.
pub(crate) fn rows_held(file: &DataFile) -> u64 {
    file.rows.clamp(32 << 10, ROW_GROUP_ROWS as u64)
}

impl Pass {
    /// Its days.
    pub(crate) fn dates(&self) -> impl Iterator<Item = Date> + use<> {
        std::iter::successors(Some(self.first), |date| Some(next(*date))).take(self.days)
    }

    /// The day after its last.
    fn end(&self) -> Date {
        self.dates().last().map_or(self.first, next)
    }
}
