//! Opens what the roles work on, as the configuration says.

use std::{path::Path, sync::Arc};

use aggregate::{Calendars, Lease, OrgCalendar, OrgDays};
use async_trait::async_trait;
use directory::Directory;
use ingest::log::{EmbeddedLog, KafkaLog, Log};
use jiff::{SignedDuration, Timestamp};
use lake::Lake;

use crate::{
    config::{Config, LogKind},
    fault::{During as _, Fault, Result},
};

/// The one clock of the process.
#[allow(clippy::disallowed_methods, reason = "the edge: every other room is given its time")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// The tables.
pub(crate) fn lake(config: &Config) -> Result<Lake> {
    Lake::open(&config.lake.url, &config.lake.options()).map_err(|error| {
        let fault = Fault::usage(format!("cannot open the lake at `{}`", config.lake.url)).source(error);
        fault.help("lake.url takes a directory, file:///dir or s3://bucket/prefix; lake.options the store's settings")
    })
}

/// Who acts on the command line, for the audit log: the name that the environment gives the user, else the number that the system knows them by.
fn actor() -> String {
    let named = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let number = std::fs::metadata("/proc/self").map(|process| std::os::unix::fs::MetadataExt::uid(&process));
    match (named.filter(|name| !name.is_empty()), number) {
        (Some(name), _) => format!("cli:{name}"),
        (None, Ok(number)) => format!("cli:uid {number}"),
        (None, Err(_)) => "cli:unknown".to_owned(),
    }
}

/// The directory; its database is made where it is not there.
pub(crate) async fn directory(config: &Config) -> Result<Directory> {
    let url = &config.directory.url;
    if let Some(path) = url.strip_prefix("sqlite://").map(|path| path.split('?').next().unwrap_or(path)) {
        make_parent(Path::new(path))?;
    }
    let opened = Directory::open(url).await;
    opened.map(|directory| directory.acting_as(&actor())).map_err(|error| {
        let fault =
            Fault::failed(format!("cannot open the directory at `{}`", directory::without_password(url))).source(error);
        fault.help("directory.url takes sqlite://FILE or postgres://USER@HOST/DATABASE")
    })
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::create_dir_all(parent)
        .map_err(|error| Fault::failed(format!("cannot create directory `{}`", parent.display())).source(error))
}

/// The log.
pub(crate) async fn log(config: &Config) -> Result<Arc<dyn Log>> {
    match config.log.kind {
        LogKind::Kafka => {
            let log = KafkaLog::open(&config.log.kafka()).map_err(|error| {
                Fault::usage("cannot set up the Kafka client").source(error).help("see log.kafka in the configuration")
            })?;
            Ok(Arc::new(log))
        }
        LogKind::Embedded => {
            let settings = config.log.embedded();
            let dir = settings.dir.clone();
            let clock = Arc::new(|| now().as_millisecond());
            let opened = tokio::task::spawn_blocking(move || EmbeddedLog::open(&settings, clock)).await;
            let opened = opened.map_err(|error| Fault::failed("the log could not be opened").source(error))?;
            let log = opened.map_err(|error| {
                let fault = Fault::failed(format!("cannot open the log in `{}`", dir.display())).source(error);
                fault.help("one process at a time can have it: is another one running? log.dir names another directory")
            })?;
            Ok(Arc::new(log))
        }
    }
}

/// Each organisation's days.
pub(crate) async fn calendar(directory: &Directory) -> Result<OrgCalendar> {
    let mut calendar = OrgCalendar::default();
    for org in directory.orgs().await.during("cannot list the organisations")? {
        let days = OrgDays::new(&org.time_zone, org.allowed_lateness_hours);
        calendar.set(&org.id, days.during(format!("cannot tell the days of organisation `{}`", org.id))?);
    }
    Ok(calendar)
}

/// The directory knows each organisation's days.
pub(crate) struct DirectoryCalendars(pub(crate) Directory);

#[async_trait]
impl Calendars for DirectoryCalendars {
    async fn calendar(&self) -> Result<OrgCalendar, Box<dyn std::error::Error + Send + Sync>> {
        Ok(calendar(&self.0).await?)
    }
}

/// The directory knows which aggregator works on the tables of a lake.
pub(crate) struct DirectoryLease {
    directory: Directory,
    name: String,
    /// This process, to tell it from others.
    holder: String,
}

impl DirectoryLease {
    pub(crate) fn new(directory: Directory, lake_url: &str) -> Self {
        Self::of(directory, &format!("rollup of {lake_url}"))
    }

    /// Of a piece of work by its name.
    pub(crate) fn of(directory: Directory, work: &str) -> Self {
        let holder = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
        Self { directory, name: work.to_owned(), holder }
    }
}

#[async_trait]
impl Lease for DirectoryLease {
    async fn hold(
        &self,
        now: Timestamp,
        time_to_live: SignedDuration,
    ) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.directory.hold_lease(&self.name, &self.holder, now, time_to_live).await?)
    }

    async fn release(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.directory.release_lease(&self.name, &self.holder).await?)
    }
}
