//! The log of the process itself, to standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::config::{TelemetryFormat, TelemetrySettings};

/// Reads level directives.
///
/// # Errors
/// Where they are none.
pub(crate) fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(directives)
}

/// Starts logging. `level` is a valid directive; the configuration was checked.
pub(crate) fn start(settings: &TelemetrySettings, level: &str) {
    let filter = filter(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    let started = match settings.format {
        TelemetryFormat::Text => builder.try_init(),
        TelemetryFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // A second start in one process (tests) keeps the first.
    drop(started);
}
