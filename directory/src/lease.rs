//! Leases: which of some processes does a piece of work, so that it is not done twice.
//!
//! A lease spares work and guards nothing: clocks differ, processes pause. What must not be done twice is fenced where it is committed.

use jiff::{SignedDuration, Timestamp};

use crate::{Directory, Error, Result};

impl Directory {
    /// Takes the lease `name` until `now + time_to_live`, or goes on having it; false where another `holder` has it.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn hold_lease(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        time_to_live: SignedDuration,
    ) -> Result<bool> {
        // One statement: of two that take it at once, one finds the other's row.
        let upsert = "INSERT INTO leases (name, holder, expires_at_us) VALUES ($1, $2, $3) \
                      ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at_us = excluded.expires_at_us \
                      WHERE leases.holder = excluded.holder OR leases.expires_at_us <= $4";
        let expires_at_us = now.as_microsecond().saturating_add(to_us(time_to_live));
        let upsert = sqlx::query(upsert).bind(name).bind(holder).bind(expires_at_us).bind(now.as_microsecond());
        let done = upsert.execute(&self.pool).await.map_err(Error::Database)?;
        Ok(done.rows_affected() > 0)
    }

    /// Gives a lease back, so that another process need not wait until it expires. Nothing happens where another holder has it.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn release_lease(&self, name: &str, holder: &str) -> Result<()> {
        let delete = sqlx::query("DELETE FROM leases WHERE name = $1 AND holder = $2").bind(name).bind(holder);
        delete.execute(&self.pool).await.map_err(Error::Database)?;
        Ok(())
    }
}

fn to_us(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
