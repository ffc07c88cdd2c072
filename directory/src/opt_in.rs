//! The opt-in: nothing about an organisation's people is accepted or shown before its admin has switched it on.
//!
//! | level | events | rows about people | rows about teams and the whole |
//! |---|---|---|---|
//! | off | refused | closed | closed |
//! | team-only | taken | closed, but to the person | as the role says |
//! | pseudonymous | taken | under pseudonyms, but to the person | as the role says |
//! | named | taken | as the role says | as the role says |
//!
//! Collectors and query services learn of a change within [`crate::CACHE_TTL`]. A worker judges a record by the time when the log took
//! it, for whoever meets it again must judge alike: see [`Collected`].

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
    time::Duration,
};

use jiff::Timestamp;
use schemas::OrgId;
use serde_json::json;
use sqlx::{Row as _, any::AnyRow};

use crate::{CACHE_TTL, Directory, Error, Result, parsed, time};

/// How far an organisation's admin has opted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum OptIn {
    /// Nothing is collected, and nothing is shown.
    #[default]
    Off,
    /// Teams and the whole organisation are shown, people are not.
    TeamOnly,
    /// People are shown under pseudonyms, to everyone.
    Pseudonymous,
    /// People are shown as each role may see them.
    Named,
}

impl OptIn {
    /// All of them, from the least to the most.
    pub const ALL: [Self; 4] = [Self::Off, Self::TeamOnly, Self::Pseudonymous, Self::Named];

    /// Its stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::TeamOnly => "team-only",
            Self::Pseudonymous => "pseudonymous",
            Self::Named => "named",
        }
    }

    /// What it means to the organisation's people, in a sentence.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Off => "nothing is collected, and nothing of what was is shown",
            Self::TeamOnly => "events are collected; teams and the whole are shown, people only to themselves",
            Self::Pseudonymous => "events are collected; people are shown under pseudonyms, by name only to themselves",
            Self::Named => "events are collected; people are shown by name to those whose role allows it",
        }
    }
}

impl fmt::Display for OptIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no level of the opt-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an opt-in is `off`, `team-only`, `pseudonymous` or `named`")]
pub struct InvalidOptIn;

impl FromStr for OptIn {
    type Err = InvalidOptIn;

    fn from_str(text: &str) -> Result<Self, InvalidOptIn> {
        Self::ALL.into_iter().find(|level| level.as_str() == text).ok_or(InvalidOptIn)
    }
}

/// A change of the opt-in, as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptInChange {
    /// From then on.
    pub at: Timestamp,
    /// To what.
    pub level: OptIn,
    /// Who switched it.
    pub actor: String,
    /// Why, in their words.
    pub reason: String,
}

/// What the clocks of a log and of whoever switches may differ, and a record may take from a collector's last look to the log, together.
const SKEW: Duration = Duration::from_secs(60);

/// When events of an organisation were to be taken: half-open ranges of time.
///
/// A range begins a minute before an opt-in and ends a minute and [`CACHE_TTL`] after the opt-out, so that no record is left out that a collector took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected(Vec<(i64, i64)>);

impl Collected {
    fn new(changes: &[(i64, OptIn)]) -> Self {
        let us = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let mut ranges = Vec::new();
        let mut since = None;
        for (at_us, level) in changes {
            match (since, *level) {
                (None, OptIn::Off) | (Some(_), OptIn::TeamOnly | OptIn::Pseudonymous | OptIn::Named) => {}
                (None, _) => since = Some(at_us.saturating_sub(us(SKEW))),
                (Some(from), OptIn::Off) => {
                    ranges.push((from, at_us.saturating_add(us(CACHE_TTL + SKEW))));
                    since = None;
                }
            }
        }
        ranges.extend(since.map(|from| (from, i64::MAX)));
        Self(ranges)
    }

    /// Whether a record is taken that the log took at `at_us` [µs since 1970]; `None` = the log does not say: then what holds now counts.
    #[must_use]
    pub fn takes(&self, at_us: Option<i64>) -> bool {
        match at_us {
            Some(at) => self.0.iter().any(|(from, to)| (*from..*to).contains(&at)),
            None => self.0.last().is_some_and(|(_, to)| *to == i64::MAX),
        }
    }
}

/// Organisations in one statement.
const ORGS_AT_ONCE: usize = 500;

