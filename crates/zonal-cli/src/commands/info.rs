//! `zonal info`: what a drive is and can do.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use zonal::Device;

use crate::{
    args::{Access, TargetArg, format_size},
    outcome::Outcome,
    output::{Ui, print_json},
};

/// The words of `info`.
#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    target: TargetArg,
}

/// What `info --json` says. Limits are null where there is none.
#[derive(Serialize)]
struct Description {
    target: String,
    kind: String,
    size: u64,
    zones: u32,
    zone_size: u64,
    zone_capacity: u64,
    conventional_zones: u32,
    block_size: u32,
    append_bytes_max: u64,
    max_open_zones: Option<u32>,
    max_active_zones: Option<u32>,
    engine: String,
    direct_io: bool,
    layout: Option<String>,
    /// Where the drive is one zone's file of a zonefs.
    #[serde(skip_serializing_if = "Option::is_none")]
    part_of: Option<PartOf>,
    cluster_size: Option<u64>,
    image_id: Option<String>,
    session: Option<String>,
    recovered: Option<String>,
    warnings: Vec<String>,
    /// The plan by which it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    faults: Option<String>,
}

/// Which zones of which mounted zonefs.
#[derive(Serialize)]
struct PartOf {
    target: String,
    file: String,
    zone: u32,
    zones: u32,
}

impl PartOf {
    fn of(part: &zonal::PartOf) -> Self {
        let [target, file] = [&part.folder, &part.file].map(|path| path.display().to_string());
        let (zone, zones) = (part.zones.start, part.zones.end - part.zones.start);
        Self { target, file, zone, zones }
    }

    fn line(&self) -> String {
        let Self { target, file, zone, zones } = self;
        let last = zone + zones.saturating_sub(1);
        let zones =
            if *zones == 1 { format!("zone {zone}") } else { format!("zones {zone}..={last}") };
        format!("{target}: {file}, its {zones}")
    }
}

impl Description {
    fn of(device: &Device) -> Self {
        let geometry = device.geometry();
        let limits = device.limits();
        let info = device.info();
        Self {
            target: info.target,
            kind: info.kind.to_owned(),
            size: geometry.size,
            zones: geometry.zones(),
            zone_size: geometry.zone_size,
            zone_capacity: geometry.zone_capacity,
            conventional_zones: geometry.conventional_zones,
            block_size: limits.block_size,
            append_bytes_max: limits.append_bytes_max,
            max_open_zones: limits.max_open_zones,
            max_active_zones: limits.max_active_zones,
            engine: limits.engine.to_owned(),
            direct_io: limits.direct_io,
            layout: info.layout.map(str::to_owned),
            part_of: device.part_of().map(PartOf::of),
            cluster_size: info.cluster_size,
            image_id: info.image_id.map(uuid),
            session: info.session,
            recovered: info.recovered,
            warnings: info.warnings,
            faults: device.faults().map(ToString::to_string),
        }
    }

    /// How an image's data lies in its file, or which zones files are.
    fn layout(&self) -> Option<String> {
        let layout = self.layout.clone()?;
        let Some(cluster) = self.cluster_size else { return Some(layout) };
        Some(format!("{layout}, clusters of {}", format_size(cluster)))
    }

    /// The size of the last zone, where it is smaller than the others.
    fn shorter_last_zone(&self) -> Option<u64> {
        let size = self.size.checked_rem(self.zone_size)?;
        (size > 0).then_some(size)
    }

    /// Name and value, a line each; what is not known of this kind of drive is left out.
    fn write(&self, mut out: impl Write) -> io::Result<()> {
        let limit = |limit: Option<u32>| limit.map_or_else(|| "no limit".into(), |n| n.to_string());
        let direct = if self.direct_io { ", direct" } else { "" };
        let lines = [
            ("target", Some(self.target.clone())),
            ("kind", Some(self.kind.clone())),
            ("size", Some(format_size(self.size))),
            ("zones", Some(self.zones.to_string())),
            ("zone size", Some(format_size(self.zone_size))),
            ("last zone", self.shorter_last_zone().map(format_size)),
            ("zone capacity", Some(format_size(self.zone_capacity))),
            ("conventional zones", Some(self.conventional_zones.to_string())),
            ("block size", Some(format_size(self.block_size.into()))),
            ("append limit", Some(format_size(self.append_bytes_max))),
            ("max open zones", Some(limit(self.max_open_zones))),
            ("max active zones", Some(limit(self.max_active_zones))),
            ("engine", Some(format!("{}{direct}", self.engine))),
            ("layout", self.layout()),
            ("part of", self.part_of.as_ref().map(PartOf::line)),
            ("image id", self.image_id.clone()),
            ("session", self.session.clone()),
            ("recovered", self.recovered.clone()),
            ("fails as planned", self.faults.clone()),
        ];
        for (name, value) in lines {
            if let Some(value) = value {
                writeln!(out, "{name:<19} {value}")?;
            }
        }
        Ok(())
    }
}

/// The bytes in the usual groups.
fn uuid(id: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in id.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Runs `info`.
pub(crate) fn run(args: &InfoArgs, ui: &Ui) -> Result<Outcome> {
    let device = args.target.open(Access::Read, ui)?;
    let description = Description::of(&device);
    let out = io::stdout().lock();
    if ui.json {
        print_json(out, &description)?;
    } else {
        description.write(out)?;
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_named_with_the_zones_it_is() {
        let part = |zone, zones| {
            PartOf { target: "/mnt".into(), file: "seq/3".into(), zone, zones }.line()
        };
        assert_eq!(part(3, 1), "/mnt: seq/3, its zone 3");
        assert_eq!(part(0, 4), "/mnt: seq/3, its zones 0..=3");
    }

    #[test]
    fn an_id_is_grouped() {
        let id = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff];
        assert_eq!(uuid(id), "00010203-0405-0607-0809-0a0b0c0d0eff");
    }
}
