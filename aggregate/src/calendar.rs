//! Days: what an activity date means for an organisation, exactly.
//!
//! A day is the half-open interval of instants `[start(D), start(D + 1))`, where `start(D)` is the first instant whose local
//! date is D or later. So every instant lies in exactly one day, whatever the zone does:
//!
//! | case | day |
//! |---|---|
//! | DST in the middle of the day | 23 or 25 hours (or 23.5, 24.5: Australia/Lord_Howe) |
//! | midnight is skipped (America/Sao_Paulo 2018-11-04) | starts at 01:00 local time |
//! | clocks go back over midnight | starts at the first midnight; the repeated evening belongs to it |
//! | the date is skipped (Pacific/Apia 2011-12-30) | is empty: `start(D) = start(D + 1)` |
//!
//! Nothing here reads a clock; zones come from the time zone database.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{
    Timestamp, ToSpan,
    civil::Date,
    tz::{AmbiguousOffset, TimeZone},
};
use schemas::OrgId;

use crate::{Error, Result, definition::digest};

/// How long after its end a day may change as a matter of course, unless an organisation says otherwise.
pub const DEFAULT_ALLOWED_LATENESS_HOURS: u32 = 48;

/// Years that a day may lie in. Times outside are no activity (the ingest door refuses them), and jiff ends soon after.
const YEARS: std::ops::RangeInclusive<i16> = -9000..=9000;

/// How an organisation counts its days.
#[derive(Clone, Debug)]
pub struct OrgDays {
    name: String,
    zone: TimeZone,
    allowed_lateness_hours: u32,
}

impl Default for OrgDays {
    fn default() -> Self {
        Self { name: "UTC".into(), zone: TimeZone::UTC, allowed_lateness_hours: DEFAULT_ALLOWED_LATENESS_HOURS }
    }
}

impl OrgDays {
    /// Days in the IANA zone `time_zone`, final once events recorded `allowed_lateness_hours` after their end were read.
    ///
    /// # Errors
    /// Where the time zone database has no such zone.
    pub fn new(time_zone: &str, allowed_lateness_hours: u32) -> Result<Self> {
        let zone = TimeZone::get(time_zone).map_err(|source| Error::TimeZone { name: time_zone.into(), source })?;
        Ok(Self { name: time_zone.into(), zone, allowed_lateness_hours })
    }

    /// IANA name of the zone, as given.
    #[must_use]
    pub fn time_zone(&self) -> &str {
        &self.name
    }

    /// First instant of `date` [µs since 1970, UTC].
    pub(crate) fn start_us(&self, date: Date) -> i64 {
        let midnight = date.at(0, 0, 0, 0);
        let instant =
            |offset: jiff::tz::Offset| offset.to_timestamp(midnight).expect("years are far from jiff's limits");
        match self.zone.to_ambiguous_timestamp(midnight).offset() {
            AmbiguousOffset::Unambiguous { offset } => instant(offset),
            // The first of both midnights.
            AmbiguousOffset::Fold { before, .. } => instant(before),
            // Midnight does not exist: the day starts where the gap ends, which is the next transition.
            AmbiguousOffset::Gap { before, after } => {
                let ahead = instant(after);
                let transitions = self.zone.following(ahead).map(|transition| transition.timestamp());
                let within = |at: &Timestamp| *at > ahead && *at <= instant(before);
                transitions.take(4).find(within).unwrap_or_else(|| instant(before))
            }
        }
        .as_microsecond()
    }

    /// The day in which an instant [µs since 1970, UTC] lies; `None` outside the years that we know.
    pub(crate) fn date_of(&self, us: i64) -> Option<Date> {
        let local = self.zone.to_datetime(Timestamp::from_microsecond(us).ok()?).date();
        if !YEARS.contains(&local.year()) {
            return None;
        }
        // The local date is the day but for an evening that is repeated after midnight.
        let mut date = local;
        while self.start_us(next(date)) <= us {
            date = next(date);
        }
        while self.start_us(date) > us {
            date = previous(date);
        }
        Some(date)
    }

    /// Changes, to all practical certainty, with the zone or the lateness; never 0.
    pub(crate) fn digest(&self) -> i64 {
        self.salted_digest(0)
    }

