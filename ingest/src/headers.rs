//! Headers of a log record: what the server asserts about an event. They come from the credential and the server's
//! clock; nothing of the kind is ever read from the payload. Where others than collectors write to the log, a signature tells
//! whether they may say so ([`crate::signature`]).

/// All of them.
pub(crate) const ALL: [&str; 5] = [ORG, RECORDED_TIME, VANTAGE, KEY, SIGNATURE];
/// Organisation id.
pub const ORG: &str = "daybook-org";
/// When the collector took the event: RFC 3339, µs, UTC.
pub const RECORDED_TIME: &str = "daybook-recorded-time";
/// Who saw the event: `client`, `service`, `report` or `otlp`.
pub const VANTAGE: &str = "daybook-vantage";
/// Who signed the record: a key id, or `collector`.
pub const KEY: &str = "daybook-key";
/// The signature: 64 hexadecimal digits ([`crate::signature`]).
pub const SIGNATURE: &str = "daybook-signature";
