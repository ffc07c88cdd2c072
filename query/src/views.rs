//! Views of people by name, for the audit log: on record before anything is shown, or not shown.
//!
//! | on record | once |
//! |---|---|
//! | somebody other than the person reads a table in which people stand by name | by key, table, person looked for (or all) and UTC day |
//!
//! A question that reads `user_key`, or the raw events, counts as a view, whatever is made of it above. Those who come at once share one write.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use directory::{Directory, KeyId, View};
use jiff::Timestamp;
use schemas::{EVENTS, OrgId, TableSpec};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::{Error, Result, policy::USER_COLUMN};

/// Views remembered as being on record. Beyond that all are forgotten: some are recorded twice then.
const KNOWN_MAX: usize = 100_000;
/// Longest `user_key` that an entry names [bytes]. Nobody has a longer one.
const PERSON_MAX: usize = 256;
/// People that a key looks for one by one in a table, in a day; beyond that it is on record as having looked for any.
const PEOPLE_MAX: usize = 2_000;

/// A view that is to be written, and who waits for it.
type Waiting = (View, oneshot::Sender<()>);

/// What is on record of a day.
#[derive(Default)]
struct Day {
    /// Days since 1970.
    day: i64,
    views: HashSet<View>,
    /// How many people were looked for one by one.
    people: HashMap<(KeyId, &'static str), usize>,
}

/// The views of this process.
pub(crate) struct Views {
    directory: Directory,
    known: Mutex<Day>,
    waiting: Mutex<Vec<Waiting>>,
    /// Held by whoever writes for all that wait.
    writing: AsyncMutex<()>,
}

impl Views {
    pub(crate) fn new(directory: Directory) -> Self {
        Self { directory, known: Mutex::default(), waiting: Mutex::default(), writing: AsyncMutex::default() }
    }

    /// Returns when the view is on record.
    async fn record(&self, mut view: View) -> Result<()> {
        let now = now();
        let day = now.as_second().div_euclid(86_400);
        if self.known(day, |known| known.views.contains(&view)) {
            return Ok(());
        }
        let asked = self.known(day, |known| known.people.get(&(view.key.clone(), view.table)).copied());
        if asked.is_some_and(|people| people >= PEOPLE_MAX) {
            view.person = None;
            if self.known(day, |known| known.views.contains(&view)) {
                return Ok(());
            }
        }
        let (done, mut told) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((view.clone(), done));
        let _writing = self.writing.lock().await;
        if told.try_recv().is_ok() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        // Ours, too, where whoever took it went away before it was written, or could not write it with the others.
        let mut views: Vec<View> = waiting.iter().map(|(view, _)| view.clone()).chain([view.clone()]).collect();
        views.sort();
        views.dedup();
        views.retain(|view| !self.known(day, |known| known.views.contains(view)));
        if self.write(day, &views, now).await.is_err() {
            // The fault may be another's.
            self.write(day, &[view], now).await?;
            return Ok(());
        }
        for (_, done) in waiting {
            // Who asked may be gone.
            let _ = done.send(());
        }
        Ok(())
    }

    async fn write(&self, day: i64, views: &[View], now: Timestamp) -> Result<()> {
        if let Err(error) = self.directory.record_views(views, now).await {
            let (error, views) = (&error as &dyn std::error::Error, views.len());
            tracing::error!(error, views, "views of people cannot be put on record, and so nothing is shown");
            return Err(Error::Unrecorded);
        }
        self.known(day, |known| {
            for view in views {
                if known.views.insert(view.clone()) && view.person.is_some() {
                    *known.people.entry((view.key.clone(), view.table)).or_default() += 1;
                }
            }
        });
        Ok(())
    }

    /// What is on record of a day, of which nothing is when it begins.
    fn known<T>(&self, day: i64, look: impl FnOnce(&mut Day) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.day != day || known.views.len() > KNOWN_MAX {
            *known = Day { day, ..Day::default() };
        }
        look(&mut known)
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
        let person = person.filter(|person| person.len() <= PERSON_MAX && !person.contains('\0'));
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

#[cfg(test)]
mod tests {
    use std::{future::Future as _, pin::pin};

    use directory::{NewKey, OptIn, Scope};
    use futures::task::noop_waker;

    use super::*;

    async fn world() -> (Views, Viewer) {
        let directory = Directory::open("sqlite::memory:").await.expect("in memory");
        let org: OrgId = "acme".parse().expect("an id");
        directory.create_org(&org, "", "UTC", Timestamp::UNIX_EPOCH).await.expect("new");
        directory.set_opt_in(&org, OptIn::Named, "a test", Timestamp::UNIX_EPOCH).await.expect("there");
        let made = directory.create_key_as(&org, &NewKey::of(Scope::Read, ""), Timestamp::UNIX_EPOCH).await;
        let views = Arc::new(Views::new(directory.clone()));
        let viewer = Viewer { org, key: made.expect("new").0, views };
        (Views::new(directory), viewer)
    }

    fn of(viewer: &Viewer, person: &str) -> View {
        let (org, key) = (viewer.org.clone(), viewer.key.clone());
        View { org, key, table: "rollup_daily", person: Some(person.to_owned()) }
    }

    /// People who were looked for, in order of the record.
    async fn recorded(viewer: &Viewer) -> Vec<String> {
        let (mut after, mut subjects) = (0, Vec::new());
        loop {
            let entries = viewer.views.directory.audit_after(&viewer.org, after).await.expect("readable");
            let Some(last) = entries.last() else { return subjects };
            after = last.number;
            let views = entries.into_iter().filter(|entry| entry.action == "people.viewed");
            subjects.extend(views.map(|entry| entry.subject));
        }
    }

    #[tokio::test]
    async fn who_writes_for_others_may_go_away() {
        let (views, viewer) = world().await;
        let waker = noop_waker();
        let mut context = std::task::Context::from_waker(&waker);
        let busy = views.writing.lock().await;
        let mut second = pin!(views.record(of(&viewer, "bob")));
        {
            let mut first = pin!(views.record(of(&viewer, "ada")));
            assert!(first.as_mut().poll(&mut context).is_pending() && second.as_mut().poll(&mut context).is_pending());
            drop(busy);
            // It takes both, begins to write them, and is not there to end it.
            assert!(first.as_mut().poll(&mut context).is_pending());
            assert!(views.waiting.lock().expect("whole").is_empty());
        }
        second.await.expect("writable");
        assert!(recorded(&viewer).await.contains(&"bob".to_owned()), "shown only once it is on record");
    }

    #[tokio::test]
    async fn whoever_goes_through_everyone_is_on_record_as_that() {
        let (views, viewer) = world().await;
        for number in 0..PEOPLE_MAX + 3 {
            views.record(of(&viewer, &format!("person {number}"))).await.expect("writable");
        }
        views.record(of(&viewer, "person 0")).await.expect("known");
        let recorded = recorded(&viewer).await;
        assert_eq!((recorded.len(), recorded.last().map(String::as_str)), (PEOPLE_MAX + 1, Some("*")));
        for person in ["x".repeat(PERSON_MAX + 1), "a\0b".to_owned()] {
            viewer.looks_at("model_daily", Some(&person), true).await.expect("writable");
        }
        assert_eq!(super::tests::recorded(&viewer).await.len(), recorded.len() + 1, "neither is anyone's key");
    }
}
