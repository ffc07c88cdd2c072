use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use jiff::civil::date;
use schemas::event::decode;

use super::*;

fn config(events: u64) -> Config {
    Config { duplicate_share: 0.02, bad_share: 0.01, ..Config::new(7, events, date(2026, 3, 31)) }
}

fn all(config: &Config) -> Vec<Generated> {
    Generator::new(config.clone()).expect("the configuration is valid").collect()
}

const LATEST_US: i64 = 1_790_000_000_000_000;

#[test]
fn every_record_is_what_it_says() {
    let records = all(&config(20_000));
    let mut causes = BTreeMap::new();
    let mut seen: HashMap<(String, String), Vec<u8>> = HashMap::new();
    let mut types = HashSet::new();
    let mut clients = HashSet::new();
    for record in &records {
        let decoded = decode(&record.json, LATEST_US);
        match (record.kind, decoded) {
            (Kind::Bad, Err(rejection)) => *causes.entry(rejection.cause.as_str()).or_insert(0) += 1,
            (Kind::New, Ok(event)) => {
                let key = (event.source.to_string(), event.id.to_string());
                assert!(seen.insert(key, record.json.clone()).is_none(), "an id stands for one event");
                types.insert(event.event_type.to_string());
                clients.insert(event.client_type);
            }
            (Kind::Duplicate, Ok(event)) => {
                let original = seen.get(&(event.source.to_string(), event.id.to_string()));
                assert_eq!(original, Some(&record.json), "a duplicate repeats an earlier event to the byte");
            }
            (kind, decoded) => panic!("{kind:?} is {decoded:?}: {}", String::from_utf8_lossy(&record.json)),
        }
    }
    assert!(causes.len() >= 5, "{causes:?}");
    assert!(types.len() >= 20, "{types:?}");
    assert!(clients.len() >= 5, "{clients:?}");
}

#[test]
fn counts_are_exact_and_known_beforehand() {
    for events in [0, 1, 7, 999, 20_000] {
        let generator = Generator::new(config(events)).expect("the configuration is valid");
        let planned = generator.planned();
        let mut counts = Counts::default();
        for record in generator {
            match record.kind {
                Kind::New => counts.new += 1,
                Kind::Duplicate => counts.duplicates += 1,
                Kind::Bad => counts.bad += 1,
            }
        }
        assert_eq!(counts, planned);
        assert_eq!(counts.new + counts.duplicates + counts.bad, events);
    }
}

#[test]
fn a_seed_gives_one_history_for_ever() {
    let digest = |config: &Config| {
        let mut hasher = DefaultHasher::new();
        all(config).iter().for_each(|record| record.json.hash(&mut hasher));
        hasher.finish()
    };
    assert_eq!(digest(&config(3000)), digest(&config(3000)));
    assert_ne!(digest(&config(3000)), digest(&Config { seed: 8, ..config(3000) }));
    // The first record of seed 7, to the byte: a change here changes every measurement that was taken with it.
    insta::assert_snapshot!(String::from_utf8_lossy(&all(&config(3000))[0].json));
}

#[test]
fn time_runs_forward_but_for_late_ones_and_sequences_have_few_gaps() {
    let records = all(&config(20_000));
    let mut latest = 0;
    let mut late = 0;
    let mut sequences: HashMap<String, Vec<i64>> = HashMap::new();
    let mut weekdays = [0_u64; 7];
    let sequence = schemas::tables::event_column("sequence").expect("there is such a column");
    for record in records.iter().filter(|record| record.kind == Kind::New) {
        let event = decode(&record.json, LATEST_US).expect("new ones decode");
        late += u64::from(event.time_us < latest - 3_600_000_000);
        latest = latest.max(event.time_us);
        let number = event.values.iter().find(|(column, _)| *column == sequence);
        let Some((_, schemas::event::Value::Int(number))) = number else { panic!("each event has a sequence") };
        sequences.entry(event.source.to_string()).or_default().push(*number);
        let day = jiff::Timestamp::from_microsecond(event.time_us).expect("in range").to_zoned(TimeZone::UTC).weekday();
        weekdays[day.to_monday_zero_offset() as usize] += 1;
    }
    let total = records.len() as u64;
    assert!(late > total / 1000 && late < total / 20, "{late} late of {total}");
    let weekend = weekdays[5] + weekdays[6];
    assert!(weekend > 0 && weekend < total / 20, "{weekdays:?}");
    let mut gaps = 0;
    for numbers in sequences.values_mut() {
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "a sequence number stands for one event");
        gaps += numbers.windows(2).filter(|pair| pair[1] - pair[0] > 1).count();
    }
    assert!(gaps > 0 && gaps < 100, "{gaps} gaps");
}

#[test]
fn faults_are_told_all_at_once() {
    let broken = Config { users: 0, orgs: 99, days: 0, bad_share: 2.0, ..config(10) };
    assert_eq!(broken.faults().len(), 4, "{:?}", broken.faults());
}
