//! Where tables live: an object store by URL, and what "durable" means on it.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::{Path as FsPath, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use object_store::{
    ClientConfigKey, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    memory::InMemory,
    path::Path,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use schemas::TableSpec;
use url::Url;
use uuid::Uuid;

use crate::{Error, Result, table::Table};

/// Longest S3 request; `timeout` among the options overrides it.
const REQUEST_MAX: &str = "60s";
/// For how long `object_store` itself repeats a request. Short: what it cannot do by then, the commit loop or the worker
/// tries again, with what it has learned from the log in between.
const REPEAT_MAX: Duration = Duration::from_secs(45);

/// Times that a body is asked for.
const BODIES_MAX: u32 = 4;

/// A lake: a folder of tables. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lake {
    place: Arc<Place>,
    root: Path,
    url: Url,
}

/// The store and what belongs to it.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Folder on local disk, where objects must be synced by us: `object_store` does not do it, and the embedded log is
    /// freed after a commit, so that a power cut might otherwise lose both.
    local: Option<PathBuf>,
    /// Names the store within a DataFusion session.
    pub(crate) id: Uuid,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    chance: Arc<Mutex<StdRng>>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({})", self.store)
    }
}

impl Lake {
    /// Opens the lake at `url`: `s3://bucket/prefix`, `file:///folder`, a folder's path (made where it is not there), or
    /// `memory://`. `options` are `object_store`'s names for S3 (`aws_endpoint_url`, `aws_region`, …); what they leave out
    /// comes from the environment's `AWS_*`; the other stores have none.
    ///
    /// # Errors
    /// Where the URL is none of these, or an option is unknown.
    pub fn open(url: &str, options: &[(String, String)]) -> Result<Self> {
        let bad = |detail: String| Error::Url { url: url.to_owned(), detail };
        if url.starts_with("s3://") {
            let parsed = Url::parse(url).map_err(|error| bad(error.to_string()))?;
            let bucket = parsed.host_str().filter(|bucket| !bucket.is_empty());
            let bucket = bucket.ok_or_else(|| bad("it names no bucket: s3://bucket/prefix".into()))?;
            let store = s3(bucket, options).map_err(bad)?;
            return Ok(Self::with_store(Arc::new(store), parsed));
        }
        if url.starts_with("memory:") {
            return Ok(Self::with_store(Arc::new(InMemory::new()), Url::parse("memory:///").expect("a URL")));
        }
        let folder = match Url::parse(url) {
            Ok(parsed) if parsed.scheme() == "file" => {
                parsed.to_file_path().map_err(|()| bad("it is no local path".into()))?
            }
            _ if url.contains("://") => {
                return Err(bad("it takes s3://bucket/prefix, file:///folder or a folder's path".into()));
            }
            _ if url.is_empty() => return Err(bad("it is empty".into())),
            _ => PathBuf::from(url),
        };
        let made = fs::create_dir_all(&folder).and_then(|()| folder.canonicalize());
        let folder = made.map_err(|error| bad(format!("the folder cannot be made: {error}")))?;
        let store = LocalFileSystem::new_with_prefix(&folder).map_err(|error| bad(error.to_string()))?;
        let url = Url::from_directory_path(&folder).map_err(|()| bad("the folder has no absolute path".into()))?;
        let place = Place { local: Some(folder), ..Place::new(Arc::new(store)) };
        Ok(Self { place: Arc::new(place), root: Path::default(), url })
    }

    /// A lake on a store of one's own; `url` gives the prefix within it by its path.
    #[must_use]
    pub fn with_store(store: Arc<dyn ObjectStore>, url: Url) -> Self {
        let root = Path::from(url.path().trim_matches('/'));
        Self { place: Arc::new(Place::new(store)), root, url }
    }

    /// The same lake with another clock, and with ids and back-off drawn from `seed`: for simulations.
    #[must_use]
    pub fn simulated(mut self, clock: impl Fn() -> Timestamp + Send + Sync + 'static, seed: u64) -> Self {
        let chance = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        self.place = Arc::new(Place { clock: Arc::new(clock), chance, ..(*self.place).clone() });
        self
    }

    /// The table `spec` in this lake. No I/O.
    #[must_use]
    pub fn table(&self, spec: &'static TableSpec) -> Table {
        Table { spec, place: Arc::clone(&self.place), folder: self.root.clone().join(spec.name) }
    }

    /// Where the lake is.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Answers where the store does: for readiness.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn ping(&self) -> Result<()> {
        let listed = self.place.store.list_with_delimiter(Some(&self.root)).await;
        listed.map(drop).map_err(|source| Error::store(&self.root, source))
    }

    pub(crate) fn place(&self) -> &Arc<Place> {
        &self.place
    }
}

