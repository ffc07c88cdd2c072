//! Views of people by name, for the audit log: on record before anything is shown, or not shown.
//!
//! | on record | once |
//! |---|---|
//! | somebody other than the person reads a table in which people stand by name | by key, table, person looked for (or all) and UTC day |
//!
//! A question that reads `user_key`, or the raw events, counts as a view, whatever is made of it above. Those who come at once share one write.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use directory::{Directory, KeyId, View};
use jiff::Timestamp;
use schemas::{EVENTS, OrgId, TableSpec};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::{Error, Result, policy::USER_COLUMN};

/// Views remembered as being on record. Beyond that all are forgotten: some are recorded twice then.
const KNOWN_MAX: usize = 200_000;

type Waiting = (View, oneshot::Sender<bool>);

/// The views of this process.
pub(crate) struct Views {
    directory: Directory,
    /// Those of a day, in days since 1970, that are on record.
    known: Mutex<(i64, HashSet<View>)>,
    waiting: Mutex<Vec<Waiting>>,
    /// Held by whoever writes for all that wait.
    writing: AsyncMutex<()>,
}

impl Views {
    pub(crate) fn new(directory: Directory) -> Self {
        Self { directory, known: Mutex::default(), waiting: Mutex::default(), writing: AsyncMutex::default() }
    }

    /// Returns when the view is on record.
    async fn record(&self, view: View) -> Result<()> {
        let now = now();
        let day = now.as_second().div_euclid(86_400);
        if self.is_known(day, &view) {
            return Ok(());
        }
        let (done, mut told) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((view, done));
        let _writing = self.writing.lock().await;
        // Whoever wrote before may have written ours.
        if let Ok(written) = told.try_recv() {
            return if written { Ok(()) } else { Err(Error::Unrecorded) };
        }
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let mut views: Vec<View> = waiting.iter().map(|(view, _)| view.clone()).collect();
        views.sort();
        views.dedup();
        views.retain(|view| !self.is_known(day, view));
        let written = self.directory.record_views(&views, now).await;
        if let Err(error) = &written {
            let (error, views) = (error as &dyn std::error::Error, views.len());
            tracing::error!(error, views, "views of people cannot be put on record, and so nothing is shown");
        } else {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.0 != day || known.1.len() + views.len() > KNOWN_MAX {
                *known = (day, HashSet::new());
            }
            known.1.extend(views);
        }
        for (_, done) in waiting {
            // Who asked may be gone.
            let _ = done.send(written.is_ok());
        }
        written.map_err(|_| Error::Unrecorded)
    }

    fn is_known(&self, day: i64, view: &View) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.0 == day && known.1.contains(view)
    }
}

/// Whoever looks, with a credential.
#[derive(Clone)]
pub(crate) struct Viewer {
    pub(crate) org: OrgId,
    pub(crate) key: KeyId,
    pub(crate) views: Arc<Views>,
}

impl fmt::Debug for Viewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Viewer").field("org", &self.org).field("key", &self.key).finish_non_exhaustive()
    }
}

impl PartialEq for Viewer {
    fn eq(&self, other: &Self) -> bool {
        self.org == other.org && self.key == other.key
    }
}

impl Eq for Viewer {}

impl Viewer {
    /// Puts on record that rows of `table` are looked at: of which person, `None` = of any. `reads_people` = the column is read that names them.
    ///
    /// # Errors
    /// [`Error::Unrecorded`] where it cannot be written: then nothing may be shown.
    pub(crate) async fn looks_at(&self, table: &'static str, person: Option<&str>, reads_people: bool) -> Result<()> {
        if !reads_people && table != EVENTS.name {
            return Ok(());
        }
        let (org, key) = (self.org.clone(), self.key.clone());
        self.views.record(View { org, key, table, person: person.map(str::to_owned) }).await
    }
}

/// Whether people stand in a table.
pub(crate) fn is_about_people(spec: &TableSpec) -> bool {
    spec.schema().column_with_name(USER_COLUMN).is_some()
}

#[allow(clippy::disallowed_methods, reason = "an entry says when it was, by the clock on the wall")]
fn now() -> Timestamp {
    Timestamp::now()
}
