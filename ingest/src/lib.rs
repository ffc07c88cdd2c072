//! The way in: from clients to the `events` table.
//!
//! ```text
//! client ──HTTP──► collector ──► log (Kafka, embedded, simulated) ──► worker ──► events, dead_letters
//! ```
//!
//! The collector and the worker never call each other: they meet in the log. rdkafka is named in `log::kafka` alone.

pub mod collector;
pub mod dead_letters;
pub mod headers;
pub mod log;
pub mod signature;
pub mod worker;
