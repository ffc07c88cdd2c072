//! `POST /v1/events`.
//!
//! | | answer |
//! |---|---|
//! | some or all accepted, and durable | 202 `{"accepted": n, "rejected": [{index, cause, field, detail, id}, …]}` |
//! | a batch of which none is an event | 422, with `rejected` |
//! | one event that is none | 422, or 400 where it is no JSON |
//! | an empty batch | 202 |
//! | more events than the key, or a day of the organisation, takes | 429, with `Retry-After`; 413 where no waiting helps |

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use schemas::event;
use serde_json::{Value, json};

use super::{
    Assertions, Collector, auth,
    cloudevents::{Mode, Split, readable_id},
    endpoint::Door,
    problem::Problem,
};
use crate::log::Append;

pub(super) async fn post(collector: &Collector, request: Request) -> Result<Response, Problem> {
    let sender = auth::sender(collector, request.headers()).await?;
    collector.may_send(Door::Events, &sender)?;
    let headers = request.headers().clone();
    let mode = Mode::of(&headers)?;
    let charged = collector.read(Door::Events, request).await?;
    collector.count_body(&sender, charged.body.len());
    let split = mode.split(&headers, charged.body.clone(), collector.0.settings.batch_limit)?;
    let events = if let Split::Batch(events) = &split { events.len() } else { 1 };
    collector.may_send_events(Door::Events, &sender, events)?;
    let assertions = Assertions::new(collector, sender.org.clone(), "client");
    match split {
        Split::One(event) => {
            let record = collector.check(&assertions, 0, event)?;
            collector.store(Door::Events, &sender, vec![record]).await?;
            collector.0.metrics.count_accepted(Door::Events, 1);
            Ok(accepted(1, &[]))
        }
        Split::Batch(events) => {
            let (mut records, mut rejected) = (Vec::with_capacity(events.len()), Vec::new());
            for (index, event) in events.into_iter().enumerate() {
                match collector.check(&assertions, index, event) {
                    Ok(record) => records.push(record),
                    Err(problem) => rejected.push(problem.document()),
                }
            }
            if records.is_empty() && !rejected.is_empty() {
                return Err(Problem::none_accepted(rejected));
            }
            let count = records.len();
            collector.store(Door::Events, &sender, records).await?;
            collector.0.metrics.count_accepted(Door::Events, count);
            Ok(accepted(count, &rejected))
        }
    }
}

impl Collector {
    /// The record of an event that the worker will be able to decode.
    fn check(&self, assertions: &Assertions, index: usize, event: Bytes) -> Result<Append, Problem> {
        match event::decode(&event, assertions.latest_us()) {
            Ok(decoded) => Ok(assertions.record(&decoded.subject, event.clone())),
            Err(rejection) => {
                self.0.metrics.count_rejected(Door::Events, rejection.cause.as_str());
                Err(Problem::rejection(rejection, index, readable_id(&event)))
            }
        }
    }
}

fn accepted(count: usize, rejected: &[Value]) -> Response {
    let mut response = Response::new(Body::from(json!({"accepted": count, "rejected": rejected}).to_string()));
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
