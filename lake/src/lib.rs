//! Tables on object storage. The only code that knows Delta, Parquet files, paths and stores.
//!
//! ```text
//! rows ──► file (sorted Parquet, statistics) ──► commit (compare-and-swap, put-if-absent) ──► the Delta log
//!                                                                                               │
//! readers ◄── scan (prune, merge in order) ◄── snapshot ◄── replay (checkpoint + entries) ◄─────┘
//! ```
//!
//! Failures that the design rules out: F06 and F32 (no file is deleted by a writer, and none is committed before it is
//! whole: one put, then the commit), F13 (a commit reads no file list), F25–F27 (no multipart uploads).

mod commit;
mod error;
mod file;
mod replay;
mod scan;
mod store;
mod table;
pub mod testing;
#[cfg(test)]
mod tests;

pub use commit::{Change, Swap};
pub use error::{CommitError, Error, Result};
pub use file::{DataFile, Range};
pub use store::Lake;
pub use table::{Head, Snapshot, Table};
