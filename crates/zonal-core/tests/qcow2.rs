//! Planned images held against QEMU's own tools, and read back by ours.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use support::{Scratch, qemu_img, strip_zones, write_image};
use zonal_core::error::{Error, ErrorKind};
use zonal_core::format::Geometry;
use zonal_core::format::check::check_refcounts;
use zonal_core::format::layout::Layout;
use zonal_core::format::map::Map;
use zonal_core::format::qcow2::{Header, MAX_CLUSTER};

const ID: [u8; 16] = *b"id of this image";

fn drive(size: u64) -> Geometry {
    Geometry { zone_size: 16 << 20, zone_capacity: 12 << 20, ..Geometry::with_size(size) }
}

fn header_of(file: &File) -> zonal_core::error::Result<Header> {
    let len = file.metadata().unwrap().len();
    let mut bytes = vec![0; MAX_CLUSTER.min(usize::try_from(len).unwrap())];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Header::parse(&bytes, len)
}

fn l1_of(file: &File, header: &Header) -> Vec<u8> {
    let mut l1 = vec![0; header.tables.l1_entries as usize * 8];
    file.read_exact_at(&mut l1, header.tables.l1_offset).unwrap();
    l1
}

fn reader(file: &File) -> impl FnMut(u64, &mut [u8]) -> zonal_core::error::Result<()> + '_ {
    |offset, buffer| {
        file.read_exact_at(buffer, offset)
            .map_err(|error| Error::new(ErrorKind::Io, "").with_source(error))
    }
}

#[test]
fn a_written_image_is_read_back_as_planned() {
    let scratch = Scratch::new("read-back.qcow2");
    for size in [64 << 20, (64 << 20) + 4096, 1 << 40] {
        let layout = Layout::plan(&drive(size)).unwrap();
        let file = write_image(&scratch.0, &layout, ID);
        let header = header_of(&file).unwrap();
        assert_eq!(header, layout.header(ID));
        let l1 = l1_of(&file, &header);
        let tables = &header.tables;
        let map = Map::read(tables, &l1, reader(&file)).unwrap();
        assert_eq!(map.contiguous(tables), Some(layout.data.offset));
        assert_eq!(check_refcounts(tables, &l1, &map, reader(&file)).unwrap(), []);
    }
}

#[test]
fn an_interrupted_creation_leaves_no_image() {
    let scratch = Scratch::new("interrupted.qcow2");
    let layout = Layout::plan(&drive(64 << 20)).unwrap();
    let file = write_image(&scratch.0, &layout, ID);
    file.write_all_at(&[0; 4096], 0).unwrap();
    assert_eq!(header_of(&file).unwrap_err().kind(), ErrorKind::NotZoned);
}

#[test]
fn stock_tools_refuse_an_image_with_zones() {
    let scratch = Scratch::new("refused.qcow2");
    write_image(&scratch.0, &Layout::plan(&drive(64 << 20)).unwrap(), ID);
    let Some((ok, text)) = qemu_img(&["info", scratch.0.to_str().unwrap()]) else { return };
    // A QEMU that knows zones opens it; an older one names the feature from our table of names.
    assert!(ok || text.contains("zoned format"), "{text}");
}

#[test]
fn qemu_finds_neither_leak_nor_error_and_the_same_bytes() {
    let (image, raw) = (Scratch::new("stripped.qcow2"), Scratch::new("stripped.raw"));
    for size in [64 << 20, (64 << 20) + 4096, 1 << 40] {
        let layout = Layout::plan(&drive(size)).unwrap();
        let file = write_image(&image.0, &layout, ID);
        let marks = [0, 4096, (32 << 20) + 512, size - 4096];
        for (i, offset) in (1u8..).zip(marks) {
            file.write_all_at(&[i; 512], layout.data.offset + offset).unwrap();
        }
        strip_zones(&file);
        assert_eq!(header_of(&file).unwrap_err().kind(), ErrorKind::NotZoned);
        let (image, raw) = (image.0.to_str().unwrap(), raw.0.to_str().unwrap());
        let Some((ok, text)) = qemu_img(&["check", "-f", "qcow2", image]) else { return };
        assert!(ok && text.contains("No errors were found"), "{size}: {text}");
        if size > 1 << 30 {
            continue;
        }
        let (ok, text) = qemu_img(&["convert", "-f", "qcow2", "-O", "raw", image, raw]).unwrap();
        assert!(ok, "{text}");
        let (converted, mut found) = (File::open(raw).unwrap(), vec![0; 4 << 20]);
        assert_eq!(converted.metadata().unwrap().len(), size);
        let mut wanted = found.clone();
        for offset in (0..size).step_by(found.len()) {
            let length = found.len().min(usize::try_from(size - offset).unwrap());
            converted.read_exact_at(&mut found[..length], offset).unwrap();
            file.read_exact_at(&mut wanted[..length], layout.data.offset + offset).unwrap();
            assert!(found[..length] == wanted[..length], "bytes differ from {offset} on");
        }
    }
}

#[test]
fn an_image_of_qemus_own_making_is_no_zoned_drive() {
    let scratch = Scratch::new("plain.qcow2");
    let path = scratch.0.to_str().unwrap();
    let Some((ok, text)) = qemu_img(&["create", "-q", "-f", "qcow2", path, "64M"]) else { return };
    assert!(ok, "{text}");
    let error = header_of(&File::open(path).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotZoned);
    assert!(error.detail().contains("without zones"), "{error}");
}
