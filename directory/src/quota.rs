//! Quotas: most events of an organisation in a UTC day, counted over all collectors.
//!
//! ```text
//! collector A ─ spend ─► block in memory ─┐ empty: one UPSERT … RETURNING
//! collector B ─ spend ─► block in memory ─┴──────────────► quota_leases: leased ≤ quota
//! ```
//!
//! A block is a hundredth of the quota, or what the request lacks if that is more. So a request costs no write, and all
//! blocks together never exceed the quota; what a process holds when it ends is lost to that day, unless it
//! gives it back ([`Directory::return_quota`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use schemas::OrgId;
use sqlx::Row as _;
use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use crate::{CACHE_TTL, Directory, Error, Principal, Result};

/// A block is this part of the quota.
const BLOCKS: i64 = 100;
/// No block is smaller, where the quota has as much left.
const BLOCK_MIN: i64 = 1_000;
/// Organisations whose blocks are held; beyond that, those of days that are over are dropped.
const ORGS_MAX: usize = 10_000;
/// Days whose leases are kept, for whoever asks what was used.
const DAYS_KEPT: i64 = 31;
const DAY_S: i64 = 86_400;

/// Whether events are within the quota of their day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// They are, and count.
    Granted,
    /// They are more than is left of it. None of them counts; fewer may fit.
    Exhausted {
        /// The quota.
        quota: u64,
        /// Until the next day begins, which is at midnight UTC.
        seconds_left: u64,
    },
}

/// What this process holds of an organisation's quota.
#[derive(Debug, Default)]
pub(crate) struct Block {
    day: i64,
    left: i64,
    /// Nothing more was to be had then.
    refused: Option<Instant>,
}

/// The blocks of this process.
#[derive(Debug, Default)]
pub(crate) struct Blocks(Mutex<HashMap<OrgId, Arc<AsyncMutex<Block>>>>);

impl Blocks {
    fn of(&self, org: &OrgId, day: i64) -> Arc<AsyncMutex<Block>> {
        let mut blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() >= ORGS_MAX && !blocks.contains_key(org) {
            // One that is locked is in use.
            blocks.retain(|_, block| {
                block.try_lock().is_ok_and(|block| block.day == day) || Arc::strong_count(block) > 1
            });
        }
        blocks.entry(org.clone()).or_default().clone()
    }
}

impl Directory {
    /// Counts `events` against the quota of the principal's organisation. Where it has none, all are granted.
    ///
    /// # Errors
    /// Where a block is needed and the database cannot be written: then none of them counts.
    pub async fn spend(&self, principal: &Principal, events: u64, now: Timestamp) -> Result<Spent> {
        let Some(quota) = principal.daily_quota.filter(|_| events > 0) else { return Ok(Spent::Granted) };
        let (day, seconds_left) = day(now);
        let exhausted = Spent::Exhausted { quota, seconds_left };
        let wanted = i64::try_from(events).unwrap_or(i64::MAX);
        let block = self.blocks.of(&principal.org, day);
        // Whoever holds this asks for a block; the others of this organisation wait for it.
        let mut block = block.lock().await;
        if block.day != day {
            *block = Block { day, ..Block::default() };
            let delete = sqlx::query("DELETE FROM quota_leases WHERE day < $1").bind(day - DAYS_KEPT);
            delete.execute(&self.pool).await.map_err(Error::Database)?;
        }
        if block.left < wanted {
            // What was refused lately is refused again without a write.
            if block.refused.is_some_and(|since| since.elapsed() < CACHE_TTL) {
                return Ok(exhausted);
            }
            let granted = self.lease(&principal.org, day, wanted - block.left).await?;
            block.left = block.left.saturating_add(granted);
            block.refused = (block.left < wanted).then(Instant::now);
        }
        if block.left < wanted {
            return Ok(exhausted);
        }
        block.left -= wanted;
        Ok(Spent::Granted)
    }

    /// Takes back what [`Directory::spend`] counted at `spent_at`: the events were not stored.
    pub async fn unspend(&self, principal: &Principal, events: u64, spent_at: Timestamp) {
        if principal.daily_quota.is_none() {
            return;
        }
        let (day, _) = day(spent_at);
        let block = self.blocks.of(&principal.org, day);
        let mut block = block.lock().await;
        if block.day == day {
            block.left = block.left.saturating_add_unsigned(events);
            block.refused = None;
        }
    }

    /// Gives what this process holds of quotas back to the others; to be called before it ends.
    ///
    /// # Errors
    /// Where the database cannot be written: what is held is lost to its day then.
    pub async fn return_quota(&self) -> Result<()> {
        let blocks = std::mem::take(&mut *self.blocks.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (org, block) in blocks {
            let mut block = block.lock().await;
            let left = std::mem::take(&mut block.left);
            if left > 0 {
                let update = "UPDATE quota_leases SET leased = leased - $1 WHERE org_id = $2 AND day = $3";
                let update = sqlx::query(update).bind(left).bind(org.as_str()).bind(block.day);
                update.execute(&self.pool).await.map_err(Error::Database)?;
            }
        }
        Ok(())
    }

    /// Takes a block of at least `wanted` events, or what is left; gives its size.
    async fn lease(&self, org: &OrgId, day: i64, wanted: i64) -> Result<i64> {
        // One statement, so that no two processes are granted the same events: the row is made with the block taken, or
        // moved by what is left, at most by the block. On the right of SET stand the values before the update.
        let upsert = "INSERT INTO quota_leases (org_id, day, quota, leased, granted) \
                      SELECT id, $2, daily_quota, block, block FROM ( \
                          SELECT id, daily_quota, CASE WHEN daily_quota < $3 THEN daily_quota \
                              WHEN daily_quota / $4 > $3 THEN daily_quota / $4 ELSE $3 END AS block \
                          FROM organisations WHERE id = $1 AND daily_quota > 0 \
                      ) AS limited WHERE true \
                      ON CONFLICT (org_id, day) DO UPDATE SET \
                          quota = excluded.quota, \
                          granted = CASE WHEN excluded.quota - quota_leases.leased < excluded.granted \
                              THEN excluded.quota - quota_leases.leased ELSE excluded.granted END, \
                          leased = CASE WHEN excluded.quota - quota_leases.leased < excluded.granted \
                              THEN excluded.quota ELSE quota_leases.leased + excluded.granted END \
                      WHERE quota_leases.leased < excluded.quota \
                      RETURNING granted";
        let upsert = sqlx::query(upsert).bind(org.as_str()).bind(day).bind(wanted.max(BLOCK_MIN)).bind(BLOCKS);
        // No row: nothing is left, or the quota was lifted a moment ago and the key's cache does not know yet.
        let row = upsert.fetch_optional(&self.pool).await.map_err(Error::Database)?;
        row.map_or(Ok(0), |row| row.try_get("granted").map_err(Error::Database))
    }
}

/// The UTC day, and what is left of it [s], at least 1.
fn day(now: Timestamp) -> (i64, u64) {
    let second = now.as_second();
    (second.div_euclid(DAY_S), (DAY_S - second.rem_euclid(DAY_S)).unsigned_abs())
}
