//! The audit log: who did what, in a chain that shows when an entry was changed, taken out or put in.
//!
//! One chain for each organisation. An entry's hash is the SHA-256 of its fields and of the hash before it ([`Entry::hash_after`]), so an entry cannot be
//! changed without changing all that follow. Whoever can write the database can still make all of them anew: `daybook audit verify --expect`
//! compares with a hash that was kept elsewhere.

use jiff::Timestamp;
use schemas::OrgId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use crate::{Directory, Error, KeyId, Result, parsed, time};

/// Begins what is hashed; another version would begin otherwise.
const DOMAIN: &[u8] = b"daybook-audit-1";
/// Entries that are read at once.
const PAGE: i64 = 1_000;

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Whose chain it is in.
    pub org: OrgId,
    /// 1, 2 … without a gap.
    pub number: i64,
    /// When, to the microsecond.
    pub at: Timestamp,
    /// Who: `cli:<user>`, `key:<id>`, `daybook`.
    pub actor: String,
    /// What: `opt_in.changed`, `key.created`, `people.viewed` …
    pub action: String,
    /// To what.
    pub subject: String,
    /// More, as JSON; what it holds goes by the action.
    pub detail: String,
    /// Hexadecimal SHA-256.
    pub hash: String,
}

impl Entry {
    /// The hash that the entry has after one with the hash `before` (empty for the first): SHA-256 of `daybook-audit-1`, then of organisation,
    /// number, time (µs since 1970), actor, action, subject, detail and `before`, each as text in UTF-8 after its length in bytes, 8 of them, big-endian.
    #[must_use]
    pub fn hash_after(&self, before: &str) -> String {
        let (number, at) = (self.number.to_string(), self.at.as_microsecond().to_string());
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        let fields = [self.org.as_str(), &number, &at, &self.actor, &self.action, &self.subject, &self.detail, before];
        for field in fields {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field.as_bytes());
        }
        hex::encode(hash.finalize())
    }
}

/// People of an organisation looked at by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View {
    /// Whose people.
    pub org: OrgId,
    /// With which key.
    pub key: KeyId,
    /// In which table.
    pub table: &'static str,
    /// Whom, by `user_key`; `None` = anyone.
    pub person: Option<String>,
}

/// Where a chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// An entry is missing, or stands elsewhere.
    #[error("entry {expected} is missing: entry {found} stands in its place")]
    Gap {
        /// The number that should follow.
        expected: i64,
        /// The number that follows.
        found: i64,
    },
    /// An entry is not as it was written, or one before it was changed.
    #[error("entry {0} is not as it was written: its hash does not fit it and the entry before")]
    Changed(i64),
    /// Entries at the end are missing.
    #[error("the chain ends with entry {found}, but {expected} were written")]
    Short {
        /// Entries that were written.
        expected: i64,
        /// The last that is there.
        found: i64,
    },
    /// Entries that nobody wrote.
    #[error("the chain goes on to entry {found}, but only {expected} were written")]
    Long {
        /// Entries that were written.
        expected: i64,
        /// The last that is there.
        found: i64,
    },
    /// It is another chain.
    #[error("entry {number} has not the hash {expected}")]
    Other {
        /// The entry.
        number: i64,
        /// The hash that it should have.
        expected: String,
    },
    /// Entries of several organisations.
    #[error("entry {0} is of another organisation than the first")]
    Mixed(i64),
}

/// A chain as far as it was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The newest entry's number; 0 = none.
    pub number: i64,
    /// Its hash.
    pub hash: String,
    org: Option<OrgId>,
}

impl Chain {
    /// Goes one entry on.
    ///
    /// # Errors
    /// Where the entry does not follow.
    pub fn check(&mut self, entry: &Entry) -> Result<(), Broken> {
        if self.org.as_ref().is_some_and(|org| *org != entry.org) {
            return Err(Broken::Mixed(entry.number));
        }
        if entry.number != self.number + 1 {
            return Err(Broken::Gap { expected: self.number + 1, found: entry.number });
        }
        if entry.hash_after(&self.hash) != entry.hash {
            return Err(Broken::Changed(entry.number));
        }
        *self = Self { number: entry.number, hash: entry.hash.clone(), org: Some(entry.org.clone()) };
        Ok(())
    }
}

impl Directory {
    /// The same directory for what `actor` does: entries of the audit log name it.
    #[must_use]
    pub fn acting_as(&self, actor: &str) -> Self {
        Self { actor: actor.into(), ..self.clone() }
    }

