//! What takes long: a line in the log for each statement or page that took longer than the setting allows, and the time of every statement as a metric.
//!
//! The line says what was asked without what was asked for: a statement stands there without its literals, a page by its route and the names of its
//! parameters. Who asked is found by the request's id, or the connection's peer, in the lines around it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use datafusion::{
    arrow::array::RecordBatch,
    physical_plan::{SendableRecordBatchStream, stream::RecordBatchStreamAdapter},
    sql::sqlparser::dialect::{Dialect, GenericDialect, PostgreSqlDialect},
};
use futures::TryStreamExt;
use prometheus::{HistogramOpts, HistogramVec, Registry};
use tokio::time::Instant;

use crate::literals::without_literals;

/// Where statements come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Http,
    Postgres,
    Flight,
}

impl Door {
    const ALL: [Self; 3] = [Self::Http, Self::Postgres, Self::Flight];

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Postgres => "postgresql",
            Self::Flight => "flight",
        }
    }

    /// How its statements are read.
    fn dialect(self) -> &'static dyn Dialect {
        match self {
            Self::Http | Self::Flight => &GenericDialect {},
            Self::Postgres => &PostgreSqlDialect {},
        }
    }
}

/// The log of slow statements and pages.
pub(crate) struct Slow {
    /// `None` = nothing is logged.
    after: Option<Duration>,
    seconds: HistogramVec,
}

impl Slow {
    /// Logs what takes longer than `after`, or nothing where that is zero.
    pub(crate) fn register(registry: &Registry, after: Duration) -> prometheus::Result<Arc<Self>> {
        let help = "Time of a statement to its last row, by protocol. Over PostgreSQL's without the client's reading, which is counted over the others.";
        let buckets = vec![0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
        let seconds = HistogramOpts::new("daybook_query_statement_seconds", help).buckets(buckets);
        let seconds = HistogramVec::new(seconds, &["door"])?;
        // There from the start: a rate over a series that appears later misses its first step.
        for door in Door::ALL {
            seconds.with_label_values(&[door.name()]);
        }
        registry.register(Box::new(seconds.clone()))?;
        Ok(Arc::new(Self { after: (!after.is_zero()).then_some(after), seconds }))
    }

    /// A statement of an HTTP request, whose time begins now.
    pub(crate) fn of_request(self: &Arc<Self>, request_id: String, text: &str) -> Arc<Watch> {
        self.watch(What::Statement(Door::Http, text.to_owned()), Who::Request(request_id), Clock::Since(Instant::now()))
    }

    /// A statement of Flight SQL, whose time begins now.
    pub(crate) fn of_call(self: &Arc<Self>, peer: Option<SocketAddr>, text: &str) -> Arc<Watch> {
        self.watch(What::Statement(Door::Flight, text.to_owned()), Who::Peer(peer), Clock::Since(Instant::now()))
    }

    /// A statement of a PostgreSQL connection, whose time is told by [`Watch::worked`]: between its rows a client may do as it likes.
    pub(crate) fn of_connection(self: &Arc<Self>, peer: SocketAddr, text: &str) -> Arc<Watch> {
        self.watch(
            What::Statement(Door::Postgres, text.to_owned()),
            Who::Peer(Some(peer)),
            Clock::Worked(AtomicU64::new(0)),
        )
    }

    /// A page of `route`, whose time begins now. `parameters`: their names.
    pub(crate) fn of_page(self: &Arc<Self>, request_id: String, route: &'static str, parameters: String) -> Arc<Watch> {
        self.watch(What::Page { route, parameters }, Who::Request(request_id), Clock::Since(Instant::now()))
    }

    fn watch(self: &Arc<Self>, what: What, who: Who, clock: Clock) -> Arc<Watch> {
        Arc::new(Watch { slow: self.clone(), what, who, clock, rows: AtomicU64::new(0) })
    }
}

enum What {
    Statement(Door, String),
    Page { route: &'static str, parameters: String },
}

enum Who {
    Request(String),
    Peer(Option<SocketAddr>),
}

enum Clock {
    Since(Instant),
    /// µs.
    Worked(AtomicU64),
}

/// A statement or page under way. It ends, however it ends, when the last of these is dropped.
pub(crate) struct Watch {
    slow: Arc<Slow>,
    what: What,
    who: Who,
    clock: Clock,
    rows: AtomicU64,
}

impl Watch {
    /// So many rows more were answered.
    pub(crate) fn rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Relaxed);
    }

    /// So long was worked on it; ignored where its time is measured from its beginning.
    pub(crate) fn worked(&self, time: Duration) {
        if let Clock::Worked(micros) = &self.clock {
            micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// The same rows, counted; the statement lasts as long as they do.
    pub(crate) fn counting(self: Arc<Self>, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let schema = rows.schema();
        let rows = rows.inspect_ok(move |batch: &RecordBatch| self.rows(batch.num_rows()));
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }

    fn time(&self) -> Duration {
        match &self.clock {
            Clock::Since(began) => began.elapsed(),
            Clock::Worked(micros) => Duration::from_micros(micros.load(Relaxed)),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let time = self.time();
        if let What::Statement(door, _) = &self.what {
            self.slow.seconds.with_label_values(&[door.name()]).observe(time.as_secs_f64());
        }
        if self.slow.after.is_none_or(|after| time <= after) {
            return;
        }
        let (request_id, peer) = match &self.who {
            Who::Request(id) => (Some(id.as_str()), None),
            Who::Peer(peer) => (None, peer.map(tracing::field::display)),
        };
        let duration_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let rows = self.rows.load(Relaxed);
        match &self.what {
            What::Statement(door, text) => {
                let statement = without_literals(text, door.dialect());
                tracing::warn!(
                    target: "daybook::slow_query",
                    request_id,
                    peer,
                    protocol = door.name(),
                    duration_ms,
                    rows,
                    statement,
                    "a slow statement"
                );
            }
            What::Page { route, parameters } => {
                tracing::warn!(
                    target: "daybook::slow_query",
                    request_id,
                    protocol = "rest",
                    duration_ms,
                    rows,
                    route,
                    parameters,
                    "a slow page"
                );
            }
        }
    }
}
