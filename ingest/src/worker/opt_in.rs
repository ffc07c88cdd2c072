//! Whose records are wanted: those of organisations whose admin had opted in when the log took them. The others leave no row, no dead letter, nothing but
//! a count.
//!
//! A record met twice has the same fate twice, whoever meets it: it is judged by the log's time, and by what the directory said after
//! that time. A switch counts later than it is made (`directory::Collected`) by more than what is known here may be old.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use directory::{Collected, Directory};
use schemas::OrgId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[cfg(test)]
mod tests;

use super::{decode::organisation, door::Patience};
use crate::log::Record;

/// What is known of an organisation whose records are taken is asked again when it is this old. Where they are not, it is asked each time: it may just
/// have opted in.
const FRESH: Duration = Duration::from_secs(3);
/// Organisations remembered; beyond that, those are forgotten that the last batch did not have.
const ORGS_MAX: usize = 10_000;

/// What a worker knows of opt-ins, and asks where it does not know.
#[derive(Debug, Default)]
pub(super) struct OptIns {
    /// `None` = all records are wanted.
    directory: Option<Directory>,
    /// With the time when the database was asked.
    known: HashMap<Box<str>, (Instant, Collected)>,
}

impl OptIns {
    pub(super) fn new(directory: Directory) -> Self {
        Self { directory: Some(directory), known: HashMap::new() }
    }

    /// Learns what [`OptIns::wants`] needs to know of these records, again and again while the directory is away; false when told to stop.
    pub(super) async fn wait(&mut self, records: &[Record], stop: &CancellationToken) -> bool {
        let mut patience = Patience::default();
        loop {
            match self.prepare(records).await {
                Ok(()) => return true,
                Err(error) if patience.wait("opt-ins", &error, stop).await => {}
                Err(_) => return false,
            }
        }
    }

    async fn prepare(&mut self, records: &[Record]) -> directory::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let now = Instant::now();
        let (mut orgs, mut stale) = (HashSet::<String>::new(), HashSet::new());
        let mut last: Option<&str> = None;
        for record in records {
            let Some(org) = organisation(record) else { continue };
            // Most records are of the same few; one that is not taken is looked at again whatever came before.
            if last == Some(org) && self.wants(record) {
                continue;
            }
            last = Some(org);
            let Ok(org) = org.parse::<OrgId>() else { continue };
            let known = self.known.get(org.as_str());
            let fresh = known.is_some_and(|(asked, _)| now.saturating_duration_since(*asked) < FRESH);
            if !fresh || !self.wants(record) {
                stale.insert(org.clone());
            }
            orgs.insert(org.as_str().to_owned());
        }
        if stale.is_empty() {
            return Ok(());
        }
        let mut found = directory.collected(&stale).await?;
        self.known.extend(stale.into_iter().map(|org| {
            let collected = found.remove(&org).unwrap_or_default();
            (org.as_str().into(), (now, collected))
        }));
        if self.known.len() > ORGS_MAX {
            self.known.retain(|org, _| orgs.contains(org.as_ref()));
        }
        Ok(())
    }

    /// Whether a record is taken. One that names no organisation is: it becomes a dead letter that says so.
    pub(super) fn wants(&self, record: &Record) -> bool {
        if self.directory.is_none() {
            return true;
        }
        let Some(org) = organisation(record) else { return true };
        let at_us = (record.append_time_ms >= 0).then(|| record.append_time_ms.saturating_mul(1_000));
        self.known.get(org).is_some_and(|(_, collected)| collected.takes(at_us))
    }
}
