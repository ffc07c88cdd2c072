//! An object store that fails on purpose, for tests and the simulation.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, path::Path,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Wraps a store. Of every hundred operations, as many as set fail: before they were done, after they were done (a lost
/// answer), with a false "already exists" (S3's 409, which means nothing landed), or after a long stall.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: ChaCha8Rng,
    percent: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Before,
    After,
    FalseConflict,
    Stall(u64),
}

impl FaultyStore {
    /// No faults until [`FaultyStore::set`]; then by this seed.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Self {
        Self { inner, state: Arc::new(Mutex::new(State { rng: ChaCha8Rng::seed_from_u64(seed), percent: 0 })) }
    }

    /// Faults in a hundred operations.
    pub fn set(&self, percent: u32) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).percent = percent;
    }

    fn fault(&self) -> Fault {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let percent = state.percent;
        if state.rng.random_range(0..100) >= percent {
            return Fault::None;
        }
        match state.rng.random_range(0..5) {
            0 => Fault::Before,
            1 | 2 => Fault::After,
            3 => Fault::FalseConflict,
            _ => Fault::Stall(state.rng.random_range(1..2_000)),
        }
    }
}

fn failure(what: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "FaultyStore", source: what.into() }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
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
        let create = options.mode == object_store::PutMode::Create;
        match self.fault() {
            Fault::Before => return Err(failure("503 before it was done")),
            Fault::FalseConflict if create => {
                return Err(object_store::Error::AlreadyExists { path: location.to_string(), source: "409 Conflict".into() });
            }
            Fault::After => {
                self.inner.put_opts(location, payload, options).await?;
                return Err(failure("the answer was lost after it was done"));
            }
            Fault::Stall(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Fault::None | Fault::FalseConflict => {}
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.fault() {
            Fault::Before | Fault::After | Fault::FalseConflict => return Err(failure("503 on reading")),
            Fault::Stall(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Fault::None => {}
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if matches!(self.fault(), Fault::Before | Fault::After) {
            return futures::stream::once(async { Err(failure("503 on listing")) }).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
