//! An object store that fails on purpose, for tests and the simulation.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How an operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error, and nothing was done.
    Before,
    /// It was done, and the answer was lost.
    After,
    /// An error; it is done all the same, so many ms later.
    Late(u64),
    /// "Already exists", and nothing landed: S3's 409 (F09). Conditional puts alone.
    FalseConflict,
    /// It was done, and "already exists" is the answer: the client repeated it by itself (F05). Conditional puts alone.
    OwnConflict,
    /// It is done, but only after so many ms.
    Stall(u64),
}

/// Wraps a store and makes its operations fail: by a script for the next conditional puts, and by chance, so many in a
/// hundred, for all. The same seed and the same sequence of operations give the same faults.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: ChaCha8Rng,
    percent: u32,
    script: VecDeque<Option<Fault>>,
    operations: u64,
}

impl FaultyStore {
    /// No faults until [`FaultyStore::set`] or [`FaultyStore::script`]; then by this seed.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { inner, state: Arc::new(Mutex::new(State { rng, percent: 0, script: VecDeque::new(), operations: 0 })) }
    }

    /// Faults in a hundred operations.
    pub fn set(&self, percent: u32) {
        self.state().percent = percent;
    }

    /// What happens to the next conditional puts, the log entries; `None` lets one pass.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.state().script.extend(faults);
    }

    /// Operations so far, failed ones too.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, conditional: bool) -> Option<Fault> {
        let mut state = self.state();
        state.operations += 1;
        if conditional && let Some(fault) = state.script.pop_front() {
            return fault;
        }
        let percent = state.percent;
        if state.rng.random_range(0..100) >= percent {
            return None;
        }
        Some(match state.rng.random_range(0..8) {
            0 => Fault::Before,
            1 | 2 => Fault::After,
            3 => Fault::Late(state.rng.random_range(1..500)),
            4 if conditional => Fault::FalseConflict,
            5 if conditional => Fault::OwnConflict,
            _ => Fault::Stall(state.rng.random_range(1..2_000)),
        })
    }

    /// For operations that change nothing: any fault but a stall is an error.
    async fn read_fault(&self) -> Result<()> {
        match self.fault(false) {
            Some(Fault::Stall(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Some(_) => return Err(failure("503 on reading")),
            None => {}
        }
        Ok(())
    }
}

fn failure(what: &'static str) -> Error {
    Error::Generic { store: "FaultyStore", source: what.into() }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let conflict = |why: &'static str| Error::AlreadyExists { path: location.to_string(), source: why.into() };
        match self.fault(options.mode == PutMode::Create) {
            Some(Fault::Before) => Err(failure("503 before it was done")),
            Some(Fault::FalseConflict) => Err(conflict("409, nothing landed")),
            Some(Fault::After) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(failure("the answer was lost after it was done"))
            }
            Some(Fault::OwnConflict) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(conflict("412, by our own first request"))
            }
            Some(Fault::Late(ms)) => {
                let (inner, location) = (Arc::clone(&self.inner), location.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    drop(inner.put_opts(&location, payload, options).await);
                });
                Err(failure("no answer in time"))
            }
            Some(Fault::Stall(ms)) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                self.inner.put_opts(location, payload, options).await
            }
            None => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read_fault().await?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if matches!(self.fault(false), None | Some(Fault::Stall(_))) {
            return self.inner.list(prefix);
        }
        futures::stream::once(async { Err(failure("503 on listing")) }).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read_fault().await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
