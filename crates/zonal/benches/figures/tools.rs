//! The others: fio and qemu-img, run on a file of their own.

use crate::pairs::{Sample, count};
use crate::system::Device;
use anyhow::{Context, bail, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What fio is to do.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    pub(crate) pattern: Pattern,
    pub(crate) block: u64,
    pub(crate) depth: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    Sequential,
    /// Writes at random, which no layer below can merge.
    RandomWrites,
    RandomReads,
}

impl Pattern {
    /// fio's `rw`, and where in its result the numbers are.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Sequential => ("write", "write"),
            Self::RandomWrites => ("randwrite", "write"),
            Self::RandomReads => ("randread", "read"),
        }
    }
}

pub(crate) fn fio_version() -> Option<String> {
    first_line(Command::new("fio").arg("--version"))
}

pub(crate) fn qemu_version() -> Option<String> {
    first_line(Command::new("qemu-img").arg("--version"))
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}

/// Writes or reads by fio, with its best flags and our batches.
pub(crate) fn fio(file: &Path, size: u64, job: Job, time: Duration) -> anyhow::Result<Sample> {
    let Job { pattern, block, depth } = job;
    let (rw, direction) = pattern.words();
    let batch = (depth / 4).max(1);
    let device = Device::below(file);
    let before = device.requests();
    let output = Command::new("fio")
        .args(["--name=figures", "--output-format=json", "--ioengine=io_uring", "--direct=1"])
        .args(["--registerfiles=1", "--fixedbufs=1", "--time_based", "--fallocate=none"])
        .args(["--norandommap", "--lat_percentiles=1", "--clat_percentiles=0"])
        .arg(format!("--rw={rw}"))
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--filesize={size}"))
        .arg(format!("--bs={block}"))
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--iodepth_batch_submit={batch}"))
        .arg(format!("--iodepth_batch_complete_min={batch}"))
        .arg(format!("--runtime={}ms", time.as_millis()))
        .output()
        .context("fio is not installed")?;
    let device_requests = device.requests().zip(before).map(|(after, before)| after - before);
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "fio failed: {}", problem.trim());
    let result: Value = serde_json::from_slice(&output.stdout).context("fio's result")?;
    let job = &result["jobs"][0];
    let side = &job[direction];
    let number = |value: &Value| value.as_f64().context("a number is missing in fio's result");
    let operations = side["total_ios"].as_u64().context("fio's result has no total_ios")?;
    let run_ns = number(&job["job_runtime"])? * 1e6;
    let cpu_percent = number(&job["usr_cpu"])? + number(&job["sys_cpu"])?;
    let percentile = |name: &str| side["lat_ns"]["percentile"][name].as_u64().unwrap_or(0);
    Ok(Sample {
        operations,
        seconds: count(operations) / number(&side["iops"])?,
        block,
        cpu_ns: run_ns * cpu_percent / 100.0,
        latency_ns: Some(["50.000000", "99.000000", "99.900000"].map(percentile)),
        device_requests,
        system_calls: None,
    })
}

/// Sequential writes of `operations` blocks by `qemu-img bench` on a raw file.
pub(crate) fn qemu(file: &Path, block: u64, depth: u32, operations: u64) -> anyhow::Result<Sample> {
    let device = Device::below(file);
    let before = device.requests();
    let output = Command::new("qemu-img")
        .args(["bench", "-w", "-t", "none", "-i", "io_uring", "-f", "raw"])
        .args(["-d", &depth.to_string(), "-s", &block.to_string(), "-c", &operations.to_string()])
        .arg(file)
        .output()
        .context("qemu-img is not installed")?;
    let device_requests = device.requests().zip(before).map(|(after, before)| after - before);
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("qemu-img failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let seconds = text
        .split_once("completed in ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .context("qemu-img did not say how long it took")?;
    Ok(Sample {
        operations,
        seconds,
        block,
        device_requests,
        cpu_ns: f64::NAN,
        ..Sample::default()
    })
}
