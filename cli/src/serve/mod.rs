//! The wiring: roles in one process, started from the configuration, stopped in order.
//!
//! ```text
//!  HTTP ─┬─ collector ─► log ─► worker ─► lake ◄─ aggregate, maintain
//!        ├─ query ◄────────────────────── lake
//!        ├─ SCIM ─► directory ─► teams ─► lake
//!        └─ /healthz /readyz /metrics
//! ```
//!
//! Stopping: not ready any more; no new connections, and requests under way end; the worker flushes and commits, the
//! rollup ends its run; then the log is closed. A role that ends by itself takes the others with it.

mod health;
mod signals;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::serve::ListenerExt as _;
use directory::Directory;
use ingest::{collector, log::Log, worker::Worker};
use lake::{Lake, maintain};
use prometheus::Registry;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::health::Health;
use crate::{
    args::{Role, ServeArgs},
    config::{Config, Sources},
    fault::{During as _, Fault, Result},
    output, parts, registry, teams, telemetry,
};

/// Which roles a process has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Roles {
    pub(crate) collector: bool,
    pub(crate) worker: bool,
    pub(crate) aggregate: bool,
    pub(crate) query: bool,
    pub(crate) maintain: bool,
}

impl Roles {
    fn of(roles: &[Role]) -> Self {
        let has = |role| roles.contains(&role) || roles.contains(&Role::All);
        Self {
            collector: has(Role::Collector),
            worker: has(Role::Worker),
            aggregate: has(Role::Aggregate),
            query: has(Role::Query),
            maintain: has(Role::Maintain),
        }
    }

    fn names(self) -> String {
        let all = [
            ("collector", self.collector),
            ("worker", self.worker),
            ("aggregate", self.aggregate),
            ("query", self.query),
            ("maintain", self.maintain),
        ];
        all.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// `daybook serve`.
pub(crate) async fn run(args: &ServeArgs, mut sources: Sources) -> Result<()> {
    if let Some(listen) = args.listen {
        sources.set("http.listen", listen.to_string());
    }
    if let Some(listen) = args.flight_listen {
        sources.set("query.flight-listen", listen.to_string());
    }
    if let Some(listen) = args.pg_listen {
        sources.set("query.pg-listen", listen.to_string());
    }
    let config = sources.config()?;
    telemetry::start(&config.telemetry, &config.telemetry.level);
    let roles = Roles::of(&args.role);
    let listener = listen(config.http.listen, "another address with --listen or http.listen").await?;
    let parts = Parts::open(&config, roles).await?;
    let service = Service::start(&config, roles, listener, parts).await?;
    tracing::info!(roles = roles.names(), address = %service.address, "serving");
    service.until(signals::stop()).await
}

/// Takes an address.
pub(crate) async fn listen(address: SocketAddr, remedy: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let fault = Fault::failed(format!("cannot listen on {address}")).source(error);
        fault.help(format!("does something else listen there? {remedy}"))
    })
}

/// What the roles share.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) lake: Lake,
    pub(crate) directory: Directory,
    /// `None` where no role needs it.
    pub(crate) log: Option<Arc<dyn Log>>,
    pub(crate) registry: Registry,
}

impl Parts {
    pub(crate) async fn open(config: &Config, roles: Roles) -> Result<Self> {
        let lake = parts::lake(config)?;
        let directory = parts::directory(config).await?;
        let log = if roles.collector || roles.worker { Some(parts::log(config).await?) } else { None };
        Ok(Self { lake, directory, log, registry: Registry::new() })
    }
}

/// The roles at work.
pub(crate) struct Service {
    /// Where HTTP is served.
    pub(crate) address: SocketAddr,
    /// Where the PostgreSQL protocol is served, if it is.
    pub(crate) pg_address: Option<SocketAddr>,
    health: Health,
    /// Ends HTTP.
    closing: CancellationToken,
    /// Ends the other roles, after HTTP.
    stopping: CancellationToken,
    http: JoinSet<Result<()>>,
    roles: JoinSet<Result<()>>,
    drain: Duration,
    // Last: the log is closed when everything that uses it has ended.
    parts: Parts,
}

