//! The commit: the one place where a table changes.
//!
//! ```text
//!          ┌────────────── check swaps against the head ──refused──► Fenced
//!          ▼                                                 
//!   put version n+1 if absent ──ok──► done
//!          │ lost, or unknown
//!          ▼
//!   read entry n+1 ── ours (by commit id) ──► done
//!          │        └─ nothing there ──► back off, same version again
//!          └─ another's ──► apply to the head, check that it leaves our change valid ──► n+2
//! ```
//!
//! Invariants:
//! 1. A commit costs what it changes, never what the table holds: an append needs no file list.
//! 2. Whatever the store answers, the outcome is what the log says (F05, F09). No file is ever deleted here (F06).
//! 3. Every swap is checked on the very state that the entry is written behind, on every try (F04, F07): put-if-absent
//!    makes that check and the write one step.
//! 4. The number of tries and the pause between them have limits (F08).

use std::time::Duration;

use object_store::{PutMode, PutOptions};
use rand::Rng;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    CommitError, Error,
    file::DataFile,
    replay::Entry,
    table::{Head, Table, lines},
};

const ATTEMPTS_MAX: u32 = 60;
const BACK_OFF_FIRST_MS: u64 = 5;
const BACK_OFF_MAX_MS: u64 = 2_000;

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

/// One change of a table.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Delta's name of the operation, e.g. `STREAMING UPDATE`.
    pub operation: &'static str,
    /// Files that become active.
    pub add: Vec<DataFile>,
    /// Files that stop being active; each must be active still.
    pub remove: Vec<DataFile>,
    /// Transaction identifiers that move.
    pub swaps: Vec<Swap>,
    /// False where the rows stay the same (compaction).
    pub data_change: bool,
    /// Kept in `commitInfo.operationMetrics`.
    pub metrics: Map<String, Value>,
}

impl Table {
    /// Commits `change` and moves `head` behind it; gives the new version.
    ///
    /// Not cancel-safe: a dropped call may have committed. Swaps make a repetition harmless.
    ///
    /// # Errors
    /// See [`CommitError`]. After [`CommitError::Exhausted`] with a cause the outcome may be unknown; a repetition with the
    /// same swaps then is refused as fenced where it had been durable.
    pub async fn commit(&self, head: &mut Head, change: Change) -> Result<i64, CommitError> {
        check_swaps(head, &change)?;
        let files: Vec<_> = change.add.iter().map(|file| self.location(&file.path)).collect();
        self.durability.persist(&files).await.map_err(CommitError::Store)?;
        let id = Uuid::new_v4().to_string();
        let body = bytes::Bytes::from(lines(&actions(&change, &id)));
        let mut last = None;
        for attempt in 0..ATTEMPTS_MAX {
            let version = head.state.version + 1;
            let path = self.entry_path(version);
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.store.put_opts(&path, body.clone().into(), options).await;
            let landed = match put {
                Ok(_) => true,
                Err(error) => {
                    let lost = matches!(error, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. });
                    if !lost {
                        tracing::debug!(table = self.name(), version, %error, "outcome of a commit unknown, reading the log");
                    }
                    last = (!lost).then_some(error);
                    match self.entry(version).await {
                        Ok(Some(entry)) if entry.commit_id() == Some(&id) => true,
                        Ok(Some(entry)) => {
                            absorb(head, version, &entry, &change)?;
                            false
                        }
                        Ok(None) => false,
                        Err(error) => {
                            tracing::debug!(table = self.name(), version, %error, "the log cannot be read either");
                            false
                        }
                    }
                }
            };
            if landed {
                self.durability.persist(&[path]).await.map_err(CommitError::Store)?;
                for swap in &change.swaps {
                    head.state.txns.insert(swap.app_id.clone(), swap.next);
                }
                head.state.version = version;
                return Ok(version);
            }
            let ceiling = (BACK_OFF_FIRST_MS << attempt.min(12)).min(BACK_OFF_MAX_MS);
            // Full jitter: rivals that lost together do not try together.
            let pause = rand::rng().random_range(0..=ceiling);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        Err(CommitError::Exhausted { attempts: ATTEMPTS_MAX, last })
    }
}

fn check_swaps(head: &Head, change: &Change) -> Result<(), CommitError> {
    for swap in &change.swaps {
        let found = head.next_offset(&swap.app_id);
        if found != swap.expected {
            return Err(CommitError::Fenced { app_id: swap.app_id.clone(), expected: swap.expected, found });
        }
    }
    Ok(())
}

/// Takes another's commit into the head, and refuses where ours no longer holds on top of it.
fn absorb(head: &mut Head, version: i64, entry: &Entry, change: &Change) -> Result<(), CommitError> {
    head.state.apply(version, entry).map_err(CommitError::Store)?;
    check_swaps(head, change)?;
    if entry.redefines() {
        return Err(CommitError::Conflict { version, detail: "it changes schema or protocol".into() });
    }
    if let Some(path) = entry.removed().find(|path| change.remove.iter().any(|file| file.path == *path)) {
        return Err(CommitError::Conflict { version, detail: format!("it removes {path} too") });
    }
    Ok(())
}

fn actions(change: &Change, id: &str) -> Vec<Value> {
    let removes = !change.remove.is_empty();
    let info = json!({ "commitInfo": {
        "operation": change.operation, "operationParameters": {}, "operationMetrics": change.metrics,
        "engineInfo": concat!("daybook/", env!("CARGO_PKG_VERSION")), "isBlindAppend": !removes, "txnId": id,
    } });
    let txns = change.swaps.iter().map(|swap| json!({ "txn": { "appId": swap.app_id, "version": swap.next } }));
    let adds = change.add.iter().map(|file| json!({ "add": file.to_add(change.data_change) }));
    let removed = change.remove.iter().map(|file| json!({ "remove": file.to_remove(change.data_change) }));
    std::iter::once(info).chain(txns).chain(removed).chain(adds).collect()
}

impl From<Error> for CommitError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}
