//! One connection: nothing before the key, then a session of its own.

use std::{
    fmt::Debug,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use datafusion::{logical_expr::LogicalPlan, prelude::SessionContext, sql::sqlparser::ast::Statement};
use datafusion_postgres::{
    DfSessionService,
    hooks::{cursor::CursorStatementHook, set_show::SetShowHook, transactions::TransactionStatementHook},
    pgwire::{
        api::{
            ClientInfo, ClientPortalStore, ErrorHandler, PgWireServerHandlers, Type,
            auth::StartupHandler,
            cancel::CancelHandler,
            portal::{Format, Portal},
            query::{ExtendedQueryHandler, SimpleQueryHandler},
            results::{FieldInfo, QueryResponse, Response, Tag},
            stmt::QueryParser,
            store::PortalStore,
        },
        error::{PgWireError, PgWireResult},
        messages::{PgWireBackendMessage, extendedquery::Execute},
    },
};
use futures::{Sink, SinkExt, StreamExt};
use tokio::sync::Semaphore;

use super::{PgServer, cancels::Cancellable, errors, statements::Statements, turn::Turn};
use crate::{Access, live::Versions, places::Full, sql};

/// Statements and cursors that one connection can have open; more than the service has places.
const OPEN_MAX: u32 = 1 << 16;

/// Rows of a portal or cursor at once.
pub(super) const FETCH_ROWS_MAX: i32 = 10_000;

/// A statement as the library keeps it: its text, and what became of it.
pub(super) type Prepared = (String, Option<(Statement, LogicalPlan)>);

/// A connection, signed in or not.
pub(super) struct Connection {
    pub(super) server: Arc<PgServer>,
    pub(super) peer: SocketAddr,
    session: OnceLock<Session>,
    /// A permit less for each statement under way.
    idle: Arc<Semaphore>,
}

/// What a key opens.
struct Session {
    key: String,
    access: Access,
    service: DfSessionService,
    versions: Versions,
    cancel: Cancellable,
}

impl Connection {
    pub(super) fn new(server: Arc<PgServer>, peer: SocketAddr) -> Self {
        let idle = Arc::new(Semaphore::new(OPEN_MAX as usize));
        Self { server, peer, session: OnceLock::new(), idle }
    }

    /// Opens a session for `access`, which `key` gave; it is told that its user is `user`.
    pub(super) fn open(&self, key: String, access: Access, user: &str, cancel: Cancellable) -> PgWireResult<()> {
        let (context, versions) = self.server.sessions.session(&access, user).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a SQL session cannot be set up");
            errors::no_session()
        })?;
        let context: Arc<SessionContext> = Arc::new(context);
        let service = DfSessionService::new_with_hooks(
            context,
            vec![
                Arc::new(Statements),
                Arc::new(CursorStatementHook),
                Arc::new(SetShowHook),
                Arc::new(TransactionStatementHook),
            ],
        );
        let session = Session { key, access, service, versions, cancel };
        self.session.set(session).map_err(|_| errors::no_session())
    }

    /// The key that it was opened with, and what it could see then.
    pub(super) fn opened(&self) -> Option<(&str, &Access)> {
        self.session.get().map(|session| (session.key.as_str(), &session.access))
    }

    /// Returns when no statement is under way.
    pub(super) async fn idle(&self) {
        let _all = self.idle.acquire_many(OPEN_MAX).await;
    }

    fn session(&self) -> PgWireResult<&Session> {
        self.session.get().ok_or_else(errors::not_signed_in)
    }

    /// A place for the statement `text`, which reads the newest versions.
    async fn turn(&self, session: &Session, text: &str) -> PgWireResult<Turn> {
        let place = self.server.query.places().take(session.access.org()).await.map_err(errors::busy)?;
        let busy = self.idle.clone().try_acquire_owned().map_err(|_| errors::busy(Full::Service))?;
        session.versions.forget();
        Ok(Turn {
            held: Arc::new((place, busy)),
            pool: self.server.query.pool().handle().clone(),
            left: self.server.query.statement_time(),
            cancelled: session.cancel.statement(),
            watch: self.server.query.slow().of_connection(self.peer, text),
        })
    }
}

