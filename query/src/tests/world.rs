//! A lake with three organisations, the service over it, and requests.
//!
//! Every value of a row tells whose it is: texts hold `canary-<org>`, numbers begin with the organisation's digits.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch,
        StringArray, TimestampMicrosecondArray, UInt32Array,
    },
    compute::{concat_batches, take_record_batch},
    datatypes::{DataType, Field},
    util::display::{ArrayFormatter, FormatOptions},
};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use bytes::Bytes;
use directory::{Directory, OptIn, Scope};
use jiff::{Timestamp, ToSpan, civil::Date};
use lake::{Change, DataFile, Lake};
use object_store::memory::InMemory;
use prometheus::Registry;
use schemas::{DEAD_LETTERS, EVENTS, OrgId, TableSpec, rollup::ROLLUP_DAILY};
use serde_json::Value;
use tower::ServiceExt;

use crate::{
    Query, Settings,
    formats::Format,
    http::{SQL, resources::resources},
    router,
};

/// The organisations, with the digits that begin all their numbers.
pub(super) const ORGS: [(&str, i64); 3] = [("acme", 4_718_281), ("globex", 7_390_517), ("initech", 9_614_203)];
pub(super) const FIRST_DAY: Date = Date::constant(2026, 3, 1);
pub(super) const DAYS: i32 = 4;
pub(super) const USERS: usize = 5;

pub(super) fn settings() -> Settings {
    serde_json::from_value(serde_json::json!({
        "timeout": "30s",
        "concurrent-requests": 8,
        "concurrent-requests-per-organisation": 8,
        "connections": 8,
        "queue-wait": "100ms",
        "memory": "256MiB",
        "spill": "0B",
        "hot-memory": "64MiB",
        "snapshot-age-max": "0s",
        "cursor-versions": 3,
        "slow-query": "0s",
    }))
    .expect("valid settings")
}

pub(super) fn org(id: &str) -> OrgId {
    id.parse().expect("an organisation id")
}

pub(super) fn day(offset: i32) -> Date {
    FIRST_DAY.checked_add(offset.days()).expect("in range")
}

/// One row: what of it is chosen; the rest follows from organisation and number.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) org: usize,
    pub(super) day: i32,
    pub(super) user: usize,
    pub(super) product: &'static str,
    pub(super) client_type: &'static str,
    /// Changes the measures, nothing else.
    pub(super) salt: i64,
}

impl Row {
    pub(super) fn user_key(&self) -> String {
        format!("email:canary-{}-{}@example.org", ORGS[self.org].0, self.user)
    }

    fn text(&self, column: &str) -> String {
        match column {
            "org_id" => ORGS[self.org].0.to_owned(),
            "user_key" => self.user_key(),
            "product" => self.product.to_owned(),
            "client_type" => self.client_type.to_owned(),
            other => format!("canary-{}-{other}, \"{}\"", ORGS[self.org].0, self.user),
        }
    }

    fn number(&self, column: usize) -> i64 {
        ORGS[self.org].1 * 10_000 + column as i64 * 50 + self.user as i64 * 7 + self.salt
    }

    fn value(&self, field: &Field, index: usize) -> ArrayRef {
        let null = field.is_nullable() && (index + self.user + self.salt as usize).is_multiple_of(3);
        let days = day(self.day).since(Date::constant(1970, 1, 1)).expect("in range").get_days();
        let number = self.number(index);
        match field.data_type() {
            DataType::Utf8 => Arc::new(StringArray::from(vec![(!null).then_some(self.text(field.name()))])),
            DataType::Int64 => Arc::new(Int64Array::from(vec![(!null).then_some(number)])),
            DataType::Int32 => Arc::new(Int32Array::from(vec![(!null).then_some(ORGS[self.org].1 as i32)])),
            DataType::Boolean => Arc::new(BooleanArray::from(vec![(!null).then_some(self.user.is_multiple_of(2))])),
            DataType::Date32 => Arc::new(Date32Array::from(vec![(!null).then_some(days)])),
            DataType::Binary => {
                let text = format!("canary-{}", ORGS[self.org].0);
                Arc::new(BinaryArray::from(vec![(!null).then_some(text.as_bytes())]))
            }
            DataType::Decimal128(precision, scale) => {
                let array = Decimal128Array::from(vec![(!null).then_some(i128::from(number) * 1_000_000 + 500_001)]);
                Arc::new(array.with_precision_and_scale(*precision, *scale).expect("fits"))
            }
            DataType::Timestamp(..) => {
                let micros = i64::from(days) * 86_400_000_000 + 1_000_000 * self.user as i64 + index as i64;
                Arc::new(TimestampMicrosecondArray::from(vec![(!null).then_some(micros)]).with_timezone("UTC"))
            }
            other => panic!("a column of type {other}"),
        }
    }

