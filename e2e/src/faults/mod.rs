//! Faults on a real broker, a real store and real workers, one after the other, while events go on coming in; now and then all
//! of it is healed, and every record must be counted, once.
//!
//! ```text
//! producer ──► Kafka ──► workers, guests ──► Door ──► S3 server ◄── Door ◄── maintenance
//!                ▲            ▲                ▲          ▲
//!   schedule:  restart,   kill, stop,       20 % of    restart          healed every so often: oracle (check.rs)
//!  from a seed   hang     join, leave    all requests
//! ```

mod check;
mod crew;
mod producer;
mod schedule;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng, seq::IndexedMutRandom};
use rand_chacha::ChaCha8Rng;
use tokio::{task::block_in_place, time::sleep};

use self::{
    check::Checker,
    crew::{AT_LAST, Member, Role, Yard},
    producer::Producer,
};
pub use schedule::{Fault, Schedule, kinds, tally};

use crate::{pipeline::Pipeline, process::wait_for, proxy::Faults};

/// Share of requests to the store that meet an error, all the time.
const ERRORS: f64 = 0.2;
/// Faults between two checks.
const CHECK_EVERY: usize = 25;
/// A killed worker that has a name commits again within this time, where the store answers.
pub const RESTART_MAX: Duration = Duration::from_secs(10);
/// Workers that are always there.
const RESIDENTS: usize = 2;
const GUESTS_MAX: usize = 1;

/// How a worker is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Restart {
    /// With a name (`group.instance.id`), while no request to the store fails.
    Named,
    /// With a name, while 20 % of them fail.
    NamedUnderErrors,
    /// Without one: the group waits for the dead one until its session ends. Requests fail.
    Nameless,
}

/// What a campaign saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Faults in order.
    pub faults: Vec<Fault>,
    /// From the start of a process to its first commit, after a kill.
    pub restarts: BTreeMap<Restart, Vec<Duration>>,
    /// From the end of an outage or of the broker's restart to progress.
    pub recoveries: Vec<(Fault, Duration)>,
    /// Commits of zombies that were refused.
    pub refused: usize,
    /// Checks of the oracle, all of them exact.
    pub checks: usize,
}

impl Report {
    /// Restarts that took too long, where the store was well.
    #[must_use]
    pub fn too_slow(&self) -> Vec<Duration> {
        let named = self.restarts.get(&Restart::Named).into_iter().flatten();
        named.copied().filter(|took| *took > RESTART_MAX).collect()
    }
}

/// Progress, for people.
pub type Say = fn(&str);

/// Runs `schedule`, all chance of it and of the producer from `seed`. Gives what it saw, where all was well.
///
/// # Panics
/// Where a promise is broken. The logs and the tables then stay in a folder, which is told.
pub async fn run(seed: u64, schedule: &Schedule, chance: ChaCha8Rng, say: Say) -> Report {
    let mut campaign = Campaign::start(seed, chance, say).await;
    let done_at = |campaign: &Campaign| schedule.limit.is_some_and(|limit| campaign.started.elapsed() > limit);
    for (number, fault) in schedule.faults.iter().enumerate() {
        if number >= kinds() && done_at(&campaign) {
            break;
        }
        campaign.meet(*fault, schedule.outage).await;
        campaign.report.faults.push(*fault);
        campaign.everyone_lives();
        if (number + 1) % CHECK_EVERY == 0 {
            campaign.check(false).await;
        }
    }
    campaign.check(true).await;
    campaign.end()
}

struct Campaign {
    // First, so that a failure is told while all is there.
    evidence: check::Evidence,
    say: Say,
    chance: ChaCha8Rng,
    started: Instant,
    report: Report,
    store: Arc<Faults>,
    yard: Arc<Yard>,
    producer: Producer,
    residents: Vec<Member>,
    guests: Vec<Member>,
    guests_so_far: usize,
    maintenance: Option<Member>,
    checker: Checker,
    pipeline: Pipeline,
}

impl Campaign {
    async fn start(seed: u64, chance: ChaCha8Rng, say: Say) -> Self {
        let pipeline = block_in_place(Pipeline::start);
        let store = Faults::new(seed);
        let yard = Arc::new(Yard::new(&pipeline, store.clone()));
        let checker = Checker::new(&pipeline);
        let producer = Producer::start(checker.log.clone(), seed);
        let mut residents = Vec::new();
        for number in 0..RESIDENTS {
            residents.push(Member::start(&yard, &format!("resident-{number}"), Role::Static).await);
        }
        let maintenance = Some(Member::start(&yard, "maintenance", Role::Maintenance).await);
        for resident in &mut residents {
            resident.commits().await;
        }
        store.set_share(ERRORS);
        Self {
            evidence: check::Evidence::new(&pipeline, seed),
            say,
            chance,
            started: Instant::now(),
            report: Report::default(),
            store,
            yard,
            producer,
            residents,
            guests: Vec::new(),
            guests_so_far: 0,
            maintenance,
            checker,
            pipeline,
        }
    }

