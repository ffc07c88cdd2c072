//! A database of the first version keeps everything.

use sqlx::{Row as _, sqlite::SqlitePool};

use super::{now, org};
use crate::{Directory, Role, Scope};

#[tokio::test]
async fn keys_of_the_first_version_stay_valid() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite://{}", dir.path().join("directory.db").display());
    let directory = Directory::open(&url).await.expect("new");
    directory.create_org(&org("acme"), "Acme", "UTC", now()).await.expect("new");
    let (id, secret) = directory.create_key(&org("acme"), Scope::Ingest, "laptop", now()).await.expect("new");
    // Back to the first version, by hand.
    let back = "DROP TABLE leases; DROP TABLE quota_leases; ALTER TABLE organisations DROP COLUMN daily_quota; \
                ALTER TABLE organisations DROP COLUMN pseudonym_key; CREATE TABLE old AS SELECT * FROM keys; DROP TABLE keys";
    sqlx::raw_sql(back).execute(&directory.pool).await.expect("writable");
    let first = include_str!("../../migrations/0001_organisations_and_keys.sql");
    let first = first.split_once("CREATE TABLE keys").expect("it makes the table").1;
    let first = format!("CREATE TABLE keys{first}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(first)).execute(&directory.pool).await.expect("writable");
    let back = "INSERT INTO keys SELECT id, org_id, scope, label, secret_sha256, created_at_us, revoked_at_us FROM old; \
                DROP TABLE old; DELETE FROM _sqlx_migrations WHERE version > 1";
    sqlx::raw_sql(back).execute(&directory.pool).await.expect("writable");
    drop(directory);

    let directory = Directory::open(&url).await.expect("brought up to date");
    let principal = directory.authenticate(secret.expose(), Scope::Ingest).await.expect("readable").expect("valid");
    assert_eq!((principal.key_id, principal.rate_limit, principal.daily_quota), (id, None, None));
    assert_eq!(principal.role, Role::Service);
    assert_eq!(directory.keys(&org("acme")).await.expect("readable")[0].label, "laptop");
    assert!(directory.create_key(&org("acme"), Scope::Produce, "", now()).await.is_ok());
    let pool: &SqlitePool = &directory.pool;
    let rows = sqlx::query("SELECT version FROM _sqlx_migrations ORDER BY 1").fetch_all(pool).await.expect("readable");
    assert_eq!(rows.iter().map(|row| row.get::<i64, _>(0)).collect::<Vec<_>>(), [1, 2, 3, 4]);
}
