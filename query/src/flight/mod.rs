//! Arrow Flight SQL: columns as they are, for ADBC, JDBC and notebooks.
//!
//! ```text
//! handshake: any user, a token as the password ─► the same token, to be sent as a bearer with each call
//! GetFlightInfo: statement or prepared statement ─► its schema, and a ticket: the statement itself
//! DoGet: ticket ─► rows, within the deadline and as long as the token may see them
//! ```
//!
//! Nothing is kept between calls: tickets and handles are texts of statements, and each call brings its credential. So any node answers any call, a ticket is
//! worth nothing without a credential, and there is nothing to be cleaned up. A handle takes no parameters.
//!
//! Source: <https://arrow.apache.org/docs/format/FlightSql.html>.

mod metadata;
mod status;

use std::{pin::Pin, sync::Arc};

use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::{
    Action, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, Ticket,
    encode::FlightDataEncoderBuilder,
    error::FlightError,
    flight_service_server::FlightServiceServer,
    sql::{
        ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
        CommandGetCatalogs, CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
        CommandPreparedStatementQuery, CommandStatementQuery, ProstMessageExt, SqlInfo, TicketStatementQuery,
        server::FlightSqlService,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use datafusion::{execution::SendableRecordBatchStream, prelude::SessionContext};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::{Message, bytes::Bytes};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
    transport::{Server, server::TcpIncoming},
};

use crate::{Access, Error, Query, Result, Tls, policy, sql};

/// Largest message of a client: a statement and what is around it.
const MESSAGE_BYTES_MAX: usize = 2 * sql::MAX_SQL_BYTES;
/// Calls at once on one connection.
const CALLS_MAX: usize = 32;
/// Batches made ahead of the client.
const AHEAD: usize = 2;

type Boxed<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;
type Answer<T> = std::result::Result<Response<T>, Status>;
type Rows = Boxed<FlightData>;

/// The service as a Flight SQL server.
#[derive(Clone)]
pub struct FlightServer {
    query: Query,
    encrypted: bool,
}

impl FlightServer {
    /// Serves the key holders of `query` until `closing`; then calls under way end. Without `tls`, tokens are
    /// taken over loopback alone.
    ///
    /// # Errors
    /// [`Error::Flight`] where the certificate is of no use or the server fails.
    pub async fn serve(
        query: Query,
        listener: TcpListener,
        tls: Option<&Tls>,
        closing: CancellationToken,
    ) -> Result<()> {
        let service = FlightServiceServer::new(Self { query, encrypted: tls.is_some() });
        let mut server = Server::builder().concurrency_limit_per_connection(CALLS_MAX);
        if let Some(tls) = tls {
            server = server.tls_config(tls.server()).map_err(|error| Error::Flight(Box::new(error)))?;
        }
        server
            .add_service(service.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                closing.cancelled_owned(),
            )
            .await
            .map_err(|error| Error::Flight(Box::new(error)))
    }

    /// What the token that a call carries may see.
    async fn access<T>(&self, request: &Request<T>) -> std::result::Result<(String, Access), Status> {
        let local = request.remote_addr().is_some_and(|peer| peer.ip().is_loopback());
        if !self.encrypted && !local {
            return Err(Status::unauthenticated("tokens are taken over TLS only: connect with grpc+tls"));
        }
        let token = credential(request.metadata())?;
        let admitted = policy::admit(&self.query, &token).await;
        let unknown = || Status::unauthenticated("the token is unknown, revoked or has ended, or may not read");
        let (_, access) = admitted.map_err(|error| status::of(&error))?.ok_or_else(unknown)?;
        Ok((token, access))
    }

    async fn session(&self, access: &Access) -> std::result::Result<SessionContext, Status> {
        self.query.catalog().session(access).await.map_err(|error| status::of(&error))
    }

    /// What the rows of `statement` will look like.
    async fn schema(&self, access: &Access, statement: &str) -> std::result::Result<SchemaRef, Status> {
        let context = self.session(access).await?;
        let schema = self.query.pool().within(sql::schema(&context, statement)).await;
        let schema = schema.map_err(|error| status::of(&error))?;
        Ok(published(&schema))
    }

    async fn info<T>(
        &self,
        statement: &str,
        ticket: impl ProstMessageExt,
        request: &Request<T>,
        descriptor: FlightDescriptor,
    ) -> Answer<FlightInfo> {
        let (_, access) = self.access(request).await?;
        let schema = self.schema(&access, statement).await?;
        described(&schema, &ticket, descriptor)
    }

    /// What a listing will look like, for whoever has a token.
    async fn listing(
        &self,
        schema: SchemaRef,
        ticket: impl ProstMessageExt,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        self.access(&request).await?;
        described(&schema, &ticket, request.into_inner())
    }

    /// The rows of `statement`: made in the pool, until the deadline and as long as the token may see them.
    async fn rows<T>(&self, statement: String, request: &Request<T>) -> Answer<Rows> {
        let (token, access) = self.access(request).await?;
        let deadline = Instant::now() + self.query.statement_time();
        let place = self.query.places().take(access.org()).await.map_err(status::busy)?;
        let watch = self.query.slow().of_call(request.remote_addr(), &statement);
        let context = self.session(&access).await?;
        let planned = self.query.pool().within(sql(&context, &statement));
        let rows = timeout_at(deadline, planned).await.map_err(|_| status::out_of_time())?;
        let rows = watch.counting(rows.map_err(|error| status::of(&error))?);
        let schema = published(&rows.schema());
        let known = schema.clone();
        let (sender, made) = mpsc::channel(AHEAD);
        let server = self.clone();
        self.query.pool().handle().spawn(async move {
            let _place = place;
            let end = tokio::select! {
                ended = timeout_at(deadline, pass_on(rows, schema, &sender)) => {
                    ended.unwrap_or_else(|_| Some(status::out_of_time()))
                }
                () = policy::changed(&server.query, &token, &access) => {
                    Some(Status::unauthenticated("the token was refused, or may see something else now; ask again"))
                }
                () = sender.closed() => None,
            };
            if let Some(end) = end {
                // A client that is gone needs no reason.
                let _ = sender.send(Err(FlightError::Tonic(Box::new(end)))).await;
            }
        });
        // The schema comes first, for an answer without rows too.
        let encoded = FlightDataEncoderBuilder::new().with_schema(known).build(ReceiverStream::new(made));
        Ok(Response::new(encoded.map_err(Status::from).boxed()))
    }
}

/// `batches` to `sender`, as clients can read them; what went wrong with them.
async fn pass_on(
    mut batches: SendableRecordBatchStream,
    schema: SchemaRef,
    sender: &mpsc::Sender<std::result::Result<arrow::array::RecordBatch, FlightError>>,
) -> Option<Status> {
    while let Some(batch) = batches.next().await {
        let batch =
            match batch.map_err(Error::engine).and_then(|batch| rows::portable(&batch, &schema).map_err(Error::Encode))
            {
                Ok(batch) => batch,
                Err(error) => return Some(status::of(&error)),
            };
        if sender.send(Ok(batch)).await.is_err() {
            return None;
        }
    }
    None
}

/// The schema of rows as clients see it. All columns may be null: what is planned and what then runs may differ in that, and clients compare the two.
fn published(schema: &Schema) -> SchemaRef {
    let schema = rows::portable_schema(schema);
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// The token of a call: a bearer, or the password of basic authentication.
fn credential(metadata: &MetadataMap) -> std::result::Result<String, Status> {
    let missing = || Status::unauthenticated("present a token: as `authorization: Bearer dbk_…`, or as the password");
    let value = metadata.get("authorization").and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
    let (scheme, rest) = value.split_once(' ').ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(missing());
    }
    let decoded = STANDARD.decode(rest.trim()).map_err(|_| missing())?;
    let decoded = String::from_utf8(decoded).map_err(|_| missing())?;
    decoded.split_once(':').map(|(_, password)| password.to_owned()).ok_or_else(missing)
}

/// A handle or ticket as the statement that it is.
fn statement(handle: &Bytes) -> std::result::Result<String, Status> {
    String::from_utf8(handle.to_vec()).map_err(|_| Status::invalid_argument("this is no handle of this service"))
}

fn described(schema: &SchemaRef, ticket: &impl ProstMessageExt, descriptor: FlightDescriptor) -> Answer<FlightInfo> {
    let ticket = Ticket { ticket: ticket.as_any().encode_to_vec().into() };
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|error| Status::internal(error.to_string()))?
        .with_endpoint(FlightEndpoint::new().with_ticket(ticket))
        .with_descriptor(descriptor);
    Ok(Response::new(info))
}

