//! Cumulative counters, cut at fixed totals so that each cut is one event (see the module above).
//!
//! | counter | cuts |
//! |---|---|
//! | count | at 1, 2, 3, … |
//! | amount, in grains | at 1, 2, …, 64, then each 1/32 of the total further |
//!
//! So an amount has O(log total) cuts, and what lies after the last one passed is less than a grain or 1/32.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Most series whose progress is remembered, about 4 MiB.
const SERIES_MAX: usize = 65_536;

/// A series and the number of its cuts that were passed.
pub(super) type Reached = (u128, u64);

/// The cuts that `total` has passed, from the `after`th on: (number from 1, previous cut, cut).
pub(super) fn cuts(total: u64, unit: bool, after: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let step = move |cut: u64| if unit { 1 } else { (cut / 32).max(1) };
    let mut cut = 0_u64;
    (1..)
        .map_while(move |number| {
            let previous = cut;
            cut = previous.checked_add(step(previous))?;
            (cut <= total).then_some((number, previous, cut))
        })
        .skip_while(move |(number, ..)| *number <= after)
}

/// How many cuts of each series are in the log already. Only spares the log: what is forgotten, or was appended by another collector,
/// is appended again under the same ids, and counts once.
#[derive(Default)]
pub(in crate::collector) struct Progress(Mutex<HashMap<u128, u64>>);

impl Progress {
    pub(super) fn of(&self, series: u128) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&series).copied().unwrap_or(0)
    }

    /// After the log has acknowledged.
    pub(super) fn raise(&self, reached: Vec<Reached>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (series, cuts) in reached {
            if all.len() >= SERIES_MAX && !all.contains_key(&series) {
                all.clear();
            }
            let known = all.entry(series).or_default();
            *known = cuts.max(*known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Progress, SERIES_MAX, cuts};

    #[test]
    fn cuts_are_fixed_whatever_was_seen_before() {
        for (unit, total) in
            [(true, 0), (true, 7), (false, 0), (false, 1), (false, 64), (false, 1000), (false, 28_800_000)]
        {
            let all: Vec<_> = cuts(total, unit, 0).collect();
            assert!(all.iter().zip(1..).all(|((number, ..), expected)| *number == expected));
            assert!(all.windows(2).all(|pair| pair[0].2 == pair[1].1), "they join up");
            let reached = all.last().map_or(0, |(.., cut)| *cut);
            assert!(reached <= total && total - reached <= total / 32, "{total}: {reached}");
            if total <= 64 || unit {
                assert_eq!(reached, total, "exact");
            }
            // Any earlier total gives a prefix; what is known is left out.
            let earlier: Vec<_> = cuts(total / 3, unit, 0).collect();
            assert_eq!(all[..earlier.len()], earlier);
            assert_eq!(cuts(total, unit, earlier.len() as u64).collect::<Vec<_>>(), all[earlier.len()..]);
        }
        assert!(cuts(28_800_000, false, 0).count() < 600);
        assert!(cuts(u64::MAX, false, 0).count() < 2_000, "ends before it overflows");
    }

    #[test]
    fn progress_is_bounded_and_only_rises() {
        let progress = Progress::default();
        progress.raise(vec![(1, 5), (1, 3)]);
        assert_eq!((progress.of(1), progress.of(2)), (5, 0));
        for series in 0..SERIES_MAX as u128 * 2 {
            progress.raise(vec![(series, 1)]);
        }
        assert!(progress.0.lock().expect("whole").len() <= SERIES_MAX);
    }
}
