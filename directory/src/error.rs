//! Why a directory operation failed.

use schemas::OrgId;
use sqlx::migrate::MigrateError;

/// What a directory operation returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a directory operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is one of that id already.
    #[error("organisation `{0}` exists already")]
    OrgExists(OrgId),
    /// There is none of that id.
    #[error("there is no organisation `{0}`")]
    UnknownOrg(OrgId),
    /// No zone of the time zone database.
    #[error("`{0}` is no IANA time zone; an example of one is `Europe/Zurich`")]
    TimeZone(String),
    /// More than [`crate::ALLOWED_LATENESS_HOURS_MAX`].
    #[error("an allowed lateness of {0} hours is too long: a year is the most, 8784 hours")]
    Lateness(u32),
    /// An opt-in was to be switched without saying why.
    #[error("an opt-in is switched for a reason, which goes on record")]
    NoReason,
    /// The URL names no database that we can open.
    #[error(
        "`{url}` is no directory: it takes sqlite:///path/to/file, sqlite::memory: or postgres://user@host/database"
    )]
    Url {
        /// As it was given, without a password.
        url: String,
        /// What the driver says.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// The database was made by a newer version, or its schema was changed by hand.
    #[error("the directory's schema could not be brought up to date")]
    Migrate(#[source] MigrateError),
    /// The database cannot be read or written now.
    #[error("the directory's database failed")]
    Database(#[source] sqlx::Error),
    /// A row that we cannot have written.
    #[error("the directory holds an invalid {column} `{value}`")]
    Corrupt {
        /// Column at fault.
        column: &'static str,
        /// What stands there.
        value: String,
    },
}