#[tonic::async_trait]
impl FlightSqlService for FlightServer {
    type FlightService = Self;

    async fn do_handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Answer<Boxed<HandshakeResponse>> {
        let (token, _) = self.access(&request).await?;
        let answer = HandshakeResponse { protocol_version: 0, payload: token.clone().into() };
        let mut response: Response<Boxed<HandshakeResponse>> = Response::new(stream::iter([Ok(answer)]).boxed());
        let bearer = MetadataValue::try_from(format!("Bearer {token}"));
        let bearer = bearer.map_err(|_| Status::unauthenticated("this is no token"))?;
        response.metadata_mut().insert("authorization", bearer);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        let ticket = TicketStatementQuery { statement_handle: query.query.clone().into() };
        let descriptor = request.get_ref().clone();
        self.info(&query.query, ticket, &request, descriptor).await
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        let text = statement(&query.prepared_statement_handle)?;
        let descriptor = request.get_ref().clone();
        self.info(&text, query, &request, descriptor).await
    }

    async fn do_get_statement(&self, ticket: TicketStatementQuery, request: Request<Ticket>) -> Answer<Rows> {
        self.rows(statement(&ticket.statement_handle)?, &request).await
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Answer<Rows> {
        self.rows(statement(&query.prepared_statement_handle)?, &request).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> std::result::Result<ActionCreatePreparedStatementResult, Status> {
        let (_, access) = self.access(&request).await?;
        let schema = self.schema(&access, &query.query).await?;
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: query.query.into(),
            dataset_schema: metadata::encoded(&schema)?,
            parameter_schema: Bytes::new(),
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        _: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> std::result::Result<(), Status> {
        self.access(&request).await.map(|_| ())
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        self.listing(query.into_builder().schema(), query, request).await
    }

    async fn do_get_catalogs(&self, query: CommandGetCatalogs, request: Request<Ticket>) -> Answer<Rows> {
        self.access(&request).await?;
        metadata::catalogs(query)
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        self.listing(query.clone().into_builder().schema(), query, request).await
    }

    async fn do_get_schemas(&self, query: CommandGetDbSchemas, request: Request<Ticket>) -> Answer<Rows> {
        self.access(&request).await?;
        metadata::schemas(query)
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        self.listing(query.clone().into_builder().schema(), query, request).await
    }

    async fn do_get_tables(&self, query: CommandGetTables, request: Request<Ticket>) -> Answer<Rows> {
        self.access(&request).await?;
        metadata::tables(query)
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        self.listing(query.into_builder().schema(), query, request).await
    }

    async fn do_get_table_types(&self, query: CommandGetTableTypes, request: Request<Ticket>) -> Answer<Rows> {
        self.access(&request).await?;
        metadata::table_types(query)
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Answer<FlightInfo> {
        self.listing(query.clone().into_builder(metadata::sql_infos()).schema(), query, request).await
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, request: Request<Ticket>) -> Answer<Rows> {
        self.access(&request).await?;
        metadata::sql_info(query)
    }

    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}
