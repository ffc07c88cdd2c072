//! `GET /v1/rollups/daily`: formats, filters, ETags, parameters, credentials.

use std::io::Cursor;

use arrow::{array::RecordBatch, compute::concat_batches, csv, ipc, json::ReaderBuilder};
use axum::{body::Body, http::Request};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::rollup::{ROLLUP_DAILY, columns, measures};
use serde_json::Value;

use super::world::{DAYS, ORGS, USERS, World, day, rows};
use crate::{formats::Format, http::SQL, public_routes, routes};

const ALL: &str = "/v1/rollups/daily?from=2026-03-01&to=2026-03-31";

/// What a client reads from an answer in `format`.
fn read(format: Format, body: &[u8]) -> RecordBatch {
    let schema = ROLLUP_DAILY.schema();
    let batches: Vec<RecordBatch> = match format {
        Format::Json => {
            let document: Value = serde_json::from_slice(body).expect("JSON");
            let lines: Vec<String> = document["data"].as_array().expect("rows").iter().map(Value::to_string).collect();
            return read(Format::Ndjson, lines.join("\n").as_bytes());
        }
        Format::Ndjson => {
            let reader = ReaderBuilder::new(schema.clone()).with_strict_mode(true).build(Cursor::new(body));
            reader.expect("a reader").collect::<Result<_, _>>().expect("rows")
        }
        Format::Csv => {
            let reader = csv::ReaderBuilder::new(schema.clone()).with_header(true).build(Cursor::new(body));
            reader.expect("a reader").collect::<Result<_, _>>().expect("rows")
        }
        Format::Parquet => {
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::copy_from_slice(body));
            let reader = reader.expect("Parquet").build().expect("a reader");
            reader.collect::<Result<_, _>>().expect("rows")
        }
        Format::Arrow => {
            let reader = ipc::reader::StreamReader::try_new(Cursor::new(body), None).expect("an IPC stream");
            assert_eq!(reader.schema(), schema, "with its comments");
            reader.collect::<Result<_, _>>().expect("rows")
        }
    };
    let batches: Vec<RecordBatch> = batches
        .into_iter()
        .map(|batch| RecordBatch::try_new(schema.clone(), batch.columns().to_vec()).expect("the table's types"))
        .collect();
    concat_batches(&schema, &batches).expect("one schema")
}

#[tokio::test]
async fn every_format_round_trips() {
    let world = World::filled().await;
    let pairs = Format::ALL.iter().flat_map(|format| ORGS.iter().enumerate().map(move |org| (*format, org)));
    for (format, (index, (org, _))) in pairs {
        let by_name = world.get(org, &format!("{ALL}&format={format}")).await;
        assert_eq!(by_name.status, 200, "{}", by_name.text());
        assert_eq!(by_name.header("content-type"), format.media_type());
        assert_eq!(read(format, &by_name.body), world.expected(index));
        let by_accept = world.get_with(org, ALL, &[("accept", format.media_type())]).await;
        assert_eq!(by_accept.body, by_name.body);
        assert_eq!(by_accept.header("etag"), by_name.header("etag"));
    }
}

#[tokio::test]
async fn json_is_exact() {
    let world = World::filled().await;
    let answer = world.get("acme", &format!("{ALL}&user=email:canary-acme-1@example.org&product=kiro&limit=1")).await;
    let row = &answer.json()["data"][0];
    assert_eq!(row["activity_date"], "2026-03-01");
    assert_eq!(row["org_id"], "acme");
    let at = |name: &str| columns().iter().position(|column| column.name == name).expect("there");
    let decimal = columns()
        .iter()
        .find(|column| column.column_type == schemas::ColumnType::Decimal && row[column.name].is_string());
    let decimal = decimal.expect("some decimal is not null").name;
    assert_eq!(row[decimal], format!("{}.500001", 47_182_810_000 + at(decimal) as i64 * 50 + 7));
    assert_eq!(row["day_start"], format!("2026-03-01T00:00:01.{:06}Z", at("day_start")));
    // Null is null, and is there.
    let null = columns().iter().enumerate().find(|(index, column)| column.nullable && (index + 1) % 3 == 0);
    let (_, null) = null.expect("some column is nullable");
    assert!(row.as_object().expect("an object").contains_key(null.name) && row[null.name].is_null());
    assert_eq!(row.as_object().expect("an object").len(), columns().len());
}

