//! What the machine says: clocks, counters of the device, and under which conditions one measures.

use crate::options::Options;
use crate::tools;
use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// CPU time of this process, user and system, all threads, in ns.
#[allow(clippy::cast_precision_loss)] // exact for months
pub(crate) fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Memory of this process that is resident, in bytes.
pub(crate) fn resident_bytes() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmRSS")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// Counts the requests of the device below a folder.
pub(crate) struct Device(Option<PathBuf>);

impl Device {
    pub(crate) fn below(folder: &Path) -> Self {
        let stat = fs::metadata(folder).ok().map(|metadata| {
            let device = metadata.dev();
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"))
        });
        Self(stat.filter(|stat| stat.exists()))
    }

    /// Reads and writes it has completed so far, merged ones counted once.
    pub(crate) fn requests(&self) -> Option<u64> {
        let text = fs::read_to_string(self.0.as_ref()?).ok()?;
        let field = |n: usize| text.split_whitespace().nth(n)?.parse::<u64>().ok();
        Some(field(0)? + field(4)?)
    }
}

/// Under which conditions is measured, a line each.
pub(crate) fn conditions(options: &Options) -> anyhow::Result<Vec<String>> {
    fs::create_dir_all(&options.dir)?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism()?;
    let tool = |version: Option<String>| version.unwrap_or_else(|| "not installed".to_owned());
    let device = if Device::below(&options.dir).0.is_some() { "counted" } else { "not counted" };
    Ok(vec![
        format!("Linux {}; {} CPUs, {}", kernel.trim(), cpus, cpu_model()),
        format!("file system {}; device requests {device}", file_system(&options.dir)),
        format!("fio: {}; qemu-img: {}", tool(tools::fio_version()), tool(tools::qemu_version())),
        "O_DIRECT and io_uring on all sides, registered files and buffers where the tool can; \
         every block of the files was written before; batches of a quarter of the depth"
            .to_owned(),
        format!(
            "{} pairs of runs of {} s, in turns A B B A, after a warm-up",
            options.pairs,
            options.time.as_secs_f64()
        ),
    ])
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or("of an unknown model", |(_, model)| model.trim()).to_owned()
}

/// The type of the file system that holds a folder, as the mount table says.
fn file_system(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let holding = mounts.filter(|(at, _)| folder.starts_with(at)).max_by_key(|(at, _)| at.len());
    holding.map_or("unknown", |(_, kind)| kind).to_owned()
}
