//! Who is who: organisations and the keys that speak for them.
//!
//! ```text
//! cli (org create, key create) ──► Directory ──► SQLite or PostgreSQL: organisations, keys, leases
//! collector, query ──authenticate──► cache (seconds) ──miss──┤
//! collector ──spend──► block of a quota (a day) ──empty──────┤
//! worker ──signers───────────────────────────────────────────┤
//! identity provider ──SCIM──► people, groups, memberships ───┘
//! ```
//!
//! Invariants:
//! 1. A secret is shown once, when it is made, and never printed by `Debug`; the database holds its SHA-256.
//! 2. The organisation of a request comes from its key, and from nowhere else.
//! 3. [`Directory::authenticate`] asks the database at most once per key in [`CACHE_TTL`]. So a key that another process
//!    revoked, or that has ended, is refused after [`CACHE_TTL`] at the latest; one revoked by this process, at once.
//! 4. The cache has a limit, whatever is presented.
//! 5. Nothing about an organisation's people is taken or shown before its admin opted in ([`OptIn`]). What is done by admins is in the audit log, in the
//!    same transaction ([`Entry`]).
//! 6. What all processes together grant of an organisation's daily quota never exceeds it ([`Directory::spend`]).

use std::{str::FromStr, sync::Arc};

use jiff::Timestamp;
use schemas::OrgId;
use serde_json::json;
use sqlx::{AnyPool, Row as _, any::AnyRow};

mod audit;
mod cache;
mod error;
mod key;
mod lease;
mod mac;
mod open;
mod opt_in;
mod orgs;
mod quota;
mod role;
mod scim;
mod signers;
mod teams;
#[cfg(test)]
mod tests;

pub use audit::{Broken, Chain, Entry, View};
pub use cache::CACHE_TTL;
use cache::{Cache, Known};
pub use error::{Error, Result};
pub use key::{InvalidKeyId, KeyId, Scope, Secret};
use key::{digest, same, split};
pub use mac::MacKey;
pub use open::without_password;
pub use opt_in::{Collected, InvalidOptIn, OptIn, OptInChange};
pub use orgs::{ALLOWED_LATENESS_HOURS_MAX, DEFAULT_ALLOWED_LATENESS_HOURS, Org, OrgChange};
use quota::Blocks;
pub use quota::Spent;
pub use role::{PseudonymKey, Role};
use scim::Lane;
pub use scim::{Scim, router as scim_router};
pub use signers::Signer;
pub use teams::Membership;

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its public part.
    pub id: KeyId,
    /// Whose it is.
    pub org: OrgId,
    /// What it permits.
    pub scope: Scope,
    /// What its owner calls it.
    pub label: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// `None` = valid.
    pub revoked_at: Option<Timestamp>,
    /// Most events a second through one collector. `None` = what the collector's settings say.
    pub rate_limit: Option<u64>,
    /// What the holder of a read key may see.
    pub role: Role,
    /// When it ends. `None` = never.
    pub expires_at: Option<Timestamp>,
}

/// What a key is to be.
#[derive(Clone, Debug)]
pub struct NewKey<'a> {
    /// What it permits.
    pub scope: Scope,
    /// What its owner calls it.
    pub label: &'a str,
    /// Most events a second through one collector. `None` = what the collector's settings say.
    pub rate_limit: Option<u64>,
    /// What the holder of a read key may see.
    pub role: Role,
    /// When it ends. `None` = never.
    pub expires_at: Option<Timestamp>,
}

impl<'a> NewKey<'a> {
    /// A key that is limited as the collectors' settings say, sees everything of its scope, and does not end.
    #[must_use]
    pub fn of(scope: Scope, label: &'a str) -> Self {
        Self { scope, label, rate_limit: None, role: Role::Service, expires_at: None }
    }
}

