//! Tables of older versions.

use std::sync::LazyLock;

use arrow::datatypes::{Schema, SchemaRef};
use schemas::TableSpec;

use super::*;
use crate::Error;

/// `events` before it had its last two columns.
static BEFORE: TableSpec = TableSpec { schema_of: before, ..EVENTS };

fn before(_: &str) -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let schema = EVENTS.schema();
        Arc::new(Schema::new(schema.fields()[..schema.fields().len() - 2].to_vec()))
    });
    SCHEMA.clone()
}

/// A table whose `product` is a number.
static OTHER: TableSpec = TableSpec { schema_of: other, ..EVENTS };

fn other(_: &str) -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let fields = EVENTS
            .schema()
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                "product" => Arc::new(field.as_ref().clone().with_data_type(arrow::datatypes::DataType::Int64)),
                _ => Arc::clone(field),
            })
            .collect::<Vec<_>>();
        Arc::new(Schema::new(fields))
    });
    SCHEMA.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_table_of_an_older_version_gets_the_columns_that_it_lacks() {
    let lake = lake(Arc::new(InMemory::new()));
    let old = lake.table(&BEFORE);
    let mut head = old.create_if_missing().await.expect("created");
    let all = rows(DAY, &[("a", 1, 0)]);
    let fewer = all.project(&(0..all.num_columns() - 2).collect::<Vec<_>>()).expect("a projection");
    let file = old.write_file(Some(DAY), &[fewer]).await.expect("written");
    let add = Change { add: vec![file], ..change(vec![swap("p", 0, 1)]) };
    old.commit(&mut head, add).await.expect("committed");
    // Table properties outlive a log checkpoint too.
    old.log_checkpoint().await.expect("written");

    let table = lake.table(&EVENTS);
    let mut grown = table.create_if_missing().await.expect("there");
    assert_eq!(grown.version(), 2);
    let again = table.create_if_missing().await.expect("there");
    assert_eq!((again.version(), again.table_id()), (2, head.table_id()));
    assert_eq!(again.state.configuration["delta.enableExpiredLogCleanup"], "false");
    append(&table, &mut grown, DAY, &[("b", 2, 1)], vec![swap("p", 1, 2)]).await;
    // A writer of the old version goes on beside it.
    append_columns(&old, &mut head, vec![swap("p", 2, 3)]).await;

    let context = SessionContext::new();
    let snapshot = table.snapshot().await.expect("readable");
    let frame = context.read_table(snapshot.provider()).expect("a table");
    let batches = frame.collect().await.expect("old files and new ones");
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    let other_reader = table.delta_table().await.expect("the Delta library reads it");
    assert_eq!(other_reader.version(), Some(4));
}

async fn append_columns(old: &Table, head: &mut Head, swaps: Vec<Swap>) {
    let all = rows(DAY, &[("c", 3, 2)]);
    let fewer = all.project(&(0..all.num_columns() - 2).collect::<Vec<_>>()).expect("a projection");
    let file = old.write_file(Some(DAY), &[fewer]).await.expect("written");
    old.commit(head, Change { add: vec![file], ..change(swaps) }).await.expect("committed");
}

#[tokio::test]
async fn r11_a_column_of_another_type_is_refused_by_name() {
    let lake = lake(Arc::new(InMemory::new()));
    lake.table(&OTHER).create_if_missing().await.expect("created");
    match lake.table(&EVENTS).create_if_missing().await {
        Err(Error::Columns { table, detail }) => {
            assert_eq!(
                (table.as_str(), detail.as_str()),
                ("events", "column product is \"long\" in place of \"string\"")
            );
        }
        outcome => panic!("{outcome:?}"),
    }
}
