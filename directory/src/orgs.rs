//! Organisations: made, changed, listed.

use jiff::{Timestamp, tz::TimeZone};
use schemas::OrgId;
use serde_json::{Map, Value, json};
use sqlx::Row as _;

use crate::{Directory, Error, OptIn, Result, at_most_i64, limit, parsed, time};

/// How long after its end a day still takes events as a matter of course, unless an organisation says otherwise; in hours.
pub const DEFAULT_ALLOWED_LATENESS_HOURS: u32 = 72;

/// A year: later than that, no day would ever be final.
pub const ALLOWED_LATENESS_HOURS_MAX: u32 = 366 * 24;

/// An organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Org {
    /// Its id.
    pub id: OrgId,
    /// Its name, for people.
    pub name: String,
    /// IANA name of the time zone in which its days begin and end.
    pub time_zone: String,
    /// How long after its end a day still takes events as a matter of course, in hours.
    pub allowed_lateness_hours: u32,
    /// Most events of a UTC day. `None` = no limit.
    pub daily_quota: Option<u64>,
    /// How far its admin has opted in.
    pub opt_in: OptIn,
    /// When it was created.
    pub created_at: Timestamp,
}

/// What of an organisation is to be another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrgChange {
    /// IANA name of the time zone; the organisation's days are computed anew. `None` = as it is.
    pub time_zone: Option<String>,
    /// How long after its end a day still takes events as a matter of course, in hours. `None` = as it is.
    pub allowed_lateness_hours: Option<u32>,
    /// Most events of a UTC day; `Some(None)` = no limit. `None` = as it is.
    pub daily_quota: Option<Option<u64>>,
}

impl OrgChange {
    /// Whether an organisation can have it.
    ///
    /// # Errors
    /// Where there is no such zone, or the lateness is beyond [`ALLOWED_LATENESS_HOURS_MAX`].
    pub fn check(&self) -> Result<()> {
        if let Some(zone) = &self.time_zone {
            check_zone(zone)?;
        }
        match self.allowed_lateness_hours {
            Some(hours) if hours > ALLOWED_LATENESS_HOURS_MAX => Err(Error::Lateness(hours)),
            _ => Ok(()),
        }
    }

    /// As the audit log has it: what is another now.
    fn detail(&self) -> Value {
        let mut detail = Map::new();
        if let Some(zone) = &self.time_zone {
            detail.insert("time_zone".to_owned(), json!(zone));
        }
        if let Some(hours) = self.allowed_lateness_hours {
            detail.insert("allowed_lateness_hours".to_owned(), json!(hours));
        }
        if let Some(quota) = self.daily_quota {
            detail.insert("daily_quota".to_owned(), json!(quota));
        }
        Value::Object(detail)
    }
}

impl Directory {
    /// Creates an organisation whose days begin and end in the IANA zone `time_zone`. Nothing about it is collected before
    /// [`Directory::set_opt_in`] switches it on.
    ///
    /// # Errors
    /// Where it exists already, or the zone is none.
    pub async fn create_org(&self, id: &OrgId, name: &str, time_zone: &str, now: Timestamp) -> Result<Org> {
        check_zone(time_zone)?;
        let org = Org {
            id: id.clone(),
            name: name.to_owned(),
            time_zone: time_zone.to_owned(),
            allowed_lateness_hours: DEFAULT_ALLOWED_LATENESS_HOURS,
            daily_quota: None,
            opt_in: OptIn::Off,
            created_at: at_us(now),
        };
        let mut transaction = self.begin().await?;
        let insert = "INSERT INTO organisations (id, name, time_zone, allowed_lateness_hours, created_at_us) \
                      VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO NOTHING";
        let done = sqlx::query(insert)
            .bind(id.as_str())
            .bind(name)
            .bind(time_zone)
            .bind(i64::from(org.allowed_lateness_hours))
            .bind(now.as_microsecond())
            .execute(&mut *transaction)
            .await
            .map_err(Error::Database)?;
        if done.rows_affected() == 0 {
            return Err(Error::OrgExists(id.clone()));
        }
        let detail = json!({"name": name, "time_zone": time_zone});
        self.record(&mut transaction, id, "org.created", id.as_str(), &detail, now).await?;
        transaction.commit().await.map_err(Error::Database)?;
        Ok(org)
    }

    /// Changes what `change` names and leaves the rest. Running services follow: collectors within [`crate::CACHE_TTL`] (what they hold of today's
    /// quota by then stays theirs), the rollup with its next run.
    ///
    /// # Errors
    /// Where there is no such organisation or zone, the lateness is beyond [`ALLOWED_LATENESS_HOURS_MAX`], or the database cannot be written;
    /// then nothing is changed.
    pub async fn change_org(&self, id: &OrgId, change: &OrgChange, now: Timestamp) -> Result<()> {
        change.check()?;
        let mut transaction = self.begin().await?;
        let update = "UPDATE organisations SET time_zone = COALESCE($1, time_zone), \
                      allowed_lateness_hours = COALESCE($2, allowed_lateness_hours), \
                      daily_quota = CASE WHEN $3 THEN $4 ELSE daily_quota END WHERE id = $5";
        let done = sqlx::query(update)
            .bind(change.time_zone.as_deref())
            .bind(change.allowed_lateness_hours.map(i64::from))
            .bind(change.daily_quota.is_some())
            .bind(change.daily_quota.flatten().map(at_most_i64))
            .bind(id.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(Error::Database)?;
        if done.rows_affected() == 0 {
            return Err(Error::UnknownOrg(id.clone()));
        }
        if *change != OrgChange::default() {
            self.record(&mut transaction, id, "org.changed", id.as_str(), &change.detail(), now).await?;
        }
        transaction.commit().await.map_err(Error::Database)
    }

    /// All organisations, by id.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn orgs(&self) -> Result<Vec<Org>> {
        let select = "SELECT id, name, time_zone, allowed_lateness_hours, daily_quota, opt_in, created_at_us \
                      FROM organisations ORDER BY id";
        let rows = sqlx::query(select).fetch_all(&self.pool).await.map_err(Error::Database)?;
        rows.iter()
            .map(|row| {
                let lateness: i64 = row.try_get("allowed_lateness_hours").map_err(Error::Database)?;
                Ok(Org {
                    id: parsed(row, "id")?,
                    name: row.try_get("name").map_err(Error::Database)?,
                    time_zone: row.try_get("time_zone").map_err(Error::Database)?,
                    allowed_lateness_hours: u32::try_from(lateness).map_err(|_| Error::Corrupt {
                        column: "allowed_lateness_hours",
                        value: lateness.to_string(),
                    })?,
                    daily_quota: limit(row, "daily_quota")?,
                    opt_in: parsed(row, "opt_in")?,
                    created_at: time(row, "created_at_us")?.ok_or(sqlx::Error::RowNotFound).map_err(Error::Database)?,
                })
            })
            .collect()
    }
}

fn check_zone(name: &str) -> Result<()> {
    // "UTC" is always there; other names come from the system's time zone database.
    let unknown = |_| Error::TimeZone(name.chars().take(80).collect());
    TimeZone::get(name).map(drop).map_err(unknown)
}

/// As the database keeps it.
fn at_us(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).expect("the microseconds of a time are a time")
}
