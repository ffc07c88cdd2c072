//! The tables as they are now, shared by all requests.
//!
//! ```text
//!            current()                    at(version)
//!               │                             │
//!  age < max ──►├─► the known version         └─► kept because a cursor was handed out for it
//!  else ────────┴─► newer commits? ──► read the file list once, publish it to everyone
//! ```
//!
//! Asking costs one look at the table's log at most every `snapshot_age_max`, by one request; the others use what is known. A
//! version stays as long as a query runs on it, and, within a bound, as long as a cursor may come back for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{MemTable, TableProvider},
    datasource::empty::EmptyTable,
    execution::{
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::{FairSpillPool, TrackConsumersPool},
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
        session_state::SessionStateBuilder,
    },
    prelude::{SessionConfig, SessionContext},
};
use jiff::civil::Date;
use lake::{Head, Lake, Snapshot, Table};
use schemas::{DEAD_LETTERS, OrgId, TableSpec, tables};
use tokio::time::Instant;

use crate::{
    Access, Error, Result, bounded, columns,
    fence::{Closed, Fence},
    hot::{self, Days},
    policy::Sight,
    settings::Limits,
};

/// One version of a table.
pub struct Pinned {
    spec: &'static TableSpec,
    /// Delta version; `None` while the table is not there, which reads as empty.
    pub version: Option<i64>,
    /// Identity of the table: a table made anew counts its versions from 0 again.
    pub table_id: String,
    provider: Arc<dyn TableProvider>,
    snapshot: Option<Snapshot>,
    days: OnceLock<Option<Days>>,
    /// Latest day with a row, by organisation; filled as they ask.
    latest_days: Mutex<HashMap<OrgId, Option<Date>>>,
}

impl Pinned {
    /// The table as `access` may see it.
    #[must_use]
    pub fn provider(&self, access: &Access) -> Arc<dyn TableProvider> {
        match access.sight(self.spec) {
            Sight::Rows(rows) => {
                let viewer = access.viewer(self.spec).cloned();
                Arc::new(Fence::new(self.spec.name, self.provider.clone(), rows, viewer))
            }
            Sight::Closed(why) => Arc::new(Closed { schema: self.provider.schema(), why }),
            Sight::Everything => self.provider.clone(),
        }
    }

    /// Full schema, with comments.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.spec.schema()
    }

    /// Schema of its rows as they are read: without comments, text as views.
    pub(crate) fn read_schema(&self) -> SchemaRef {
        self.provider.schema()
    }

    pub(crate) fn spec(&self) -> &'static TableSpec {
        self.spec
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// Its files, by day.
    pub(crate) fn days(&self) -> Option<&Days> {
        let days = || self.snapshot.as_ref().map_or_else(|| Some(Days::new()), |it| hot::by_day(self.spec, it));
        self.days.get_or_init(days).as_ref()
    }

    fn is(&self, head: Option<&Head>) -> bool {
        self.version == head.map(Head::version) && head.is_none_or(|head| head.table_id() == self.table_id)
    }

    pub(crate) fn known_latest_day(&self, org: &OrgId) -> Option<Option<Date>> {
        self.latest_days.lock().unwrap_or_else(PoisonError::into_inner).get(org).copied()
    }

    pub(crate) fn learn_latest_day(&self, org: &OrgId, day: Option<Date>) {
        self.latest_days.lock().unwrap_or_else(PoisonError::into_inner).insert(org.clone(), day);
    }
}

/// A table and its versions in memory.
struct Entry {
    spec: &'static TableSpec,
    table: Table,
    known: RwLock<Known>,
    /// Held by the one request that asks the table.
    asking: tokio::sync::Mutex<Option<Head>>,
}

#[derive(Default)]
struct Known {
    newest: Option<(Arc<Pinned>, Instant)>,
    /// Versions with open cursors, the least recently used first.
    kept: VecDeque<Arc<Pinned>>,
}

impl Entry {
    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lake_error(&self, source: lake::Error) -> Error {
        Error::Lake { table: self.spec.name, source: Box::new(source) }
    }

