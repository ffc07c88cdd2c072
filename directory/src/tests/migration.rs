//! A database of the first version keeps everything.

use super::{Database, now, org};
use crate::{Role, Scope, key, open};

on_both! {
    keys_of_the_first_version_stay_valid,
}

async fn keys_of_the_first_version_stay_valid(database: Database) {
    let pool = open::at_version(&database.url, Some(1)).await.expect("the first version");
    let (id, secret) = key::generate(&mut rand::rng());
    let first = format!(
        "INSERT INTO organisations (id, name, time_zone, allowed_lateness_hours, created_at_us) VALUES ('acme', 'Acme', 'UTC', 72, 0); \
         INSERT INTO keys (id, org_id, scope, label, secret_sha256, created_at_us, revoked_at_us) \
         VALUES ('{}', 'acme', 'ingest', 'laptop', '{}', 0, NULL)",
        id.as_str(),
        hex::encode(key::digest(secret.secret_part()))
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(first)).execute(&pool).await.expect("writable");
    pool.close().await;

    let directory = database.open().await;
    let principal = directory.authenticate(secret.expose(), Scope::Ingest).await.expect("readable").expect("valid");
    assert_eq!((principal.key_id, principal.rate_limit, principal.daily_quota), (id, None, None));
    assert_eq!(principal.role, Role::Service);
    assert_eq!(directory.keys(&org("acme")).await.expect("readable")[0].label, "laptop");
    assert!(directory.create_key(&org("acme"), Scope::Produce, "", now()).await.is_ok());
}
