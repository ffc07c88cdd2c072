//! Arrow Flight SQL, asked by a client over a socket.

use arrow::{array::RecordBatch, util::pretty::pretty_format_batches};
use arrow_flight::{error::FlightError, sql::client::FlightSqlServiceClient};
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

use super::{
    isolation::{FILE, OTHERS, PROBES, foreign},
    world::{ORGS, World},
};
use crate::{FlightServer, Query};

/// A server, until it is dropped.
pub(super) struct Served {
    endpoint: Endpoint,
    _closes: DropGuard,
}

impl Served {
    pub(super) async fn over(query: &Query) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let closing = CancellationToken::new();
        tokio::spawn(FlightServer::serve(query.clone(), listener, None, closing.clone()));
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("an address");
        Self { endpoint, _closes: closing.drop_guard() }
    }

    pub(super) async fn connect(&self, key: &str) -> FlightSqlServiceClient<Channel> {
        let mut client = FlightSqlServiceClient::new(self.endpoint.connect().await.expect("a connection"));
        client.set_token(key.to_owned());
        client
    }
}

/// The rows of `statement`, or the error as it came.
pub(super) async fn rows(
    client: &mut FlightSqlServiceClient<Channel>,
    statement: &str,
) -> Result<Vec<RecordBatch>, FlightError> {
    let info = client.execute(statement.to_owned(), None).await?;
    let ticket = info.endpoint.first().and_then(|endpoint| endpoint.ticket.clone()).expect("a ticket");
    client.do_get(ticket).await?.try_collect().await
}

/// What a person sees who runs `statement`: all rows, or the error as it came.
pub(super) async fn shown(client: &mut FlightSqlServiceClient<Channel>, statement: &str) -> String {
    match rows(client, statement).await {
        Ok(batches) => pretty_format_batches(&batches).expect("printable").to_string(),
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test]
async fn no_sql_over_flight_shows_foreign_rows() {
    let world = World::filled().await;
    let served = Served::over(&world.query).await;
    for (own, digits) in ORGS {
        let mut client = served.connect(&world.keys[own]).await;
        for statement in PROBES.iter().chain(OTHERS) {
            let text = shown(&mut client, statement).await;
            let found = foreign(&text, statement, own);
            assert!(found.is_empty(), "as {own}, `{statement}` shows {found:?}:\n{text}");
            assert!(!text.contains(FILE), "as {own}, `{statement}` shows a file:\n{text}");
        }
        assert!(shown(&mut client, "SELECT max(prompts) FROM rollup_daily").await.contains(&digits.to_string()));
    }
}