    async fn current(&self, limits: &Limits) -> Result<Arc<Pinned>> {
        let fresh = |known: &Known| match &known.newest {
            Some((pinned, checked)) if checked.elapsed() < limits.snapshot_age_max => Some(pinned.clone()),
            _ => None,
        };
        if let Some(pinned) = fresh(&self.known()) {
            return Ok(pinned);
        }
        let mut head = match self.asking.try_lock() {
            Ok(head) => head,
            Err(_) => {
                // Someone else asks already: what is known will do, unless nothing is.
                if let Some((pinned, _)) = &self.known().newest {
                    return Ok(pinned.clone());
                }
                let head = self.asking.lock().await;
                if let Some(pinned) = fresh(&self.known()) {
                    return Ok(pinned);
                }
                head
            }
        };
        let began = Instant::now();
        match head.as_mut() {
            Some(known) => {
                if let Err(error) = self.table.refresh(known).await {
                    // The table may have been dropped or made anew: the next request begins from nothing.
                    *head = None;
                    return Err(self.lake_error(error));
                }
            }
            None => *head = self.table.head().await.map_err(|error| self.lake_error(error))?,
        }
        let newest = self.known().newest.as_ref().map(|(pinned, _)| pinned.clone());
        let pinned = match newest {
            Some(pinned) if pinned.is(head.as_ref()) => pinned,
            _ => Arc::new(self.load(head.as_ref()).await?),
        };
        let mut known = self.known_mut();
        if known.kept.front().is_some_and(|kept| kept.table_id != pinned.table_id) {
            known.kept.clear();
        }
        known.newest = Some((pinned.clone(), began));
        Ok(pinned)
    }

    async fn load(&self, head: Option<&Head>) -> Result<Pinned> {
        let snapshot = match head {
            None => None,
            Some(_) => Some(self.table.snapshot().await.map_err(|error| self.lake_error(error))?),
        };
        let provider: Arc<dyn TableProvider> = match &snapshot {
            None => Arc::new(EmptyTable::new(lake::read_schema(self.spec))),
            Some(snapshot) => snapshot.provider(),
        };
        Ok(Pinned {
            spec: self.spec,
            version: snapshot.as_ref().map(|snapshot| snapshot.version),
            table_id: snapshot.as_ref().map(|snapshot| snapshot.table_id.clone()).unwrap_or_default(),
            provider,
            snapshot,
            days: OnceLock::new(),
            latest_days: Mutex::default(),
        })
    }
}

struct Inner {
    lake: Lake,
    limits: Limits,
    runtime: Arc<RuntimeEnv>,
    entries: Vec<Entry>,
}

/// The tables of a lake, to be asked.
#[derive(Clone)]
pub struct Catalog(Arc<Inner>);

impl Catalog {
    /// The tables of `lake`. Reads nothing yet.
    ///
    /// # Errors
    /// [`Error::Scan`] where the engine cannot be set up within `limits`.
    pub fn new(lake: Lake, limits: Limits) -> Result<Self> {
        let top_consumers = std::num::NonZeroUsize::MIN.saturating_add(2);
        let pool = TrackConsumersPool::new(FairSpillPool::new(limits.memory_bytes), top_consumers);
        let mode = if limits.spill_bytes == 0 { DiskManagerMode::Disabled } else { DiskManagerMode::OsTmpDirectory };
        let disk = DiskManagerBuilder::default().with_mode(mode).with_max_temp_directory_size(limits.spill_bytes);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(|error| Error::Scan(Box::new(error)))?;
        // DataFusion starts with the whole local file system registered.
        let local = url::Url::parse("file:///").expect("a fixed text");
        runtime.deregister_object_store(&local).map_err(|error| Error::Scan(Box::new(error)))?;
        let entry = |spec| Entry {
            spec,
            table: lake.table(spec),
            known: RwLock::default(),
            asking: tokio::sync::Mutex::new(None),
        };
        let entries = tables::all().map(entry).collect();
        let catalog = Self(Arc::new(Inner { lake, limits, runtime, entries }));
        catalog.0.lake.register_object_store(&catalog.empty_session());
        Ok(catalog)
    }

