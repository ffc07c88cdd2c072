//! What a run knows from the run before: it spares work, and is never needed.

use lake::{Head, Lake};
use schemas::{EVENTS, TEAM_MEMBERS, TableSpec, rollup::ROLLUP_DAILY};

use crate::{Error, Result, RunReport, people::People};

/// Times that the ends of logs alone are looked at; then everything is, since a table that was deleted does not tell.
pub(crate) const LOOKS_MAX: u32 = 300;
/// What a run follows from; no other table of ours does it read.
const TABLES: [&TableSpec; 3] = [&EVENTS, &ROLLUP_DAILY, &TEAM_MEMBERS];

/// What a run knows from the run before.
#[derive(Default)]
pub struct Memory {
    pub(crate) people: People,
    /// `id` and version of `rollup_daily` that `people` stands for.
    pub(crate) of: Option<(String, i64)>,
    pub(crate) settled: Option<Settled>,
}

/// Tables as they were when all that follows from them was in line with them.
pub(crate) struct Settled {
    given: Given,
    /// Of calendar and definitions.
    digest: i64,
    report: RunReport,
    looks: u32,
}

/// Ends of the logs of the tables that a run follows from; `None` where a table is not there.
pub(crate) struct Given {
    heads: Vec<Option<Head>>,
}

impl Given {
    pub(crate) async fn read(lake: &Lake) -> Result<Self> {
        let mut heads = Vec::new();
        for spec in TABLES {
            heads.push(lake.table(spec).head().await.map_err(Error::table(spec))?);
        }
        Ok(Self { heads })
    }

    /// `id` and version of each table.
    fn versions(&self) -> Vec<Option<(&str, i64)>> {
        self.heads.iter().map(|head| head.as_ref().map(|head| (head.table_id(), head.version()))).collect()
    }

    /// A table has moved on.
    async fn moved(&self, lake: &Lake) -> Result<bool> {
        for (spec, head) in TABLES.into_iter().zip(&self.heads) {
            let table = lake.table(spec);
            let moved = match head {
                Some(head) => table.refresh(&mut head.clone()).await,
                None => table.head().await.map(|head| head.is_some()),
            };
            if moved.map_err(Error::table(spec))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Memory {
    /// What the run before says, where nothing that a run follows from has changed since; costs a look at the end of each log.
    pub(crate) async fn unchanged(&mut self, lake: &Lake, digest: i64) -> Result<Option<RunReport>> {
        let Some(settled) = &mut self.settled else { return Ok(None) };
        settled.looks += 1;
        if settled.digest == digest && settled.looks <= LOOKS_MAX && !settled.given.moved(lake).await? {
            return Ok(Some(settled.report.clone()));
        }
        // Kept for what else it tells, but not trusted.
        settled.looks = LOOKS_MAX;
        Ok(None)
    }

    /// The feed and derived tables were brought in line with these very versions before.
    pub(crate) fn follows_from(&self, given: &Given) -> bool {
        // Nothing follows from `events` but by way of the rollup.
        let derived = |settled: &Settled| settled.given.versions()[1..] == given.versions()[1..];
        self.settled.as_ref().is_some_and(derived)
    }

    /// All is in line with `given`, as `report` says.
    pub(crate) fn settle(&mut self, given: Given, digest: i64, report: &RunReport) {
        let RunReport { events_version, rows, .. } = *report;
        let is_newest = given.heads[0].as_ref().map(Head::version) == events_version;
        // Events that came in meanwhile are for the next run.
        let looks = if is_newest { 0 } else { LOOKS_MAX };
        let report = RunReport { events_version, rows, attempts: 1, ..RunReport::default() };
        self.settled = Some(Settled { given, digest, report, looks });
    }
}
