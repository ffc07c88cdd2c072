//! The oracle: what must hold at the end, with all faults healed.
//!
//! 1. Each record of the log stands once in `events`, or once in `dead_letters`, or in a gap that a commit names because
//!    retention took it first. Nothing else stands anywhere.
//! 2. In each table, a partition's `next_offset` only ever goes up, and no file is added twice.
//! 3. Compaction adds the very rows that it removes.
//! 4. Under one (organisation, source, id) all rows of `events` have one payload, and what became a dead letter as a conflict
//!    has an event under its id.
//! 5. The rows that any other commit adds lie in `[next_offset before, next_offset after)` of their partition: the intervals join up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::AsArray,
    compute::cast,
    datatypes::{DataType, Int32Type, Int64Type},
};
use futures::TryStreamExt;
use ingest::log::SimulatedLog;
use lake::Lake;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use schemas::{DEAD_LETTERS, EVENTS, TableSpec};
use serde_json::Value;

use crate::Summary;

/// (partition, offset).
type Place = (i32, i64);

/// What one table says.
#[derive(Default)]
struct Found {
    /// How often each record is in the table.
    rows: BTreeMap<Place, usize>,
    gaps: BTreeSet<Place>,
    /// Lost offsets by partition, as the table counts them.
    lost: BTreeMap<i32, i64>,
    versions: usize,
    /// What each row is known by.
    marks: Vec<(Place, Mark)>,
}

/// What a row is known by.
#[derive(Clone, Debug, PartialEq)]
enum Mark {
    /// Source and id of an event, and its payload.
    Event(String, Vec<u8>, i64),
    /// Cause of a dead letter.
    Letter(String),
}

/// Without `retention`, nothing may be lost to it: a gap then is of our own making.
pub(crate) async fn check(
    lake: &Lake,
    memory: &Arc<dyn ObjectStore>,
    log: &SimulatedLog,
    retention: bool,
) -> Result<Summary, String> {
    let events = read(memory, &EVENTS).await?;
    if let Some(place) = events.gaps.first().filter(|_| !retention) {
        return Err(format!("{place:?} is in a gap, but retention took nothing: the log was freed too early"));
    }
    let mut lost: BTreeMap<i32, i64> = BTreeMap::new();
    for (partition, _) in &events.gaps {
        *lost.entry(*partition).or_default() += 1;
    }
    if lost != events.lost {
        return Err(format!("lost offsets by partition: {lost:?} in gaps, {:?} counted", events.lost));
    }
    let letters = read(memory, &DEAD_LETTERS).await?;
    // The log entries were read one by one; a reader of the table must come to the same.
    for (spec, found) in [(&EVENTS, &events), (&DEAD_LETTERS, &letters)] {
        let snapshot = lake.table(spec).snapshot().await.map_err(|error| format!("{}: {error}", spec.name))?;
        let rows: u64 = snapshot.files.iter().map(|file| file.rows).sum();
        let added: usize = found.rows.values().sum();
        if rows != added as u64 {
            return Err(format!("{} has {rows} rows in its statistics, {added} in its files", spec.name));
        }
    }
    let mut wanted = BTreeSet::new();
    for record in log.records() {
        let place = (record.kafka_partition, record.offset);
        wanted.insert(place);
        let times = |found: &Found| found.rows.get(&place).copied().unwrap_or(0);
        match (times(&events), times(&letters), events.gaps.contains(&place)) {
            // A dead letter is committed before the offsets of `events`: retention may take its record in between.
            (1, 0, false) | (0, 1, _) | (0, 0, true) => {}
            (0, 0, false) => return Err(format!("record {place:?} is lost")),
            (rows, dead, gap) => {
                let gap = if gap { ", and in a gap" } else { "" };
                return Err(format!(
                    "record {place:?} stands {rows} times in events, {dead} times in dead_letters{gap}"
                ));
            }
        }
    }
    if let Some(place) = events.rows.keys().chain(letters.rows.keys()).find(|place| !wanted.contains(*place)) {
        return Err(format!("{place:?} is in a table, but was never in the log"));
    }
    let conflicts = conflicts(&events, &letters, log)?;
    Ok(Summary {
        records: wanted.len(),
        conflicts,
        rows: events.rows.len(),
        dead_letters: letters.rows.len(),
        gap_offsets: events.gaps.len(),
        crashes: 0,
        versions: events.versions,
    })
}

