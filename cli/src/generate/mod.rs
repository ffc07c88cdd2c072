//! A made-up world of people at work, as a stream of events: for the demo, for tests and for measurements.
//!
//! ```text
//! people ─► installations ─► budget of events per installation and day ─► sessions ─► steps ─► JSON
//!                                                                              │
//!              in order of arrival ◄── waiting: offline sessions, client retries, broken records
//! ```
//!
//! Invariants:
//! 1. The stream is a pure function of [`Config`]: no clock, no machine, no hash seed has a part in it.
//! 2. It has exactly [`Config::events`] records, of which [`Generator::planned`] tells beforehand how many are new,
//!    duplicates and bad. New and duplicate records decode; bad ones never do.
//! 3. A duplicate is the same bytes as its original, and comes after it.
//! 4. Memory is bounded by the people and by what waits, never by the number of events.

mod bad;
mod json;
mod people;
mod random;
mod session;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::BinaryHeap, collections::VecDeque};

use jiff::{
    ToSpan as _,
    civil::{Date, Weekday},
    tz::TimeZone,
};

pub use people::{ORGANISATIONS, Organisation};

use self::{people::Install, random::Random, session::Session};

/// What to generate.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Another seed, other people and another history.
    pub seed: u64,
    /// Records in all, duplicates and bad ones included.
    pub events: u64,
    /// People, at least one for each organisation.
    pub users: usize,
    /// Organisations: the first so many of [`ORGANISATIONS`].
    pub orgs: usize,
    /// Days of activity.
    pub days: u32,
    /// Last day of activity, in each person's own zone.
    pub end: Date,
    /// Share of exact client retries, 0 to 0.4.
    pub duplicate_share: f64,
    /// Share of records that are no events, 0 to 0.4.
    pub bad_share: f64,
}

impl Config {
    /// A fortnight of 40 people in three organisations, up to `end`.
    #[must_use]
    pub fn new(seed: u64, events: u64, end: Date) -> Self {
        Self { seed, events, users: 40, orgs: 3, days: 14, end, duplicate_share: 0.005, bad_share: 0.001 }
    }

    /// Every fault.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let most = ORGANISATIONS.len();
        if !(1..=most).contains(&self.orgs) {
            faults.push(format!("orgs is {}, it takes 1 to {most}", self.orgs));
        }
        if !(self.orgs..=1_000_000).contains(&self.users) {
            faults.push(format!("users is {}, it takes one for each organisation to 1,000,000", self.users));
        }
        if !(1..=3660).contains(&self.days) {
            faults.push(format!("days is {}, it takes 1 to 3660", self.days));
        }
        let years = Date::constant(2011, 1, 1)..=Date::constant(2090, 1, 1);
        if !years.contains(&self.end) {
            faults.push(format!("end is {}, it takes a date from 2011 to 2089", self.end));
        }
        for (name, share) in [("duplicate share", self.duplicate_share), ("bad share", self.bad_share)] {
            if !(0.0..=0.4).contains(&share) {
                faults.push(format!("{name} is {share}, it takes 0 to 0.4"));
            }
        }
        faults
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A good event, for the first time.
    New,
    /// The same bytes once more.
    Duplicate,
    /// No event: to be refused.
    Bad,
}

/// One record, to be sent with its organisation's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generated {
    /// Position in [`ORGANISATIONS`].
    pub org: usize,
    /// What it is.
    pub kind: Kind,
    /// One CloudEvent in structured JSON on one line; of a bad record, whatever it is.
    pub json: Vec<u8>,
}

/// How many records of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Good events.
    pub new: u64,
    /// Client retries.
    pub duplicates: u64,
    /// Bad records.
    pub bad: u64,
}

/// One installation's day.
struct Shift {
    install: usize,
    current: Session,
    later: VecDeque<Session>,
}

/// A record that arrives later than it could have: (arrival (µs), serial number, record).
type Waiting = Reverse<(i64, u64, Generated)>;

