//! Signed records, as the worker meets them.

use std::sync::Arc;

use directory::{OptIn, Scope};
use jiff::{SignedDuration, Timestamp};
use lake::Lake;
use object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;
use crate::{
    dead_letters::{self, Filter, Producers, Replayed},
    log::{Append, Log, Schedule, SimulatedLog},
    signature::{self, SigningKey, sign},
    worker::{self, Plans, Worker, decode_record, progress},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn now() -> Timestamp {
    "2026-01-05T00:00:00Z".parse().expect("a time")
}

fn required() -> Settings {
    Settings { signatures: Signatures::Required, signing_key: Some(SECRET.into()), organisation: None }
}

fn event(id: &str) -> Bytes {
    let text = format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"dev.daybook.prompt.submitted.v1","time":"2025-12-31T10:00:00Z","subject":"email:ada@example.com","data":{{"length_chars":5}}}}"#
    );
    text.into()
}

fn unsigned(id: &str, org: &str) -> Append {
    let header = |name: &'static str, value: &str| (name.into(), Bytes::copy_from_slice(value.as_bytes()));
    Append {
        key: Bytes::from(format!("{org}/email:ada@example.com")),
        value: event(id),
        headers: vec![header(headers::ORG, org), header(headers::VANTAGE, "service")],
    }
}

/// A directory with a key of acme and one of beta that sign.
struct World {
    directory: Directory,
    acme: (KeyId, MacKey),
    beta: (KeyId, MacKey),
}

impl World {
    async fn new() -> Self {
        let directory = Directory::open("sqlite::memory:").await.expect("a database in memory");
        let mut keys = Vec::new();
        for org in ["acme", "beta"] {
            let org = org.parse().expect("an id");
            directory.create_org(&org, "", "UTC", now()).await.expect("new");
            directory.set_opt_in(&org, OptIn::Named, "a test", Timestamp::UNIX_EPOCH).await.expect("there");
            let (id, secret) = directory.create_key(&org, Scope::Produce, "", now()).await.expect("new");
            keys.push((id, secret.mac_key()));
        }
        let beta = keys.pop().expect("two");
        Self { directory, acme: keys.pop().expect("two"), beta }
    }

    fn ring(&self) -> KeyRing {
        KeyRing::new(&required(), self.directory.clone())
    }

    fn signed(&self, id: &str) -> Append {
        let mut record = unsigned(id, "acme");
        sign(&mut record, self.acme.0.as_str(), &self.acme.1);
        record
    }
}

fn read(append: Append, append_time_ms: i64) -> Record {
    let Append { key, value, headers } = append;
    Record { kafka_partition: 0, offset: 0, key: Some(key), value: Some(value), headers, append_time_ms }
}

/// What becomes of a record that was appended then: the field at fault, or none.
async fn fate(ring: &mut KeyRing, append: Append, append_time_ms: i64) -> Option<String> {
    let mut records = [read(append, append_time_ms)];
    let door = ring.prepare(&mut records).await.expect("the directory is there");
    match decode_record(&records[0], &door, &Plans::default()) {
        Ok(_) => None,
        Err(rejection) => {
            assert_eq!(rejection.cause, Cause::Signature, "{rejection}");
            Some(rejection.field.expect("a header is at fault"))
        }
    }
}

fn set(record: &mut Append, name: &'static str, value: &str) {
    record.headers.retain(|(have, _)| have != name);
    record.headers.push((name.into(), Bytes::copy_from_slice(value.as_bytes())));
}

