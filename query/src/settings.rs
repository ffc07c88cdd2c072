//! Settings of the query service.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use jiff::SignedDuration;

use crate::{Error, Result};

/// Settings; their defaults are in the command's configuration.
#[derive(Clone, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Longest time from request to the end of the answer.
    pub timeout: SignedDuration,
    /// Requests answered at once; further ones wait shortly, then get 503.
    pub concurrent_requests: usize,
    /// Of these, requests and statements of one organisation; further ones wait shortly, then get 429.
    pub concurrent_requests_per_organisation: usize,
    /// Connections of SQL clients at once; further ones are closed.
    pub connections: usize,
    /// How long a request waits for its turn.
    pub queue_wait: SignedDuration,
    /// Memory of all running queries together.
    pub memory: ByteSize,
    /// Disk for spilling of all running queries together; 0 forbids it.
    pub spill: ByteSize,
    /// Memory of files that are kept decoded for REST, on top of that of queries; 0 keeps none.
    pub hot_memory: ByteSize,
    /// How old the known version of a table may be before the table is asked for a newer one.
    pub snapshot_age_max: SignedDuration,
    /// Older versions of a table kept for open cursors.
    pub cursor_versions: usize,
    /// Statements and pages that take longer are logged; 0 logs none.
    pub slow_query: SignedDuration,
    /// Secret that authenticates cursors, at least 32 bytes, the same on all query nodes. Without one each process makes its own, and
    /// cursors end with it.
    #[serde(default, skip_serializing)]
    pub cursor_key: Option<String>,
    /// Address of the PostgreSQL protocol; `None` = not served.
    #[serde(default)]
    pub pg_listen: Option<SocketAddr>,
    /// Address of Arrow Flight SQL; `None` = not served.
    #[serde(default)]
    pub flight_listen: Option<SocketAddr>,
    /// Certificate chain of the SQL protocols, as PEM.
    #[serde(default)]
    pub tls_certificate_file: Option<PathBuf>,
    /// Private key of the certificate, as PEM.
    #[serde(default)]
    pub tls_key_file: Option<PathBuf>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("timeout", &self.timeout)
            .field("concurrent_requests", &self.concurrent_requests)
            .field("concurrent_requests_per_organisation", &self.concurrent_requests_per_organisation)
            .field("connections", &self.connections)
            .field("queue_wait", &self.queue_wait)
            .field("memory", &self.memory)
            .field("spill", &self.spill)
            .field("hot_memory", &self.hot_memory)
            .field("snapshot_age_max", &self.snapshot_age_max)
            .field("cursor_versions", &self.cursor_versions)
            .field("slow_query", &self.slow_query)
            .field("cursor_key", &self.cursor_key.as_ref().map(|_| "…"))
            .field("pg_listen", &self.pg_listen)
            .field("flight_listen", &self.flight_listen)
            .field("tls_certificate_file", &self.tls_certificate_file)
            .field("tls_key_file", &self.tls_key_file)
            .finish()
    }
}

impl Settings {
    /// Every setting that is out of its range.
    #[must_use]
    pub fn faults(&self) -> Vec<Error> {
        let fault = |name, problem| Error::Setting { name, problem };
        let mut found = Vec::new();
        for (name, value) in [("timeout", self.timeout), ("queue-wait", self.queue_wait)] {
            if value.is_negative() || (value.is_zero() && name == "timeout") {
                found.push(fault(name, "must be a positive duration, such as \"30s\""));
            }
        }
        if self.snapshot_age_max.is_negative() {
            found.push(fault("snapshot-age-max", "must not be negative; \"0s\" asks the table on every request"));
        }
        if self.slow_query.is_negative() {
            found.push(fault("slow-query", "must not be negative; \"0s\" logs none"));
        }
        if self.concurrent_requests == 0 {
            found.push(fault("concurrent-requests", "must be at least 1"));
        }
        if self.concurrent_requests_per_organisation == 0 {
            found.push(fault("concurrent-requests-per-organisation", "must be at least 1"));
        }
        if self.connections == 0 {
            found.push(fault("connections", "must be at least 1"));
        }
        if self.memory.as_u64() < 16 << 20 {
            found.push(fault("memory", "must be at least \"16MiB\""));
        }
        if self.cursor_key.as_ref().is_some_and(|key| key.len() < 32) {
            found.push(fault("cursor-key", "must be at least 32 bytes"));
        }
        if self.tls_certificate_file.is_some() != self.tls_key_file.is_some() {
            found.push(fault("tls-key-file", "goes together with tls-certificate-file: set both or none"));
        }
        for (name, listen) in [("pg-listen", self.pg_listen), ("flight-listen", self.flight_listen)] {
            if listen.is_some_and(|address| !address.ip().is_loopback()) && self.tls_certificate_file.is_none() {
                let problem = "keys cross a network over TLS only: set tls-certificate-file and tls-key-file, or listen on 127.0.0.1";
                found.push(fault(name, problem));
            }
        }
        found
    }

    /// Errs with the first fault.
    pub(crate) fn check(&self) -> Result<()> {
        self.faults().into_iter().next().map_or(Ok(()), Err)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            memory_bytes: usize::try_from(self.memory.as_u64()).unwrap_or(usize::MAX),
            spill_bytes: self.spill.as_u64(),
            snapshot_age_max: self.snapshot_age_max.unsigned_abs(),
            cursor_versions: self.cursor_versions,
        }
    }
}

/// Limits of a [`crate::Catalog`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory of all running queries together (bytes).
    pub memory_bytes: usize,
    /// Spill space of all running queries together (bytes); 0 forbids spilling.
    pub spill_bytes: u64,
    /// How old the known version of a table may be.
    pub snapshot_age_max: Duration,
    /// Older versions of a table kept for open cursors.
    pub cursor_versions: usize,
}

impl Default for Limits {
    /// For one person on one machine: what `daybook query` runs with.
    fn default() -> Self {
        Self {
            memory_bytes: 2 << 30,
            spill_bytes: 16 << 30,
            snapshot_age_max: Duration::from_millis(500),
            cursor_versions: 16,
        }
    }
}
