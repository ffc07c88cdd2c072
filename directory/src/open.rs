//! The database opened: its settings, and its schema brought up to date.

use std::{str::FromStr as _, time::Duration};

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{Error, Result};

/// How long a statement waits for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a connection that was refused as busy is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// SQLite's result code of a database that another holds locked.
const SQLITE_BUSY: &str = "5";

/// The database of `url`, made where it is not there.
///
/// # Errors
/// As [`crate::Directory::open`].
pub(crate) async fn open(url: &str) -> Result<SqlitePool> {
    let refused = |source| Error::Url { url: url.chars().take(200).collect(), source };
    if !url.starts_with("sqlite:") {
        return Err(refused(None));
    }
    let options = SqliteConnectOptions::from_str(url).map_err(|error| refused(Some(error)))?;
    let options = options
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A revocation that was confirmed survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT);
    let memory = url.contains(":memory:") || url.contains("mode=memory");
    let pool = SqlitePoolOptions::new()
        // Each connection to `:memory:` is a database of its own, gone when it closes.
        .max_connections(if memory { 1 } else { 4 })
        .min_connections(u32::from(memory))
        .idle_timeout((!memory).then_some(Duration::from_secs(60)))
        .max_lifetime(None)
        .acquire_timeout(Duration::from_secs(10));
    let pool = connect(pool, options).await?;
    migrate(&pool).await?;
    Ok(pool)
}

/// The pool with its first connection, which turns a new database to WAL. SQLite does that under an exclusive lock and, of two that wait for
/// each other, refuses one at once, whatever the busy timeout is: it tries again.
async fn connect(pool: SqlitePoolOptions, options: SqliteConnectOptions) -> Result<SqlitePool> {
    let started = tokio::time::Instant::now();
    loop {
        match pool.clone().connect_with(options.clone()).await {
            Err(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| code == SQLITE_BUSY) && started.elapsed() < BUSY_TIMEOUT =>
            {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            outcome => return outcome.map_err(Error::Database),
        }
    }
}

/// Applies what is new of `migrations/`, in one write transaction: of two processes that start at once one waits.
async fn migrate(pool: &SqlitePool) -> Result<()> {
    let migrations = [
        (1, "organisations and keys", include_str!("../migrations/0001_organisations_and_keys.sql")),
        (2, "limits and producers", include_str!("../migrations/0002_limits_and_producers.sql")),
        (3, "leases", include_str!("../migrations/0003_leases.sql")),
        (4, "roles", include_str!("../migrations/0004_roles.sql")),
    ];
    let migrations = migrations.map(|(version, about, sql)| {
        Migration::new(version, about.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.map_err(Error::Database)?;
    let migrator = Migrator::with_migrations(migrations.into());
    migrator.run_direct(None, &mut *transaction, false).await.map_err(Error::Migrate)?;
    transaction.commit().await.map_err(Error::Database)
}