impl Service {
    /// Starts the roles.
    pub(crate) async fn start(config: &Config, roles: Roles, listener: TcpListener, parts: Parts) -> Result<Self> {
        let address = listener.local_addr().during("cannot read the address that is listened on")?;
        let health = Health::new(roles, parts.clone());
        let mut routes = health::router(health.clone());
        if roles.collector
            && let Some(log) = parts.log.clone()
        {
            let state = collector::Collector::new(
                config.collector.clone(),
                &config.log.producers,
                log,
                parts.directory.clone(),
                parts::now,
                &parts.registry,
            );
            routes = routes.merge(collector::router(state.during("cannot set up the collector")?));
        }
        let mut asked = None;
        if roles.query {
            let (lake, directory) = (parts.lake.clone(), parts.directory.clone());
            let state = query::Query::new(&config.query, lake, directory, &parts.registry, rand::random());
            let state = state.during("cannot set up the query service")?;
            routes = routes.merge(query::router(state.clone()));
            routes = routes.merge(directory::scim_router(directory::Scim::new(parts.directory.clone(), parts::now)));
            asked = Some(state);
        }
        let (closing, stopping) = (CancellationToken::new(), CancellationToken::new());
        let mut service = Self {
            address,
            pg_address: None,
            health,
            closing: closing.clone(),
            stopping,
            http: JoinSet::new(),
            roles: JoinSet::new(),
            drain: config.http.drain.unsigned_abs(),
            parts,
        };
        if roles.worker {
            service.worker(config).await?;
        }
        if roles.aggregate {
            service.aggregate(config)?;
        }
        if roles.maintain {
            service.maintain(config)?;
        }
        if let Some(query) = asked {
            service.sql(query, &config.query).await?;
        }
        service.http.spawn(async move {
            // An answer in several parts would wait for the client's acknowledgement of each, which takes 40 ms.
            let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
            let serving = axum::serve(listener, routes).with_graceful_shutdown(closing.cancelled_owned());
            serving.await.during("the HTTP server failed")
        });
        Ok(service)
    }

    /// Serves the SQL protocols that have an address.
    async fn sql(&mut self, query: query::Query, settings: &query::Settings) -> Result<()> {
        if settings.pg_listen.is_none() && settings.flight_listen.is_none() {
            return Ok(());
        }
        let tls = query::Tls::read(settings).during("cannot set up TLS")?;
        if let Some(address) = settings.pg_listen {
            let listener = listen(address, "another address with --pg-listen or query.pg-listen").await?;
            let address = listener.local_addr().during("cannot read the address that is listened on")?;
            let server = query::PgServer::new(query.clone(), tls.as_ref()).await;
            let server = server.during("cannot set up the PostgreSQL protocol")?;
            let closing = self.closing.clone();
            self.http.spawn(async move {
                server.serve(listener, closing).await;
                Ok(())
            });
            tracing::info!(%address, "serving the PostgreSQL protocol");
            self.pg_address = Some(address);
        }
        if let Some(address) = settings.flight_listen {
            let listener = listen(address, "another address with --flight-listen or query.flight-listen").await?;
            let address = listener.local_addr().during("cannot read the address that is listened on")?;
            let closing = self.closing.clone();
            self.http.spawn(async move {
                let serving = query::FlightServer::serve(query, listener, tls.as_ref(), closing);
                serving.await.during("Arrow Flight SQL failed")
            });
            tracing::info!(%address, "serving Arrow Flight SQL");
        }
        Ok(())
    }