#[tokio::test]
async fn who_may_speak_for_an_organisation() {
    let world = World::new().await;
    let mut ring = world.ring();
    let at = now().as_millisecond();
    let mut check = async |what: &str, record: Append, field: Option<&str>| {
        let found = fate(&mut ring, record, at).await;
        assert_eq!(found.as_deref(), field, "{what}");
    };
    check("signed", world.signed("1"), None).await;
    let collector = SigningKey::from(SECRET).mac_key();
    let mut record = unsigned("1", "acme");
    set(&mut record, headers::RECORDED_TIME, "2026-01-04T00:00:00Z");
    sign(&mut record, COLLECTOR, &collector);
    check("a collector's", record.clone(), None).await;
    set(&mut record, headers::RECORDED_TIME, "2026-01-03T00:00:00Z");
    check("with another time", record, Some(headers::SIGNATURE)).await;

    check("not signed", unsigned("1", "acme"), Some(headers::KEY)).await;
    let mut record = world.signed("1");
    record.headers.retain(|(name, _)| name != headers::SIGNATURE);
    check("a key, and no signature", record, Some(headers::SIGNATURE)).await;
    for (name, value) in [(headers::SIGNATURE, ""), (headers::SIGNATURE, "zz"), (headers::VANTAGE, "report")] {
        let mut record = world.signed("1");
        set(&mut record, name, value);
        check(name, record, Some(headers::SIGNATURE)).await;
    }
    let mut record = world.signed("1");
    record.value = event("2");
    check("another value", record, Some(headers::SIGNATURE)).await;
    let mut record = world.signed("1");
    record.key = "acme/email:eve@example.com".into();
    check("another key", record, Some(headers::SIGNATURE)).await;

    let mut record = unsigned("1", "beta");
    sign(&mut record, world.acme.0.as_str(), &world.acme.1);
    check("a key of another organisation", record, Some(headers::ORG)).await;
    let mut record = unsigned("1", "acme");
    sign(&mut record, world.acme.0.as_str(), &world.beta.1);
    check("the id of one key, the secret of another", record, Some(headers::SIGNATURE)).await;
    let mut record = unsigned("1", "acme");
    sign(&mut record, COLLECTOR, &world.acme.1);
    check("a key that plays the collector", record, Some(headers::SIGNATURE)).await;
    for id in ["0123456789abcdef", "", "collector ", "' OR 1=1"] {
        let mut record = unsigned("1", "acme");
        sign(&mut record, id, &world.acme.1);
        check(id, record, Some(headers::KEY)).await;
    }
    let mut record = unsigned("1", "acme");
    set(&mut record, headers::RECORDED_TIME, "2020-01-01T00:00:00Z");
    sign(&mut record, world.acme.0.as_str(), &world.acme.1);
    check("a key that sets the server's time", record, Some(headers::RECORDED_TIME)).await;
    let (ingest, secret) = {
        let org = "acme".parse().expect("an id");
        world.directory.create_key(&org, Scope::Ingest, "", now()).await.expect("new")
    };
    let mut record = unsigned("1", "acme");
    sign(&mut record, ingest.as_str(), &secret.mac_key());
    check("a key with another scope", record, Some(headers::KEY)).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed of a signed record, a byte anywhere, it is no longer signed.
    #[test]
    fn a_changed_byte_is_found(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let key = SigningKey::from(SECRET).mac_key();
        let mut append = unsigned("1", "acme");
        sign(&mut append, COLLECTOR, &key);
        let mut record = read(append, 0);
        prop_assert_eq!(is_signed(&record, &key), Some(true));
        let lengths = [record.key.as_ref().map_or(0, Bytes::len), record.value.as_ref().map_or(0, Bytes::len)];
        let org = record.headers[0].1.len();
        let mut place = at.index(lengths[0] + lengths[1] + org);
        let changed = |bytes: &Bytes, place: usize| {
            let mut bytes = bytes.to_vec();
            bytes[place] ^= 1 << bit;
            Bytes::from(bytes)
        };
        if place < lengths[0] {
            record.key = record.key.map(|bytes| changed(&bytes, place));
        } else if place < lengths[0] + lengths[1] {
            place -= lengths[0];
            record.value = record.value.map(|bytes| changed(&bytes, place));
        } else {
            record.headers[0].1 = changed(&record.headers[0].1, place - lengths[0] - lengths[1]);
        }
        prop_assert_eq!(is_signed(&record, &key), Some(false));
    }
}

#[tokio::test]
async fn a_revoked_key_is_judged_by_when_the_record_was_appended() {
    let world = World::new().await;
    let (mut early, mut late) = (world.ring(), world.ring());
    let revoked = now() + SignedDuration::from_hours(1);
    let grace = SignedDuration::try_from(GRACE).expect("short");
    let before = (revoked + grace).as_millisecond() - 1;
    assert_eq!(fate(&mut early, world.signed("1"), before).await, None, "not revoked yet");
    assert!(world.directory.revoke_key(&world.acme.0, revoked).await.expect("writable"));
    for ring in [&mut early, &mut late] {
        assert_eq!(fate(ring, world.signed("1"), before).await, None, "old knowledge and new agree");
    }
    let after = before + 1;
    assert_eq!(fate(&mut late, world.signed("1"), after).await.as_deref(), Some(headers::KEY));
    assert_eq!(fate(&mut late, world.signed("1"), -1).await.as_deref(), Some(headers::KEY), "a log without times");
    // What was known before the revocation is asked anew well before the grace is over.
    assert!(USABLE * 2 <= GRACE && FRESH < USABLE);
    tokio::time::pause();
    tokio::time::advance(FRESH).await;
    tokio::time::resume();
    assert_eq!(fate(&mut early, world.signed("1"), after).await.as_deref(), Some(headers::KEY));
}

