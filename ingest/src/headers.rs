//! Headers of a log record: what the server asserts about an event. They come from the credential and the server's
//! clock; nothing of the kind is ever read from the payload.

/// All of them.
pub(crate) const ALL: [&str; 3] = [ORG, RECORDED_TIME, VANTAGE];
/// Organisation id.
pub const ORG: &str = "daybook-org";
/// When the collector took the event: RFC 3339, µs, UTC.
pub const RECORDED_TIME: &str = "daybook-recorded-time";
/// Who saw the event: `client`, `service`, `report` or `otlp`.
pub const VANTAGE: &str = "daybook-vantage";
