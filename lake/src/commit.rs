//! The commit: the one place where a table changes.
//!
//! ```text
//!          ┌── check swaps, removed files and protocol against the head ──► refused: Fenced, Conflict
//!          ▼                                       ▲
//!   put version n+1 if absent ──ok──► committed    │ another's: apply it to the head
//!          │ lost, or unknown                      │
//!          ▼                                       │
//!   read the entries from n+1 on, until there is no more
//!          ├─ ours (by commit id) ──► committed
//!          └─ no more, none ours ──► back off, try the version after the newest
//! ```
//!
//! Invariants:
//! 1. A commit costs what it changes, never what the table holds: an append needs no file list (F13).
//! 2. Whatever the store answers, the outcome is what the log says (F05, F09). No file is ever deleted here (F06).
//! 3. Every swap is checked on the very state that the entry is written behind, on every try (F04, F07): put-if-absent
//!    makes that check and the write one step.
//! 4. At most one version can hold our entry: a new version is tried only once the one before is known to be another's.
//! 5. The number of tries and the pause between them have limits (F08).

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    CommitError, Error,
    file::{DataFile, stats_columns},
    layout, replay,
    table::{ENGINE, Head, Table, lines},
};

/// Tries of one commit. With the pauses below about a minute, when others are faster each time.
const ATTEMPTS_MAX: u32 = 60;
const BACK_OFF_FIRST_MS: u64 = 5;
const BACK_OFF_MAX_MS: u64 = 2_000;
/// A file older than this is not committed (ms): vacuum may have taken it, since no commit had added it. Vacuum keeps such
/// files for at least twice as long.
const FILE_AGE_MAX_MS: i64 = 24 * 3600 * 1000;
/// Longest wait for one answer; after it the outcome is unknown.
const PUT_MAX: Duration = Duration::from_secs(120);

/// Compare-and-swap of a transaction identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Delta's application id.
    pub app_id: String,
    /// What the table must hold; 0 where it has none.
    pub expected: i64,
    /// What it holds afterwards.
    pub next: i64,
}

impl Swap {
    /// From what a version of the table holds, as `txns` say, to `next`.
    #[must_use]
    pub fn from_held(txns: &BTreeMap<String, i64>, app_id: String, next: i64) -> Self {
        Self { expected: txns.get(&app_id).copied().unwrap_or(0), app_id, next }
    }

    /// It leaves what the table holds as it is.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.expected == self.next
    }
}

/// One change of a table.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Delta's name of the operation, e.g. `STREAMING UPDATE`.
    pub operation: &'static str,
    /// Files that become active.
    pub add: Vec<DataFile>,
    /// Files that stop being active, from a snapshot; each must be active still.
    pub remove: Vec<DataFile>,
    /// Transaction identifiers that move.
    pub swaps: Vec<Swap>,
    /// False where the rows stay the same (compaction).
    pub data_change: bool,
    /// Not at all where a version after this one brought new rows: for a change that depends on which rows were there before.
    /// `None` = on top of whatever is newest.
    pub only_after: Option<i64>,
    /// New metadata, as Delta's action has it; `None` = the table's stays.
    pub metadata: Option<Value>,
    /// Kept in `commitInfo.operationMetrics`.
    pub metrics: Map<String, Value>,
}