/// Who presented a valid key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The organisation that the key speaks for.
    pub org: OrgId,
    /// The key.
    pub key_id: KeyId,
    /// What it permits.
    pub scope: Scope,
    /// Most events a second through one collector. `None` = what the collector's settings say.
    pub rate_limit: Option<u64>,
    /// Most events of the organisation in a UTC day. `None` = no limit.
    pub daily_quota: Option<u64>,
    /// What the holder of a read key may see.
    pub role: Role,
    /// How far the organisation's admin has opted in.
    pub opt_in: OptIn,
}

/// Who acts where nobody is named.
const ACTOR: &str = "daybook";

/// The directory. Clones share connections and cache.
#[derive(Clone, Debug)]
pub struct Directory {
    pool: AnyPool,
    /// Begins a transaction that writes.
    begin: &'static str,
    cache: Arc<Cache>,
    blocks: Arc<Blocks>,
    /// Who acts through it, for the audit log.
    actor: Arc<str>,
    /// Where writes of this process stand in line; `None` = the database takes several at once.
    lane: Option<Arc<Lane>>,
}

impl Directory {
    /// Opens `sqlite:///path` or `sqlite::memory:`, making the database where it is not there, or `postgres://host/database`, and brings its
    /// schema up to date.
    ///
    /// # Errors
    /// Where the URL is neither, the database cannot be reached or written, or it was written by a newer version.
    pub async fn open(url: &str) -> Result<Self> {
        let (pool, kind) = open::open(url).await?;
        let lane = kind.has_one_writer().then(Arc::default);
        let begin = kind.begin();
        Ok(Self { pool, begin, cache: Arc::default(), blocks: Arc::default(), actor: ACTOR.into(), lane })
    }

    /// Closes all connections, of every clone; what is asked later fails.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Makes a key that is limited as the collectors' settings say, sees everything of its scope, and does not end. The secret is in the answer and nowhere
    /// else.
    ///
    /// # Errors
    /// Where there is no such organisation.
    pub async fn create_key(&self, org: &OrgId, scope: Scope, label: &str, now: Timestamp) -> Result<(KeyId, Secret)> {
        self.create_key_as(org, &NewKey::of(scope, label), now).await
    }

    /// Makes a key. The secret is in the answer and nowhere else.
    ///
    /// # Errors
    /// Where there is no such organisation.
    pub async fn create_key_as(&self, org: &OrgId, new: &NewKey<'_>, now: Timestamp) -> Result<(KeyId, Secret)> {
        let (id, secret) = key::generate(&mut rand::rng());
        let mut transaction = self.begin().await?;
        // One statement, so that no organisation can go in between; no row = no organisation.
        let insert = "INSERT INTO keys (id, org_id, scope, label, secret_sha256, created_at_us, rate_limit_events, mac_key, \
             role, subject, sees_names, expires_at_us) \
             SELECT $1, organisations.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM organisations WHERE organisations.id = $2";
        let done = sqlx::query(insert)
            .bind(id.as_str())
            .bind(org.as_str())
            .bind(new.scope.as_str())
            .bind(new.label)
            .bind(hex::encode(digest(secret.secret_part())))
            .bind(now.as_microsecond())
            .bind(new.rate_limit.map(at_most_i64))
            // Nobody must be able to sign with a key that was not made for it, were the database to leak.
            .bind((new.scope == Scope::Produce).then(|| secret.mac_key().to_hex()))
            .bind(new.role.name())
            .bind(new.role.subject())
            .bind(i64::from(new.role == Role::Analyst { names: true }))
            .bind(new.expires_at.map(Timestamp::as_microsecond))
            .execute(&mut *transaction)
            .await
            .map_err(Error::Database)?;
        if done.rows_affected() == 0 {
            return Err(Error::UnknownOrg(org.clone()));
        }
        let ends = new.expires_at.map(|at| at.to_string());
        let detail =
            json!({"scope": new.scope.as_str(), "role": new.role.to_string(), "label": new.label, "expires_at": ends});
        self.record(&mut transaction, org, "key.created", id.as_str(), &detail, now).await?;
        transaction.commit().await.map_err(Error::Database)?;
        Ok((id, secret))
    }