#[tokio::test]
async fn nothing_is_judged_without_the_directory() {
    let world = World::new().await;
    let mut ring = world.ring();
    let at = now().as_millisecond();
    // Unknown at first; and valid as soon as it is there.
    let org = "acme".parse().expect("an id");
    let (id, secret) = world.directory.create_key(&org, Scope::Produce, "", now()).await.expect("new");
    let mut of_new = unsigned("1", "acme");
    sign(&mut of_new, id.as_str(), &secret.mac_key());
    let mut unknown = unsigned("1", "acme");
    sign(&mut unknown, "0123456789abcdef", &secret.mac_key());
    assert_eq!(fate(&mut ring, unknown.clone(), at).await.as_deref(), Some(headers::KEY));
    assert_eq!(fate(&mut ring, of_new, at).await, None, "nothing negative is remembered");
    assert_eq!(fate(&mut ring, world.signed("1"), at).await, None);

    let shut = world.directory.clone();
    shut.close().await;
    assert_eq!(fate(&mut ring, world.signed("1"), at).await, None, "what is known is fresh enough");
    let mut records = [read(unknown, at)];
    assert!(ring.prepare(&mut records).await.is_err(), "no verdict on a key that cannot be asked for");
    let mut known = [read(world.signed("1"), at)];
    tokio::time::pause();
    tokio::time::advance(FRESH).await;
    assert!(ring.prepare(&mut known).await.is_ok(), "asked anew, in vain: still usable");
    tokio::time::advance(USABLE).await;
    assert!(ring.prepare(&mut known).await.is_err(), "too old to be believed");

    let stop = CancellationToken::new();
    let (waited, ()) = tokio::join!(ring.wait(&mut known, &stop), async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        stop.cancel();
    });
    assert!(waited.is_none(), "it waits until it is told to stop");
}

#[tokio::test]
async fn a_topic_of_one_organisation() {
    let world = World::new().await;
    let settings = Settings { organisation: Some("beta".parse().expect("an id")), ..Settings::default() };
    let mut ring = KeyRing::new(&settings, world.directory.clone());
    let mut none = unsigned("1", "acme");
    none.headers.clear();
    let mut lies = unsigned("2", "acme");
    set(&mut lies, headers::RECORDED_TIME, "2020-01-01T00:00:00Z");
    lies.headers.push((headers::ORG.into(), Bytes::from_static(b"acme")));
    let at = now().as_millisecond();
    let mut records = [read(none, at), read(lies, at)];
    let door = ring.prepare(&mut records).await.expect("nothing is asked");
    for record in &records {
        let plans = Plans::default();
        let (origin, _) = decode_record(record, &door, &plans).expect("an event");
        assert_eq!((origin.org, origin.recorded_us), ("beta", at * 1000));
        assert_eq!(record.headers.iter().filter(|(name, _)| name == headers::ORG).count(), 1);
    }
}

/// Runs a worker until everything in the log is in a table.
async fn work(lake: &Lake, log: &SimulatedLog, settings: &Settings, directory: &Directory) {
    let stop = CancellationToken::new();
    let shared: Arc<dyn Log> = Arc::new(log.clone());
    let registry = prometheus::Registry::new();
    let flush_age = SignedDuration::from_millis(20);
    let worker = worker::Settings { flush_age, ..worker::Settings::default() };
    let worker = Worker::new(worker, lake.clone(), shared, "simulated", &registry).await.expect("tables open");
    let worker = worker.with_directory(settings, directory.clone()).expect("the settings are sound");
    let working = tokio::spawn(worker.run(stop.clone()));
    while progress(lake, log).await.expect("readable").iter().any(|at| at.next_offset < at.high_watermark) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    working.await.expect("no panic").expect("it stops cleanly");
}

async fn rows(lake: &Lake) -> u64 {
    lake.table(&schemas::EVENTS).snapshot().await.expect("readable").files.iter().map(|file| file.rows).sum()
}

