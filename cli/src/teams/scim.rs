//! Teams from SCIM's groups: what the directory knows goes into `team_members`, seconds after it changed.
//!
//! A day belongs to the team that the person is in when it ends, in the organisation's time zone: who moves on a Tuesday is in the
//! new team all Tuesday, and no day counts in both.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use aggregate::Lease as _;
use directory::{Directory, Membership, Org};
use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use lake::Lake;
use schemas::OrgId;
use tokio_util::sync::CancellationToken;

use super::{Member, replace};
use crate::{
    fault::{During as _, Result},
    parts::DirectoryLease,
};

/// Pause between two looks at the directory.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long a process that ended without a word keeps the others from the work.
const LEASE: SignedDuration = SignedDuration::from_secs(15);

/// Writes teams.
pub(crate) struct Teams {
    lake: Lake,
    directory: Directory,
    lease: DirectoryLease,
    /// Of each organisation what was written last: the number of its changes, and the time zone of the days.
    written: HashMap<OrgId, (i64, String)>,
    /// Whose teams could not be written: said once, and not every two seconds.
    failing: HashSet<OrgId>,
}

const READING: &str = "cannot read memberships";

impl Teams {
    pub(crate) fn new(lake: Lake, directory: Directory, lease: DirectoryLease) -> Self {
        Self { lake, directory, lease, written: HashMap::new(), failing: HashSet::new() }
    }

    /// Writes what changed, until `stopping`. What cannot be written now is tried again.
    pub(crate) async fn run(mut self, stopping: CancellationToken, clock: fn() -> Timestamp) {
        let mut failing = false;
        while stopping.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            match self.round(clock).await {
                Ok(()) => failing = false,
                // Once, and not every two seconds.
                Err(_) if failing => {}
                Err(fault) => {
                    failing = true;
                    tracing::warn!(error = &fault as &dyn std::error::Error, "teams cannot be written; trying again");
                }
            }
        }
        // What nobody gives back ends by itself.
        drop(self.lease.release().await);
    }

    /// Writes the teams of organisations where something changed.
    ///
    /// # Errors
    /// Where the directory cannot be read. What is wrong with one organisation is in no other's way.
    async fn round(&mut self, clock: fn() -> Timestamp) -> Result<()> {
        let changed = self.directory.scim_orgs().await.during(READING)?;
        if changed.is_empty() {
            return Ok(());
        }
        let zones: HashMap<OrgId, Org> =
            self.directory.orgs().await.during(READING)?.into_iter().map(|org| (org.id.clone(), org)).collect();
        let mut to_write = Vec::new();
        for (org, changes) in changed {
            let Some(zone) = zones.get(&org).map(|org| org.time_zone.clone()) else { continue };
            if self.written.get(&org) != Some(&(changes, zone.clone())) {
                to_write.push((org, changes, zone));
            }
        }
        for (org, changes, zone) in to_write {
            // One process is enough; whoever has the lease next writes what is new then, or finds it written. Asked for each: there may
            // be many.
            if !self.held(clock()).await {
                return Ok(());
            }
            match self.write(&org, &zone).await {
                Ok(()) => {
                    self.failing.remove(&org);
                    self.written.insert(org, (changes, zone));
                }
                Err(fault) => {
                    if self.failing.insert(org.clone()) {
                        let error = &fault as &dyn std::error::Error;
                        tracing::warn!(%org, error, "an organisation's teams cannot be written; trying again");
                    }
                }
            }
        }
        Ok(())
    }

    async fn write(&self, org: &OrgId, zone: &str) -> Result<()> {
        let zone = &TimeZone::get(zone).during("cannot find an organisation's time zone")?;
        // Read after the number: what changes in between makes another number, and is written next time.
        let read = || async move { Ok(members(org, self.directory.memberships(org).await.during(READING)?, zone)) };
        let done = replace(&self.lake, org, read, false).await?;
        if done != super::Done::default() {
            tracing::info!(%org, added = done.added, removed = done.removed, "teams follow the groups");
        }
        Ok(())
    }

    async fn held(&self, now: Timestamp) -> bool {
        let held = self.lease.hold(now, LEASE).await;
        held.unwrap_or_else(|error| {
            tracing::warn!(error = error.as_ref() as &dyn std::error::Error, "the lease of teams cannot be asked for");
            false
        })
    }
}

