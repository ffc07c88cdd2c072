//! Rows as bytes: the formats in which they are answered, and files of them packed in memory, searched by their order and written without being unpacked.

mod format;
mod packed;
mod search;

use arrow::error::ArrowError;

pub use self::{
    format::{Encoder, Format, Texts, portable, portable_schema},
    packed::{Packed, gather, json},
    search::{After, sort},
};

/// What can be wrong with rows.
pub type Result<T, E = ArrowError> = std::result::Result<T, E>;
