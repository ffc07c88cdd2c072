//! Writes in turn, some to a transaction, where the database has one writer.
//!
//! ```text
//! request ─► waits for the lane ─► savepoint: its write ─► others wait? ── yes: leaves the transaction to the next, waits
//!                                                                      └─ no: commits for all, who then answer
//! ```
//!
//! SQLite has one writer, and whoever waits for its lock polls; and it syncs the disk at each commit, which takes longer than all else. So writes
//! of this process stand in line, and those that are there at once share a commit. Nothing is answered before it. PostgreSQL does both by itself.

use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use schemas::OrgId;
use sqlx::{Connection as _, Transaction};
use tokio::sync::{Mutex, oneshot};

use super::{
    Db,
    write::{Write, Written, apply},
};
use crate::{
    Directory,
    scim::problem::{Problem, Result},
};

/// Most writes of a transaction.
const WRITES_MAX: usize = 64;
/// Times that a transaction is begun which the database undid because of another; each time one of those at once gets through.
const ATTEMPTS_MAX: usize = 24;
/// The line of those who want to write.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// The transaction that the last one left.
    open: Mutex<Option<Batch>>,
    /// Who stands in line.
    waiting: AtomicUsize,
}

/// A transaction with what was written in it.
#[derive(Debug)]
struct Batch {
    transaction: Transaction<'static, Db>,
    /// To be told when it is committed. Those who are not told were not.
    done: Vec<oneshot::Sender<()>>,
}

impl Batch {
    async fn commit(self) -> Result<()> {
        self.transaction.commit().await?;
        for done in self.done {
            // Whoever is not there any more does not want to know.
            let _ = done.send(());
        }
        Ok(())
    }
}

impl Directory {
    /// Writes, all of it or nothing, and returns when it is on disk.
    ///
    /// # Errors
    /// What [`apply`] says; 503 where the database cannot be written.
    pub(in crate::scim) async fn scim_write(
        &self,
        org: &OrgId,
        write: Write,
        clock: fn() -> Timestamp,
    ) -> Result<Written> {
        let (directory, org) = (self.clone(), org.clone());
        // A task of its own: of a client that goes away no half of a write may stay in a transaction that others share.
        let task = tokio::spawn(async move {
            let written = match &directory.lane {
                Some(lane) => directory.in_turn(lane, &org, write, clock).await?,
                None => directory.alone(&org, write, clock).await?,
            };
            written.revoked.iter().for_each(|id| directory.cache.forget(id));
            Ok(written)
        });
        task.await.unwrap_or_else(|_| Err(Problem::unknown()))
    }

    async fn alone(&self, org: &OrgId, write: Write, clock: fn() -> Timestamp) -> Result<Written> {
        let mut attempts = 1;
        loop {
            match self.attempt(org, write.clone(), clock()).await {
                Err(problem) if problem.again && attempts < ATTEMPTS_MAX => attempts += 1,
                outcome => return outcome,
            }
        }
    }

    async fn attempt(&self, org: &OrgId, write: Write, now: Timestamp) -> Result<Written> {
        let mut transaction = self.begin().await?;
        let written = apply(self, &mut transaction, org, write, now).await?;
        transaction.commit().await?;
        Ok(written)
    }

    async fn in_turn(&self, lane: &Lane, org: &OrgId, write: Write, clock: fn() -> Timestamp) -> Result<Written> {
        lane.waiting.fetch_add(1, Ordering::SeqCst);
        let mut open = lane.open.lock().await;
        lane.waiting.fetch_sub(1, Ordering::SeqCst);
        // Out of its place: where this panics, the transaction is undone, and all that is in it refused.
        let mut batch = match open.take() {
            Some(batch) => batch,
            None => Batch { transaction: self.begin().await?, done: Vec::new() },
        };
        let mut savepoint = batch.transaction.begin().await?;
        let outcome = apply(self, &mut savepoint, org, write, clock()).await;
        if outcome.is_ok() {
            savepoint.commit().await?
        } else {
            savepoint.rollback().await?
        }
        let (told, done) = oneshot::channel();
        if outcome.is_ok() {
            batch.done.push(told);
        }
        // Whoever waits is a task that nothing ends: it will come, and commit.
        if lane.waiting.load(Ordering::SeqCst) == 0 || batch.done.len() >= WRITES_MAX {
            batch.commit().await?;
        } else {
            *open = Some(batch);
        }
        drop(open);
        let written = outcome?;
        done.await.map_err(|_| Problem::unknown())?;
        Ok(written)
    }
}