/// Memberships as days of the organisation, sorted, none twice: what overlaps or touches is one.
fn members(org: &OrgId, memberships: Vec<Membership>, zone: &TimeZone) -> Vec<Member> {
    let date = |time: Timestamp| -> Date { time.to_zoned(zone.clone()).date() };
    let mut days: Vec<Member> = memberships
        .into_iter()
        .map(|one| Member {
            org: org.to_string(),
            team: one.team,
            user: one.user_key,
            from: date(one.from),
            to: one.to.map(date),
        })
        // Of who left on the day of coming no day is left.
        .filter(|one| one.to.is_none_or(|to| one.from < to))
        .collect();
    days.sort();
    let mut merged: Vec<Member> = Vec::with_capacity(days.len());
    for next in days {
        match merged.last_mut() {
            Some(last)
                if (&last.team, &last.user) == (&next.team, &next.user) && last.to.is_none_or(|to| next.from <= to) =>
            {
                last.to = match (last.to, next.to) {
                    (Some(last), Some(next)) => Some(last.max(next)),
                    _ => None,
                };
            }
            _ => merged.push(next),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use directory::Membership;
    use jiff::tz::TimeZone;

    use super::members;

    /// Memberships and days as `team user from to`.
    fn check(zone: &str, memberships: &[[&str; 4]], expected: &[&str]) {
        let time = |text: &str| (!text.is_empty()).then(|| text.parse().expect("a time"));
        let memberships = memberships.iter().map(|[team, user, from, to]| Membership {
            team: (*team).to_owned(),
            user_key: (*user).to_owned(),
            from: time(from).expect("a beginning"),
            to: time(to),
        });
        let zone = TimeZone::get(zone).expect("a zone");
        let found = members(&"acme".parse().expect("an id"), memberships.collect(), &zone);
        let found: Vec<String> = found
            .into_iter()
            .map(|one| {
                let to = one.to.map_or_else(|| "…".to_owned(), |to| to.to_string());
                format!("{} {} {} {to}", one.team, one.user, one.from)
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_day_counts_where_the_person_is_when_it_ends() {
        let moves = [
            ["core", "ada", "2026-03-02T09:00:00Z", "2026-03-03T12:00:00Z"],
            ["web", "ada", "2026-03-03T12:00:00Z", ""],
            ["core", "bob", "2026-03-02T09:00:00Z", "2026-03-02T10:00:00Z"],
        ];
        check("UTC", &moves, &["core ada 2026-03-02 2026-03-03", "web ada 2026-03-03 …"]);
        // In Tokyo it is the next day by then.
        let late = [["core", "ada", "2026-03-02T16:00:00Z", ""]];
        check("Asia/Tokyo", &late, &["core ada 2026-03-03 …"]);
        check("UTC", &late, &["core ada 2026-03-02 …"]);
    }

    #[test]
    fn what_overlaps_or_touches_is_one() {
        let back = [
            ["core", "ada", "2026-03-02T09:00:00Z", "2026-03-04T12:00:00Z"],
            ["core", "ada", "2026-03-04T18:00:00Z", "2026-03-06T12:00:00Z"],
            ["core", "ada", "2026-03-09T00:00:00Z", ""],
            ["core", "ada", "2026-03-10T00:00:00Z", "2026-03-11T00:00:00Z"],
            ["web", "ada", "2026-03-02T09:00:00Z", "2026-03-20T00:00:00Z"],
            ["web", "ada", "2026-03-03T09:00:00Z", "2026-03-05T00:00:00Z"],
        ];
        check(
            "UTC",
            &back,
            &["core ada 2026-03-02 2026-03-06", "core ada 2026-03-09 …", "web ada 2026-03-02 2026-03-20"],
        );
    }
}