/// Generates records in order of arrival.
pub struct Generator {
    config: Config,
    random: Random,
    installs: Vec<Install>,
    first_day: Date,
    /// Days whose shifts are on the agenda.
    days_loaded: u64,
    planned: Counts,
    left: Counts,
    /// Sum of all weights, and of those whose budget was given out.
    weight_total: u128,
    weight_spent: u128,
    shifts: Vec<Option<Shift>>,
    free: Vec<usize>,
    /// (time of the next event (µs), shift)
    agenda: BinaryHeap<Reverse<(i64, usize)>>,
    waiting: BinaryHeap<Waiting>,
    serial: u64,
}

impl Generator {
    /// # Errors
    /// Every fault of the configuration.
    pub fn new(config: Config) -> Result<Self, Vec<String>> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(faults);
        }
        let share = |share: f64| (config.events as f64 * share).round() as u64;
        let (duplicates, bad) = (share(config.duplicate_share), share(config.bad_share));
        let planned = Counts { new: config.events - duplicates - bad, duplicates, bad };
        let mut random = Random::new(config.seed);
        let installs = people::installs(&mut random, config.orgs, config.users, u64::from(config.days));
        let first_day = config.end - i64::from(config.days - 1).days();
        let mut generator = Self {
            random,
            installs,
            first_day,
            days_loaded: 0,
            planned,
            left: planned,
            weight_total: 0,
            weight_spent: 0,
            shifts: Vec::new(),
            free: Vec::new(),
            agenda: BinaryHeap::new(),
            waiting: BinaryHeap::new(),
            serial: 0,
            config,
        };
        let days = 0..u64::from(generator.config.days);
        generator.weight_total =
            days.map(|day| (0..generator.installs.len()).map(|i| generator.weight(i, day)).sum::<u128>()).sum();
        Ok(generator)
    }

    /// How many records of each kind the whole stream has.
    #[must_use]
    pub fn planned(&self) -> Counts {
        self.planned
    }

    fn date(&self, day: u64) -> Date {
        self.first_day + (day as i64).days()
    }

    fn weight(&self, install: usize, day: u64) -> u128 {
        let weight = self.installs[install].weight(self.config.seed, install as u64, day, self.date(day));
        // Where nobody works on the only day, somebody does.
        let last_resort = install == 0 && day + 1 == u64::from(self.config.days);
        u128::from(weight.max(u64::from(last_resort)))
    }

    /// The instant at which a day's shifts must be on the agenda (µs): before the day begins anywhere (UTC+14, and an hour).
    fn load_at(&self) -> Option<i64> {
        if self.days_loaded >= u64::from(self.config.days) {
            return None;
        }
        let start = self.date(self.days_loaded).to_zoned(TimeZone::UTC).expect("the dates lie in the calendar");
        Some(start.timestamp().as_microsecond() - 15 * 3_600_000_000)
    }

    /// Puts the next day's shifts on the agenda. Budgets are differences of a rounded running sum: they add up exactly.
    fn load_day(&mut self) {
        let (day, date) = (self.days_loaded, self.date(self.days_loaded));
        self.days_loaded += 1;
        let budget_until = |weight: u128| (weight * u128::from(self.planned.new) / self.weight_total) as u64;
        let mut spent = self.weight_spent;
        let mut budgets = Vec::new();
        for install in 0..self.installs.len() {
            let before = budget_until(spent);
            spent += self.weight(install, day);
            let budget = budget_until(spent) - before;
            if budget > 0 {
                budgets.push((install, budget));
            }
        }
        self.weight_spent = spent;
        for (install, budget) in budgets {
            let mut sessions = plan_day(&mut self.random, &self.installs[install], date, budget);
            let mut current = sessions.pop_front().expect("a budget of one has one session");
            let plan = self.installs[install].first_of_person && (day == 0 || self.random.chance(15));
            current.first_of_day(plan);
            let at_us = current.at_us;
            let slot = self.free.pop().unwrap_or(self.shifts.len());
            if slot == self.shifts.len() {
                self.shifts.push(None);
            }
            self.shifts[slot] = Some(Shift { install, current, later: sessions });
            self.agenda.push(Reverse((at_us, slot)));
        }
    }

    /// The next event of a shift; it may have to wait.
    fn act(&mut self, slot: usize) -> Option<Generated> {
        let shift = self.shifts[slot].as_mut().expect("what is on the agenda has a shift");
        let install = &mut self.installs[shift.install];
        let org = install.org;
        let arrives_us = shift.current.arrives_us;
        let (at_us, json) = shift.current.next_event(&mut self.random, install);
        if shift.current.remaining == 0
            && let Some(next) = shift.later.pop_front()
        {
            shift.current = next;
        }
        if shift.current.remaining > 0 {
            self.agenda.push(Reverse((shift.current.at_us, slot)));
        } else {
            self.shifts[slot] = None;
            self.free.push(slot);
        }
        let arrival = arrives_us.unwrap_or(at_us);
        // Sequential sampling (Knuth 3.4.2 S): each is taken with the probability that makes the numbers come out exactly.
        let taken = |random: &mut Random, wanted: &mut u64, of: u64| {
            let take = *wanted > 0 && random.below(of) < *wanted;
            *wanted -= u64::from(take);
            take
        };
        let of = self.left.new;
        if taken(&mut self.random, &mut self.left.duplicates, of) {
            let delay = match self.random.below(10) {
                0..3 => self.random.between(200_000, 5_000_000),
                3..9 => self.random.between(5_000_000, 1_200_000_000),
                _ => self.random.between(3_600_000_000, 90_000_000_000),
            };
            self.wait(arrival + delay, Generated { org, kind: Kind::Duplicate, json: json.clone() });
        }
        if taken(&mut self.random, &mut self.left.bad, of) {
            let broken = bad::spoil(&mut self.random, &json);
            self.wait(arrival, Generated { org, kind: Kind::Bad, json: broken });
        }
        self.left.new -= 1;
        let event = Generated { org, kind: Kind::New, json };
        if arrives_us.is_none() {
            return Some(event);
        }
        self.wait(arrival, event);
        None
    }

    fn wait(&mut self, arrival_us: i64, record: Generated) {
        self.serial += 1;
        self.waiting.push(Reverse((arrival_us, self.serial, record)));
    }
}

