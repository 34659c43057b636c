//! A progress bar over bytes on stderr. When it is hidden, stepping it costs an addition.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How much of the work is done. Cleared from the terminal when dropped.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// Steps are handed to the bar in lumps, so that small records do not pay for it each time.
    pending: u64,
}

/// How many bytes make a lump.
const LUMP: u64 = 4 << 20;

impl Progress {
    /// A bar over `total` bytes, or a counter where the total is not known.
    pub(crate) fn new(total: Option<u64>, visible: bool) -> Self {
        let bar = visible.then(|| {
            let (bar, template) = match total {
                Some(total) => (
                    ProgressBar::new(total),
                    "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                ),
                None => (ProgressBar::no_length(), "{bytes} {bytes_per_sec}"),
            };
            bar.set_draw_target(ProgressDrawTarget::stderr());
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self { bar, pending: 0 }
    }

    /// A bar over `total` things that are counted.
    pub(crate) fn counting(total: u64, visible: bool) -> Self {
        let progress = Self::new(Some(total), visible);
        let template = "{wide_bar} {pos}/{len} {per_sec} {eta}";
        if let (Some(bar), Ok(style)) = (&progress.bar, ProgressStyle::with_template(template)) {
            bar.set_style(style);
        }
        progress
    }

    /// Another `bytes` are done.
    pub(crate) fn step(&mut self, bytes: u64) {
        self.pending += bytes;
        if self.pending >= LUMP {
            if let Some(bar) = &self.bar {
                bar.inc(self.pending);
            }
            self.pending = 0;
        }
    }

    /// `bytes` are done altogether.
    pub(crate) fn set(&self, bytes: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
