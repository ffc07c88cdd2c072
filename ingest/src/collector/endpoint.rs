//! What all doors have in common: request id, span, dispatch, metrics, rendering of problems.

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    Collector, events, otlp,
    otlp::Encoding,
    problem::{Form, Problem},
};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Events,
    Logs,
    Metrics,
    Traces,
}

impl Door {
    pub(super) const ALL: [Self; 4] = [Self::Events, Self::Logs, Self::Metrics, Self::Traces];

    /// As metrics and logs call it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }

    /// OTLP clients read errors in the encoding of their request.
    fn form(self, request: &Request) -> Form {
        let encoding = || Encoding::of(request.headers()).unwrap_or(Encoding::Json);
        match self {
            Self::Events => Form::Problem,
            Self::Logs | Self::Metrics | Self::Traces if encoding() == Encoding::Protobuf => Form::Protobuf,
            Self::Logs | Self::Metrics | Self::Traces => Form::Json,
        }
    }
}

impl Collector {
    pub(super) async fn serve(self, door: Door, request: Request) -> Response {
        let (id, form) = (request_id(&request), door.form(&request));
        let span = tracing::info_span!("request", request_id = %id, door = door.as_str());
        let outcome = async {
            match door {
                Door::Events => events::post(&self, request).await,
                Door::Logs => otlp::logs(&self, request).await,
                Door::Metrics => otlp::metrics(&self, request).await,
                Door::Traces => otlp::traces(&self, request).await,
            }
        };
        let outcome = outcome.instrument(span).await;
        self.answer(door, form, &id, outcome)
    }

    pub(super) async fn refuse_method(self, door: Door, request: Request) -> Response {
        let (id, form) = (request_id(&request), door.form(&request));
        self.answer(door, form, &id, Err(Problem::method()))
    }

    fn answer(&self, door: Door, form: Form, id: &str, outcome: Result<Response, Problem>) -> Response {
        let mut response = outcome.unwrap_or_else(|problem| problem.render(form, id));
        self.0.metrics.count_request(door, response.status());
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID.clone(), HeaderValue::from_str(id).expect("visible ASCII, see request_id"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// The client's request id if it is one (1 to 128 visible ASCII characters), else a new one.
fn request_id(request: &Request) -> String {
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let plain = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    given.filter(plain).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}