    /// As [`Self::digest`], and with `salt`.
    pub(crate) fn salted_digest(&self, salt: i64) -> i64 {
        digest(&format!("{salt}\n{}\t{}\n", self.name, self.allowed_lateness_hours))
    }

    /// Instant from which on the day that ends at `day_end_us` is final (µs).
    pub(crate) fn final_at_us(&self, day_end_us: i64) -> i64 {
        day_end_us.saturating_add(i64::from(self.allowed_lateness_hours) * 3_600_000_000)
    }
}

/// How each organisation counts its days; those that are not named have the default.
#[derive(Clone, Debug, Default)]
pub struct OrgCalendar {
    default: OrgDays,
    orgs: BTreeMap<String, OrgDays>,
}

impl OrgCalendar {
    /// A calendar in which every organisation has `default`.
    #[must_use]
    pub fn new(default: OrgDays) -> Self {
        Self { default, orgs: BTreeMap::new() }
    }

    /// Sets an organisation's days.
    pub fn set(&mut self, org: &OrgId, days: OrgDays) {
        self.orgs.insert(org.as_str().to_owned(), days);
    }

    /// The same calendar with an organisation's days set.
    #[must_use]
    pub fn with(mut self, org: &OrgId, days: OrgDays) -> Self {
        self.set(org, days);
        self
    }

    /// An organisation's days.
    #[must_use]
    pub fn days(&self, org: &str) -> &OrgDays {
        self.orgs.get(org).unwrap_or(&self.default)
    }

    /// Days of organisations that are not named.
    pub(crate) fn default_days(&self) -> &OrgDays {
        &self.default
    }

    /// Organisations that are named.
    pub(crate) fn orgs(&self) -> impl Iterator<Item = &str> {
        self.orgs.keys().map(String::as_str)
    }

    /// Days of every zone in use, each zone once.
    pub(crate) fn zones(&self) -> Vec<&OrgDays> {
        self.distinct(|days| days.name.as_str())
    }

    /// Every way of counting days that is in use, each once.
    pub(crate) fn ways(&self) -> Vec<&OrgDays> {
        self.distinct(|days| (days.name.as_str(), days.allowed_lateness_hours))
    }

    fn distinct<'a, K: Ord>(&'a self, key: impl Fn(&'a OrgDays) -> K) -> Vec<&'a OrgDays> {
        let all = self.orgs.values().chain([&self.default]);
        all.map(|days| (key(days), days)).collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// Changes, to all practical certainty, with any change of the calendar; never 0. The time zone database itself is not
    /// part of it: after an update of the database, days are compared with what it says when their events are next read.
    pub(crate) fn digest(&self, salt: i64) -> i64 {
        let mut text = format!("{salt}\n{}\t{}\n", self.default.name, self.default.allowed_lateness_hours);
        for (org, days) in &self.orgs {
            text.push_str(&format!("{org}\t{}\t{}\n", days.name, days.allowed_lateness_hours));
        }
        digest(&text)
    }
}

/// The days, in any of `zones`, of the instants of a UTC date that lie between `first_us` and `last_us`.
///
/// # Errors
/// Where the date is outside the years that we know.
pub(crate) fn days_of(zones: &[&OrgDays], utc_date: Date, first_us: i64, last_us: i64) -> Result<BTreeSet<Date>> {
    let outside = || Error::Date { date: utc_date.to_string() };
    if !YEARS.contains(&utc_date.year()) {
        return Err(outside());
    }
    let utc = OrgDays::default();
    let (first_us, last_us) = (first_us.max(utc.start_us(utc_date)), last_us.min(utc.start_us(next(utc_date)) - 1));
    let mut days = BTreeSet::new();
    for zone in zones {
        let last = zone.date_of(last_us).ok_or_else(outside)?;
        let mut day = zone.date_of(first_us).ok_or_else(outside)?;
        while day <= last {
            // A date that the zone skips has no instant.
            if zone.start_us(day) < zone.start_us(next(day)) {
                days.insert(day);
            }
            day = next(day);
        }
    }
    Ok(days)
}

/// The next date.
pub(crate) fn next(date: Date) -> Date {
    date.checked_add(1.day()).expect("years are far from jiff's limits")
}

/// The date before.
pub(crate) fn previous(date: Date) -> Date {
    date.checked_sub(1.day()).expect("years are far from jiff's limits")
}