    fn entry(&self, spec: &TableSpec) -> &Entry {
        let found = self.0.entries.iter().find(|entry| entry.spec.name == spec.name);
        found.expect("callers name one of the three tables")
    }

    #[cfg(test)]
    pub(crate) async fn hold_asking(&self, spec: &TableSpec) -> tokio::sync::MutexGuard<'_, Option<Head>> {
        self.entry(spec).asking.lock().await
    }

    /// The newest version of `spec`, at most `snapshot_age_max` old.
    ///
    /// # Errors
    /// [`Error::Lake`] where the table cannot be read.
    pub async fn current(&self, spec: &'static TableSpec) -> Result<Arc<Pinned>> {
        self.entry(spec).current(&self.0.limits).await
    }

    /// The version of `spec` that a cursor was handed out for.
    ///
    /// # Errors
    /// [`Error::Gone`] where it is not kept any more.
    pub async fn at(&self, spec: &'static TableSpec, table_id: &str, version: i64) -> Result<Arc<Pinned>> {
        let wanted = |pinned: &Arc<Pinned>| pinned.version == Some(version) && pinned.table_id == table_id;
        let current = self.current(spec).await?;
        if wanted(&current) {
            return Ok(current);
        }
        let mut known = self.entry(spec).known_mut();
        let gone = Error::Gone { table: spec.name, version };
        let position = known.kept.iter().position(wanted).ok_or(gone)?;
        let pinned = known.kept.remove(position).expect("just found");
        known.kept.push_back(pinned.clone());
        Ok(pinned)
    }

    /// Keeps `pinned` for a cursor, within the bound; the least recently used version goes first.
    pub fn keep(&self, pinned: &Arc<Pinned>) {
        let mut known = self.entry(pinned.spec).known_mut();
        known.kept.retain(|kept| !Arc::ptr_eq(kept, pinned));
        known.kept.push_back(pinned.clone());
        while known.kept.len() > self.0.limits.cursor_versions.max(1) {
            known.kept.pop_front();
        }
    }

    /// A session without tables, sharing memory, disk and object stores with the others.
    #[must_use]
    pub fn empty_session(&self) -> SessionContext {
        let config =
            SessionConfig::new().with_default_catalog_and_schema("daybook", "public").with_information_schema(true);
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(self.0.runtime.clone())
            .with_default_features()
            .build();
        // What CREATE EXTERNAL TABLE would need.
        state.table_factories_mut().clear();
        bounded::bound(&mut state).expect("the engine's own functions");
        SessionContext::new_with_state(state)
    }

    /// A session with the tables as `access` may see them, all at their newest versions: every table but `dead_letters`, which is for an operator,
    /// and `column_comments`.
    ///
    /// # Errors
    /// [`Error::Lake`] where a table cannot be read.
    pub async fn session(&self, access: &Access) -> Result<SessionContext> {
        let ctx = self.empty_session();
        let is_seen = |spec: &&TableSpec| *access == Access::Operator || spec.name != DEAD_LETTERS.name;
        let specs: Vec<_> = tables::all().filter(is_seen).collect();
        let current = futures::future::try_join_all(specs.iter().map(|spec| self.current(spec))).await?;
        for (spec, pinned) in specs.iter().zip(current) {
            ctx.register_table(spec.name, pinned.provider(access)).map_err(Error::engine)?;
        }
        let comments = columns::comments(&specs);
        let comments = MemTable::try_new(comments.schema(), vec![vec![comments]]).map_err(Error::engine)?;
        ctx.register_table("column_comments", Arc::new(comments)).map_err(Error::engine)?;
        Ok(ctx)
    }
}

/// A session over `lake` for one use; see [`Catalog::session`].
///
/// # Errors
/// [`Error::Lake`] where a table cannot be read.
pub async fn session(lake: &Lake, access: &Access) -> Result<SessionContext> {
    Catalog::new(lake.clone(), Limits::default())?.session(access).await
}