    fn say(&self, what: &str) {
        let (at, number) = (self.started.elapsed().as_secs_f64(), self.report.faults.len() + 1);
        (self.say)(&format!("{at:7.1} s  {number:3}  {what}"));
    }

    async fn pause(&mut self, up_to_ms: u64) {
        let pause = Duration::from_millis(self.chance.random_range(0..=up_to_ms));
        sleep(pause).await;
    }

    fn everyone_lives(&mut self) {
        self.residents.iter_mut().chain(&mut self.guests).chain(&mut self.maintenance).for_each(Member::lives);
    }

    async fn meet(&mut self, fault: Fault, outage: Duration) {
        self.pause(600).await;
        match fault {
            Fault::Kill => self.kill().await,
            Fault::Rebalance => self.rebalance().await,
            Fault::Zombie => self.zombie().await,
            Fault::BrokerRestart => {
                block_in_place(|| self.pipeline.kafka.kill());
                self.pause(2_000).await;
                block_in_place(|| self.pipeline.kafka.restart());
                self.recovered(fault, "broker killed and started").await;
            }
            Fault::BrokerHang => {
                block_in_place(|| self.pipeline.kafka.hang(true));
                self.pause(8_000).await;
                block_in_place(|| self.pipeline.kafka.hang(false));
                self.recovered(fault, "broker hung").await;
            }
            Fault::StoreRestart => {
                block_in_place(|| self.pipeline.s3.kill());
                self.pause(4_000).await;
                block_in_place(|| self.pipeline.s3.restart());
                self.recovered(fault, "store killed and started").await;
            }
            Fault::Outage => {
                self.store.set_outage(true);
                sleep(outage).await;
                self.store.set_outage(false);
                self.recovered(fault, &format!("store away for {outage:?}")).await;
            }
            Fault::MaintenanceKill => {
                let maintenance = self.maintenance.as_mut().expect("it is always there");
                maintenance.kill();
                maintenance.launch();
                self.say("maintenance killed and started");
            }
        }
    }

    /// kill -9 at any moment, or when a commit is on its way; that lands when it likes, while the next process reads the table.
    async fn kill(&mut self) {
        let guest = !self.guests.is_empty() && self.chance.random_bool(0.3);
        let (on_its_way, landing) = (self.chance.random_bool(0.4), self.chance.random_range(0..3_000));
        let healthy = !guest && self.chance.random_bool(0.5);
        let members = if guest { &mut self.guests } else { &mut self.residents };
        let member = members.choose_mut(&mut self.chance).expect("there is one");
        let mut hold = on_its_way.then(|| member.door().hold_commit());
        if let Some(hold) = &mut hold {
            // None comes where it owns no partition just now.
            hold.is_held(Duration::from_secs(5)).await;
        }
        member.kill();
        if healthy {
            self.store.set_share(0.0);
        }
        member.launch();
        let landed = async {
            sleep(Duration::from_millis(landing)).await;
            if let Some(hold) = hold {
                hold.release();
            }
        };
        let (took, ()) = tokio::join!(member.commits(), landed);
        self.store.set_share(ERRORS);
        let (kind, errors) = match (guest, healthy) {
            (true, _) => (Restart::Nameless, ", 20 % errors"),
            (false, true) => (Restart::Named, ""),
            (false, false) => (Restart::NamedUnderErrors, ", 20 % errors"),
        };
        let (name, when) = (member.name.clone(), if on_its_way { ", a commit on its way" } else { "" });
        self.report.restarts.entry(kind).or_default().push(took);
        self.say(&format!("{name} killed{when}{errors}: commits {:.2} s after its start", took.as_secs_f64()));
    }

    async fn rebalance(&mut self) {
        let joins = self.guests.is_empty() || (self.guests.len() < GUESTS_MAX && self.chance.random());
        if joins {
            self.guests_so_far += 1;
            let mut guest = Member::start(&self.yard, &format!("guest-{}", self.guests_so_far), Role::Dynamic).await;
            let took = guest.commits().await;
            self.guests.push(guest);
            self.say(&format!("a guest joined: commits after {:.2} s", took.as_secs_f64()));
        } else {
            let started = Instant::now();
            let guest = self.guests.swap_remove(self.chance.random_range(0..self.guests.len()));
            guest.leave();
            self.recovered(Fault::Rebalance, &format!("a guest left within {:.2} s", started.elapsed().as_secs_f64()))
                .await;
        }
    }

