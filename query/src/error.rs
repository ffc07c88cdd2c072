//! Errors by what the caller can do about them.

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use crate::fence::Unreadable;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The statement is not one of those that read. Ask something else.
    #[error("{0} is not allowed here: one SELECT, EXPLAIN, SHOW or DESCRIBE at a time")]
    Refused(String),
    /// The SQL is wrong, or fails on the data. Correct it.
    #[error("the query cannot be answered as it is")]
    Sql(#[source] Box<DataFusionError>),
    /// The query needs more memory or disk than one may take. Ask for less at once.
    #[error("the query needs more than its budget of memory and disk")]
    Budget(#[source] Box<DataFusionError>),
    /// A table version that was asked for cannot be read any more. Start again.
    #[error("version {version} of table `{table}` cannot be read any more")]
    Gone {
        /// Table.
        table: &'static str,
        /// Delta version.
        version: i64,
    },
    /// A table cannot be read at the moment. Try again; tell the operator.
    #[error("table `{table}` cannot be read")]
    Lake {
        /// Table.
        table: &'static str,
        /// Why.
        #[source]
        source: Box<lake::Error>,
    },
    /// A scan failed. Try again; tell the operator.
    #[error("the scan failed")]
    Scan(#[source] Box<DataFusionError>),
    /// The result has no form in the format. Take another one.
    #[error("the result cannot be written in this format")]
    Encode(#[source] ArrowError),
    /// Two services registered the same metrics. A fault in the wiring.
    #[error("the metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// A setting is out of its range.
    #[error("setting `{name}`: {problem}")]
    Setting {
        /// Setting.
        name: &'static str,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
}

impl Error {
    /// Sorts an error of the engine.
    pub(crate) fn engine(error: DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::Budget(Box::new(error)),
            DataFusionError::External(source) if source.is::<Unreadable>() => Self::Scan(Box::new(error)),
            DataFusionError::ObjectStore(_) | DataFusionError::ParquetError(_) | DataFusionError::IoError(_) => {
                Self::Scan(Box::new(error))
            }
            _ => Self::Sql(Box::new(error)),
        }
    }
}

/// Result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;
