//! Keeping tables small and quick: compaction, log checkpoints, log clean-up, vacuum. Safe beside writers and readers.
//!
//! ```text
//! each table, each round:  compact ──► log checkpoint ──► clean the log, vacuum (now and then)
//!                          few large       opening reads        only what no reader and
//!                          sorted files    it and the tail      no writer can still need
//! ```
//!
//! Invariants:
//! 1. Compaction changes no row (`dataChange` is false) and commits by the same loop as everyone; a file that another has
//!    removed meanwhile is a conflict, and its bin is left for the next round.
//! 2. Readers find the files of a version for `file_retention` after it was replaced: vacuum takes nothing younger (R14).
//! 3. A file that no commit adds is deleted when it is older than `file_retention`; a commit refuses to add files older
//!    than `commit::FILE_AGE_MAX_MS`, so that no commit can come too late for its files (F06).
//! 4. Log entries go only below a log checkpoint older than `log_retention` (F11); whoever knows the table from longer ago
//!    than `replay::KNOWN_AGE_MAX_MS` reads it anew, and cannot take a cleaned-up version for the table's end.

mod compact;
mod serve;

use bytesize::ByteSize;
use chrono::TimeDelta;
use datafusion::{
    execution::{memory_pool::FairSpillPool, runtime_env::RuntimeEnvBuilder},
    prelude::{SessionConfig, SessionContext},
};
use deltalake_core::{checkpoints::cleanup_expired_logs_for, operations::vacuum::VacuumMode};
use jiff::SignedDuration;
use schemas::TableSpec;
use serde::{Deserialize, Serialize};

pub use self::serve::{Metrics, serve};
use crate::{Error, Lake, Result, Table};

/// Memory for merging and sorting one bin.
const MERGE_BYTES: usize = 256 << 20;
/// Rows of a batch while merging: many files are open at once.
const BATCH_ROWS: usize = 4096;

/// How tables are maintained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// From the end of one round to the start of the next.
    pub interval: SignedDuration,
    /// Files are merged until they have about this size.
    pub file_bytes: ByteSize,
    /// As many small files of one day are merged; fewer wait for more.
    pub files_min: usize,
    /// A day without a new file for so long is merged whatever the number of its files.
    pub quiet_after: SignedDuration,
    /// A log checkpoint is written after so many commits.
    pub checkpoint_commits: i64,
    /// From one vacuum and log clean-up to the next.
    pub vacuum_interval: SignedDuration,
    /// Replaced files and files that no commit added are kept for so long.
    pub file_retention: SignedDuration,
    /// Log entries are kept for so long: older versions of the table cannot be read any more.
    pub log_retention: SignedDuration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: SignedDuration::from_secs(30),
            file_bytes: ByteSize::mib(64),
            files_min: 8,
            quiet_after: SignedDuration::from_hours(6),
            checkpoint_commits: 100,
            vacuum_interval: SignedDuration::from_hours(12),
            file_retention: SignedDuration::from_hours(7 * 24),
            log_retention: SignedDuration::from_hours(30 * 24),
        }
    }
}

impl Settings {
    /// Every fault of the settings.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.file_bytes < ByteSize::mib(1) || self.file_bytes > ByteSize::mib(256) {
            faults.push("file-bytes takes 1MiB to 256MiB: a file is encoded in memory".into());
        }
        if self.files_min < 2 {
            faults.push("files-min takes at least 2".into());
        }
        if self.checkpoint_commits < 1 {
            faults.push("checkpoint-commits takes at least 1".into());
        }
        if self.interval <= SignedDuration::ZERO || self.vacuum_interval <= SignedDuration::ZERO {
            faults.push("interval and vacuum-interval take more than nothing".into());
        }
        let shortest = SignedDuration::from_hours(48);
        if self.file_retention < shortest || self.log_retention < shortest {
            faults.push("file-retention and log-retention take at least 48h: readers and writers may be as old".into());
        }
        faults
    }
}

/// What a round did to one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Small files that were replaced.
    pub files_merged: usize,
    /// Files that replaced them.
    pub files_written: usize,
    /// Bins that another writer was faster with.
    pub conflicts: usize,
    /// Active files afterwards.
    pub files_active: usize,
    /// Whether a log checkpoint was written.
    pub checkpoint: bool,
    /// Log entries deleted.
    pub entries_deleted: usize,
    /// Data files deleted.
    pub files_deleted: usize,
}

impl Lake {
    /// One round over one table; does nothing where there is no table. With `vacuum`, also cleans the log and deletes the files
    /// that nobody needs.
    ///
    /// # Errors
    /// Where the table cannot be read or written; what was done until then stays done.
    pub async fn maintain(&self, spec: &'static TableSpec, settings: &Settings, vacuum: bool) -> Result<Report> {
        let table = self.table(spec);
        let mut report = Report::default();
        if table.head().await?.is_none() {
            return Ok(report);
        }
        table.compact(&merging_context()?, settings, &mut report).await?;
        let newest = table.head().await?.map_or(0, |head| head.version());
        if newest - table.last_log_checkpoint().await?.unwrap_or(0) >= settings.checkpoint_commits {
            table.log_checkpoint().await?;
            report.checkpoint = true;
        }
        if vacuum {
            report.entries_deleted = table.clean_log(settings.log_retention).await?;
            report.files_deleted = table.vacuum(settings.file_retention).await?;
        }
        Ok(report)
    }
}

fn merging_context() -> Result<SessionContext> {
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(std::sync::Arc::new(FairSpillPool::new(MERGE_BYTES)));
    let runtime = runtime.build_arc().map_err(Error::Scan)?;
    let config = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS);
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

impl Table {
    /// Deletes log entries older than `retention`, as far as a log checkpoint of that age makes them needless. Gives their number.
    ///
    /// # Errors
    /// Where the log cannot be listed or an entry not be deleted; what is left is found next time.
    pub async fn clean_log(&self, retention: SignedDuration) -> Result<usize> {
        let table = self.delta_table().await?;
        let Some(version) = table.version() else { return Ok(0) };
        let cutoff_ms = self.place().now_ms() - i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        cleanup_expired_logs_for(version, table.log_store().as_ref(), cutoff_ms, None).await.map_err(Error::Delta)
    }

    /// Deletes files that no version within `retention` has and no commit will add. Gives their number.
    ///
    /// # Errors
    /// Where the table cannot be listed or a file not be deleted; what is left is found next time.
    pub async fn vacuum(&self, retention: SignedDuration) -> Result<usize> {
        let retention = TimeDelta::seconds(retention.as_secs());
        let vacuum = self.delta_table().await?.vacuum().with_mode(VacuumMode::Full).with_retention_period(retention);
        // The table's own property would not let a shorter retention pass; ours is checked with the settings.
        let (_, metrics) = vacuum.with_enforce_retention_duration(false).await.map_err(Error::Delta)?;
        Ok(metrics.files_deleted.len())
    }
}