#[tokio::test]
async fn through_the_worker_and_back() {
    let world = World::new().await;
    let lake = Lake::with_store(Arc::new(InMemory::new()), "memory:///lake".parse().expect("a URL"));
    let schedule = Schedule { kafka_partitions: 1, poll: Duration::from_millis(1), ..Schedule::default() };
    let log = SimulatedLog::new(1, schedule);
    let mut tampered = world.signed("tampered");
    tampered.value = event("changed");
    let mut foreign = unsigned("foreign", "beta");
    sign(&mut foreign, world.acme.0.as_str(), &world.acme.1);
    let mut collector = unsigned("collector", "acme");
    sign(&mut collector, COLLECTOR, &SigningKey::from(SECRET).mac_key());
    let mut broken = world.signed("broken");
    broken.value = Bytes::from_static(b"{");
    sign(&mut broken, world.acme.0.as_str(), &world.acme.1);
    let all = [world.signed("direct"), tampered, foreign, unsigned("bare", "acme"), collector, broken];
    for Append { key, value, headers } in all {
        log.append_raw(0, Some(key), Some(value), headers);
    }
    work(&lake, &log, &required(), &world.directory).await;
    assert_eq!(rows(&lake).await, 2, "`direct` and `collector`");
    let letters = dead_letters::list(&lake, &Filter::default(), None).await.expect("readable");
    let found: Vec<_> = letters.iter().map(|letter| (letter.record.offset, letter.cause.as_str())).collect();
    assert_eq!(found, [(1, "signature"), (2, "signature"), (3, "signature"), (5, "not_json")]);
    let of_acme = Filter { org: Some("acme".parse().expect("an id")), ..Filter::default() };
    let of_acme = dead_letters::list(&lake, &of_acme, None).await.expect("readable");
    assert_eq!(of_acme.len(), 1, "what is not signed by acme is not among acme's letters: {of_acme:?}");

    // Nothing of it becomes good by a replay, whether signatures are looked at or not.
    for (settings, refused) in [(required(), 4), (Settings::default(), 4)] {
        let producers = Producers { settings: &settings, directory: &world.directory, schemas: None };
        let done = dead_letters::replay(&lake, &log, &producers, &Filter::default(), None, false).await;
        assert_eq!(done.expect("readable"), Replayed { letters: 4, refused, ..Replayed::default() });
    }
    // A collector's secret that was wrong is mended: what it had signed is replayed, signed anew, and counts.
    let mended = SigningKey::from("another secret of thirty-two bytes");
    let mut early = unsigned("early", "acme");
    sign(&mut early, COLLECTOR, &mended.mac_key());
    log.append(vec![early]).await.expect("appended");
    work(&lake, &log, &required(), &world.directory).await;
    assert_eq!(rows(&lake).await, 2);
    let settings = Settings { signing_key: Some(mended), ..required() };
    let producers = Producers { settings: &settings, directory: &world.directory, schemas: None };
    let done = dead_letters::replay(&lake, &log, &producers, &Filter::default(), None, false).await;
    assert_eq!(done.expect("sent"), Replayed { letters: 5, refused: 4, replayed: 1, ..Replayed::default() });
    work(&lake, &log, &settings, &world.directory).await;
    assert_eq!(rows(&lake).await, 3, "`early`");
    let faults = signature::Settings { signing_key: None, ..required() }.faults();
    assert_eq!(faults.len(), 1);
}

/// Not a bar: `cargo test --release -p daybook-ingest -- --ignored --nocapture measure_the_check`.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_the_check() {
    use std::{io::Write as _, time::Instant};
    let world = World::new().await;
    let mut ring = world.ring();
    let mut records: Vec<Record> =
        (0..8_192).map(|at| read(world.signed(&at.to_string()), now().as_millisecond())).collect();
    for _ in 0..3 {
        let each = |started: Instant| started.elapsed().as_nanos() / 8_192;
        let started = Instant::now();
        let door = ring.prepare(&mut records).await.expect("the directory is there");
        let prepare = each(started);
        let mut spent = [0, 0];
        for (at, door) in [&Door::Open, &door].into_iter().enumerate() {
            let started = Instant::now();
            assert!(records.iter().all(|record| decode_record(record, door, &Plans::default()).is_ok()));
            spent[at] = each(started);
        }
        let [open, signed] = spent;
        writeln!(std::io::stderr(), "ns each: prepare {prepare}, decode {open}, with the check {signed}")
            .expect("written");
    }
}
