//! Days in every zone of the time zone database.

use std::collections::BTreeSet;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use schemas::OrgId;

use super::us;
use crate::calendar::{OrgCalendar, OrgDays, next, previous};

fn days(zone: &str, hours: u32) -> OrgDays {
    OrgDays::new(zone, hours).expect("a zone")
}

#[test]
fn f34_days_are_as_long_as_the_zone_makes_them() {
    let cases = [
        ("UTC", "2026-02-28", "2026-02-28T00:00:00Z", 24.0),
        ("America/New_York", "2024-03-10", "2024-03-10T05:00:00Z", 23.0),
        ("America/New_York", "2024-11-03", "2024-11-03T04:00:00Z", 25.0),
        ("Asia/Kathmandu", "2026-05-01", "2026-04-30T18:15:00Z", 24.0),
        ("Australia/Lord_Howe", "2024-04-07", "2024-04-06T13:00:00Z", 24.5),
        ("Australia/Lord_Howe", "2024-10-06", "2024-10-05T13:30:00Z", 23.5),
        ("Pacific/Apia", "2011-12-29", "2011-12-29T10:00:00Z", 24.0),
        // The date is skipped.
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00Z", 0.0),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00:00Z", 24.0),
        // Midnight is skipped: the day starts at 01:00.
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00Z", 23.0),
        // The gap began half an hour before midnight: the day starts at 00:30.
        ("America/Toronto", "1919-03-31", "1919-03-31T04:30:00Z", 23.5),
        ("America/Havana", "2024-11-03", "2024-11-03T04:00:00Z", 25.0),
    ];
    for (zone, date, start, hours) in cases {
        let (days, date): (_, Date) = (days(zone, 48), date.parse().expect("a date"));
        let (from, to) = (days.start_us(date), days.start_us(next(date)));
        assert_eq!(from, us(start), "start of {date} in {zone}");
        assert_eq!((to - from) as f64 / 3.6e9, hours, "length of {date} in {zone}");
        if from < to {
            assert_eq!(days.date_of(from), Some(date), "first instant of {date} in {zone}");
            assert_eq!(days.date_of(to - 1), Some(date), "last instant of {date} in {zone}");
        }
    }
}

#[test]
fn each_instant_is_in_one_day_in_every_zone() {
    let (since, until) = (us("1900-01-01T00:00:00Z"), us("2040-01-01T00:00:00Z"));
    let mut zones = 0;
    for name in jiff::tz::db().available() {
        let name = name.as_str();
        let (Ok(zone), Ok(days)) = (TimeZone::get(name), OrgDays::new(name, 0)) else { panic!("{name} is a zone") };
        let local = |at: i64| zone.to_datetime(Timestamp::from_microsecond(at).expect("a time")).date();
        let transitions = zone.following(Timestamp::from_microsecond(since).expect("a time"));
        for at in transitions.map(|transition| transition.timestamp().as_microsecond()).take_while(|at| *at < until) {
            let mut date = previous(previous(local(at)));
            for _ in 0..5 {
                let (start, end) = (days.start_us(date), days.start_us(next(date)));
                assert!(
                    local(start) >= date && local(start - 1) < date,
                    "{date} in {name} begins at its first instant"
                );
                assert!(start <= end, "{date} in {name}");
                if start < end {
                    assert_eq!(
                        (days.date_of(start), days.date_of(end - 1)),
                        (Some(date), Some(date)),
                        "{date} in {name}"
                    );
                }
                date = next(date);
            }
            for instant in [-7_200_000_000, -1, 0, 1, 7_200_000_000].map(|offset| at + offset) {
                let date = days.date_of(instant).expect("a year that we know");
                let inside = days.start_us(date) <= instant && instant < days.start_us(next(date));
                assert!(inside, "{name} around {at}");
            }
        }
        zones += 1;
    }
    assert!(zones > 300, "the time zone database is installed");
}

#[test]
fn digest_follows_the_calendar() {
    let org: OrgId = "acme".parse().expect("an id");
    let calendar = |zone, hours| OrgCalendar::default().with(&org, days(zone, hours));
    let all = [
        OrgCalendar::default().digest(1),
        calendar("UTC", 48).digest(1),
        calendar("UTC", 48).digest(2),
        calendar("UTC", 47).digest(1),
        calendar("Asia/Kathmandu", 48).digest(1),
    ];
    assert!(all.iter().all(|digest| *digest > 0));
    assert_eq!(BTreeSet::from(all).len(), all.len());
    assert_eq!(calendar("UTC", 48).digest(1), all[1]);
    assert!(OrgDays::new("Mars/Olympus", 48).is_err());
}
