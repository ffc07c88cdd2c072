//! The OTLP/HTTP doors: telemetry of tools that know nothing of Daybook becomes events.
//!
//! ```text
//!  body ─► wire: item by item ─► tool by service.name ─► mapping (tools/*.json) ─► convert ─► schemas::event::decode ─► log
//! ```
//!
//! A tool is a file in `tools/` and a line in [`mapping::TOOLS`]; the code knows none of them by name.
//!
//! | item | outcome | told to the client |
//! |---|---|---|
//! | mapped, and an event | appended | |
//! | named under `ignored` in the tool's file | dropped | no: it is not wanted |
//! | of a tool or signal that no file names | dropped, counted as `unknown` | no: exporters log that as their error |
//! | mapped, but no event (no subject, no time, too large, …) | refused | `partial_success` |
//!
//! Retries: an event's id is a UUIDv5 over the natural key of its item, so an export that is sent again counts once.
//!
//! Content (prompts, answers, tool parameters, error messages) is in some items. It is dropped here: only attributes that a mapping
//! names are read, and a test holds the mappings to that.
//!
//! # Cumulative counters
//!
//! A delta point is an increment: one event. A cumulative point is a total since the process began, and collectors keep no state
//! that would survive a restart or be shared. So a counter is cut at fixed totals ([`series`]), one event per cut that it has
//! passed, with an id from (series, start time, number of the cut) and the start time as its time: whoever sees whichever points, in
//! whatever order, how often ever, makes the same events. The price: the part after the last cut is missing (none for counts; at most a
//! grain or 3 % for amounts, until the next cut is passed), and all of it is dated to the start of the series.

use std::collections::HashMap;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse},
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use serde_json::json;

use super::{Assertions, Collector, auth, endpoint::Door, problem::Problem};
use crate::log::Append;

mod convert;
pub(super) mod mapping;
mod series;
pub(super) mod wire;

use convert::{Converted, Source};
use mapping::Tool;
pub(super) use series::Progress;
pub(super) use wire::Encoding;

/// Most bytes of a message to the client about what was refused.
const MESSAGE_CHARS_MAX: usize = 400;
/// Label of items whose tool no file names: metrics must not carry what clients make up.
const OTHER: &str = "other";

/// `POST /v1/logs`.
pub(super) async fn logs(collector: &Collector, request: Request) -> Result<Response, Problem> {
    export(collector, Door::Logs, request).await
}

/// `POST /v1/metrics`.
pub(super) async fn metrics(collector: &Collector, request: Request) -> Result<Response, Problem> {
    export(collector, Door::Metrics, request).await
}

/// `POST /v1/traces`: spans restate what logs and metrics say; taken, so that exporters are content, and dropped unread.
pub(super) async fn traces(collector: &Collector, request: Request) -> Result<Response, Problem> {
    let sender = auth::sender(collector, request.headers()).await?;
    let encoding = Encoding::of(request.headers())?;
    collector.may_send(Door::Traces, &sender)?;
    let charged = collector.read(Door::Traces, request).await?;
    collector.count_body(&sender, charged.body.len());
    collector.0.metrics.otlp_items.with_label_values(&["traces", "ignored"]).inc();
    Ok(answer(Door::Traces, encoding, 0, String::new()))
}

async fn export(collector: &Collector, door: Door, request: Request) -> Result<Response, Problem> {
    let sender = auth::sender(collector, request.headers()).await?;
    let encoding = Encoding::of(request.headers())?;
    collector.may_send(door, &sender)?;
    let charged = collector.read(door, request).await?;
    collector.count_body(&sender, charged.body.len());
    let assertions = Assertions::new(collector, sender.org.clone(), "otlp");
    let limit = collector.0.settings.batch_limit;
    // Decoding and mapping run to their end without a pause: at most one decoded item per thread is in memory.
    let mut batch = Batch::new(&assertions, &collector.0.progress, limit.saturating_mul(EVENTS_PER_ITEM));
    let read = if door == Door::Logs {
        wire::logs(encoding, &charged.body, limit, &mut |resource, record| batch.take_log(resource, record))
    } else {
        wire::metrics(encoding, &charged.body, limit, &mut |resource, metric| batch.take_metric(resource, metric))
    };
    read.map_err(|error| match error {
        wire::Error::Malformed(detail) => Problem::malformed("malformed_otlp", detail),
        wire::Error::TooMany => Problem::too_many(limit),
    })?;
    if batch.is_full() {
        return Err(Problem::too_many(limit));
    }
    let Batch { records, reached, outcomes, unreadable, refused, message, .. } = batch;
    let count = records.len();
    // How many events its items are shows only now.
    collector.may_send_events(door, &sender, count)?;
    collector.store(door, &sender, records).await?;
    collector.0.progress.raise(reached);
    let metrics = &collector.0.metrics;
    metrics.count_accepted(door, count);
    for ((tool, outcome), items) in outcomes {
        metrics.otlp_items.with_label_values(&[tool, outcome]).inc_by(items);
    }
    for (tool, attributes) in unreadable {
        metrics.otlp_unreadable.with_label_values(&[tool]).inc_by(attributes);
    }
    Ok(answer(door, encoding, refused, message))
}

