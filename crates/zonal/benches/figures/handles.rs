//! The sides that append through handles: tasks under tokio, each awaiting one append at a time.

use crate::image::{ImageDrive, Meter, Places, Work};
use crate::pairs::Sample;
use anyhow::{Context, ensure};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use zonal::{Device, Operation, Transfer};

/// How the tasks are.
#[derive(Clone, Copy)]
pub(crate) struct Tasks {
    pub(crate) count: u32,
    /// Each drops every other of its appends after the first poll.
    pub(crate) drop_half: bool,
}

/// What the tasks share.
struct Shared {
    device: Device,
    place: Places,
    block: usize,
    /// The next record, and how many there are room for.
    next: AtomicU64,
    records: u64,
    stop: AtomicBool,
    drop_half: bool,
}

/// Appends for `time`, as [`ImageDrive::append`] does. Of the appends that are dropped those count
/// that were carried out.
pub(crate) fn append(
    drive: &ImageDrive,
    work: Work,
    tasks: Tasks,
    time: Duration,
) -> anyhow::Result<Sample> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let shared = Arc::new(Shared {
        device: drive.device.clone(),
        place: Places::new(drive, work),
        block: usize::try_from(work.block)?,
        next: AtomicU64::new(0),
        records: drive.records(work),
        stop: AtomicBool::new(false),
        drop_half: tasks.drop_half,
    });
    reset(&shared)?;
    let orphaned = drive.device.metrics().orphaned;
    let meter = Meter::start(drive);
    let end = Instant::now() + time;
    let mut operations = 0;
    while Instant::now() < end {
        operations += fill(&runtime, &shared, tasks.count, end)?;
        if shared.next.load(Ordering::Relaxed) >= shared.records {
            reset(&shared)?;
        }
    }
    operations += drive.device.metrics().orphaned - orphaned;
    ensure!(operations > 0, "nothing was done");
    Ok(meter.stop_at(work, operations))
}

/// Until the drive is full, or the time is up. How many were appended.
fn fill(runtime: &Runtime, shared: &Arc<Shared>, count: u32, end: Instant) -> anyhow::Result<u64> {
    shared.stop.store(false, Ordering::Relaxed);
    runtime.block_on(async {
        let tasks: Vec<_> = (0..count).map(|_| tokio::spawn(one_task(shared.clone()))).collect();
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
    while let Some(zone) = shared.next_zone() {
        let data = buffer.take().context("it came back")?;
        let landed = shared.device.append(zone, data).await?;
        buffer = Some(landed.buffer);
        operations += 1;
        if shared.drop_half
            && let Some(zone) = shared.next_zone()
        {
            let append = shared.device.append(zone, shared.device.buffer(shared.block));
            poll_once(append).await;
        }
    }
    Ok(operations)
}

async fn poll_once(mut append: Operation<Transfer>) {
    std::future::poll_fn(|context| {
        // Whatever it says, nobody waits for it any more.
        let _ = Pin::new(&mut append).poll(context);
        Poll::Ready(())
    })
    .await;
}

impl Shared {
    /// Where the next record goes, until there is no room or no time left.
    fn next_zone(&self) -> Option<u32> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let record = self.next.fetch_add(1, Ordering::Relaxed);
        (record < self.records).then(|| self.place.zone(record))
    }
}

fn reset(shared: &Shared) -> anyhow::Result<()> {
    shared.device.reset_all().wait()?;
    shared.device.flush().wait()?;
    shared.next.store(0, Ordering::Relaxed);
    Ok(())
}
