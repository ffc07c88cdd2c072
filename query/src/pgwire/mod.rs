//! The PostgreSQL protocol (frontend/backend protocol 3): psql, drivers and BI tools.
//!
//! ```text
//! socket ─► TLS ─► startup: a read key as the password ─► session: tables behind the key's fence
//!                                                           │
//!   Query, Parse/Bind/Execute, DECLARE/FETCH ─► statements: what reads, and SET, SHOW, BEGIN … ─► turn ─► rows
//! ```
//!
//! Invariants:
//! 1. The organisation and the role come from the key. User and database names of the client are labels.
//! 2. A password crosses only TLS, or the loopback interface.
//! 3. A statement runs within the service's deadline and its places, and is cancelled by its connection's secret (CancelRequest) alone.
//! 4. A connection whose key was revoked, or may see something else than before, ends within seconds, in the middle of a statement if need be.

mod cancels;
mod connection;
mod errors;
mod rewrite;
mod startup;
mod statements;
mod turn;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use datafusion_postgres::pgwire::{
    api::RandomPidSecretKeyGenerator,
    error::PgWireResult,
    tokio::{TlsAcceptor, process_socket},
};
use directory::Principal;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::{
    cancels::Cancels,
    connection::{Connection, Handlers},
};
use crate::{Access, Error, Query, Result, Tls, pg_catalog::PgCatalog, policy};

/// How long a server that cannot accept waits before it tries again (no file descriptors left, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The service as a PostgreSQL server.
pub struct PgServer {
    query: Query,
    sessions: PgCatalog,
    tls: Option<TlsAcceptor>,
    cancels: Arc<Cancels>,
    ids: RandomPidSecretKeyGenerator,
    /// Sockets at once, signed in or not.
    sockets: Arc<Semaphore>,
}

impl PgServer {
    /// A server for the key holders of `query`; without `tls` it takes passwords over loopback alone.
    ///
    /// # Errors
    /// [`Error::Tls`] where the certificate is of no use, [`Error::Scan`] where the catalogue cannot be set up.
    pub async fn new(query: Query, tls: Option<&Tls>) -> Result<Self> {
        let tls = tls.map(Tls::acceptor).transpose()?;
        let sessions = PgCatalog::new(query.catalog()).await.map_err(|error| Error::Scan(Box::new(error)))?;
        let sockets = Arc::new(Semaphore::new(query.connections_max()));
        Ok(Self { query, sessions, tls, cancels: Arc::default(), ids: RandomPidSecretKeyGenerator::default(), sockets })
    }

    /// Serves until `closing`; then statements under way end, and connections with none end at once. Dropping the future breaks all off.
    pub async fn serve(self, listener: TcpListener, closing: CancellationToken) {
        let server = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = closing.cancelled() => break,
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let Ok(place) = server.sockets.clone().try_acquire_owned() else {
                        tracing::warn!(%peer, "too many SQL connections; one is refused");
                        continue;
                    };
                    let (server, closing) = (server.clone(), closing.clone());
                    connections.spawn(async move {
                        let _place = place;
                        server.connection(socket, peer, closing).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn connection(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, closing: CancellationToken) {
        let connection = Arc::new(Connection::new(self.clone(), peer));
        let _open = self.query.connected();
        tokio::select! {
            ended = process_socket(socket, self.tls.clone(), Handlers(connection.clone())) => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a SQL connection broke");
                }
            }
            () = self.revoked(&connection) => {
                tracing::info!(%peer, "the key of a SQL connection was revoked or may see something else now; the connection ends");
            }
            () = async { closing.cancelled().await; connection.idle().await } => {}
        }
    }

    /// Who presents `key`, and what may be seen with it.
    async fn admitted(&self, key: &str) -> PgWireResult<(Principal, Access)> {
        let admitted = policy::admit(&self.query, key).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a key cannot be looked up");
            errors::no_directory()
        })?;
        admitted.ok_or_else(errors::unknown_key)
    }

    /// Returns when the connection's key is refused, or may see something else than it could.
    async fn revoked(&self, connection: &Connection) {
        loop {
            sleep(policy::RECHECK).await;
            if let Some((key, access)) = connection.opened() {
                return policy::changed(&self.query, key, access).await;
            }
        }
    }
}