impl Table {
    /// Commits `change` and moves `head` behind it; gives the new version. The head may be stale: it is brought forward as
    /// needed, also where the commit is refused.
    ///
    /// Not cancel-safe: a dropped call may have committed. Swaps make a repetition harmless.
    ///
    /// # Errors
    /// [`CommitError::Fenced`], [`CommitError::Conflict`] and [`CommitError::Moved`] mean: not committed, and it never will
    /// be. After any other, the change may be in the table all the same; repeated with the same swaps it then is refused as
    /// fenced.
    pub async fn commit(&self, head: &mut Head, change: Change) -> Result<i64, CommitError> {
        let now_ms = self.place.now_ms();
        if let Some(file) = change.add.iter().find(|file| now_ms - file.written_ms > FILE_AGE_MAX_MS) {
            return Err(CommitError::TooOld { path: file.path.clone() });
        }
        if change.remove.iter().any(|file| file.seen > head.version()) || replay::outdated(self, &head.state) {
            self.refresh(head).await?;
        }
        // A refusal needs the newest version: what was not there when the head was read may be what the change builds on.
        if check(head, &change).is_err() {
            self.refresh(head).await?;
            check(head, &change)?;
        }
        head.state.check_protocol(self.name())?;
        let files: Vec<_> = change.add.iter().map(|file| layout::location(&self.folder, &file.path)).collect();
        self.place.persist(&files).await?;
        let id = self.place.new_id().to_string();
        let body = Bytes::from(lines(&self.actions(&change, &id)));
        let mut last = None;
        for attempt in 0..ATTEMPTS_MAX {
            let version = head.version() + 1;
            let path = layout::entry(&self.folder, version);
            last = match tokio::time::timeout(PUT_MAX, self.place.put_new(&path, body.clone())).await {
                Ok(Ok(())) => return Ok(landed(head, &change, now_ms)),
                // S3 says so of a 409 too, when nothing landed (F09), and of our own entry, when its client repeated the
                // request after a lost answer (F05).
                Ok(Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })) => None,
                Ok(Err(error)) => Some(error),
                Err(elapsed) => Some(object_store::Error::Generic { store: "put", source: Box::new(elapsed) }),
            };
            if let Some(error) = &last {
                tracing::debug!(table = self.name(), version, %error, "outcome of a commit unknown, the log decides");
            }
            match self.settle(head, &id, &change).await {
                Ok(true) => {
                    // Ours, as the log says; on local disk the sync may be what failed.
                    self.place.persist(&[layout::entry(&self.folder, head.version())]).await?;
                    return Ok(head.version());
                }
                Ok(false) => {}
                // The log cannot be read just now; the same version is tried again, so nothing is lost by not knowing.
                Err(CommitError::Store(error @ Error::Store { .. })) => {
                    tracing::debug!(
                        table = self.name(),
                        version,
                        error = &error as &dyn std::error::Error,
                        "nor can it be read"
                    );
                }
                Err(refused) => return Err(refused),
            }
            let ceiling_ms = (BACK_OFF_FIRST_MS << attempt.min(12)).min(BACK_OFF_MAX_MS);
            // Full jitter: rivals that lost together do not try together.
            tokio::time::sleep(self.place.pause(ceiling_ms)).await;
        }
        Err(CommitError::Exhausted { attempts: ATTEMPTS_MAX, last })
    }

    /// Brings the head up to the newest version, or to our own entry, for which it gives true. Refuses where another's
    /// commit leaves our change without its ground.
    async fn settle(&self, head: &mut Head, id: &str, change: &Change) -> Result<bool, CommitError> {
        while let Some(entry) = self.entry(head.version() + 1).await? {
            if entry.commit_id() == Some(id) {
                landed(head, change, self.place.now_ms());
                return Ok(true);
            }
            head.state.apply(self, &entry)?;
            check(head, change)?;
            if entry.redefines() {
                let detail = "it changes schema or protocol".into();
                return Err(CommitError::Conflict { version: head.version(), detail });
            }
        }
        Ok(false)
    }

    fn actions(&self, change: &Change, id: &str) -> Vec<Value> {
        let (types, now_ms) = (stats_columns(self.spec), self.place.now_ms());
        let info = json!({ "commitInfo": {
            "timestamp": now_ms, "operation": change.operation, "operationParameters": {},
            "operationMetrics": change.metrics, "isBlindAppend": change.remove.is_empty(), "engineInfo": ENGINE, "txnId": id,
        } });
        let txns = change
            .swaps
            .iter()
            .map(|swap| json!({ "txn": { "appId": swap.app_id, "version": swap.next, "lastUpdated": now_ms } }));
        let removed = change.remove.iter().map(|file| file.to_remove(self.spec, change.data_change, now_ms));
        let added = change.add.iter().map(|file| file.to_add(self.spec, &types, change.data_change));
        let metadata = change.metadata.iter().map(|metadata| json!({ "metaData": metadata }));
        std::iter::once(info).chain(metadata).chain(txns).chain(removed).chain(added).collect()
    }
}

/// Moves the head behind our own entry.
fn landed(head: &mut Head, change: &Change, now_ms: i64) -> i64 {
    let state = &mut head.state;
    state.version += 1;
    if change.data_change && !change.add.is_empty() {
        state.rows_version = state.version;
    }
    state.read_ms = now_ms;
    if let Some(metadata) = &change.metadata {
        let configuration = metadata["configuration"].clone();
        state.metadata(metadata["id"].as_str(), metadata["schemaString"].as_str(), configuration);
    }
    for swap in &change.swaps {
        state.txns.insert(swap.app_id.clone(), swap.next);
    }
    for file in &change.remove {
        state.note_removed(state.version, file.path.clone());
    }
    state.version
}

/// Refuses a change that does not hold on top of `head`.
fn check(head: &Head, change: &Change) -> Result<(), CommitError> {
    for swap in &change.swaps {
        let found = head.next_offset(&swap.app_id);
        if found != swap.expected {
            return Err(CommitError::Fenced { app_id: swap.app_id.clone(), expected: swap.expected, found });
        }
    }
    let state = &head.state;
    if change.only_after.is_some_and(|version| version < state.rows_version) {
        return Err(CommitError::Moved { version: state.version });
    }
    let conflict = |version, detail| Err(CommitError::Conflict { version, detail });
    for file in &change.remove {
        if file.seen < state.removed_since {
            let detail = format!("{} was read at version {}, too old to tell if it is active", file.path, file.seen);
            return conflict(state.version, detail);
        }
        if let Some(version) = state.removed.get(&file.path).filter(|version| **version > file.seen) {
            return conflict(*version, format!("it removes {} too", file.path));
        }
    }
    Ok(())
}

impl From<Error> for CommitError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}