fn within(turn: &Turn, response: Response) -> Response {
    match response {
        Response::Query(answer) => Response::Query(turn.rows(answer)),
        other => other,
    }
}

#[async_trait]
impl SimpleQueryHandler for Connection {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        sql::check_size(query).map_err(errors::of)?;
        let session = self.session()?;
        let mut turn = self.turn(session, query).await?;
        let answers = turn
            .run(self.server.query.pool().within(SimpleQueryHandler::do_query(&session.service, client, query)))
            .await?;
        Ok(answers.into_iter().map(|answer| within(&turn, answer)).collect())
    }
}

#[async_trait]
impl ExtendedQueryHandler for Connection {
    type Statement = Prepared;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        let parser = self.session.get().map(|session| session.service.query_parser());
        Arc::new(Parser { parser, versions: self.session.get().map(|session| session.versions.clone()) })
    }

    async fn on_execute<C>(&self, client: &mut C, mut message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // The library makes room for as many rows as the client names. Fewer are fine: the portal is suspended, and the client asks on.
        message.max_rows = message.max_rows.clamp(0, FETCH_ROWS_MAX);
        self._on_execute(client, message).await
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<Prepared>, max_rows: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let session = self.session()?;
        let mut turn = self.turn(session, &portal.statement.statement.0).await?;
        let work = ExtendedQueryHandler::do_query(&session.service, client, portal, max_rows);
        let answer = turn.run(self.server.query.pool().within(work)).await?;
        match within(&turn, answer) {
            // The library would collect all rows before it sends the first.
            Response::Query(answer) if max_rows == 0 => all_rows(client, answer).await,
            answer => Ok(answer),
        }
    }
}

/// Sends the rows of `answer` as they come; what is left to be sent is that they are complete.
async fn all_rows<C>(client: &mut C, mut answer: QueryResponse) -> PgWireResult<Response>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let mut sent = 0;
    while let Some(row) = answer.data_rows.next().await {
        client.feed(PgWireBackendMessage::DataRow(row?)).await?;
        sent += 1;
    }
    Ok(Response::Execution(Tag::new("SELECT").with_rows(sent)))
}

/// Prepares statements in the connection's session.
pub(super) struct Parser {
    parser: Option<Arc<datafusion_postgres::Parser>>,
    versions: Option<Versions>,
}

impl Parser {
    fn parser(&self) -> PgWireResult<&datafusion_postgres::Parser> {
        self.parser.as_deref().ok_or_else(errors::not_signed_in)
    }
}

#[async_trait]
impl QueryParser for Parser {
    type Statement = Prepared;

    async fn parse_sql<C>(&self, client: &C, text: &str, types: &[Option<Type>]) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        sql::check_size(text).map_err(errors::of)?;
        if let Some(versions) = &self.versions {
            versions.forget();
        }
        self.parser()?.parse_sql(client, text, types).await
    }

    fn get_parameter_types(&self, statement: &Prepared) -> PgWireResult<Vec<Type>> {
        self.parser()?.get_parameter_types(statement)
    }

    fn get_result_schema(&self, statement: &Prepared, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        self.parser()?.get_result_schema(statement, format)
    }
}

impl ErrorHandler for Connection {
    fn on_error<C: ClientInfo>(&self, _: &C, error: &mut PgWireError) {
        errors::retold(error);
    }
}

/// What the library is given: the connection, in all its parts.
pub(super) struct Handlers(pub(super) Arc<Connection>);

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        self.0.clone()
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        self.0.clone()
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        self.0.clone()
    }

    fn error_handler(&self) -> Arc<impl ErrorHandler> {
        self.0.clone()
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        self.0.server.cancels.clone()
    }
}
