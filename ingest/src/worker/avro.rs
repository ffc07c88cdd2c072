//! Writers' schemas of records in Avro, fetched before a batch is decoded.
//!
//! ```text
//!  records ─► Schemas::prepare ─ unknown schema ids ─► SchemaRegistry      (I/O)
//!                    └─► Plans ─► decode_record ─► event, or dead letter `unknown_schema`   (pure)
//! ```
//!
//! A record met twice has the same fate twice: what an id stands for never changes, and a producer registers its schema before it
//! writes. While the registry is away nothing is judged: the worker waits.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use schemas::{
    avro::{self, Plan},
    event::{Cause, Event, Rejection},
};
use tokio_util::sync::CancellationToken;

use super::flush::BACK_OFF_MAX;
use crate::log::Record;

/// Schemas remembered; beyond that all are asked for anew.
const SCHEMAS_MAX: usize = 1_000;
/// Back-off while the registry is away.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Why a registry gave no answer.
pub type RegistryError = Box<dyn std::error::Error + Send + Sync>;

/// Where schemas stand.
#[async_trait]
pub trait SchemaRegistry: Send + Sync {
    /// The Avro schema with this id, as JSON; `None` where there is none.
    ///
    /// # Errors
    /// Where it cannot be told now.
    async fn schema(&self, id: u32) -> Result<Option<String>, RegistryError>;
}

/// How to read each schema that a batch has, or why not. Cheap to clone; never changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plans(Arc<HashMap<u32, Result<Plan, String>>>);

impl Plans {
    /// Decodes a record in the wire format.
    ///
    /// # Errors
    /// The first fault that makes it no event.
    pub(crate) fn decode<'a>(&'a self, id: u32, record: &'a [u8], latest_us: i64) -> Result<Event<'a>, Rejection> {
        match self.0.get(&id) {
            Some(Ok(plan)) => avro::decode(record, plan, latest_us),
            Some(Err(detail)) => Err(Rejection::new(Cause::UnknownSchema, None, detail.clone())),
            None => {
                let detail = format!("schema {id} is not known: register it, or name its file in log.avro.schemas");
                Err(Rejection::new(Cause::UnknownSchema, None, detail))
            }
        }
    }
}

/// What a worker knows of schemas, and asks where it does not know.
#[derive(Default)]
pub(crate) struct Schemas {
    registry: Option<Arc<dyn SchemaRegistry>>,
    plans: Plans,
}

impl Schemas {
    pub(crate) fn new(registry: Arc<dyn SchemaRegistry>) -> Self {
        Self { registry: Some(registry), plans: Plans::default() }
    }

    /// Makes ready to decode these records.
    ///
    /// # Errors
    /// Where a schema must be asked for and the registry is away.
    pub(crate) async fn prepare(&mut self, records: &[Record]) -> Result<Plans, RegistryError> {
        let Some(registry) = &self.registry else { return Ok(self.plans.clone()) };
        let ids = records.iter().filter_map(|record| avro::schema_id(record.value.as_deref().unwrap_or_default()));
        let new: BTreeSet<u32> = ids.filter(|id| !self.plans.0.contains_key(id)).collect();
        if new.is_empty() {
            return Ok(self.plans.clone());
        }
        let mut known = HashMap::clone(&self.plans.0);
        if known.len() + new.len() > SCHEMAS_MAX {
            known.clear();
        }
        for id in new.into_iter().take(SCHEMAS_MAX) {
            // One that is not there may be there next time.
            if let Some(schema) = registry.schema(id).await? {
                let plan = Plan::compile(&schema).map_err(|error| format!("schema {id} is none of events: {error}"));
                known.insert(id, plan);
            }
        }
        self.plans = Plans(Arc::new(known));
        Ok(self.plans.clone())
    }

    /// [`Schemas::prepare`], again and again while the registry is away; `None` when told to stop.
    pub(crate) async fn wait(&mut self, records: &[Record], stop: &CancellationToken) -> Option<Plans> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.prepare(records).await {
                Ok(plans) => return Some(plans),
                Err(error) => {
                    let error = error.as_ref() as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        ?pause,
                        "a schema cannot be looked up, and so no record be judged; trying again"
                    );
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(BACK_OFF_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::Value;

    use super::*;
    use crate::{
        headers,
        worker::{decode::decode_record, door::Door},
    };

    /// Knows the published schema as 7, nonsense as 8, and is away for its first answer.
    #[derive(Default)]
    struct Shelf(AtomicU32);

    #[async_trait]
    impl SchemaRegistry for Shelf {
        async fn schema(&self, id: u32) -> Result<Option<String>, RegistryError> {
            match (self.0.fetch_add(1, Ordering::Relaxed), id) {
                (0, _) => Err("away".into()),
                (_, 7) => Ok(Some(avro::event_schema().to_string())),
                (_, 8) => Ok(Some(r#""bytes""#.into())),
                _ => Ok(None),
            }
        }
    }

    fn record(offset: i64, schema: u32, body: &[u8]) -> Record {
        Record {
            kafka_partition: 0,
            offset,
            key: None,
            value: Some([&[0], &schema.to_be_bytes()[..], body].concat().into()),
            headers: vec![(headers::ORG.into(), "acme".into())],
            append_time_ms: 1_790_000_000_000,
        }
    }

    /// The bytes are those that another implementation of Avro wrote.
    #[tokio::test(start_paused = true)]
    async fn records_in_avro_are_events_once_their_schema_is_known() {
        let fixtures: Value = serde_json::from_str(include_str!("../../../schemas/avro/fixtures.json")).expect("JSON");
        let fixtures = fixtures.as_object().expect("an object");
        let bodies = fixtures.values().map(|body| hex::decode(body.as_str().expect("digits")).expect("digits"));
        let mut records: Vec<Record> = bodies.zip(0..).map(|(body, offset)| record(offset, 7, &body)).collect();
        let mut schemas = Schemas::new(Arc::new(Shelf::default()));
        let plans = schemas.wait(&records, &CancellationToken::new()).await.expect("nobody stops it");
        let ids: BTreeSet<String> = records
            .iter()
            .map(|record| decode_record(record, &Door::Open, &plans).expect("an event").1.id.into_owned())
            .collect();
        assert_eq!(ids, fixtures.keys().cloned().collect());

        let body = records[0].value.clone().expect("a value").slice(5..);
        records = vec![record(0, 8, &body), record(1, 9, &body), record(2, 7, &body[..body.len() - 1])];
        let plans = schemas.prepare(&records).await.expect("the registry is there");
        let causes =
            records.iter().map(|record| decode_record(record, &Door::Open, &plans).expect_err("refused").cause);
        assert_eq!(causes.collect::<Vec<_>>(), [Cause::UnknownSchema, Cause::UnknownSchema, Cause::NotAvro]);
    }
}