    /// What pseudonyms of the organisation's people are made with: the same for ever, or people would have several.
    ///
    /// # Errors
    /// Where there is no such organisation, or the database cannot be read or written.
    pub async fn pseudonym_key(&self, org: &OrgId) -> Result<PseudonymKey> {
        // Whoever is first decides; the others read it.
        let fresh = hex::encode(rand::random::<[u8; 32]>());
        let update = "UPDATE organisations SET pseudonym_key = $1 WHERE id = $2 AND pseudonym_key IS NULL";
        let select = "SELECT pseudonym_key FROM organisations WHERE id = $1";
        let read =
            async || sqlx::query(select).bind(org.as_str()).fetch_optional(&self.pool).await.map_err(Error::Database);
        let mut row = read().await?.ok_or_else(|| Error::UnknownOrg(org.clone()))?;
        let mut text: Option<String> = row.try_get("pseudonym_key").map_err(Error::Database)?;
        if text.is_none() {
            sqlx::query(update).bind(fresh).bind(org.as_str()).execute(&self.pool).await.map_err(Error::Database)?;
            row = read().await?.ok_or_else(|| Error::UnknownOrg(org.clone()))?;
            text = row.try_get("pseudonym_key").map_err(Error::Database)?;
        }
        let mut key = [0; 32];
        let corrupt = |_| Error::Corrupt { column: "pseudonym_key", value: "…".to_owned() };
        hex::decode_to_slice(text.unwrap_or_default(), &mut key).map_err(corrupt)?;
        Ok(PseudonymKey(Arc::new(MacKey::new(key))))
    }

