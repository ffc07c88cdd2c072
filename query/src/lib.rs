//! Tables to people: the query service and the SQL of `daybook query`.
//!
//! ```text
//!   GET /v1/rollups/daily, …      POST /v1/sql, Flight SQL        psql, drivers, BI tools
//!            │                               │                           │
//!          http: credential, parameters,    sql: statements            pgwire: sign-in, turns
//!            │   cursor, ETag, limits        │   that only read          │ pg_catalog, live
//!            ├──────────► catalog ◄──────────┴───────────────────────────┘     versions of the tables, shared
//!            │               │
//!           hot            fence                   below everything: one organisation's rows
//!            │               │
//!            └──────────►  lake                    Delta tables; hot keeps files of them in memory
//! ```
//!
//! Invariants:
//! 1. Whoever comes over the network sees one organisation, or a part of it, as the credential says (`policy`), and sees it through [`fence`], or out of
//!    memory where it sees an organisation's rows whole (`hot`).
//! 2. A request reads one version of a table; the pages behind one cursor all read the same version.
//! 3. That people are looked at by name is on record before they are shown (`views`).
//! 4. Memory is bounded: requests at once × page, the engine's pool, files in memory, a few versions' file lists.
//!
//! F39 (a privileged connection voids row-level security): there is no bypass role; [`Access::Operator`] is for whoever
//! holds the lake's own credentials, and no route creates it. F40 (COPY, external tables): see [`sql`](mod@sql).

mod bounded;
mod catalog;
mod columns;
mod error;
pub mod fence;
mod flight;
pub mod formats;
mod hot;
mod http;
mod literals;
mod live;
mod pg_catalog;
mod pgwire;
mod places;
mod policy;
mod pool;
mod settings;
mod slow;
pub mod sql;
mod tls;
mod views;

pub use catalog::{Catalog, Pinned, session};
pub use error::{Error, Result};
pub use flight::FlightServer;
pub use http::{Query, public_routes, router, routes};
pub use pgwire::PgServer;
pub use policy::{Access, Forbidden, Part, Why};
pub use settings::{Limits, Settings};
pub use sql::sql;
pub use tls::Tls;

#[cfg(test)]
mod tests;
