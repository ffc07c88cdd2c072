//! A consumer group within one process, for the embedded and the simulated log.
//!
//! Like Kafka's cooperative protocol: a partition changes hands in two steps, so that it never has two owners.
//!
//! ```text
//! join, leave, rebalance ──► target changes ──► owner releases (Revoked) ──► new owner takes (Assigned)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

pub(super) struct Group {
    state: Mutex<State>,
    /// Counts whatever a waiting consumer may be interested in. A version counter cannot lose a wake-up (F14).
    version: AtomicU64,
    /// Wakes in the order of waiting, unlike tokio's `watch`, which draws lots: a simulation has to repeat itself.
    waiting: Notify,
}

struct State {
    next_member: u64,
    members: BTreeSet<u64>,
    partitions: Vec<i32>,
    owners: BTreeMap<i32, u64>,
    /// Shifts the round robin, so that partitions wander.
    rotation: usize,
    /// Partitions that their owner is to give up once, even if it gets them back.
    bounced: BTreeSet<i32>,
}

/// What a member has to do before it reads on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Release(Vec<i32>),
    Take(Vec<i32>),
    Read,
}

impl Group {
    pub(super) fn new(partitions: Vec<i32>) -> Self {
        let state = State {
            next_member: 0,
            members: BTreeSet::new(),
            partitions,
            owners: BTreeMap::new(),
            rotation: 0,
            bounced: BTreeSet::new(),
        };
        Self { state: Mutex::new(state), version: AtomicU64::new(0), waiting: Notify::new() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Something was appended, or freed, or the group changed.
    pub(super) fn changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.waiting.notify_waiters();
    }

    /// Read before looking at group or log, so that a change during the look ends the wait at once.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Waits until the version is another than `seen`. Cancel-safe.
    pub(super) async fn changed_since(&self, seen: u64) {
        loop {
            let mut notified = pin!(self.waiting.notified());
            // Enlisted before the version is compared: a change in between wakes us.
            notified.as_mut().enable();
            if self.version() != seen {
                return;
            }
            notified.await;
        }
    }

    pub(super) fn join(&self) -> u64 {
        let mut state = self.lock();
        let member = state.next_member;
        state.next_member += 1;
        state.members.insert(member);
        drop(state);
        self.changed();
        member
    }

    /// Leaves with whatever the member owned; its partitions are free at once.
    pub(super) fn leave(&self, member: u64) {
        let mut state = self.lock();
        state.members.remove(&member);
        state.owners.retain(|_, owner| *owner != member);
        drop(state);
        self.changed();
    }

    /// Every owner gives up its partitions; `rotate` moves them on to the next member.
    pub(super) fn rebalance(&self, rotate: bool) {
        let mut state = self.lock();
        state.rotation += usize::from(rotate);
        state.bounced = state.owners.keys().copied().collect();
        drop(state);
        self.changed();
    }

    /// Takes effect at once: what is to be released is free for others when this returns.
    pub(super) fn step(&self, member: u64) -> Step {
        let mut state = self.lock();
        let members: Vec<u64> = state.members.iter().copied().collect();
        let target = |index: usize, rotation: usize| members.get((index + rotation) % members.len().max(1)).copied();
        let (mut release, mut take) = (Vec::new(), Vec::new());
        for (index, partition) in state.partitions.iter().enumerate() {
            let wanted = target(index, state.rotation) == Some(member);
            match state.owners.get(partition) {
                Some(owner) if *owner == member && (!wanted || state.bounced.contains(partition)) => {
                    release.push(*partition)
                }
                None if wanted => take.push(*partition),
                _ => {}
            }
        }
        if !release.is_empty() {
            for partition in &release {
                state.owners.remove(partition);
                state.bounced.remove(partition);
            }
            drop(state);
            self.changed();
            return Step::Release(release);
        }
        if take.is_empty() {
            return Step::Read;
        }
        for partition in &take {
            state.owners.insert(*partition, member);
        }
        Step::Take(take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_never_has_two_owners() {
        let group = Group::new(vec![0, 1, 2]);
        let first = group.join();
        assert_eq!(group.step(first), Step::Take(vec![0, 1, 2]));
        assert_eq!(group.step(first), Step::Read);
        let second = group.join();
        assert_eq!(group.step(second), Step::Read, "1 is not free yet");
        assert_eq!(group.step(first), Step::Release(vec![1]));
        assert_eq!(group.step(second), Step::Take(vec![1]));
        group.leave(first);
        assert_eq!(group.step(second), Step::Take(vec![0, 2]));
    }

    #[test]
    fn a_bounce_gives_up_and_takes_again() {
        let group = Group::new(vec![0]);
        let member = group.join();
        group.step(member);
        group.rebalance(false);
        assert_eq!(group.step(member), Step::Release(vec![0]));
        assert_eq!(group.step(member), Step::Take(vec![0]));
        assert_eq!(group.step(member), Step::Read);
    }
}