#[tokio::test]
async fn filters_select() {
    let world = World::filled().await;
    let count = async |query: &str| {
        let answer = world.get("globex", &format!("/v1/rollups/daily?{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"].as_array().expect("rows").len()
    };
    let (days, users) = (DAYS as usize, USERS);
    assert_eq!(count("").await, days * users * 2, "the last 30 days");
    assert_eq!(count("from=2026-03-02&to=2026-03-03").await, 2 * users * 2);
    assert_eq!(count("from=2026-03-03").await, 2 * users * 2);
    assert_eq!(count("to=2026-03-01").await, users * 2);
    assert_eq!(count("to=2026-02-28").await, 0);
    assert_eq!(count("from=2027-01-01").await, 0);
    assert_eq!(count("client_type=ide").await, days * users);
    assert_eq!(count("client_type=ide,cli").await, days * users * 2);
    assert_eq!(count("product=kiro&product=claude_code").await, days * users * 2);
    assert_eq!(count("product=kiro&client_type=cli").await, 0);
    assert_eq!(count("user=email:canary-globex-1@example.org,email:canary-globex-2@example.org").await, days * 4);
    assert_eq!(count("user=email:canary-acme-1@example.org").await, 0, "another organisation's user");
    assert_eq!(count("user=a%5C,b").await, 0, "a comma within a value");
    assert_eq!(count("user=%27%20OR%201%3D1--").await, 0);
}

#[tokio::test]
async fn columns_are_a_subset_in_the_order_asked() {
    let world = World::filled().await;
    let path = "/v1/rollups/daily?columns=prompts,user_key&columns=activity_date&format=csv&limit=3";
    let answer = world.get("acme", path).await;
    assert_eq!(answer.text().lines().next(), Some("prompts,user_key,activity_date"));
    assert_eq!(answer.text().lines().count(), 4);
    let nothing = world.get("acme", "/v1/rollups/daily?to=2020-01-01&columns=prompts&format=csv").await;
    assert_eq!(nothing.text(), "prompts\n");
}

#[tokio::test]
async fn a_table_that_is_not_there_is_empty() {
    let world = World::empty().await;
    let answer = world.get("acme", "/v1/rollups/daily").await;
    assert_eq!(answer.text(), "{\"data\":[],\"next_cursor\":null,\"table_version\":null}\n");
    for format in Format::ALL {
        let answer = world.get("acme", &format!("/v1/rollups/daily?format={format}")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(read(format, &answer.body).num_rows(), 0);
    }
    world.query.ready().await.expect("an empty lake is a lake");
    world.put(&ROLLUP_DAILY, 0, &rows(0, 0), vec![]).await;
    let answer = world.get("acme", "/v1/rollups/daily").await;
    assert_eq!(answer.json()["data"].as_array().map(Vec::len), Some(USERS * 2));
}

#[tokio::test]
async fn etags_are_strong_and_spare_the_answer() {
    let world = World::filled().await;
    let first = world.get("acme", ALL).await;
    let etag = first.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.len() > 20, "{etag}");
    assert_eq!(first.header("daybook-table-version"), DAYS.to_string());
    assert_eq!(first.header("vary"), "accept, authorization");
    for value in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
        let again = world.get_with("acme", ALL, &[("if-none-match", &value)]).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{value}");
        assert_eq!(again.header("etag"), etag);
    }
    assert_eq!(world.get_with("acme", ALL, &[("if-none-match", "\"other\"")]).await.status, 200);
    let two_days = "/v1/rollups/daily?from=2026-03-01&to=2026-03-02".to_owned();
    let others = ["limit=999", "format=csv", "columns=prompts", "product=kiro"].map(|other| format!("{ALL}&{other}"));
    for path in others.into_iter().chain([two_days]) {
        let answer = world.get_with("acme", &path, &[("if-none-match", &etag)]).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    assert_eq!(world.get_with("globex", ALL, &[("if-none-match", &etag)]).await.status, 200, "another organisation");
    world.put(&ROLLUP_DAILY, 0, &rows(0, 1), vec![]).await;
    let after = world.get_with("acme", ALL, &[("if-none-match", &etag)]).await;
    assert_eq!(after.status, 200, "another table version");
    assert_ne!(after.header("etag"), etag);
}

/// Query, kind of problem, parameter that it names.
const BAD: &[(&str, &str, &str)] = &[
    ("colour=red", "unknown-parameter", "colour"),
    ("team=a", "unknown-parameter", "team"),
    ("From=2026-01-01", "unknown-parameter", "From"),
    ("org_id=globex", "unknown-parameter", "org_id"),
    ("from=yesterday", "invalid-parameter", "from"),
    ("from=2026-02-30", "invalid-parameter", "from"),
    ("from=20260201", "invalid-parameter", "from"),
    ("from=2026-02-01T00:00", "invalid-parameter", "from"),
    ("from=", "invalid-parameter", "from"),
    ("from=2026-01-01&from=2026-01-02", "invalid-parameter", "from"),
    ("to=2026-13-01", "invalid-parameter", "to"),
    ("from=2026-03-02&to=2026-03-01", "invalid-parameter", "from"),
    ("user=", "invalid-parameter", "user"),
    ("user=a,,b", "invalid-parameter", "user"),
    ("product=a,", "invalid-parameter", "product"),
    ("client_type=toaster", "invalid-parameter", "client_type"),
    ("columns=prompts,nonsense", "invalid-parameter", "columns"),
    ("columns=prompts,prompts", "invalid-parameter", "columns"),
    ("columns=", "invalid-parameter", "columns"),
    ("limit=0", "invalid-parameter", "limit"),
    ("limit=10001", "invalid-parameter", "limit"),
    ("limit=-1", "invalid-parameter", "limit"),
    ("limit=ten", "invalid-parameter", "limit"),
    ("format=xml", "invalid-parameter", "format"),
    ("cursor=abc", "invalid-cursor", "cursor"),
    ("cursor=%00%ff", "invalid-cursor", "cursor"),
];

#[tokio::test]
async fn a_bad_parameter_is_named() {
    let world = World::empty().await;
    for (query, kind, parameter) in BAD {
        let problem = world.get("acme", &format!("/v1/rollups/daily?{query}")).await.problem(400, kind);
        assert_eq!(problem["parameter"], *parameter, "{problem}");
        if *kind == "unknown-parameter" {
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("client_type")), "{problem}");
            assert!(problem["known"].as_array().is_some_and(|known| known.iter().any(|name| name == "cursor")));
        }
    }
}

