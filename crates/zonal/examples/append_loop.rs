//! Appends as fast as it can, and says how fast that was: the smallest benchmark of one's own.
//!
//! `cargo run --release -p zonal --example append_loop -- mem:size=1G,zone-size=256M 512 32`
//!
//! It takes empty zones, one after the other. On a drive that has none, `--reset --yes` makes some
//! first, which erases all that the drive holds. It goes on for two seconds, or until `--records=N` are there: so
//! two runs differ by so many appends and nothing else, which is how instructions are counted.

use std::time::{Duration, Instant};
use zonal::{OpenOptions, QueueOptions, Request, Target, ZoneState};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (options, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word.starts_with("--"));
    let mut args = words.into_iter();
    let target = args.next().unwrap_or_else(|| "mem:size=1G,zone-size=256M,block-size=512".into());
    let length: usize = args.next().map_or(Ok(4096), |arg| arg.parse())?;
    let depth: u32 = args.next().map_or(Ok(32), |arg| arg.parse())?;

    let drive = zonal::open(&Target::parse(&target)?, &OpenOptions::default())?;
    let capacity = drive.geometry().zone_capacity / length as u64;
    let queue_options = QueueOptions { depth, buffer_bytes: length, ..QueueOptions::default() };
    let mut queue = drive.queue(&queue_options)?;
    let said = |word: &str| options.iter().any(|option| option == word);
    if said("--reset") {
        if !said("--yes") {
            return Err(format!("{target}: --reset erases; say --yes to do it").into());
        }
        queue.push(Request::reset_all())?;
        queue.submit_and_wait(1)?;
        while let Some(completion) = queue.next_completion() {
            completion.result?;
        }
    }
    let report = drive.report(..)?;
    let empty = report.iter().filter(|zone| zone.state == ZoneState::Empty);
    let mut zones = empty.map(|zone| zone.zone).peekable();
    if zones.peek().is_none() {
        let next = "--reset --yes empties them all, and erases what they hold";
        return Err(format!("{target}: no zone is empty; {next}").into());
    }

    let records = options.iter().find_map(|option| option.strip_prefix("--records="));
    let records = records.map(str::parse::<u64>).transpose()?;
    let (start, mut done, mut pushed) = (Instant::now(), 0_u64, 0_u64);
    let goes_on = |done| match records {
        Some(records) => done < records,
        None => start.elapsed() < Duration::from_secs(2),
    };
    while goes_on(done) {
        while let Some(buffer) = queue.buffer(length) {
            if pushed == capacity {
                (pushed, _) = (0, zones.next());
            }
            let Some(&zone) = zones.peek() else { break };
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
