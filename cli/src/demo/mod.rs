//! `daybook demo`: everything in one process, with made-up activity that goes the whole way.
//!
//! ```text
//! generate ─► HTTP ─► collector ─► log ─► worker ─► events, dead_letters ─► rollup ─► account: do all counts reconcile?
//! ```
//!
//! Nothing is faked: the parts are those of `serve`, the events are posted with an organisation's ingest key, and the
//! account is read back from the tables. Three records are written to the log past the collector, as a broken direct
//! producer would: without them nobody would see a dead letter, since the collector refuses what is bad.

mod account;
mod history;
mod orgs;
mod send;
mod summary;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ingest::log::Log;
use lake::Lake;

use self::{
    account::{Account, Tables},
    history::{History, Past},
};
use crate::{
    args::DemoArgs,
    commands::rollup::Bar,
    config::Sources,
    fault::{During as _, Fault, Result},
    generate, output, parts,
    serve::{self, Parts, Roles, Service},
};

/// Where it is noted what was generated for a directory.
const HISTORY: &str = "demo.json";
/// Longest wait for the worker without any progress.
const STALLED: Duration = Duration::from_secs(60);

/// Time that each stage took.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    start: Duration,
    send: Duration,
    commit: Duration,
    rollup: Duration,
    check: Duration,
}

/// Where the demo's data is; a temporary one goes with it.
enum Dir {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Dir {
    fn open(dir: Option<&Path>) -> Result<Self> {
        match dir {
            Some(dir) => {
                let created = fs::create_dir_all(dir).and_then(|()| fs::canonicalize(dir));
                created.during(format!("cannot create directory `{}`", dir.display())).map(Self::Kept)
            }
            None => {
                let made = tempfile::Builder::new().prefix("daybook-demo-").tempdir();
                made.during("cannot create a temporary directory").map(Self::Temporary)
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

pub(crate) async fn run(args: &DemoArgs, mut sources: Sources) -> Result<()> {
    // First the port: nobody wants to wait for the rest and then hear that it is taken.
    let port = if args.once { 0 } else { args.port };
    let listener =
        serve::listen(([127, 0, 0, 1], port).into(), "take another port with --port N (0 takes a free one)").await?;
    let dir = Dir::open(args.dir.as_deref())?;
    let at = |name: &str| dir.path().join(name);
    sources.set("lake.url", at("lake"));
    sources.set("log.kind", "embedded");
    sources.set("log.dir", at("log"));
    sources.set("directory.url", format!("sqlite://{}", at("directory.db").display()));
    if !sources.is_set("query.pg-listen") {
        sources.set("query.pg-listen", "127.0.0.1:0");
    }
    let config = sources.config()?;
    let mut history = History::read(&at(HISTORY))?;
    let (generator, past) = history.generator(args)?;
    let mut times = Times::default();

    let clock = Instant::now();
    let roles = Roles { collector: true, worker: true, query: true, ..Roles::default() };
    let parts = Parts::open(&config, roles).await?;
    let log = parts.log.clone().ok_or_else(|| Fault::failed("the demo needs a log"))?;
    let orgs = orgs::prepare(&parts.directory, generator.orgs).await?;
    let mut service = Service::start(&config, roles, listener, parts.clone()).await?;
    times.start = clock.elapsed();

    let done = account(&parts, log.as_ref(), &orgs, service.address, &generator, past, &mut times).await;
    let account = match done {
        Ok(account) => account,
        Err(fault) => {
            // What failed is told, not what fails while stopping.
            let _ = service.stop().await;
            return Err(fault);
        }
    };
    output::text(&summary::text(&generator, &account, &times))?;
    if !account.reconciles() {
        service.stop().await?;
        let fault = Fault::refused("the counts do not reconcile");
        return Err(fault.help("this is a defect of Daybook: please report it with the summary above"));
    }
    history.completed(&generator)?;
    if args.once {
        drop((log, parts));
        return service.stop().await;
    }
    service.aggregate(&config)?;
    output::text(&summary::invitation(
        service.address,
        service.pg_address,
        dir.path(),
        &orgs,
        matches!(dir, Dir::Temporary(_)),
    ))?;
    drop((log, parts));
    service.until(serve::stop_signal()).await
}

/// Sends, waits, rolls up, and counts before and after.
#[allow(clippy::too_many_arguments, reason = "the stages of one function, apart from the service's life")]
async fn account(
    parts: &Parts,
    log: &dyn Log,
    orgs: &[orgs::Keys],
    address: std::net::SocketAddr,
    generator: &generate::Config,
    past: Past,
    times: &mut Times,
) -> Result<Account> {
    // What an earlier run was killed over is still in the log.
    committed(&parts.lake, log).await?;
    let before = Tables::read(&parts.lake, log).await?;
    let clock = Instant::now();
    let sent = send::all(generator, orgs, address).await?;
    let straight = send::past_the_collector(log).await?;
    times.send = clock.elapsed();

    let clock = Instant::now();
    committed(&parts.lake, log).await?;
    times.commit = clock.elapsed();

    let clock = Instant::now();
    let calendar = parts::calendar(&parts.directory).await?;
    let bar = Bar(output::bar(0, "rolling up", true));
    aggregate::run(&parts.lake, &calendar, parts::now(), &bar).await.during("the rollup failed")?;
    bar.0.finish_and_clear();
    times.rollup = clock.elapsed();

    let clock = Instant::now();
    let after = Tables::read(&parts.lake, log).await?;
    times.check = clock.elapsed();
    Ok(Account { sent, straight, before, after, past })
}

/// Waits until every record of the log is in the tables.
async fn committed(lake: &Lake, log: &dyn Log) -> Result<()> {
    let (mut best, mut since) = (-1, Instant::now());
    let bar = output::bar(0, "committing", true);
    loop {
        let progress = ingest::worker::progress(lake, log).await.during("cannot read the worker's progress")?;
        let (done, all) = progress
            .iter()
            .fold((0, 0), |(done, all), partition| (done + partition.next_offset, all + partition.high_watermark));
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        if done >= all {
            bar.finish_and_clear();
            return Ok(());
        }
        if done > best {
            (best, since) = (done, Instant::now());
        } else if since.elapsed() > STALLED {
            return Err(Fault::failed(format!("the worker has stopped at {done} of {all} records"))
                .help("run again with --set telemetry.level=info to see why"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
