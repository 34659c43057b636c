//! Latencies over time, for the plot: a histogram for each slice of the run.
//!
//! There are at most [`SLICES`] of them, all made before the run. When they are used up, pairs are
//! merged, and from then on each stands for twice the time.

use std::{mem, time::Duration};

use anyhow::Result;
use hdrhistogram::Histogram;

/// As many as a plot has room for; an even number.
const SLICES: usize = 256;

/// What a slice stands for at first.
const WIDTH: Duration = Duration::from_millis(10);

/// Latencies in nanoseconds, to two digits: a plot shows no more.
type Slice = Histogram<u32>;

/// The slices of a run, oldest first.
pub(super) struct Timeline {
    width: Duration,
    /// None when nobody plots.
    slices: Vec<Slice>,
}

impl Timeline {
    /// An empty one, which keeps nothing unless it is `wanted`.
    pub(super) fn new(wanted: bool) -> Result<Self> {
        let slice = Slice::new_with_bounds(1, super::worker::LATENCY_NS_MAX, 2)?;
        Ok(Self { width: WIDTH, slices: vec![slice; if wanted { SLICES } else { 0 }] })
    }

    /// A latency that was known `at` so long after the start.
    pub(super) fn record(&mut self, at: Duration, latency_ns: u64) -> Result<()> {
        if self.slices.is_empty() {
            return Ok(());
        }
        while self.index(at) >= self.slices.len() {
            self.halve()?;
        }
        let index = self.index(at);
        self.slices[index].saturating_record(latency_ns);
        Ok(())
    }

    fn index(&self, at: Duration) -> usize {
        usize::try_from(at.as_nanos() / self.width.as_nanos()).unwrap_or(usize::MAX)
    }

    /// Merges pairs of slices.
    fn halve(&mut self) -> Result<()> {
        self.width *= 2;
        for pair in 0..self.slices.len() / 2 {
            let (kept, rest) = self.slices.split_at_mut(2 * pair + 1);
            kept[2 * pair].add(&rest[0])?;
            rest[0].reset();
            self.slices.swap(pair, 2 * pair);
        }
        Ok(())
    }

    /// Adds another job's.
    pub(super) fn add(&mut self, mut other: Self) -> Result<()> {
        if self.width > other.width {
            mem::swap(self, &mut other);
        }
        while self.width < other.width {
            self.halve()?;
        }
        for (mine, other) in self.slices.iter_mut().zip(&other.slices) {
            mine.add(other)?;
        }
        Ok(())
    }

    /// Middle of each slice in seconds, and the slice, where there was anything.
    pub(super) fn points(&self) -> impl Iterator<Item = (f64, &Slice)> {
        let width = self.width.as_secs_f64();
        let middles = (0u32..).map(move |at| (f64::from(at) + 0.5) * width);
        middles.zip(&self.slices).filter(|(_, slice)| !slice.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Middles in milliseconds, and counts.
    fn counts(timeline: &Timeline) -> Vec<(f64, u64)> {
        timeline.points().map(|(at, slice)| ((at * 1e3).round(), slice.len())).collect()
    }

    #[test]
    fn a_long_run_is_kept_in_wider_slices() {
        let mut timeline = Timeline::new(true).unwrap();
        for at in [0, 15, 2555] {
            timeline.record(Duration::from_millis(at), 1000).unwrap();
        }
        assert_eq!(counts(&timeline), [(5.0, 1), (15.0, 1), (2555.0, 1)]);
        timeline.record(Duration::from_millis(2560), 1000).unwrap();
        assert_eq!(counts(&timeline), [(10.0, 2), (2550.0, 1), (2570.0, 1)]);
        let mut other = Timeline::new(true).unwrap();
        other.record(Duration::from_millis(2551), 1000).unwrap();
        other.add(timeline).unwrap();
        assert_eq!(counts(&other), [(10.0, 2), (2550.0, 2), (2570.0, 1)]);
    }

    #[test]
    fn nobody_who_does_not_plot_pays() {
        let mut timeline = Timeline::new(false).unwrap();
        timeline.record(Duration::from_secs(1), 1000).unwrap();
        assert_eq!(counts(&timeline), []);
    }
}