#[tokio::test]
async fn an_unacceptable_format_is_refused() {
    let world = World::filled().await;
    let problem = world.get_with("acme", ALL, &[("accept", "image/png, text/html")]).await;
    problem.problem(406, "not-acceptable");
    let kind = async |accept: &str| {
        let answer = world.get_with("acme", ALL, &[("accept", accept)]).await;
        answer.header("content-type").to_owned()
    };
    assert_eq!(kind("*/*").await, "application/json");
    assert_eq!(kind("text/*").await, "text/csv");
    assert_eq!(kind("text/csv, */*").await, "text/csv");
    assert_eq!(kind("text/csv;q=0.5, application/json;q=0.9").await, "application/json");
    assert_eq!(kind("application/json;q=0, */*").await, "application/x-ndjson");
    assert_eq!(kind("image/png, application/VND.apache.parquet").await, "application/vnd.apache.parquet");
}

#[tokio::test]
async fn no_credential_no_answer() {
    let world = World::filled().await;
    let (public, all) = (public_routes(), routes());
    for path in all.into_iter().filter(|path| !public.contains(path)) {
        let (method, others) = if path == SQL { ("POST", "POST") } else { ("GET", "GET, HEAD") };
        let as_key = async |value: Option<&str>| {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(value) = value {
                request = request.header("authorization", value);
            }
            world.send(request.body(Body::from("SELECT 1")).expect("a request")).await
        };
        let own = format!("Bearer {}", world.keys["acme"]);
        assert_eq!(as_key(Some(&own)).await.status, 200);
        assert_eq!(as_key(Some(&own.replacen("Bearer", "bearer", 1))).await.status, 200);
        let mut cut = own.clone();
        cut.pop();
        for bad in ["Bearer dbk_nobody_xxx", "Bearer ", "Basic YTpi", &cut, world.keys["acme"].as_str()] {
            let answer = as_key(Some(bad)).await;
            answer.problem(401, "unauthorized");
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
            assert!(!answer.text().contains("canary"));
        }
        as_key(None).await.problem(401, "unauthorized");
        as_key(Some(&format!("Bearer {}", world.ingest_key))).await.problem(403, "wrong-scope");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"].into_iter().filter(|other| *other != method) {
            let request = Request::builder().method(method).uri(path).header("authorization", &own);
            let answer = world.send(request.body(Body::empty()).expect("a request")).await;
            answer.problem(405, "method-not-allowed");
            assert_eq!(answer.header("allow"), others);
        }
    }
    for path in public {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let answer = world.send(request).await;
        assert_eq!((answer.status.as_u16(), &answer.body), (200, &world.get("globex", path).await.body), "{path}");
    }
}

#[tokio::test]
async fn the_schema_names_every_column() {
    let world = World::empty().await;
    let answer = world.get("acme", "/v1/rollups/daily/schema").await;
    let catalogue = answer.json();
    let listed = catalogue["columns"].as_array().expect("columns");
    assert_eq!(listed.len(), columns().len());
    for measure in measures() {
        let entry = listed.iter().find(|entry| entry["name"] == measure.name).expect("listed");
        assert_eq!(entry["unit"], measure.unit);
        assert_eq!(entry["measure"]["families"], serde_json::json!(measure.families));
    }
    world.get("acme", "/v1/rollups/daily/schema?x=1").await.problem(400, "unknown-parameter");
    assert_eq!(day(0).to_string(), "2026-03-01");
}
