//! The side that appends through handles: as many tasks as the depth, under tokio, each awaiting
//! one append at a time.

use crate::image::{ImageDrive, Meter, Places, Work};
use crate::pairs::Sample;
use anyhow::{Context, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use zonal::Device;

/// What the tasks share.
struct Shared {
    device: Device,
    place: Places,
    block: usize,
    /// The next record, and how many there are room for.
    next: AtomicU64,
    records: u64,
    stop: AtomicBool,
}

/// Appends for `time`, as [`ImageDrive::append`] does.
pub(crate) fn append(drive: &ImageDrive, work: Work, time: Duration) -> anyhow::Result<Sample> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let shared = Arc::new(Shared {
        device: drive.device.clone(),
        place: Places::new(drive, work),
        block: usize::try_from(work.block)?,
        next: AtomicU64::new(0),
        records: drive.records(work),
        stop: AtomicBool::new(false),
    });
    reset(&shared)?;
    let meter = Meter::start(drive);
    let end = Instant::now() + time;
    let mut operations = 0;
    while Instant::now() < end {
        operations += fill(&runtime, &shared, work.depth, end)?;
        if shared.next.load(Ordering::Relaxed) >= shared.records {
            reset(&shared)?;
        }
    }
    ensure!(operations > 0, "nothing was done");
    Ok(meter.stop_at(work, operations))
}

/// Until the drive is full, or the time is up. How many were appended.
fn fill(runtime: &Runtime, shared: &Arc<Shared>, depth: u32, end: Instant) -> anyhow::Result<u64> {
    shared.stop.store(false, Ordering::Relaxed);
    runtime.block_on(async {
        let tasks: Vec<_> = (0..depth).map(|_| tokio::spawn(one_task(shared.clone()))).collect();
        let alarm = shared.clone();
        let alarm = tokio::spawn(async move {
            tokio::time::sleep_until(end.into()).await;
            alarm.stop.store(true, Ordering::Relaxed);
        });
        let mut operations = 0;
        for task in tasks {
            operations += task.await??;
        }
        alarm.abort();
        Ok(operations)
    })
}

async fn one_task(shared: Arc<Shared>) -> anyhow::Result<u64> {
    let mut operations = 0;
    let mut buffer = Some(shared.device.buffer(shared.block));
    while !shared.stop.load(Ordering::Relaxed) {
        let record = shared.next.fetch_add(1, Ordering::Relaxed);
        if record >= shared.records {
            break;
        }
        let data = buffer.take().context("it came back")?;
        let landed = shared.device.append(shared.place.zone(record), data).await?;
        buffer = Some(landed.buffer);
        operations += 1;
    }
    Ok(operations)
}

fn reset(shared: &Shared) -> anyhow::Result<()> {
    shared.device.reset_all().wait()?;
    shared.device.flush().wait()?;
    shared.next.store(0, Ordering::Relaxed);
    Ok(())
}
