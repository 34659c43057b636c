//! Appends as fast as it can, and says how fast that was: the smallest benchmark of one's own.
//!
//! `cargo run --release --example append_loop -- mem:size=1G,zone-size=256M 512 32`

use std::time::{Duration, Instant};
use zonal::{OpenOptions, QueueOptions, Request, Target};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let target = args.next().unwrap_or_else(|| "mem:size=1G,zone-size=256M,block-size=512".into());
    let length: usize = args.next().map_or(Ok(4096), |arg| arg.parse())?;
    let depth: u32 = args.next().map_or(Ok(32), |arg| arg.parse())?;

    let drive = zonal::open(&Target::parse(&target)?, &OpenOptions::default())?;
    let capacity = drive.geometry().zone_capacity / length as u64;
    let options = QueueOptions { depth, buffer_bytes: length, ..QueueOptions::default() };
    let mut queue = drive.queue(&options)?;
    queue.push(Request::reset_all())?;
    queue.submit_and_wait(1)?;
    while let Some(completion) = queue.next_completion() {
        completion.result?;
    }

    let (start, mut done, mut pushed) = (Instant::now(), 0_u64, 0_u64);
    let mut zone = 0;
    while start.elapsed() < Duration::from_secs(2) {
        while let Some(buffer) = queue.buffer(length) {
            if pushed == capacity {
                (pushed, zone) = (0, zone + 1);
            }
            if zone == drive.geometry().zones() {
                break;
            }
            queue.push(Request::append(zone, buffer))?;
            pushed += 1;
        }
        if queue.submit_and_wait(depth as usize / 2)? == 0 {
            break;
        }
        while let Some(completion) = queue.next_completion() {
            completion.result?;
            done += 1;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{:.0} appends a second", done as f64 / seconds);
    drop(queue);
    drive.close()?;
    Ok(())
}
