//! What clients ask about the server and its tables. It depends on no organisation.

use std::sync::LazyLock;

use arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
    ipc::writer::IpcWriteOptions,
};
use arrow_flight::{
    IpcMessage, SchemaAsIpc,
    encode::FlightDataEncoderBuilder,
    error::FlightError,
    sql::{
        CommandGetCatalogs, CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, SqlInfo,
        metadata::{SqlInfoData, SqlInfoDataBuilder},
    },
};
use futures::{StreamExt, TryStreamExt, stream};
use prost::bytes::Bytes;
use schemas::{DEAD_LETTERS, tables as all_tables};
use tonic::{Response, Status};

use super::{Answer, Rows};
use crate::pg_catalog::DATABASE;

const SCHEMA: &str = "public";
const TABLE: &str = "TABLE";

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn one(schema: SchemaRef, batch: Result<RecordBatch, impl std::fmt::Display>) -> Answer<Rows> {
    let batch = batch.map_err(failed)?;
    let batches = stream::iter([Ok::<_, FlightError>(batch)]);
    let encoded = FlightDataEncoderBuilder::new().with_schema(schema).build(batches);
    Ok(Response::new(encoded.map_err(Status::from).boxed()))
}

/// A schema as an IPC message.
pub(super) fn encoded(schema: &Schema) -> Result<Bytes, Status> {
    let message: IpcMessage = SchemaAsIpc::new(schema, &IpcWriteOptions::default()).try_into().map_err(failed)?;
    Ok(message.0)
}

pub(super) fn catalogs(query: CommandGetCatalogs) -> Answer<Rows> {
    let mut builder = query.into_builder();
    builder.append(DATABASE);
    one(builder.schema(), builder.build())
}

pub(super) fn schemas(query: CommandGetDbSchemas) -> Answer<Rows> {
    let mut builder = query.into_builder();
    builder.append(DATABASE, SCHEMA);
    one(builder.schema(), builder.build())
}

pub(super) fn tables(query: CommandGetTables) -> Answer<Rows> {
    let mut builder = query.into_builder();
    for spec in all_tables::all().filter(|spec| spec.name != DEAD_LETTERS.name) {
        builder.append(DATABASE, SCHEMA, spec.name, TABLE, &rows::portable_schema(&spec.schema())).map_err(failed)?;
    }
    one(builder.schema(), builder.build())
}

pub(super) fn table_types(query: CommandGetTableTypes) -> Answer<Rows> {
    let mut builder = query.into_builder();
    builder.append(TABLE);
    one(builder.schema(), builder.build())
}

pub(super) fn sql_infos() -> &'static SqlInfoData {
    static INFOS: LazyLock<SqlInfoData> = LazyLock::new(|| {
        let mut infos = SqlInfoDataBuilder::new();
        infos.append(SqlInfo::FlightSqlServerName, "Daybook");
        infos.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
        infos.append(SqlInfo::FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
        infos.append(SqlInfo::FlightSqlServerReadOnly, true);
        infos.append(SqlInfo::FlightSqlServerSql, true);
        infos.append(SqlInfo::FlightSqlServerSubstrait, false);
        infos.append(SqlInfo::FlightSqlServerTransaction, 0_i32);
        infos.append(SqlInfo::FlightSqlServerCancel, false);
        infos.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
        infos.build().expect("values of the infos' types")
    });
    &INFOS
}

pub(super) fn sql_info(query: CommandGetSqlInfo) -> Answer<Rows> {
    let builder = query.into_builder(sql_infos());
    one(builder.schema(), builder.build())
}