impl Directory {
    /// Switches an organisation's opt-in. On record, with who did it and why. True where it was another before.
    ///
    /// # Errors
    /// Where there is no such organisation, no reason is given, or the database cannot be written; then nothing is changed.
    pub async fn set_opt_in(&self, org: &OrgId, level: OptIn, reason: &str, now: Timestamp) -> Result<bool> {
        if reason.trim().is_empty() {
            return Err(Error::NoReason);
        }
        let mut transaction = self.begin().await?;
        // The row is held until the end: of two changes at once, one waits for the other.
        let hold = "UPDATE organisations SET audit_number = audit_number WHERE id = $1 RETURNING opt_in";
        let row =
            sqlx::query(hold).bind(org.as_str()).fetch_optional(&mut *transaction).await.map_err(Error::Database)?;
        let before: OptIn = parsed(&row.ok_or_else(|| Error::UnknownOrg(org.clone()))?, "opt_in")?;
        if before == level {
            return Ok(false);
        }
        let insert = "INSERT INTO opt_ins (org_id, number, at_us, level, actor, reason) \
                      SELECT $1, COALESCE(MAX(number), 0) + 1, $2, $3, $4, $5 FROM opt_ins WHERE org_id = $1";
        let insert = sqlx::query(insert).bind(org.as_str()).bind(now.as_microsecond()).bind(level.as_str());
        let insert = insert.bind(&*self.actor).bind(reason);
        insert.execute(&mut *transaction).await.map_err(Error::Database)?;
        let update = sqlx::query("UPDATE organisations SET opt_in = $1 WHERE id = $2").bind(level.as_str());
        update.bind(org.as_str()).execute(&mut *transaction).await.map_err(Error::Database)?;
        let detail = json!({"from": before.as_str(), "to": level.as_str(), "reason": reason});
        self.record(&mut transaction, org, "opt_in.changed", org.as_str(), &detail, now).await?;
        transaction.commit().await.map_err(Error::Database)?;
        self.cache.forget_all_of(org);
        Ok(true)
    }

    /// Every change of an organisation's opt-in, oldest first. None = it was never on.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn opt_in_changes(&self, org: &OrgId) -> Result<Vec<OptInChange>> {
        let select = "SELECT at_us, level, actor, reason FROM opt_ins WHERE org_id = $1 ORDER BY number";
        let rows = sqlx::query(select).bind(org.as_str()).fetch_all(&self.pool).await.map_err(Error::Database)?;
        rows.iter().map(change).collect()
    }

    /// When events of these organisations were to be taken; those that are missing never were. Asks the database, never a cache: what was committed
    /// before the call is seen.
    ///
    /// # Errors
    /// Where the database cannot be read: that says nothing about any organisation.
    pub async fn collected(&self, orgs: &HashSet<OrgId>) -> Result<HashMap<OrgId, Collected>> {
        let mut changes: HashMap<OrgId, Vec<(i64, OptIn)>> = HashMap::new();
        let orgs: Vec<&OrgId> = orgs.iter().collect();
        for orgs in orgs.chunks(ORGS_AT_ONCE) {
            let places: Vec<String> = (1..=orgs.len()).map(|at| format!("${at}")).collect();
            let places = places.join(", ");
            let select =
                format!("SELECT org_id, at_us, level FROM opt_ins WHERE org_id IN ({places}) ORDER BY org_id, number");
            // Nothing of it but `$1`, `$2` … is made here.
            let mut query = sqlx::query(sqlx::AssertSqlSafe(select));
            for org in orgs {
                query = query.bind(org.as_str());
            }
            for row in query.fetch_all(&self.pool).await.map_err(Error::Database)? {
                let at_us = row.try_get("at_us").map_err(Error::Database)?;
                changes.entry(parsed(&row, "org_id")?).or_default().push((at_us, parsed(&row, "level")?));
            }
        }
        Ok(changes.into_iter().map(|(org, changes)| (org, Collected::new(&changes))).collect())
    }
}

fn change(row: &AnyRow) -> Result<OptInChange> {
    Ok(OptInChange {
        at: time(row, "at_us")?.ok_or(sqlx::Error::RowNotFound).map_err(Error::Database)?,
        level: parsed(row, "level")?,
        actor: row.try_get("actor").map_err(Error::Database)?,
        reason: row.try_get("reason").map_err(Error::Database)?,
    })
}
