//! A benchmark of one's own: appends by a queue against appends by handles, with one's own
//! record size and depth.
//!
//! ```text
//! cargo run --release -p zonal --example bench_of_ones_own -- [TARGET] [--record BYTES] [--iodepth N] [--seconds N]
//! ```
//!
//! TARGET is a drive in memory if it is left out. An image is written to, from its first zone that
//! is empty on, and never erased.

use anyhow::{Context, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use zonal::{Device, OpenOptions, QueueOptions, Request, Target, ZoneState};

struct Work {
    record: usize,
    iodepth: usize,
    time: Duration,
}

fn main() -> anyhow::Result<()> {
    let mut target = "mem:size=1G,zone-size=64M".to_owned();
    let mut work = Work { record: 4096, iodepth: 32, time: Duration::from_secs(1) };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().with_context(|| format!("{word} needs a number"));
        match &*word {
            "--record" => work.record = number()?.parse()?,
            "--iodepth" => work.iodepth = number()?.parse()?,
            "--seconds" => work.time = Duration::from_secs_f64(number()?.parse()?),
            option if option.starts_with('-') => bail!("there is no option {option}"),
            _ => target = word,
        }
    }
    let drive = zonal::open(&Target::parse(&target)?, &OpenOptions::default())?;
    println!("{target}: records of {} bytes, iodepth {}", work.record, work.iodepth);
    by_queue(&drive, &work)?;
    by_handles(&drive, &work)?;
    drive.close()?;
    Ok(())
}

/// Hands out zones to append to, one after the other.
struct Zones {
    empty: Vec<u32>,
    next: AtomicU32,
}

impl Zones {
    fn of(drive: &Device) -> anyhow::Result<Self> {
        let zones = drive.report(..)?;
        let empty = zones.iter().filter(|zone| zone.state == ZoneState::Empty);
        Ok(Self { empty: empty.map(|zone| zone.zone).collect(), next: AtomicU32::new(0) })
    }

    /// The zone in use; none when all are full.
    fn now(&self) -> Option<u32> {
        self.empty.get(self.next.load(Ordering::Relaxed) as usize).copied()
    }

    /// That zone is full.
    fn leave(&self, zone: u32) {
        let next = self.next.load(Ordering::Relaxed);
        if self.now() == Some(zone) {
            // Of those who see it full at the same time, one goes on.
            let _ =
                self.next.compare_exchange(next, next + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

fn by_queue(drive: &Device, work: &Work) -> anyhow::Result<()> {
    let depth = u32::try_from(work.iodepth)?;
    let options = QueueOptions { depth, buffer_bytes: work.record, ..QueueOptions::default() };
    let mut queue = drive.queue(&options)?;
    let zones = Zones::of(drive)?;
    let start = Instant::now();
    let mut appended = 0_u64;
    while start.elapsed() < work.time {
        let Some(zone) = zones.now() else { break };
        while let Some(buffer) = queue.buffer(work.record) {
            queue.push(Request::append(zone, buffer))?;
        }
        queue.submit_and_wait(work.iodepth.div_ceil(4))?;
        while let Some(completion) = queue.next_completion() {
            match completion.result {
                Ok(_) => appended += 1,
                Err(_) => zones.leave(zone),
            }
        }
    }
    say("queue", appended, start);
    Ok(())
}

fn by_handles(drive: &Device, work: &Work) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let zones = Arc::new(Zones::of(drive)?);
    let start = Instant::now();
    let appended = runtime.block_on(async {
        let tasks: Vec<_> = (0..work.iodepth)
            .map(|_| {
                let (drive, zones) = (drive.clone(), zones.clone());
                let (end, record) = (start + work.time, work.record);
                tokio::spawn(async move {
                    let mut buffer = drive.buffer(record);
                    let mut appended = 0_u64;
                    while Instant::now() < end {
                        let Some(zone) = zones.now() else { break };
                        buffer = match drive.append(zone, buffer).await {
                            Ok(landed) => {
                                appended += 1;
                                landed.buffer
                            }
                            Err(failed) => {
                                zones.leave(zone);
                                failed.buffer.unwrap_or_else(|| drive.buffer(record))
                            }
                        };
                    }
                    appended
                })
            })
            .collect();
        let mut appended = 0;
        for task in tasks {
            appended += task.await?;
        }
        anyhow::Ok(appended)
    })?;
    say("handles", appended, start);
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "fewer than 2^53 records")]
fn say(what: &str, appended: u64, start: Instant) {
    let rate = appended as f64 / start.elapsed().as_secs_f64();
    println!("{what:>8}: {appended} records, {rate:.0} a second");
}