    /// Begins what is written together with its entry.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Any>> {
        self.pool.begin_with(self.begin).await.map_err(Error::Database)
    }

    /// Writes an entry, within what it is about. Holds the organisation's row until the transaction ends.
    pub(crate) async fn record(
        &self,
        transaction: &mut Transaction<'_, Any>,
        org: &OrgId,
        action: &str,
        subject: &str,
        detail: &Value,
        now: Timestamp,
    ) -> Result<()> {
        let next =
            "UPDATE organisations SET audit_number = audit_number + 1 WHERE id = $1 RETURNING audit_number, audit_hash";
        let row = sqlx::query(next).bind(org.as_str()).fetch_optional(&mut **transaction).await;
        let row = row.map_err(Error::Database)?.ok_or_else(|| Error::UnknownOrg(org.clone()))?;
        let before: String = row.try_get("audit_hash").map_err(Error::Database)?;
        let mut entry = Entry {
            org: org.clone(),
            number: row.try_get("audit_number").map_err(Error::Database)?,
            at: now,
            actor: self.actor.to_string(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_string(),
            hash: String::new(),
        };
        entry.hash = entry.hash_after(&before);
        let insert = "INSERT INTO audit (org_id, number, at_us, actor, action, subject, detail, hash) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let insert = sqlx::query(insert).bind(org.as_str()).bind(entry.number).bind(now.as_microsecond());
        let insert =
            insert.bind(&entry.actor).bind(&entry.action).bind(&entry.subject).bind(&entry.detail).bind(&entry.hash);
        insert.execute(&mut **transaction).await.map_err(Error::Database)?;
        let update = sqlx::query("UPDATE organisations SET audit_hash = $1 WHERE id = $2").bind(&entry.hash);
        update.bind(org.as_str()).execute(&mut **transaction).await.map_err(Error::Database)?;
        Ok(())
    }

    /// Puts views of people on record, all or none of them; sorted by organisation.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn record_views(&self, views: &[View], now: Timestamp) -> Result<()> {
        if views.is_empty() {
            return Ok(());
        }
        let mut transaction = self.begin().await?;
        for View { org, key, table, person } in views {
            let viewer = self.acting_as(&format!("key:{key}"));
            let subject = person.as_deref().unwrap_or("*");
            viewer.record(&mut transaction, org, "people.viewed", subject, &json!({"table": table}), now).await?;
        }
        transaction.commit().await.map_err(Error::Database)
    }

    /// Entries of an organisation after the entry `after`, oldest first: so many that memory does not matter. Empty = there are no more.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn audit_after(&self, org: &OrgId, after: i64) -> Result<Vec<Entry>> {
        let select = "SELECT org_id, number, at_us, actor, action, subject, detail, hash FROM audit \
                      WHERE org_id = $1 AND number > $2 ORDER BY number LIMIT $3";
        let rows = sqlx::query(select).bind(org.as_str()).bind(after).bind(PAGE).fetch_all(&self.pool).await;
        rows.map_err(Error::Database)?.iter().map(entry).collect()
    }

    /// Checks an organisation's chain from its first entry to its last, and that none is missing at the end.
    ///
    /// # Errors
    /// Where there is no such organisation, or the database cannot be read.
    pub async fn verify_audit(&self, org: &OrgId, expect: Option<(i64, &str)>) -> Result<Result<Chain, Broken>> {
        // First: what is written meanwhile is more than this.
        let (written, newest) = self.newest(org).await?;
        let mut chain = Chain::default();
        loop {
            let entries = self.audit_after(org, chain.number).await?;
            if entries.is_empty() {
                break;
            }
            for entry in &entries {
                if let Err(broken) = chain.check(entry) {
                    return Ok(Err(broken));
                }
                for (number, hash) in [(written, newest.as_str())].into_iter().chain(expect) {
                    if number == entry.number && hash != entry.hash {
                        return Ok(Err(Broken::Other { number, expected: hash.to_owned() }));
                    }
                }
            }
        }
        let expected = written.max(expect.map_or(0, |(number, _)| number));
        if chain.number < expected {
            return Ok(Err(Broken::Short { expected, found: chain.number }));
        }
        // More than were written at first: they may have been written meanwhile.
        if chain.number > written && self.newest(org).await?.0 < chain.number {
            return Ok(Err(Broken::Long { expected: written, found: chain.number }));
        }
        Ok(Ok(chain))
    }

    /// Number and hash of the newest entry that was written.
    async fn newest(&self, org: &OrgId) -> Result<(i64, String)> {
        let select = sqlx::query("SELECT audit_number, audit_hash FROM organisations WHERE id = $1").bind(org.as_str());
        let row = select.fetch_optional(&self.pool).await.map_err(Error::Database)?;
        let row = row.ok_or_else(|| Error::UnknownOrg(org.clone()))?;
        let number = row.try_get("audit_number").map_err(Error::Database)?;
        Ok((number, row.try_get("audit_hash").map_err(Error::Database)?))
    }
}

fn entry(row: &AnyRow) -> Result<Entry> {
    let text = |column: &str| row.try_get::<String, _>(column).map_err(Error::Database);
    Ok(Entry {
        org: parsed(row, "org_id")?,
        number: row.try_get("number").map_err(Error::Database)?,
        at: time(row, "at_us")?.ok_or(sqlx::Error::RowNotFound).map_err(Error::Database)?,
        actor: text("actor")?,
        action: text("action")?,
        subject: text("subject")?,
        detail: text("detail")?,
        hash: text("hash")?,
    })
}
