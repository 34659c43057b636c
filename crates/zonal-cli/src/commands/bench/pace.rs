//! fio's `rate` and `rate_iops`: each job sends its records no faster than that.

use std::time::Duration;

/// When the next record of a job is due. What it has fallen behind, it may catch up.
pub(super) struct Pace {
    interval: Duration,
    /// From the job's start.
    due: Duration,
}

impl Pace {
    /// A record each `interval`, the first at once.
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, due: Duration::ZERO }
    }

    /// How long it is to the next record, if it is not due yet, `elapsed` after the start.
    pub(super) fn rest(&self, elapsed: Duration) -> Option<Duration> {
        self.due.checked_sub(elapsed).filter(|rest| !rest.is_zero())
    }

    /// A record was sent.
    pub(super) fn step(&mut self) {
        self.due = self.due.saturating_add(self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_due_one_after_the_other_and_are_caught_up() {
        let millis = Duration::from_millis;
        let mut pace = Pace::new(millis(10));
        assert_eq!(pace.rest(millis(0)), None);
        pace.step();
        assert_eq!(pace.rest(millis(4)), Some(millis(6)));
        assert_eq!(pace.rest(millis(25)), None);
        pace.step();
        assert_eq!(pace.rest(millis(25)), None);
        pace.step();
        assert_eq!(pace.rest(millis(25)), Some(millis(5)));
    }
}
