//! Where tables live: an object store by URL, and what "durable" means on it.

use std::{path::PathBuf, sync::Arc};

use object_store::{
    ObjectStore,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    memory::InMemory,
    path::Path,
};
use schemas::TableSpec;
use url::Url;

use crate::{Error, Result, table::Table};

/// A lake: a folder of tables. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lake {
    store: Arc<dyn ObjectStore>,
    root: Path,
    url: Url,
    durability: Durability,
    /// Names the store within a DataFusion session.
    id: uuid::Uuid,
}

/// How an object becomes durable once `put` has returned.
#[derive(Clone, Debug)]
pub(crate) enum Durability {
    /// By the store's own promise.
    Store,
    /// By fsync of file and folder below this folder: `object_store` does not do it, and the embedded log is freed after a
    /// commit, so that a power cut might otherwise lose both.
    Fsync(PathBuf),
}

impl Lake {
    /// Opens the lake at `url`: `s3://bucket/prefix`, `file:///folder`, a folder's path, or `memory:///`. `options` are
    /// `object_store`'s names for S3 (`aws_endpoint_url`, `aws_region`, …); what they leave out comes from `AWS_*`.
    ///
    /// # Errors
    /// Where the URL is none of these, or an option is unknown.
    pub fn open(url: &str, options: &[(String, String)]) -> Result<Self> {
        let bad = |detail: String| Error::Url { url: url.to_owned(), detail };
        if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(bad("s3:// takes a bucket: s3://bucket/prefix".into()));
            }
            let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
            for (key, value) in options {
                let key: AmazonS3ConfigKey = key.parse().map_err(|_| bad(format!("unknown option `{key}`")))?;
                builder = builder.with_config(key, value);
            }
            let store = builder.build().map_err(|error| bad(error.to_string()))?;
            let parsed = Url::parse(url).map_err(|error| bad(error.to_string()))?;
            return Ok(Self { store: Arc::new(store), root: Path::from(prefix), url: parsed, durability: Durability::Store, id: uuid::Uuid::new_v4() });
        }
        if url.starts_with("memory:") {
            return Ok(Self::with_store(Arc::new(InMemory::new()), Url::parse("memory:///").expect("a URL")));
        }
        let folder = match url.strip_prefix("file://") {
            Some(path) => PathBuf::from(path),
            None if url.contains("://") => return Err(bad("it takes s3://bucket/prefix, file:///folder or a folder's path".into())),
            None if url.is_empty() => return Err(bad("it is empty".into())),
            None => PathBuf::from(url),
        };
        let made = std::fs::create_dir_all(&folder).and_then(|()| folder.canonicalize());
        let folder = made.map_err(|error| bad(format!("the folder cannot be made: {error}")))?;
        let store = LocalFileSystem::new_with_prefix(&folder).map_err(|error| bad(error.to_string()))?;
        let url = Url::from_directory_path(&folder).map_err(|()| bad("the folder has no absolute path".into()))?;
        Ok(Self { store: Arc::new(store), root: Path::default(), url, durability: Durability::Fsync(folder), id: uuid::Uuid::new_v4() })
    }

    /// A lake on a store of one's own; `url` gives the prefix within it by its path.
    #[must_use]
    pub fn with_store(store: Arc<dyn ObjectStore>, url: Url) -> Self {
        let root = Path::from(url.path().trim_matches('/'));
        Self { store, root, url, durability: Durability::Store, id: uuid::Uuid::new_v4() }
    }

    /// The table `spec` in this lake. No I/O.
    #[must_use]
    pub fn table(&self, spec: &'static TableSpec) -> Table {
        Table {
            spec,
            store: Arc::clone(&self.store),
            folder: self.root.clone().join(spec.name),
            durability: self.durability.clone(),
            store_id: self.id.simple().to_string(),
            url: self.url.clone(),
        }
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
        let listed = self.store.list_with_delimiter(Some(&self.root)).await;
        listed.map(drop).map_err(|source| Error::store(&self.root, source))
    }
}

impl Durability {
    /// Makes objects durable that `put` has already taken.
    pub(crate) async fn persist(&self, paths: &[Path]) -> Result<()> {
        let Self::Fsync(root) = self else { return Ok(()) };
        for path in paths {
            let file = root.join(path.as_ref());
            let synced = async {
                tokio::fs::File::open(&file).await?.sync_all().await?;
                // The folder's own entry, and that of a new partition's folder in the table's.
                for folder in file.ancestors().skip(1).take(2) {
                    tokio::fs::File::open(folder).await?.sync_all().await?;
                }
                Ok(())
            };
            synced.await.map_err(|error: std::io::Error| {
                Error::store(path, object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(error) })
            })?;
        }
        Ok(())
    }
}
