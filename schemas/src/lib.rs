//! The contract of Daybook: what an event is, what the tables hold, how ids look.
//!
//! This crate does no I/O. Everything else depends on it; it depends on nothing of ours.
//!
//! ```text
//! events/*.v1.json ──► registry ──► event::decode ──► Event (envelope + typed values)
//! tables.rs        ──► TableSpec (Arrow schema, partitioning, sort order) of events, dead_letters
//! aggregate/definitions/*.json ──► rollup, breakdown, derived ──► TableSpec of rollup_daily and of all that follows from it
//! ```
//!
//! Invariants:
//! 1. The JSON Schemas under `events/` are the only definition of an event's data; the decoder is driven by them.
//! 2. A released schema only grows (see [`compat`]): every fixture of every version decodes for ever.
//! 3. An unknown event type, client type or scalar attribute is kept; content (prompts, answers, paths) is refused.

pub mod avro;
pub mod breakdown;
pub mod clients;
pub mod compat;
pub mod derived;
#[cfg(test)]
mod docs;
pub mod event;
mod ids;
mod members;
mod plain;
pub mod registry;
pub mod revisions;
pub mod rollup;
mod scan;
mod table;
pub mod tables;

pub use ids::{InvalidOrgId, OrgId};
pub use table::{Column, ColumnType, PROPERTIES, TableSpec, arrow_schema, epoch_date, epoch_days};
pub use tables::{DEAD_LETTERS, EVENTS, TEAM_MEMBERS};

#[cfg(test)]
mod tests;
