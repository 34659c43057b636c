//! What a mount costs, as ratios to the smallest FUSE file system that passes writes through to files of the
//! same disk:
//!
//! ```text
//! cargo bench -p zonal-export --bench figures -- [SECONDS [PAIRS [DIR]]]
//! ```
//!
//! Both sides serve with eight threads; eight threads write directly, each to a file of its own, whose blocks
//! were all written before. They run in turns, A B B A, and each pair of neighbours gives one ratio.

#[path = "../../../zonal/benches/figures/pairs.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod pairs;
mod passthrough;

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use pairs::{Paired, Sample, Spread, compare};
use zonal::{Buffer, CreateOptions, Geometry, OpenOptions, Preallocate, Target};
use zonal_export::mount::{MountOptions, mount};

const FILES: u32 = 8;
/// A file's bytes: a second or so of large writes.
const FILE_BYTES: u64 = 256 << 20;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let word = |n: usize| words.get(n).map(String::as_str);
    let time = Duration::from_secs(word(0).map_or(Ok(5), str::parse)?);
    let pairs = word(1).map_or(Ok(5), str::parse)?;
    let place = tempfile::tempdir_in(word(2).unwrap_or("."))?;
    let path = |name: &str| place.path().join(name);
    for name in ["mounted", "passed", "below"] {
        fs::create_dir(path(name))?;
    }
    for n in 0..FILES {
        fs::write(path("below").join(n.to_string()), vec![1; usize::try_from(FILE_BYTES)?])?;
    }
    let geometry = Geometry {
        zone_size: FILE_BYTES,
        zone_capacity: FILE_BYTES,
        ..Geometry::with_size(FILE_BYTES * u64::from(FILES))
    };
    let preallocate = Preallocate::Full;
    let image = path("image");
    zonal::create(&image, CreateOptions { geometry, preallocate, force: false, progress: None })?;
    let drive = zonal::open(&Target::Path(image), &OpenOptions::default())?;
    let mounted = mount(drive.clone(), &path("mounted"), MountOptions::default())?;
    let passed = passthrough::mount(&path("below"), FILES, &path("passed"))?;
    for block in [1 << 20, 4096] {
        let mut ours = |time| write(&path("mounted/seq"), block, time);
        let mut theirs = |time| write(&path("passed"), block, time);
        print(block, &compare(time, pairs, &mut ours, &mut theirs)?);
    }
    passed.umount_and_join()?;
    mounted.unmount()?;
    drive.close()?;
    Ok(())
}

fn print(block: u64, paired: &Paired) {
    let text =
        |spread: Spread| format!("{:.2} ({:.2} to {:.2})", spread.median, spread.min, spread.max);
    println!(
        "direct writes of {block} bytes over {FILES} files: {} ×",
        text(paired.ratio(Sample::rate))
    );
    println!("  the mount     {}", paired.typical(true).text());
    println!("  pass-through  {}", paired.typical(false).text());
    if let Some(noise) = paired.noise(Sample::rate) {
        println!("  one side against itself {} ×", text(noise));
    }
}

/// Writes to all files of a folder for a time, from their starts; a file that is full is cut to nothing, or begun
/// again.
fn write(folder: &Path, block: u64, time: Duration) -> Result<Sample> {
    let begin = Barrier::new(FILES as usize);
    let cpu = cpu_ns();
    let began = Instant::now();
    let operations = thread::scope(|scope| {
        let writers: Vec<_> = (0..FILES)
            .map(|n| {
                let path = folder.join(n.to_string());
                scope.spawn(|| write_one(path, block, time, &begin))
            })
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
            .sum::<Result<u64>>()
    })?;
    Ok(Sample {
        operations,
        seconds: began.elapsed().as_secs_f64(),
        block,
        cpu_ns: cpu_ns() - cpu,
        ..Sample::default()
    })
}

fn write_one(path: PathBuf, block: u64, time: Duration, begin: &Barrier) -> Result<u64> {
    let file = File::options().write(true).custom_flags(libc::O_DIRECT).open(path)?;
    let data = Buffer::unpooled(usize::try_from(block)?);
    file.set_len(0)?;
    begin.wait();
    let began = Instant::now();
    let mut operations = 0;
    while began.elapsed() < time {
        let offset = operations * block % FILE_BYTES;
        if offset == 0 && operations > 0 {
            file.set_len(0)?;
        }
        file.write_all_at(&data, offset)?;
        operations += 1;
    }
    Ok(operations)
}

/// CPU time of this process, which is both the writers and the servers.
fn cpu_ns() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
        .as_nanos() as f64
}
