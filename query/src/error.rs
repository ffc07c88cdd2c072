//! Errors by what the caller can do about them.

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use crate::{fence::Unreadable, policy::Forbidden};

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
    /// The table is not for the credential's role. Ask another one, or with another credential.
    #[error(transparent)]
    Forbidden(Forbidden),
    /// Who may see what cannot be looked up. Try again; tell the operator.
    #[error("the directory cannot be read")]
    Directory(#[source] directory::Error),
    /// That people are looked at cannot be put on record, and so they are not shown. Try again; tell the operator.
    #[error("views of people cannot be put on record at the moment")]
    Unrecorded,
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
    /// A certificate or its key is of no use. Correct the file or the setting.
    #[error("`{}` is of no use for TLS", path.display())]
    Tls {
        /// File.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The Flight server cannot start or go on. Correct the certificate or the address.
    #[error("the Flight server failed")]
    Flight(#[source] Box<tonic::transport::Error>),
    /// The system gives no threads. Give it more.
    #[error("the threads for SQL cannot be started")]
    Threads(#[source] std::io::Error),
    /// A setting is out of its range.
    #[error("setting `{name}`: {problem}")]
    Setting {
        /// Setting.
        name: &'static str,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
}

/// What an error of the engine comes from.
pub(crate) enum Kind {
    /// The query and the data.
    Sql,
    /// The budget.
    Budget,
    /// Files and stores.
    Scan,
    /// What the credential may see.
    Forbidden(Forbidden),
}

impl Error {
    /// What an error of the engine comes from.
    pub(crate) fn kind(error: &DataFusionError) -> Kind {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => Kind::Budget,
            DataFusionError::External(source) if source.is::<Unreadable>() => Kind::Scan,
            DataFusionError::External(source) if source.is::<Forbidden>() => {
                Kind::Forbidden(source.downcast_ref::<Forbidden>().expect("just looked").clone())
            }
            DataFusionError::ObjectStore(_) | DataFusionError::ParquetError(_) | DataFusionError::IoError(_) => {
                Kind::Scan
            }
            _ => Kind::Sql,
        }
    }

    /// Sorts an error of the engine.
    pub(crate) fn engine(error: DataFusionError) -> Self {
        match Self::kind(&error) {
            Kind::Budget => Self::Budget(Box::new(error)),
            Kind::Scan => Self::Scan(Box::new(error)),
            Kind::Forbidden(why) => Self::Forbidden(why),
            Kind::Sql => Self::Sql(Box::new(error)),
        }
    }
}

/// Result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;
