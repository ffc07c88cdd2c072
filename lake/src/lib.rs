//! Tables on object storage. The only code that knows Delta, Parquet files, paths and stores.
//!
//! ```text
//! rows ──► write (sorted Parquet, statistics) ──► commit (compare-and-swap, put-if-absent) ──► the Delta log
//!                                                                                                │
//! readers ◄── scan (prune, merge in order) ◄── snapshot ◄── replay (checkpoint + entries) ◄──────┘
//! ```
//!
//! Invariants:
//! 1. Rows and the positions that they cover become visible in one table commit, or not at all.
//! 2. A position moves by compare-and-swap only: no writer moves on what another has moved.
//! 3. Nothing that a commit may refer to is ever deleted: by a writer not at all, by [`maintain`] only after its retention.
//! 4. Rows within a file ascend by the table's sort columns.
//!
//! Failures that the design rules out: F06 and F32 (no file is deleted by a writer, and none is committed before it is
//! whole: one put, then the commit), F13 (a commit reads no file list), F25–F27 (no multipart uploads).

mod commit;
mod error;
mod evolve;
mod fetch;
mod file;
mod layout;
mod log_checkpoint;
pub mod maintain;
mod prune;
mod replay;
mod scan;
mod store;
mod table;
pub mod testing;
#[cfg(test)]
mod tests;
mod write;

pub use commit::{Change, Swap};
pub use error::{CommitError, Error, Result};
pub use file::{Bound, ColumnStats, DataFile, FileStats};
pub(crate) use scan::MERGED_FILES_MAX;
pub use scan::read_schema;
pub use store::Lake;
pub use table::{Head, News, Snapshot, Table, Version};
pub use write::ROW_GROUP_ROWS;