    pub(super) fn batch(&self, spec: &TableSpec) -> RecordBatch {
        let schema = spec.schema();
        let columns = schema.fields().iter().enumerate().map(|(index, field)| self.value(field, index));
        RecordBatch::try_new(schema.clone(), columns.collect()).expect("values of the schema's types")
    }
}

/// Rows of every organisation on one day, in the order of the files.
pub(super) fn rows(day: i32, salt: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    for org in 0..ORGS.len() {
        for user in 0..USERS {
            for (client_type, product) in [("cli", "claude_code"), ("ide", "kiro")] {
                rows.push(Row { org, day, user, product, client_type, salt });
            }
        }
    }
    rows
}

pub(super) fn batch(spec: &TableSpec, rows: &[Row]) -> RecordBatch {
    let batches: Vec<_> = rows.iter().map(|row| row.batch(spec)).collect();
    concat_batches(&spec.schema(), &batches).expect("one schema")
}

pub(super) struct World {
    pub(super) store: Arc<InMemory>,
    pub(super) lake: Lake,
    pub(super) query: Query,
    pub(super) registry: Registry,
    pub(super) app: Router,
    /// Read keys by organisation.
    pub(super) keys: BTreeMap<&'static str, String>,
    /// An ingest key of `acme`.
    pub(super) ingest_key: String,
}

impl World {
    /// The service over tables that are not there yet.
    pub(super) async fn empty_with(settings: Settings) -> Self {
        let store = Arc::new(InMemory::new());
        let lake = Lake::with_store(store.clone(), "memory:///".parse().expect("a URL"));
        Self::over(settings, store, lake).await
    }

    /// Another service over the same tables.
    pub(super) async fn beside(&self, settings: Settings) -> Self {
        Self::over(settings, self.store.clone(), self.lake.clone()).await
    }

    async fn over(settings: Settings, store: Arc<InMemory>, lake: Lake) -> Self {
        let directory = Directory::open("sqlite::memory:").await.expect("in memory");
        let now = Timestamp::UNIX_EPOCH;
        let mut keys = BTreeMap::new();
        for (id, _) in ORGS {
            directory.create_org(&org(id), id, "UTC", now).await.expect("new");
            directory.set_opt_in(&org(id), OptIn::Named, "a test", now).await.expect("there");
            let (_, secret) = directory.create_key(&org(id), Scope::Read, "test", now).await.expect("new");
            keys.insert(id, secret.expose().to_owned());
        }
        let (_, ingest) = directory.create_key(&org("acme"), Scope::Ingest, "test", now).await.expect("new");
        let registry = Registry::new();
        let query = Query::new(&settings, lake.clone(), directory, &registry, [7; 32]).expect("starts");
        let app = router(query.clone());
        Self { store, lake, query, registry, app, keys, ingest_key: ingest.expose().to_owned() }
    }

    pub(super) async fn empty() -> Self {
        Self::empty_with(settings()).await
    }