    /// Stopped with a commit on its way, for longer than the session; its partitions move on, then both wake up.
    async fn zombie(&mut self) {
        let zombie = self.chance.random_range(0..self.residents.len() + self.guests.len());
        let release_first = self.chance.random_bool(0.5);
        let mut hold = self.member(zombie).door().hold_commit();
        assert!(hold.is_held(AT_LAST).await, "{} commits", self.member(zombie).name);
        let refused = self.member(zombie).counter("daybook_worker_fenced_total").await;
        self.member(zombie).freeze(true);
        let before = self.checker.progress_at_last().await;
        wait_for("every partition has moved on", AT_LAST, async || {
            let now = self.checker.progress().await;
            now.is_some_and(|now| now.iter().zip(&before).all(|(now, before)| now.next_offset > before.next_offset))
        })
        .await;
        let awake = Instant::now();
        if release_first {
            hold.release();
            self.pause(500).await;
            self.member(zombie).freeze(false);
        } else {
            self.member(zombie).freeze(false);
            self.pause(500).await;
            hold.release();
        }
        let member = self.member(zombie);
        wait_for(&format!("the commit of the zombie {} is refused", member.name), AT_LAST, async || {
            member.lives();
            member.metric("daybook_worker_fenced_total").await.is_some_and(|now| now > refused)
        })
        .await;
        let name = member.name.clone();
        self.report.refused += 1;
        self.say(&format!("zombie {name}: refused {:.2} s after it woke up", awake.elapsed().as_secs_f64()));
    }

    fn member(&mut self, index: usize) -> &mut Member {
        self.residents.iter_mut().chain(&mut self.guests).nth(index).expect("there are so many")
    }

    /// Waits until every partition moves on.
    async fn recovered(&mut self, fault: Fault, what: &str) {
        let healed = Instant::now();
        let mut before = None;
        wait_for(&format!("progress after: {what}"), AT_LAST, async || {
            self.everyone_lives();
            let Some(now) = self.checker.progress().await else { return false };
            let before = before.get_or_insert_with(|| now.clone());
            now.iter().zip(before).all(|(now, before)| now.next_offset > before.next_offset)
        })
        .await;
        let took = healed.elapsed();
        self.report.recoveries.push((fault, took));
        self.say(&format!("{what}: progress after {:.2} s", took.as_secs_f64()));
    }

    /// Heals all, waits until every record is in a commit, and asks the oracle.
    async fn check(&mut self, last: bool) {
        let started = Instant::now();
        let stopped = self.producer.stopped().await;
        self.store.set_share(0.0);
        wait_for("every record in a commit", 2 * AT_LAST, async || {
            self.everyone_lives();
            let Some(progress) = self.checker.progress().await else { return false };
            progress.iter().all(|partition| partition.next_offset == partition.high_watermark)
        })
        .await;
        let caught_up = started.elapsed();
        if last {
            for member in self.residents.drain(..).chain(self.guests.drain(..)).chain(self.maintenance.take()) {
                member.leave();
            }
        }
        let found = self.checker.check(&self.pipeline, last).await;
        self.report.checks += 1;
        let (all, caught_up) = (started.elapsed().as_secs_f64(), caught_up.as_secs_f64());
        (self.say)(&format!("checked, {found}; caught up after {caught_up:.1} s, checked after {all:.1} s"));
        self.store.set_share(ERRORS);
        drop(stopped);
    }

    /// Says the figures.
    fn end(mut self) -> Report {
        let say = self.say;
        for (fault, count) in tally(&self.report.faults) {
            say(&format!("{count:5} x {fault:?}"));
        }
        let (requests, kinds) = self.store.counts();
        say(&format!("{requests} requests to the store, of which: {kinds:?}"));
        let (sent, conflicts, refused) = self.producer.counts();
        say(&format!("{sent} records sent, {conflicts} of them conflicts; {refused} appends not acknowledged"));
        for (kind, restarts) in &self.report.restarts {
            say(&format!("start to first commit, {kind:?}: {}", spread(restarts)));
        }
        for kind in tally(&self.report.recoveries.iter().map(|(fault, _)| *fault).collect::<Vec<_>>()).into_keys() {
            let of = self.report.recoveries.iter().filter(|(fault, _)| *fault == kind);
            say(&format!("progress after {kind:?}: {}", spread(&of.map(|(_, took)| *took).collect::<Vec<_>>())));
        }
        let [worker, maintenance] = self.yard.peaks_mib();
        say(&format!("peak memory: {worker} MiB of a worker, {maintenance} MiB of maintenance"));
        let took = self.started.elapsed().as_secs();
        say(&format!("{} faults in {took} s, {} checks, all exact", self.report.faults.len(), self.report.checks));
        self.evidence.not_needed();
        self.report.clone()
    }
}

fn spread(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let Some(max) = sorted.last() else { return "none".to_owned() };
    format!(
        "{} times, p50 {:.2} s, max {:.2} s",
        sorted.len(),
        sorted[sorted.len() / 2].as_secs_f64(),
        max.as_secs_f64()
    )
}