    async fn worker(&mut self, config: &Config) -> Result<()> {
        let Parts { lake, log: Some(log), registry, .. } = &self.parts else {
            return Err(Fault::failed("a worker needs a log"));
        };
        let worker = Worker::new(config.worker.clone(), lake.clone(), log.clone(), config.log.topic(), registry).await;
        let worker =
            worker.and_then(|worker| worker.with_directory(&config.log.producers, self.parts.directory.clone()));
        let worker = worker.during("cannot start the worker")?;
        let worker = worker.with_schemas(Arc::new(registry::schemas(config)?));
        let stopping = self.stopping.clone();
        self.roles.spawn(async move { worker.run(stopping).await.during("the worker failed") });
        Ok(())
    }

    /// Starts keeping the rollup up to date.
    pub(crate) fn aggregate(&mut self, config: &Config) -> Result<()> {
        let metrics =
            aggregate::Metrics::register(&self.parts.registry).during("cannot set up the rollup's metrics")?;
        let calendars = Arc::new(parts::DirectoryCalendars(self.parts.directory.clone()));
        let service = aggregate::Service {
            lake: self.parts.lake.clone(),
            calendars,
            lease: Arc::new(parts::DirectoryLease::new(self.parts.directory.clone(), &config.lake.url)),
            settings: config.aggregate.clone(),
            clock: parts::now,
            metrics,
        };
        let stopping = self.stopping.clone();
        self.roles.spawn(async move { service.run(stopping).await.during("the rollup failed") });
        let lease = parts::DirectoryLease::of(self.parts.directory.clone(), &format!("teams of {}", config.lake.url));
        let teams = teams::scim::Teams::new(self.parts.lake.clone(), self.parts.directory.clone(), lease);
        let stopping = self.stopping.clone();
        self.roles.spawn(async move {
            teams.run(stopping, parts::now).await;
            Ok(())
        });
        Ok(())
    }

    fn maintain(&mut self, config: &Config) -> Result<()> {
        let metrics =
            maintain::Metrics::register(&self.parts.registry).during("cannot set up maintenance's metrics")?;
        let (lake, settings, stopping) = (self.parts.lake.clone(), config.maintain.clone(), self.stopping.clone());
        self.roles.spawn(async move {
            maintain::serve(lake, schemas::tables::all().collect(), settings, metrics, stopping).await;
            Ok(())
        });
        Ok(())
    }

    /// Serves until `stop` is done, or a role ends; then stops in order.
    pub(crate) async fn until(mut self, stop: impl Future<Output = ()>) -> Result<()> {
        let early = |ended: Option<std::result::Result<Result<()>, tokio::task::JoinError>>| match ended {
            Some(Ok(Ok(()))) | None => Err(Fault::failed("a role ended by itself")),
            Some(Ok(Err(fault))) => Err(fault),
            Some(Err(error)) => Err(Fault::failed("a role broke down").source(error)),
        };
        let outcome = tokio::select! {
            () = stop => Ok(()),
            ended = self.http.join_next() => early(ended),
            ended = self.roles.join_next(), if !self.roles.is_empty() => early(ended),
        };
        if let Err(fault) = &outcome {
            tracing::error!(error = fault as &dyn std::error::Error, "stopping");
        }
        outcome.and(self.stop().await)
    }

    /// Stops in order. The first failure is told, the rest goes on.
    pub(crate) async fn stop(mut self) -> Result<()> {
        tracing::info!("stopping");
        self.health.stopping();
        self.closing.cancel();
        let drained = tokio::time::timeout(self.drain, async { while self.http.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(after = ?self.drain, "requests were still under way; they are broken off");
            self.http.shutdown().await;
        }
        if let Err(error) = self.parts.directory.return_quota().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "what is held of daily quotas could not be given back; it is lost to today");
        }
        self.stopping.cancel();
        let mut outcome = Ok(());
        while let Some(ended) = self.roles.join_next().await {
            outcome = outcome.and(ended.map_err(|error| Fault::failed("a role broke down").source(error)).flatten());
        }
        tracing::info!("stopped");
        outcome
    }
}

/// For `daybook demo`, which stops by the same signals.
pub(crate) async fn stop_signal() {
    signals::stop().await;
    output::note("");
}