fn s3(bucket: &str, options: &[(String, String)]) -> Result<impl ObjectStore, String> {
    let retry = RetryConfig { retry_timeout: REPEAT_MAX, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
    for (name, value) in options {
        let key: AmazonS3ConfigKey = name.parse().map_err(|_| format!("unknown option `{name}`"))?;
        builder = builder.with_config(key, value);
    }
    // Client options one by one: taken as a whole they would replace those of the environment.
    let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
    if builder.get_config_value(&timeout).is_none() {
        builder = builder.with_config(timeout, REQUEST_MAX);
    }
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        // Whoever writes http:// means it.
        builder = builder.with_allow_http(true);
    }
    builder.build().map_err(|error| error.to_string())
}

/// Wall clock of the edge to the store: the log's timestamps are for people and for other engines' retention.
#[expect(clippy::disallowed_methods, reason = "the default of an argument: `Lake::simulated` takes another clock")]
fn wall_clock() -> Timestamp {
    Timestamp::now()
}

impl Place {
    fn new(store: Arc<dyn ObjectStore>) -> Self {
        let chance = Arc::new(Mutex::new(StdRng::from_os_rng()));
        let id = Uuid::new_v4();
        Self { store, local: None, id, clock: Arc::new(wall_clock), chance }
    }

    /// Now (ms since 1970-01-01T00:00:00Z), for the log.
    pub(crate) fn now_ms(&self) -> i64 {
        (self.clock)().as_millisecond()
    }

    pub(crate) fn new_id(&self) -> Uuid {
        let bytes = self.chance.lock().unwrap_or_else(PoisonError::into_inner).random();
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// A random pause up to and including `ceiling_ms`.
    pub(crate) fn pause(&self, ceiling_ms: u64) -> Duration {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_millis(chance.random_range(0..=ceiling_ms))
    }

    /// A whole object. Where its body breaks off, which the store's client does not repeat, it is asked for again.
    pub(crate) async fn get(&self, path: &Path) -> object_store::Result<Bytes> {
        let mut attempt = 1;
        loop {
            match self.store.get(path).await?.bytes().await {
                Err(error) if attempt < BODIES_MAX => {
                    tracing::debug!(%path, %error, "the body of an answer broke off");
                    tokio::time::sleep(self.pause(5 << attempt)).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Puts an object that must not be there yet; durable when it returns.
    pub(crate) async fn put_new(&self, path: &Path, body: Bytes) -> object_store::Result<()> {
        let Some(root) = &self.local else {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            return self.store.put_opts(path, body.into(), options).await.map(drop);
        };
        let (root, file, staged) = (root.clone(), root.join(path.as_ref()), format!(".{}.staged", self.new_id()));
        let put = blocking(move || link_new(&root, &file, &staged, &body)).await;
        put.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                object_store::Error::AlreadyExists { path: path.to_string(), source: Box::new(error) }
            }
            _ => generic(error),
        })
    }

    /// Makes durable what `put` has taken: on local disk the files, their folders, and those up to the lake's.
    pub(crate) async fn persist(&self, paths: &[Path]) -> Result<()> {
        let (Some(root), Some(first)) = (&self.local, paths.first()) else { return Ok(()) };
        let (root, files) = (root.clone(), paths.iter().map(|path| root.join(path.as_ref())).collect::<Vec<_>>());
        let synced = blocking(move || {
            for file in &files {
                File::open(file)?.sync_all()?;
            }
            sync_folders(&root, files.iter().map(PathBuf::as_path))
        });
        synced.await.map_err(|error| Error::store(first, generic(error)))
    }
}

fn generic(error: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(error) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// A new file whose bytes are on disk before its name is: a power cut never leaves a torn log entry.
fn link_new(root: &FsPath, file: &FsPath, staged: &str, body: &[u8]) -> io::Result<()> {
    let folder = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let staged = folder.join(staged);
    let written = File::create_new(&staged).and_then(|mut out| out.write_all(body).and_then(|()| out.sync_all()));
    // A hard link fails where the name is taken; a rename would overwrite it.
    let linked = written.and_then(|()| fs::hard_link(&staged, file));
    // The staged name is ours alone; where it cannot be removed, every reader of a Delta log passes over it.
    drop(fs::remove_file(&staged));
    linked?;
    sync_folders(root, std::iter::once(file))
}

/// Syncs every folder that leads from `root` to `files`: a file's name is durable only with its folder.
fn sync_folders<'a>(root: &FsPath, files: impl Iterator<Item = &'a FsPath>) -> io::Result<()> {
    let above = |file: &'a FsPath| file.ancestors().skip(1).take_while(|folder| folder.starts_with(root));
    let folders: BTreeSet<&FsPath> = files.flat_map(above).collect();
    // The deepest first, so that no name leads to a folder that is not there.
    folders.into_iter().rev().try_for_each(|folder| File::open(folder)?.sync_all())
}