impl Iterator for Generator {
    type Item = Generated;

    fn next(&mut self) -> Option<Generated> {
        loop {
            let acts = self.agenda.peek().map(|Reverse((at, _))| *at);
            let arrives = self.waiting.peek().map(|Reverse((at, ..))| *at);
            let loads = self.load_at();
            let earliest = [acts, arrives, loads].into_iter().flatten().min()?;
            if loads == Some(earliest) {
                self.load_day();
            } else if arrives == Some(earliest) {
                return self.waiting.pop().map(|Reverse((_, _, record))| record);
            } else if let Some(Reverse((_, slot))) = self.agenda.pop()
                && let Some(event) = self.act(slot)
            {
                return Some(event);
            }
        }
    }
}

/// Splits a day's budget into sessions within this person's working hours.
fn plan_day(random: &mut Random, install: &Install, date: Date, budget: u64) -> VecDeque<Session> {
    let weekend = matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday);
    let (opens_s, length_s) = if weekend {
        (random.between(10 * 3600, 17 * 3600), random.between(3600, 4 * 3600))
    } else {
        (random.between(7 * 3600 + 1800, 10 * 3600 + 1800), random.between(6 * 3600, 10 * 3600))
    };
    // By the wall clock, so that a day with a change of clocks has it too.
    let opens = date
        .at((opens_s / 3600) as i8, (opens_s / 60 % 60) as i8, (opens_s % 60) as i8, 0)
        .to_zoned(install.zone.clone())
        .expect("the dates lie in the calendar")
        .timestamp();
    let offset_minutes = i64::from(install.zone.to_offset(opens).seconds()) / 60;
    let opens_us = opens.as_microsecond() + random.between(0, 999_999);
    let sessions = (1 + budget / 45 + random.below(2)).min(8).min(budget.div_ceil(4));
    let slot_us = length_s * 1_000_000 / sessions as i64;
    (0..sessions)
        .map(|nth| {
            let start = opens_us + nth as i64 * slot_us + slot_us * random.between(1, 20) / 100;
            let end = opens_us + nth as i64 * slot_us + slot_us * random.between(55, 98) / 100;
            let events = budget * (nth + 1) / sessions - budget * nth / sessions;
            Session::new(random, offset_minutes, start, end, events)
        })
        .collect()
}
