//! The database opened: its settings, and its schema brought up to date.

use std::{str::FromStr as _, time::Duration};

use sqlx::{
    AnyPool, Connection as _, SqlSafeStr as _,
    any::AnyPoolOptions,
    migrate::{Migration, MigrationType, Migrator},
    postgres::PgConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode},
};
use url::Url;

use crate::{Error, Result};

/// How long a statement of SQLite waits for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a connection that was refused as busy is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// SQLite's result code of a database that another holds locked.
const SQLITE_BUSY: &str = "5";
/// Statements of this process that PostgreSQL works on at once.
const POSTGRES_CONNECTIONS: u32 = 8;
/// What a migration holds while it works, so that of two processes that start at once one waits.
const POSTGRES_MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(6411892035773420)";

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite { memory: bool },
    Postgres,
}

impl Kind {
    /// Begins a transaction that writes.
    pub(crate) fn begin(self) -> &'static str {
        match self {
            // One that begins by reading may find, when it writes, that another wrote meanwhile; then it cannot go on.
            Self::Sqlite { .. } => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN",
        }
    }

    /// Whether writes wait for each other, each for the disk.
    pub(crate) fn has_one_writer(self) -> bool {
        matches!(self, Self::Sqlite { .. })
    }
}

/// The database of `url`, and which it is; one of SQLite is made where it is not there.
///
/// # Errors
/// As [`crate::Directory::open`].
pub(crate) async fn open(url: &str) -> Result<(AnyPool, Kind)> {
    Ok((at_version(url, None).await?, kind(url)?))
}

/// With the migrations up to `version` alone; `None` = all.
pub(crate) async fn at_version(url: &str, version: Option<i64>) -> Result<AnyPool> {
    let kind = kind(url)?;
    sqlx::any::install_default_drivers();
    let pool = AnyPoolOptions::new().max_lifetime(None).acquire_timeout(Duration::from_secs(10));
    let pool = match kind {
        Kind::Postgres => {
            let pool = pool.max_connections(POSTGRES_CONNECTIONS).idle_timeout(Duration::from_secs(60));
            pool.connect(url).await.map_err(Error::Database)?
        }
        // Each connection to `:memory:` is a database of its own, gone when it closes.
        Kind::Sqlite { memory: true } => {
            let pool = pool.max_connections(1).min_connections(1).idle_timeout(None);
            pool.connect(url).await.map_err(Error::Database)?
        }
        Kind::Sqlite { memory: false } => {
            make(url).await?;
            let pool = pool.max_connections(4).idle_timeout(Duration::from_secs(60));
            // Foreign keys, a busy timeout of 5 s and `synchronous = FULL` (a revocation that was confirmed survives a power cut) are
            // what the driver and the database begin with.
            pool.connect(url).await.map_err(Error::Database)?
        }
    };
    migrate(&pool, kind, version).await?;
    Ok(pool)
}

fn kind(url: &str) -> Result<Kind> {
    let refused = |source| Error::Url { url: without_password(url).chars().take(200).collect(), source };
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("sqlite") => {
            SqliteConnectOptions::from_str(url).map_err(|error| refused(Some(error)))?;
            Ok(Kind::Sqlite { memory: url.contains(":memory:") || url.contains("mode=memory") })
        }
        Some("postgres" | "postgresql") => {
            PgConnectOptions::from_str(url).map_err(|error| refused(Some(error)))?;
            Ok(Kind::Postgres)
        }
        _ => Err(refused(None)),
    }
}

/// A text as it may be shown and logged: where it is a URL, without the password in it.
#[must_use]
pub fn without_password(text: &str) -> String {
    const HIDDEN: &str = "hidden";
    let Ok(mut url) = Url::parse(text) else {
        // What cannot be read cannot be cut either; a password would stand before the last `@`.
        let rest = text.contains("://").then(|| text.rsplit_once('@')).flatten();
        return rest.map_or_else(|| text.to_owned(), |(_, rest)| format!("({HIDDEN})@{rest}"));
    };
    let in_query = url.query_pairs().any(|(name, _)| name == "password");
    if url.password().is_none() && !in_query {
        return text.to_owned();
    }
    let done = url.password().is_none() || url.set_password(Some(HIDDEN)).is_ok();
    if in_query {
        url.set_query(Some(HIDDEN));
    }
    if done { url.into() } else { format!("({HIDDEN})") }
}

/// Makes an SQLite database where it is not there, and turns a new one to WAL. SQLite does that under an exclusive lock and, of two that
/// wait for each other, refuses one at once, whatever the busy timeout is: it tries again.
async fn make(url: &str) -> Result<()> {
    let options = SqliteConnectOptions::from_str(url).map_err(Error::Database)?;
    let options = options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal).busy_timeout(BUSY_TIMEOUT);
    let started = tokio::time::Instant::now();
    loop {
        match SqliteConnection::connect_with(&options).await {
            Err(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| code == SQLITE_BUSY) && started.elapsed() < BUSY_TIMEOUT =>
            {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            outcome => return outcome.map_err(Error::Database)?.close().await.map_err(Error::Database),
        }
    }
}

/// Applies what is new of `migrations/`, in one transaction that keeps other writers out: of two processes that start at once one waits.
async fn migrate(pool: &AnyPool, kind: Kind, version: Option<i64>) -> Result<()> {
    let migrations = [
        (1, "organisations and keys", include_str!("../migrations/0001_organisations_and_keys.sql")),
        (2, "limits and producers", include_str!("../migrations/0002_limits_and_producers.sql")),
        (3, "leases", include_str!("../migrations/0003_leases.sql")),
        (4, "roles", include_str!("../migrations/0004_roles.sql")),
        (5, "opt-in and audit", include_str!("../migrations/0005_opt_in_and_audit.sql")),
        (6, "people", include_str!("../migrations/0006_people.sql")),
    ];
    let migrations = migrations.map(|(version, about, sql)| {
        Migration::new(version, about.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut transaction = pool.begin_with(kind.begin()).await.map_err(Error::Database)?;
    if kind == Kind::Postgres {
        sqlx::raw_sql(POSTGRES_MIGRATION_LOCK).execute(&mut *transaction).await.map_err(Error::Database)?;
    }
    let mut migrator = Migrator::with_migrations(migrations.into());
    // Of its own lock, by session, nothing would be left if the connection is lost; ours ends with the transaction.
    migrator.set_locking(false);
    migrator.run_direct(version, &mut *transaction, false).await.map_err(Error::Migrate)?;
    transaction.commit().await.map_err(Error::Database)
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn passwords_are_not_shown() {
        for (url, expected) in [
            ("sqlite:///srv/directory.db", "sqlite:///srv/directory.db"),
            ("postgres://daybook@db/daybook?sslmode=verify-full", "postgres://daybook@db/daybook?sslmode=verify-full"),
            ("postgres://daybook:hunter2@db:5432/daybook", "postgres://daybook:hidden@db:5432/daybook"),
            ("postgres://db/daybook?user=daybook&password=hunter2", "postgres://db/daybook?hidden"),
            ("postgres://daybook:hunter2@db:port/daybook", "(hidden)@db:port/daybook"),
            ("ada@acme.example", "ada@acme.example"),
        ] {
            assert_eq!(without_password(url), expected);
        }
    }
}