/// One payload for each id; gives the number of dead letters that are conflicts.
fn conflicts(events: &Found, letters: &Found, log: &SimulatedLog) -> Result<usize, String> {
    let mut payloads: BTreeMap<(&str, &[u8]), (i64, Place)> = BTreeMap::new();
    for (place, mark) in &events.marks {
        let Mark::Event(source, id, payload) = mark else { continue };
        let (first, at) = *payloads.entry((source.as_str(), id.as_slice())).or_insert((*payload, *place));
        if first != *payload {
            return Err(format!("{place:?} and {at:?} are different events under one id"));
        }
    }
    let records: BTreeMap<Place, _> =
        log.records().into_iter().map(|record| ((record.kafka_partition, record.offset), record)).collect();
    let refused: Vec<&Place> = letters
        .marks
        .iter()
        .filter(|(_, mark)| *mark == Mark::Letter("conflict".into()))
        .map(|(place, _)| place)
        .collect();
    for place in &refused {
        let value = records.get(place).and_then(|record| record.value.as_deref()).unwrap_or_default();
        let event: Value = serde_json::from_slice(value).map_err(|error| format!("{place:?} is no event: {error}"))?;
        let id = uuid::Uuid::try_parse(event["id"].as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
        if !payloads.contains_key(&(event["source"].as_str().unwrap_or_default(), id.as_bytes().as_slice())) {
            return Err(format!("{place:?} is refused as a conflict, but no event has its id"));
        }
    }
    Ok(refused.len())
}

/// Reads a table's log, entry by entry, and the files that it adds.
async fn read(memory: &Arc<dyn ObjectStore>, spec: &TableSpec) -> Result<Found, String> {
    let folder = format!("lake/{}", spec.name);
    let prefix = Path::from(format!("{folder}/_delta_log"));
    let entries: Vec<_> = memory.list(Some(&prefix)).try_collect().await.map_err(|error| error.to_string())?;
    let mut paths: Vec<Path> =
        entries.into_iter().map(|entry| entry.location).filter(|path| path.as_ref().ends_with(".json")).collect();
    paths.sort();
    let mut found = Found { versions: paths.len(), ..Found::default() };
    let mut next: BTreeMap<String, i64> = BTreeMap::new();
    let mut files: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for path in &paths {
        let bytes = bytes(memory, path).await?;
        let actions = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let actions: Vec<Value> = actions
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{path}: {error}"))?;
        let mut moved: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
        let mut claimed: BTreeSet<i32> = BTreeSet::new();
        for txn in actions.iter().filter_map(|action| action.get("txn")) {
            let (app, after) = (txn["appId"].as_str().unwrap_or_default(), txn["version"].as_i64().unwrap_or(-1));
            let partition = app.rsplit('/').next().and_then(|number| number.parse().ok());
            let partition = partition.ok_or_else(|| format!("{path}: no partition in {app}"))?;
            let before = next.insert(app.to_owned(), after).unwrap_or(0);
            if after <= before {
                return Err(format!("{path}: {app} goes from {before} to {after}"));
            }
            if app.starts_with("daybook-lost/") {
                found.lost.insert(partition, after);
            } else if app.starts_with("daybook/") {
                moved.insert(partition, (before, after));
            } else {
                claimed.insert(partition);
            }
        }
        let check = |place: Place, what: &str| match moved.get(&place.0) {
            // A conflict is found by what the table holds, which may be after the letters behind it were written.
            _ if claimed.contains(&place.0) => Ok(()),
            Some((before, after)) if (*before..*after).contains(&place.1) => Ok(()),
            interval => Err(format!("{path}: {what} {place:?} lies outside of what the commit covers, {interval:?}")),
        };
        for gap in
            actions.iter().filter_map(|action| action["commitInfo"]["operationMetrics"]["gaps"].as_array()).flatten()
        {
            let (partition, from, to) =
                serde_json::from_value(gap.clone()).map_err(|error| format!("{path}: {error}"))?;
            for place in (from..to).map(|offset| (partition, offset)) {
                check(place, "gap")?;
                found.gaps.insert(place);
            }
        }
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for remove in actions.iter().filter_map(|action| action.get("remove")) {
            let file = remove["path"].as_str().unwrap_or_default();
            removed.extend(files.remove(file).ok_or_else(|| format!("{path}: {file} is removed, and was not there"))?);
        }
        for add in actions.iter().filter_map(|action| action.get("add")) {
            let file = add["path"].as_str().unwrap_or_default();
            let rows = marks(memory, &Path::from(format!("{folder}/{file}"))).await?;
            let places: Vec<Place> = rows.iter().map(|(place, _)| *place).collect();
            added.extend(places.iter().copied());
            if action_is_new(add) {
                found.marks.extend(rows);
            }
            if files.insert(file.to_owned(), places).is_some() {
                return Err(format!("{path}: the file {file} was committed twice"));
            }
        }
        if removed.is_empty() {
            for place in added {
                check(place, "row")?;
                *found.rows.entry(place).or_default() += 1;
            }
            continue;
        }
        added.sort_unstable();
        removed.sort_unstable();
        if added != removed {
            return Err(format!("{path}: compaction made {} rows of {}", added.len(), removed.len()));
        }
    }
    Ok(found)
}

async fn bytes(memory: &Arc<dyn ObjectStore>, path: &Path) -> Result<bytes::Bytes, String> {
    let found = memory.get(path).await.map_err(|error| format!("a committed file is gone: {error}"))?;
    found.bytes().await.map_err(|error| error.to_string())
}

/// False for what compaction writes again.
fn action_is_new(add: &Value) -> bool {
    add["dataChange"].as_bool().unwrap_or(true)
}

/// Where the rows of a file come from, and what they are known by.
async fn marks(memory: &Arc<dyn ObjectStore>, path: &Path) -> Result<Vec<(Place, Mark)>, String> {
    let torn = |error| format!("{path}: a committed file is torn: {error}");
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes(memory, path).await?).map_err(torn)?;
    let names = ["log_partition", "log_offset", "source", "event_id", "payload_hash", "cause"];
    let mask = ProjectionMask::columns(reader.parquet_schema(), names);
    let mut rows = Vec::new();
    for batch in reader.with_projection(mask).build().map_err(torn)? {
        let batch = batch.map_err(|error| error.to_string())?;
        let column = |name: &str, kind: &DataType| {
            let array = batch.column_by_name(name).ok_or_else(|| format!("{name} is missing"))?;
            cast(array, kind).map_err(|error| error.to_string())
        };
        let partitions = column("log_partition", &DataType::Int32)?;
        let offsets = column("log_offset", &DataType::Int64)?;
        let (partitions, offsets) = (partitions.as_primitive::<Int32Type>(), offsets.as_primitive::<Int64Type>());
        for row in 0..batch.num_rows() {
            let mark = if batch.column_by_name("cause").is_some() {
                let causes = column("cause", &DataType::Utf8)?;
                Mark::Letter(causes.as_string::<i32>().value(row).to_owned())
            } else {
                let (sources, ids) = (column("source", &DataType::Utf8)?, column("event_id", &DataType::Binary)?);
                let payloads = column("payload_hash", &DataType::Int64)?;
                Mark::Event(
                    sources.as_string::<i32>().value(row).to_owned(),
                    ids.as_binary::<i32>().value(row).to_vec(),
                    payloads.as_primitive::<Int64Type>().value(row),
                )
            };
            rows.push(((partitions.value(row), offsets.value(row)), mark));
        }
    }
    Ok(rows)
}
