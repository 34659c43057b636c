//! Two sides, measured in turns, and what their ratios say.

use std::time::Duration;

/// What one run of a side found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    pub(crate) block: u64,
    /// CPU time, user and system.
    pub(crate) cpu_ns: f64,
    /// p50, p99 and p99.9 from submission to completion, in ns.
    pub(crate) latency_ns: Option<[u64; 3]>,
    /// Writes and reads that the device saw, where that can be told.
    pub(crate) device_requests: Option<u64>,
    pub(crate) system_calls: Option<u64>,
}

impl Sample {
    pub(crate) fn rate(&self) -> f64 {
        count(self.operations) / self.seconds
    }

    pub(crate) fn bytes_rate(&self) -> f64 {
        self.rate() * count(self.block)
    }

    pub(crate) fn cpu_ns_each(&self) -> f64 {
        self.cpu_ns / count(self.operations.max(1))
    }

    pub(crate) fn p50(&self) -> f64 {
        self.latency_ns.map_or(f64::NAN, |latency| count(latency[0]))
    }

    pub(crate) fn p99(&self) -> f64 {
        self.latency_ns.map_or(f64::NAN, |latency| count(latency[1]))
    }

    /// The numbers behind a ratio, for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} /s", thousands(self.rate()));
        if self.cpu_ns.is_finite() {
            text += &format!(", CPU {:.0} ns each", self.cpu_ns_each());
        }
        if let Some([p50, p99, p999]) = self.latency_ns {
            let us = |ns| count(ns) / 1000.0;
            text += &format!(", p50/p99/p99.9 {:.1}/{:.1}/{:.1} µs", us(p50), us(p99), us(p999));
        }
        let each = |n: u64| count(n) / count(self.operations.max(1));
        if let Some(requests) = self.device_requests {
            text += &format!(", {:.2} device requests each", each(requests));
        }
        if let Some(calls) = self.system_calls {
            text += &format!(", {:.3} system calls each", each(calls));
        }
        text
    }
}

/// One side of a comparison.
pub(crate) type Side<'a> = &'a mut dyn FnMut(Duration) -> anyhow::Result<Sample>;

/// The runs of two sides in the order A B B A A B …
pub(crate) struct Paired {
    runs: Vec<(bool, Sample)>,
}

/// A median with its range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// Warms both sides up, and runs them in turns.
pub(crate) fn compare(
    time: Duration,
    pairs: usize,
    ours: Side<'_>,
    theirs: Side<'_>,
) -> anyhow::Result<Paired> {
    let warm_up = time.min(Duration::from_secs(1));
    ours(warm_up)?;
    theirs(warm_up)?;
    let mut runs = Vec::with_capacity(2 * pairs);
    for pair in 0..pairs {
        let ours_first = pair % 2 == 0;
        for is_ours in [ours_first, !ours_first] {
            runs.push((is_ours, if is_ours { ours(time)? } else { theirs(time)? }));
        }
    }
    Ok(Paired { runs })
}

impl Paired {
    /// A function of ours and theirs, over the pairs.
    pub(crate) fn spread(&self, of: impl Fn(&Sample, &Sample) -> f64) -> Spread {
        let pairs = self.runs.chunks_exact(2);
        spread(pairs.map(|pair| match pair {
            [(true, ours), (_, theirs)] | [(_, theirs), (true, ours)] => of(ours, theirs),
            _ => f64::NAN,
        }))
    }

    /// Our figure over theirs.
    pub(crate) fn ratio(&self, figure: impl Fn(&Sample) -> f64) -> Spread {
        self.spread(|ours, theirs| figure(ours) / figure(theirs))
    }

    /// The same figure of neighbouring runs of one side: the noise floor.
    pub(crate) fn noise(&self, figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
        let between = self.runs.get(1..).unwrap_or(&[]).chunks_exact(2);
        let ratios: Vec<f64> = between
            .filter(|pair| pair[0].0 == pair[1].0)
            .map(|pair| figure(&pair[1].1) / figure(&pair[0].1))
            .collect();
        (!ratios.is_empty()).then(|| spread(ratios.into_iter()))
    }

    /// The run of one side whose rate is its median.
    pub(crate) fn typical(&self, ours: bool) -> Sample {
        let mut runs: Vec<Sample> =
            self.runs.iter().filter(|run| run.0 == ours).map(|run| run.1).collect();
        runs.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        runs.get(runs.len() / 2).copied().unwrap_or_default()
    }
}

fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let nan = f64::NAN;
    let (min, max) =
        (values.first().copied().unwrap_or(nan), values.last().copied().unwrap_or(nan));
    let middle = values.len() / 2;
    let median = match values.len() {
        0 => nan,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    };
    Spread { median, min, max }
}

/// A count as a number to divide.
#[allow(clippy::cast_precision_loss)] // counts are below 2^53
pub(crate) fn count(n: u64) -> f64 {
    n as f64
}

/// `123.4k`, `5.67M`.
pub(crate) fn thousands(n: f64) -> String {
    match n {
        n if n >= 1e6 => format!("{:.2}M", n / 1e6),
        n if n >= 1e3 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}