    /// The keys of an organisation, revoked ones too, oldest first.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn keys(&self, org: &OrgId) -> Result<Vec<KeyInfo>> {
        let select = "SELECT id, org_id, scope, label, created_at_us, revoked_at_us, rate_limit_events, role, subject, sees_names, \
                      expires_at_us FROM keys WHERE org_id = $1 ORDER BY created_at_us, id";
        let rows = sqlx::query(select).bind(org.as_str()).fetch_all(&self.pool).await.map_err(Error::Database)?;
        rows.iter()
            .map(|row| {
                Ok(KeyInfo {
                    id: parsed(row, "id")?,
                    org: parsed(row, "org_id")?,
                    scope: parsed(row, "scope")?,
                    label: row.try_get("label").map_err(Error::Database)?,
                    created_at: time(row, "created_at_us")?.ok_or(sqlx::Error::RowNotFound).map_err(Error::Database)?,
                    revoked_at: time(row, "revoked_at_us")?,
                    rate_limit: limit(row, "rate_limit_events")?,
                    role: Role::of(row)?,
                    expires_at: time(row, "expires_at_us")?,
                })
            })
            .collect()
    }

    /// Revokes a key for good. False where there is no such key, or it was revoked before. This process refuses it from
    /// now on, others after [`CACHE_TTL`] at the latest.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn revoke_key(&self, id: &KeyId, now: Timestamp) -> Result<bool> {
        let mut transaction = self.begin().await?;
        let update = "UPDATE keys SET revoked_at_us = $1 WHERE id = $2 AND revoked_at_us IS NULL RETURNING org_id";
        let update = sqlx::query(update).bind(now.as_microsecond()).bind(id.as_str());
        let row = update.fetch_optional(&mut *transaction).await.map_err(Error::Database)?;
        if let Some(row) = &row {
            let org = parsed(row, "org_id")?;
            self.record(&mut transaction, &org, "key.revoked", id.as_str(), &json!({}), now).await?;
        }
        transaction.commit().await.map_err(Error::Database)?;
        // A look-up that read the row before may put it back once: it lives for one TTL, as in other processes.
        self.cache.forget(id);
        Ok(row.is_some())
    }

    /// Who presents this key; `None` where it is none of ours, was revoked, or permits something else than `scope`.
    ///
    /// # Errors
    /// Where the database cannot be read: that is no reason to refuse the key, and none to accept it.
    pub async fn authenticate(&self, presented: &str, scope: Scope) -> Result<Option<Principal>> {
        // What does not have the form of a key never reaches cache or database.
        let Some((key_id, secret)) = split(presented) else { return Ok(None) };
        let Some(known) = self.known(&key_id).await? else { return Ok(None) };
        // Compared in full before anything else is looked at: time tells nothing about the secret.
        let valid = same(&digest(secret), &known.secret_sha256);
        let Known { org, rate_limit, daily_quota, role, opt_in, .. } = &*known;
        Ok((valid && known.scope == scope).then(|| Principal {
            org: org.clone(),
            key_id,
            scope,
            rate_limit: *rate_limit,
            daily_quota: *daily_quota,
            role: role.clone(),
            opt_in: *opt_in,
        }))
    }

    /// How far the organisation of a key has opted in by now; `None` where the key is not valid any more.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn opt_in_of(&self, key: &KeyId) -> Result<Option<OptIn>> {
        Ok(self.known(key).await?.map(|known| known.opt_in))
    }

    async fn known(&self, id: &KeyId) -> Result<Option<Arc<Known>>> {
        if let Some(known) = self.cache.get(id) {
            return Ok(known);
        }
        let known = self.look_up(id).await?.map(Arc::new);
        self.cache.put(id.clone(), known.clone());
        Ok(known)
    }

    async fn look_up(&self, id: &KeyId) -> Result<Option<Known>> {
        let select = "SELECT org_id, scope, secret_sha256, rate_limit_events, daily_quota, opt_in, role, subject, sees_names \
                      FROM keys JOIN organisations ON organisations.id = keys.org_id \
                      WHERE keys.id = $1 AND revoked_at_us IS NULL AND (expires_at_us IS NULL OR expires_at_us > $2)";
        let row = sqlx::query(select)
            .bind(id.as_str())
            .bind(now_us())
            .fetch_optional(&self.pool)
            .await
            .map_err(Error::Database)?;
        let Some(row) = row else { return Ok(None) };
        let text: String = row.try_get("secret_sha256").map_err(Error::Database)?;
        let mut secret_sha256 = [0; 32];
        hex::decode_to_slice(&text, &mut secret_sha256)
            .map_err(|_| Error::Corrupt { column: "secret_sha256", value: "…".to_owned() })?;
        Ok(Some(Known {
            org: parsed(&row, "org_id")?,
            scope: parsed(&row, "scope")?,
            secret_sha256,
            rate_limit: limit(&row, "rate_limit_events")?,
            daily_quota: limit(&row, "daily_quota")?,
            role: Role::of(&row)?,
            opt_in: parsed(&row, "opt_in")?,
        }))
    }
}

/// Microseconds since 1970. Whether a key has ended is for this machine's clock to say, as is how old an entry of the cache is.
#[allow(clippy::disallowed_methods, reason = "keys end by the clock on the wall")]
fn now_us() -> i64 {
    Timestamp::now().as_microsecond()
}

fn time(row: &AnyRow, column: &'static str) -> Result<Option<Timestamp>> {
    let us: Option<i64> = row.try_get(column).map_err(Error::Database)?;
    us.map(|us| Timestamp::from_microsecond(us).map_err(|_| Error::Corrupt { column, value: us.to_string() }))
        .transpose()
}

/// A limit as the database keeps it.
fn at_most_i64(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn limit(row: &AnyRow, column: &'static str) -> Result<Option<u64>> {
    let limit: Option<i64> = row.try_get(column).map_err(Error::Database)?;
    limit.map(|limit| u64::try_from(limit).map_err(|_| Error::Corrupt { column, value: limit.to_string() })).transpose()
}

fn parsed<T: FromStr>(row: &AnyRow, column: &'static str) -> Result<T> {
    let text: String = row.try_get(column).map_err(Error::Database)?;
    text.parse().map_err(|_| Error::Corrupt { column, value: text.chars().take(80).collect() })
}