    /// All tables filled, four days of rollups in one file each.
    pub(super) async fn filled_with(settings: Settings) -> Self {
        let world = Self::empty_with(settings).await;
        for offset in 0..DAYS {
            world.put(&ROLLUP_DAILY, offset, &rows(offset, 0), vec![]).await;
            world.put(&EVENTS, offset, &rows(offset, 0), vec![]).await;
        }
        world.put(&DEAD_LETTERS, 0, &rows(0, 0), vec![]).await;
        for spec in resources().iter().map(|resource| resource.spec).filter(|spec| spec.name != ROLLUP_DAILY.name) {
            for offset in 0..DAYS {
                world.put_keyed(spec, offset).await;
            }
        }
        world
    }

    pub(super) async fn filled() -> Self {
        Self::filled_with(settings()).await
    }

    /// Commits one file with `rows` of a day, and takes `remove` away.
    pub(super) async fn put(&self, spec: &'static TableSpec, offset: i32, rows: &[Row], remove: Vec<DataFile>) {
        self.put_batch(spec, offset, batch(spec, rows), remove).await;
    }

    /// Commits one file with as many rows of a day as the table's key tells apart.
    pub(super) async fn put_keyed(&self, spec: &'static TableSpec, offset: i32) {
        let all = batch(spec, &rows(offset, 0));
        let options = FormatOptions::new();
        let formatters: Vec<_> = spec
            .sort_columns
            .iter()
            .map(|name| ArrayFormatter::try_new(all[*name].as_ref(), &options).expect("a plain column"))
            .collect();
        // Numbers of an organisation have the same length: as texts they sort as they do as numbers.
        let key = |row: usize| formatters.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>();
        let by_key: BTreeMap<Vec<String>, u32> = (0..all.num_rows()).rev().map(|row| (key(row), row as u32)).collect();
        let sorted =
            take_record_batch(&all, &UInt32Array::from_iter_values(by_key.into_values())).expect("its own rows");
        self.put_batch(spec, offset, sorted, vec![]).await;
    }

    pub(super) async fn put_batch(
        &self,
        spec: &'static TableSpec,
        offset: i32,
        rows: RecordBatch,
        remove: Vec<DataFile>,
    ) {
        let table = self.lake.table(spec);
        let mut head = table.create_if_missing().await.expect("a table");
        let partition = spec.partition_column.map(|_| day(offset));
        let file = table.write_file(partition, &[rows]).await.expect("written");
        let change = Change { operation: "WRITE", add: vec![file], remove, data_change: true, ..Change::default() };
        table.commit(&mut head, change).await.expect("committed");
    }

    /// The rollup rows of an organisation in the order of the answer.
    pub(super) fn expected(&self, org_index: usize) -> RecordBatch {
        let mut own: Vec<Row> =
            (0..DAYS).flat_map(|offset| rows(offset, 0)).filter(|row| row.org == org_index).collect();
        own.sort_by_key(|row| (row.day, row.user_key(), row.product, row.client_type));
        batch(&ROLLUP_DAILY, &own)
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.expect("routers do not fail");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a whole body");
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// GET as `org`, with further headers.
    pub(super) async fn get_with(&self, org: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.get_by(&self.keys[org], path, headers).await
    }

    /// GET with a key of one's own, with further headers.
    pub(super) async fn get_by(&self, key: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {key}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).expect("a request")).await
    }

    /// POST of a statement as `org`.
    pub(super) async fn ask(&self, org: &str, statement: &str, format: Format) -> Answer {
        self.ask_by(&self.keys[org], statement, format).await
    }

    /// POST of a statement with a key of one's own.
    pub(super) async fn ask_by(&self, key: &str, statement: &str, format: Format) -> Answer {
        let request = Request::post(format!("{SQL}?format={format}"))
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .body(Body::from(statement.to_owned()));
        self.send(request.expect("a request")).await
    }

    pub(super) async fn get(&self, org: &str, path: &str) -> Answer {
        self.get_with(org, path, &[]).await
    }
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// Asserts a problem of that status and kind, and returns it.
    #[track_caller]
    pub(super) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("https://daybook.dev/problems/{kind}"), "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        problem
    }
}