/// More events than this from an average item, and the request is refused: counters may ask for many.
const EVENTS_PER_ITEM: usize = 4;

/// What becomes of the items of one request.
struct Batch<'a> {
    assertions: &'a Assertions,
    progress: &'a Progress,
    /// Inclusive.
    records_max: usize,
    records: Vec<Append>,
    /// Cumulative series and the number of cuts that `records` bring them to.
    reached: Vec<series::Reached>,
    outcomes: HashMap<(&'static str, &'static str), u64>,
    unreadable: HashMap<&'static str, u64>,
    refused: i64,
    /// About the first item that was refused.
    message: String,
}

impl<'a> Batch<'a> {
    fn new(assertions: &'a Assertions, progress: &'a Progress, records_max: usize) -> Self {
        Self {
            assertions,
            progress,
            records_max,
            records: Vec::new(),
            reached: Vec::new(),
            outcomes: HashMap::new(),
            unreadable: HashMap::new(),
            refused: 0,
            message: String::new(),
        }
    }

    /// The request is refused then; nothing more is taken.
    fn is_full(&self) -> bool {
        self.records.len() > self.records_max
    }

    fn take_log(&mut self, resource: &Resource, record: wire::Item<wire::LogRecord>) {
        if self.is_full() {
            return;
        }
        let Some(tool) = mapping::tool_of(resource) else { return self.count(OTHER, "unknown", 1) };
        let converted = match record {
            wire::Item::Read(record) => convert::log(tool, &self.source(resource), &record),
            wire::Item::Refused(detail) => Converted::Refused(1, detail),
        };
        self.settle(tool, converted);
    }

    fn take_metric(&mut self, resource: &Resource, metric: wire::Item<wire::Metric>) {
        let Some(tool) = mapping::tool_of(resource) else { return self.count(OTHER, "unknown", 1) };
        match metric {
            wire::Item::Read(metric) => match convert::counter(tool, &metric) {
                Ok(counter) => {
                    for point in counter.points {
                        if self.is_full() {
                            return;
                        }
                        let converted = convert::point(tool, &self.source(resource), &counter, point, self.progress);
                        self.settle(tool, converted);
                    }
                }
                Err(outcome) => self.settle(tool, outcome),
            },
            wire::Item::Refused(detail) => self.settle(tool, Converted::Refused(1, detail)),
        }
    }

    fn source<'r>(&self, resource: &'r Resource) -> Source<'r>
    where
        'a: 'r,
    {
        Source { org: &self.assertions.org, resource: &resource.attributes, latest_us: self.assertions.latest_us() }
    }

    fn settle(&mut self, tool: &'static Tool, converted: Converted) {
        match converted {
            Converted::Events { events, reached, unreadable } => {
                self.count(&tool.tool, "mapped", 1);
                if unreadable > 0 {
                    *self.unreadable.entry(&tool.tool).or_default() += unreadable;
                }
                let records = events.into_iter().map(|(subject, event)| self.assertions.record(&subject, event.into()));
                self.records.extend(records);
                self.reached.extend(reached);
            }
            Converted::Ignored => self.count(&tool.tool, "ignored", 1),
            Converted::Unknown => self.count(&tool.tool, "unknown", 1),
            Converted::Refused(items, detail) => {
                self.count(&tool.tool, "rejected", items);
                self.refused = self.refused.saturating_add_unsigned(items);
                if self.message.is_empty() {
                    self.message = detail.chars().take(MESSAGE_CHARS_MAX).collect();
                }
            }
        }
    }

    fn count(&mut self, tool: &'static str, outcome: &'static str, items: u64) {
        *self.outcomes.entry((tool, outcome)).or_default() += items;
    }
}

/// The export response, in the encoding of the request. `partial_success` is absent where nothing was refused (OTLP § Partial Success).
fn answer(door: Door, encoding: Encoding, refused: i64, message: String) -> Response {
    let (content_type, body) = match encoding {
        Encoding::Protobuf => {
            let body = match door {
                Door::Metrics => ExportMetricsServiceResponse {
                    partial_success: (refused > 0).then_some(ExportMetricsPartialSuccess {
                        rejected_data_points: refused,
                        error_message: message,
                    }),
                }
                .encode_to_vec(),
                // Logs and traces have the same tags; nothing of traces is ever refused.
                _ => ExportLogsServiceResponse {
                    partial_success: (refused > 0)
                        .then_some(ExportLogsPartialSuccess { rejected_log_records: refused, error_message: message }),
                }
                .encode_to_vec(),
            };
            ("application/x-protobuf", body)
        }
        Encoding::Json => {
            let name = if door == Door::Metrics { "rejectedDataPoints" } else { "rejectedLogRecords" };
            // An int64 is a text in protobuf's JSON.
            let body = match refused {
                0 => json!({}),
                _ => json!({"partialSuccess": {name: refused.to_string(), "errorMessage": message}}),
            };
            ("application/json", body.to_string().into_bytes())
        }
    };
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl Encoding {
    /// By `content-type`.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim();
        match () {
            () if media.eq_ignore_ascii_case("application/x-protobuf") => Ok(Self::Protobuf),
            () if media.eq_ignore_ascii_case("application/json") => Ok(Self::Json),
            () => Err(Problem::media_type("application/x-protobuf or application/json")),
        }
    }
}
