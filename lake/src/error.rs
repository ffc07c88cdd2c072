//! What can go wrong, by what the caller does about it.

use object_store::path::Path;

/// What a table operation returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a table operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object store did not do it; try again later.
    #[error("object store: {path}")]
    Store {
        /// Object.
        path: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// A commit failed.
    #[error("commit")]
    Commit(#[source] Box<CommitError>),
    /// The table is not there yet.
    #[error("there is no table {table}")]
    Missing {
        /// Table.
        table: String,
    },
    /// An object does not hold what it must.
    #[error("{path} is damaged")]
    Corrupt {
        /// Object.
        path: String,
        /// What was found.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The table asks for features that this version does not have.
    #[error("table {table} needs Delta reader {reader} and writer {writer}; this version knows 1 and 2")]
    Protocol {
        /// Table.
        table: String,
        /// minReaderVersion.
        reader: i64,
        /// minWriterVersion.
        writer: i64,
    },
    /// The address of the lake is none that we know.
    #[error("`{url}` is no lake: {detail}")]
    Url {
        /// As given.
        url: String,
        /// What would be right.
        detail: String,
    },
    /// Rows do not fit the table.
    #[error("rows do not fit table {table}: {detail}")]
    Rows {
        /// Table.
        table: String,
        /// What does not fit.
        detail: String,
    },
    /// The table's columns are not those that this version writes, and cannot be made so.
    #[error("table {table} was not made by Daybook, or by a version that this one cannot follow: {detail}")]
    Columns {
        /// Table.
        table: String,
        /// What differs.
        detail: String,
    },
    /// DataFusion failed.
    #[error("scan")]
    Scan(#[source] datafusion::error::DataFusionError),
    /// The Delta library failed.
    #[error("Delta library")]
    Delta(#[source] deltalake_core::DeltaTableError),
}

/// Why a commit was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Another writer has moved on what this commit would move: drop the batch and read the position again.
    #[error("{app_id} stands at {found}, not at {expected}")]
    Fenced {
        /// Transaction application id.
        app_id: String,
        /// What the change was built on.
        expected: i64,
        /// What the table holds.
        found: i64,
    },
    /// Another commit made this one meaningless: a file that it removes is gone, or schema or protocol changed.
    #[error("conflict with version {version}: {detail}")]
    Conflict {
        /// The other commit.
        version: i64,
        /// What clashes.
        detail: String,
    },
    /// Others have committed since the version that this change was to follow.
    #[error("the table has moved on to version {version}")]
    Moved {
        /// The newest version.
        version: i64,
    },
    /// A file was written too long ago: nobody may be sure that it is still there. Write it again.
    #[error("{path} is too old to be added")]
    TooOld {
        /// The file.
        path: String,
    },
    /// Others were faster each time, or the store never answered; where `last` is set, the outcome is unknown.
    #[error("not committed after {attempts} attempts")]
    Exhausted {
        /// Tries.
        attempts: u32,
        /// The last failure of the store, if any.
        #[source]
        last: Option<object_store::Error>,
    },
    /// The table could not be read.
    #[error("the table could not be read")]
    Store(#[source] Error),
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        Self::Commit(Box::new(error))
    }
}

impl Error {
    /// True where an object is not there: a vacuum has deleted it, say.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if matches!(error.downcast_ref(), Some(object_store::Error::NotFound { .. })) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    pub(crate) fn store(path: &Path, source: object_store::Error) -> Self {
        Self::Store { path: path.to_string(), source }
    }

    pub(crate) fn corrupt(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Corrupt { path: path.to_string(), source: source.into() }
    }
}
