//! Which faults, in which order: all of it from one seed.

use std::{collections::BTreeMap, time::Duration};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// One fault on real parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9 of a worker, and a new one in its place.
    Kill,
    /// A worker joins the group, or one leaves it by SIGTERM.
    Rebalance,
    /// kill -9 of the broker, and a start on its data.
    BrokerRestart,
    /// A worker stopped in the middle of a commit until its partitions have moved on; then it wakes up.
    Zombie,
    /// The broker hangs with its connections open.
    BrokerHang,
    /// kill -9 of the object store, and a start on its data.
    StoreRestart,
    /// kill -9 of maintenance, and a start.
    MaintenanceKill,
    /// The object store cannot be reached.
    Outage,
}

/// The whole campaign, and about how long it takes.
const WHOLE: [(Fault, usize); 8] = [
    (Fault::Kill, 100),
    (Fault::Rebalance, 50),
    (Fault::BrokerRestart, 20),
    (Fault::Zombie, 20),
    (Fault::BrokerHang, 5),
    (Fault::StoreRestart, 5),
    (Fault::MaintenanceKill, 10),
    (Fault::Outage, 1),
];

/// Faults in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What happens, one after the other.
    pub faults: Vec<Fault>,
    /// How long the store is away.
    pub outage: Duration,
    /// The rest is left out once this is over, but never the first of a kind. `None` = all of it.
    pub limit: Option<Duration>,
}

impl Schedule {
    /// Everything that is promised, in an order by chance.
    #[must_use]
    pub fn whole(chance: &mut ChaCha8Rng) -> Self {
        let mut faults: Vec<Fault> =
            WHOLE.iter().flat_map(|(fault, count)| std::iter::repeat_n(*fault, *count)).collect();
        faults.shuffle(chance);
        Self { faults, outage: Duration::from_secs(60), limit: None }
    }

    /// The same mix for about `limit`: first one of each kind, then by chance.
    #[must_use]
    pub fn cut(chance: &mut ChaCha8Rng, limit: Duration) -> Self {
        let mut faults: Vec<Fault> = WHOLE.iter().map(|(fault, _)| *fault).collect();
        faults.shuffle(chance);
        let rest = Self::whole(chance).faults.into_iter().filter(|fault| *fault != Fault::Outage);
        faults.extend(rest);
        Self { faults, outage: Duration::from_secs(20), limit: Some(limit) }
    }
}

/// How many of each kind.
#[must_use]
pub fn tally(faults: &[Fault]) -> BTreeMap<Fault, usize> {
    let mut tally = BTreeMap::new();
    for fault in faults {
        *tally.entry(*fault).or_default() += 1;
    }
    tally
}

/// Kinds that there are.
#[must_use]
pub fn kinds() -> usize {
    WHOLE.len()
}
