//! Compaction: many small sorted files of one partition become few large sorted ones.
//!
//! Files are merged with files of their own order of size, four times as large at most: a row is so written again once for
//! each order of size, not once for each round.

use std::collections::BTreeMap;

use datafusion::prelude::SessionContext;
use jiff::civil::Date;

use super::{Report, Settings};
use crate::{Change, CommitError, DataFile, MERGED_FILES_MAX, Result, Snapshot, Table};

impl Table {
    /// Merges small files, bin by bin, a commit for each; others may write meanwhile.
    pub(super) async fn compact(
        &self,
        context: &SessionContext,
        settings: &Settings,
        report: &mut Report,
    ) -> Result<()> {
        let snapshot = self.snapshot().await?;
        let mut head = snapshot.head();
        report.files_active = snapshot.files.len();
        for bin in bins(&snapshot.files, settings, self.place().now_ms()) {
            let merged = self.merge(context, &snapshot, &bin).await?;
            let mut change = Change { operation: "OPTIMIZE", data_change: false, ..Change::default() };
            change.metrics.insert("numRemovedFiles".into(), bin.len().into());
            change.metrics.insert("numAddedFiles".into(), 1.into());
            change.add.push(merged);
            change.remove.clone_from(&bin);
            match self.commit(&mut head, change).await {
                Ok(version) => {
                    tracing::debug!(table = self.name(), version, files = bin.len(), "compacted");
                    report.files_merged += bin.len();
                    report.files_written += 1;
                    report.files_active = (report.files_active + 1).saturating_sub(bin.len());
                }
                Err(CommitError::Conflict { detail, .. }) => {
                    tracing::info!(table = self.name(), detail, "compaction came second, its bin is left");
                    report.conflicts += 1;
                }
                Err(CommitError::Store(error)) => return Err(error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn merge(&self, context: &SessionContext, snapshot: &Snapshot, bin: &[DataFile]) -> Result<DataFile> {
        let schema = self.spec().file_schema();
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let rows = snapshot.sorted_scan(context, bin.to_vec(), &columns, Vec::new())?;
        let merged = self.write_stream(bin[0].partition_value, rows).await?;
        let expected: u64 = bin.iter().map(|file| file.rows).sum();
        if merged.rows != expected {
            // Not committed: whatever is wrong, the small files are still the table.
            return Err(crate::Error::Rows {
                table: self.name().into(),
                detail: format!("{} rows in place of {expected} after a merge", merged.rows),
            });
        }
        Ok(merged)
    }
}

/// Files up to this size are of the same, the lowest, order of size.
const TINY_BYTES: u64 = 64 << 10;

/// Order of size: four times as large is the next.
fn order(size_bytes: u64) -> u32 {
    (size_bytes / TINY_BYTES).checked_ilog(4).map_or(0, |order| order + 1)
}

/// What to merge: for each partition, sets of small files of one order of size. Of a quiet partition, all small files.
fn bins(files: &[DataFile], settings: &Settings, now_ms: i64) -> Vec<Vec<DataFile>> {
    let target = settings.file_bytes.as_u64();
    let quiet_ms = i64::try_from(settings.quiet_after.as_millis()).unwrap_or(i64::MAX);
    let mut newest: BTreeMap<Option<Date>, i64> = BTreeMap::new();
    for file in files {
        let newest_ms = newest.entry(file.partition_value).or_insert(i64::MIN);
        *newest_ms = (*newest_ms).max(file.written_ms);
    }
    let is_quiet = |partition| newest[&partition].saturating_add(quiet_ms) <= now_ms;
    let mut alike: BTreeMap<(Option<Date>, u32), Vec<&DataFile>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.size_bytes < target / 2) {
        let order = if is_quiet(file.partition_value) { 0 } else { order(file.size_bytes) };
        alike.entry((file.partition_value, order)).or_default().push(file);
    }
    let mut bins = Vec::new();
    for ((partition, _), mut small) in alike {
        small.sort_by(|a, b| (a.size_bytes, &a.path).cmp(&(b.size_bytes, &b.path)));
        let least = if is_quiet(partition) { 2 } else { settings.files_min };
        let (mut bin, mut bytes): (Vec<DataFile>, u64) = (Vec::new(), 0);
        for file in small {
            if bin.len() == MERGED_FILES_MAX || bytes + file.size_bytes > target {
                bins.push(std::mem::take(&mut bin));
                bytes = 0;
            }
            bytes += file.size_bytes;
            bin.push(file.clone());
        }
        bins.push(bin);
        bins.retain(|bin| bin.len() >= least);
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileStats;

    const KIB: u64 = 1024;

    fn file(day: i8, size_bytes: u64, written_ms: i64, number: usize) -> DataFile {
        let partition_value = Some(Date::new(2026, 3, day).expect("a date"));
        let path = format!("{day}/{number}");
        DataFile { path, size_bytes, rows: 1, partition_value, stats: FileStats::default(), written_ms, seen: 0 }
    }

    fn sizes(files: &[DataFile], now_ms: i64) -> Vec<Vec<u64>> {
        let settings = Settings { file_bytes: bytesize::ByteSize::kib(1_000), files_min: 3, ..Settings::default() };
        let bins = bins(files, &settings, now_ms);
        bins.iter().map(|bin| bin.iter().map(|file| file.size_bytes / KIB).collect()).collect()
    }

    #[test]
    fn small_files_of_a_day_are_merged() {
        let of = |sizes: &[u64]| -> Vec<DataFile> {
            sizes.iter().enumerate().map(|(number, size)| file(1, *size * KIB, 0, number)).collect()
        };
        assert_eq!(sizes(&of(&[5, 5]), 1), Vec::<Vec<u64>>::new(), "too few");
        assert_eq!(sizes(&of(&[5, 5, 5]), 1), [[5, 5, 5]]);
        assert_eq!(sizes(&of(&[5, 5, 5, 90]), 1), [[5, 5, 5]], "a large one is not written again for three small ones");
        assert_eq!(sizes(&of(&[900, 600, 500]), 1), Vec::<Vec<u64>>::new(), "large enough");
        assert_eq!(sizes(&of(&[400, 400, 300]), 1), Vec::<Vec<u64>>::new(), "two make a bin, and that is too few");
        assert_eq!(sizes(&of(&[300, 300, 300, 300]), 1), [[300, 300, 300]]);
        let quiet_ms = Settings::default().quiet_after.as_millis() as i64;
        assert_eq!(sizes(&of(&[5, 400]), quiet_ms), [[5, 400]], "nothing new comes");
        let days = [(1, 5), (2, 5), (1, 5), (2, 5), (1, 6)];
        let days: Vec<DataFile> =
            days.iter().enumerate().map(|(number, (day, size))| file(*day, size * KIB, 0, number)).collect();
        assert_eq!(sizes(&days, 1), [[5, 5, 6]], "days stay apart");
    }

    #[test]
    fn a_row_is_written_again_once_for_each_order_of_size() {
        let (mut files, mut written, mut number) = (Vec::new(), 0, 0);
        let settings = Settings { file_bytes: bytesize::ByteSize(1 << 30), ..Settings::default() };
        for round in 0..4_096 {
            files.push(file(1, 10 * KIB, 0, round));
            for bin in bins(&files, &settings, 1) {
                let size = bin.iter().map(|file| file.size_bytes).sum();
                files.retain(|file| !bin.iter().any(|merged| merged.path == file.path));
                number += 1;
                files.push(file(1, size, 0, 100_000 + number));
                written += size;
            }
        }
        assert!(files.len() < 40, "{} files are left", files.len());
        let times = written / (4_096 * 10 * KIB);
        assert!(times <= 6, "each row was written {times} times");
    }
}
