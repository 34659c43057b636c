//! Damage done to small images in memory, and what becomes of it. `zonal`'s suite `repair` does the
//! same to files, cut off at any write.

use super::*;
use crate::error::{Error, ErrorKind};
use crate::format::Geometry;
use crate::format::layout::{CLUSTER as LARGE, Layout};
use crate::format::qcow2::{COPIED, Header, OFFSET, Tables};
use crate::format::sample::{self, CLUSTER, ID, Image};
use crate::format::zonal::{Condition, MAX_CONDITIONS, PAGE, Session, encode_page, newest_page};
use crate::units::{Blocks, Extent, ZoneIndex};
use alloc::{format, vec};

const SESSIONS: u64 = 0x4000;
const GENERATIONS: u64 = 0x6000;
const L1: u64 = 0x8000;
const REFCOUNT_TABLE: u64 = 0x9000;
const BLOCKS: u64 = 0xa000;
const L2: u64 = 0xb000;

type Read<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> Result<()>;

/// What was mended, and where each step wrote: (offset, length).
#[derive(Debug, PartialEq)]
struct Report {
    mended: Vec<(Mend, u64, u64)>,
    steps: Vec<Vec<(u64, usize)>>,
}

/// Plans a repair, and carries it out.
fn repair(
    image: &mut Image,
    mend: impl FnOnce(&Header, &mut Patch<Read<'_>>) -> Result<MendedList>,
) -> Result<Report> {
    let before = image.clone();
    let mut read = |offset: u64, buffer: &mut [u8]| before.read(offset, buffer);
    let mut patch = Patch::new(before.file.len() as u64, &mut read as Read<'_>);
    let mended = mend(&before.header, &mut patch)?;
    image.file.resize(near(patch.length()), 0);
    image.header.tables.file_len = patch.length();
    let mut steps = Vec::new();
    for step in patch.steps() {
        for (offset, bytes) in &step {
            image.at(*offset)[..bytes.len()].copy_from_slice(bytes);
        }
        steps.push(step.iter().map(|(offset, bytes)| (*offset, bytes.len())).collect());
    }
    steps.retain(|step: &Vec<_>| !step.is_empty());
    let mended = mended.list().iter().map(|m| (m.mend, m.offset, m.length)).collect();
    Ok(Report { mended, steps })
}

fn mend_sessions(image: &mut Image, read_only: &[u32]) -> Result<Report> {
    let zones: Vec<_> = read_only.iter().copied().map(ZoneIndex).collect();
    repair(image, |header, patch| {
        Sessions::read(header, &header.zonal.unwrap(), patch)?.mend(&zones, patch)
    })
}

fn mend_pages(image: &mut Image) -> Report {
    repair(image, |header, patch| mend_generations(header, &header.zonal.unwrap(), patch)).unwrap()
}

fn mend_table(image: &mut Image) -> Result<Report> {
    repair(image, |header, patch| {
        let sessions = Sessions::read(header, &header.zonal.unwrap(), patch)?;
        mend_zones(header, Some(&sessions), patch)
    })
}

fn mend_counts(image: &mut Image, free: bool) -> Result<Report> {
    let map = image.map()?;
    repair(image, |header, patch| mend_refcounts(&header.tables, &map, free, patch))
}

fn copy_of(image: &Image, copy: u64) -> Result<Option<Session>> {
    let mut page = [0; PAGE];
    image.read(SESSIONS + copy * PAGE as u64, &mut page).unwrap();
    Session::parse_copy(copy, &page, &ID, &image.header.geometry)
}

fn put_session(image: &mut Image, copy: u64, session: &Session) {
    let page = session.encode(&ID).unwrap();
    image.at(SESSIONS + copy * PAGE as u64)[..PAGE].copy_from_slice(&page);
}

/// Three sectors of which each byte is the sector's number, the last not a whole one.
fn disk() -> Vec<u8> {
    (0..1300_u32).map(|at| u8::try_from(at / 512 + 1).unwrap()).collect()
}

fn reader(disk: &[u8]) -> impl FnMut(u64, &mut [u8]) -> Result<()> + '_ {
    |offset, buffer| match disk.get(near(offset)..near(offset) + buffer.len()) {
        Some(bytes) => {
            buffer.copy_from_slice(bytes);
            Ok(())
        }
        None => Err(Error::new(ErrorKind::Io, "past the end")),
    }
}

fn read<R: FnMut(u64, &mut [u8]) -> Result<()>>(
    patch: &mut Patch<R>,
    offset: u64,
    length: usize,
) -> Vec<u8> {
    let mut bytes = vec![0xee; length];
    patch.read(offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_is_written_is_read_back_and_the_rest_is_as_it_was() {
    let disk = disk();
    let mut patch = Patch::new(1300, reader(&disk));
    patch.write(510, &[7; 4]).unwrap();
    patch.write(1299, &[8]).unwrap();
    let mut expected = disk.clone();
    expected[510..514].fill(7);
    expected[1299] = 8;
    for (offset, length) in [(0, 1300), (509, 6), (511, 2), (513, 300), (600, 0), (1024, 276)] {
        let there = &expected[near(offset)..near(offset) + length];
        assert_eq!(read(&mut patch, offset, length), there, "{offset}, {length}");
    }
    assert!(patch.read(1299, &mut [0; 2]).is_err());
}

#[test]
fn a_step_writes_whole_sectors_and_neighbours_as_one() {
    let disk = disk();
    let mut patch = Patch::new(1300, reader(&disk));
    patch.write(511, &[7, 7]).unwrap();
    patch.step();
    patch.step();
    patch.write(1298, &[8]).unwrap();
    patch.write(0, &[9]).unwrap();
    let steps: Vec<_> = patch.steps().collect();
    let mut first = disk[..1024].to_vec();
    first[511..513].fill(7);
    let (mut low, mut high) = (first[..512].to_vec(), disk[1024..].to_vec());
    (low[0], high[274]) = (9, 8);
    assert_eq!(steps, [vec![(0, first)], vec![(0, low), (1024, high)]]);
    assert_eq!(patch.changes(), [(0, 1300)]);
}

#[test]
fn what_is_there_already_is_no_change() {
    let disk = disk();
    let mut patch = Patch::new(1300, reader(&disk));
    patch.write(500, &disk[500..800]).unwrap();
    assert!(patch.is_empty() && patch.changes().is_empty());
    patch.write(1023, &[9, 3]).unwrap();
    assert!(!patch.is_empty());
    assert_eq!(patch.changes(), [(512, 512)]);
}

#[test]
fn a_file_that_grows_has_zeros_behind_its_old_end() {
    let disk = disk();
    let mut patch = Patch::new(1300, reader(&disk));
    patch.grow(100);
    assert_eq!(patch.length(), 1300);
    patch.grow(2048);
    assert_eq!(patch.length(), 2048);
    let mut around = vec![3; 10];
    around.resize(30, 0);
    assert_eq!(read(&mut patch, 1290, 30), around);
    assert_eq!(read(&mut patch, 1400, 30), [0; 30]);
    assert!(patch.read(2040, &mut [0; 9]).is_err());
    patch.write(1298, &[9; 4]).unwrap();
    patch.write(2047, &[9]).unwrap();
    // Of the old file only its last sector changes; that ends where the file did.
    assert_eq!(patch.changes(), [(1024, 276)]);
    let lengths: Vec<_> = patch.steps().flatten().map(|(at, bytes)| (at, bytes.len())).collect();
    assert_eq!(lengths, [(1024, 1024)]);
    assert_eq!(read(&mut patch, 1296, 8), [3, 3, 9, 9, 9, 9, 0, 0]);
}

#[test]
fn what_is_kept_of_a_file_has_these_bytes() {
    let disk = disk();
    let mut patch = Patch::new(1300, reader(&disk));
    patch.write(1, &[9]).unwrap();
    patch.write(1024, &[9]).unwrap();
    let kept = patch.kept(*b"0123456789abcdef").unwrap();
    assert_eq!(kept[..16], *b"zonalrep\0\0\0\x01\0\0\0\x02");
    assert_eq!(kept[16..32], *b"0123456789abcdef");
    assert_eq!(kept[32..40], 1300_u64.to_be_bytes());
    assert_eq!(kept[40..44], crc32c(&kept[..40]).to_be_bytes());
    assert_eq!(kept[44..60], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(kept[60..572], disk[..512]);
    assert_eq!(kept[572..576], crc32c(&kept[44..572]).to_be_bytes());
    assert_eq!(kept[576..592], [0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 20]);
    assert_eq!(kept[592..868], disk[1024..]);
    assert_eq!(kept[868..], crc32c(&kept[576..868]).to_be_bytes());
}

#[test]
fn a_list_joins_neighbours_of_one_kind_and_ends() {
    let mut list = MendedList::default();
    let mended = |mend, offset, length| Mended { mend, offset, length };
    list.add(Mend::Flag, 8, 8);
    list.add(Mend::Flag, 16, 8);
    list.add(Mend::Mark, 24, 8);
    list.add(Mend::Mark, 40, 8);
    let first = [mended(Mend::Flag, 8, 16), mended(Mend::Mark, 24, 8), mended(Mend::Mark, 40, 8)];
    assert_eq!(list.list(), first);
    let mut other = MendedList::default();
    other.extend(&list);
    assert_eq!(other.list(), first);
    for n in 0..2000 {
        list.add(Mend::Mark, 100 + 20 * n, 8);
    }
    assert_eq!(list.list().len(), MAX_FINDINGS + 1);
    assert_eq!(list.list()[MAX_FINDINGS - 1].mend, Mend::Mark);
    // The first that found no room.
    assert_eq!(list.list()[MAX_FINDINGS], mended(Mend::More, 100 + 20 * 997, 8));
}

#[test]
fn what_was_mended_is_said_in_words() {
    for (mend, words) in [
        (Mend::Count(FindingKind::Leak), "counted but not used: free now"),
        (Mend::Count(FindingKind::Unreferenced), "used but not counted: counted now"),
        (Mend::Count(FindingKind::CountedTwice), "counted more than once: counted once now"),
        (Mend::Count(FindingKind::BadRefcountBlock), "a new block counts"),
        (Mend::Flag, "COPIED"),
        (Mend::ZoneReadOnly(7), "zone 7: where it ended is lost: it is read-only now"),
        (Mend::More, "more was mended"),
    ] {
        let text = format!("{mend}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn two_whole_copies_of_a_session_are_left_alone() {
    let mut image = Image::new();
    let report = mend_sessions(&mut image, &[]).unwrap();
    assert_eq!(report, Report { mended: vec![], steps: vec![] });
}

#[test]
fn a_torn_copy_of_a_session_is_made_from_the_other() {
    for (torn, sequence) in [(1, 1), (0, 2)] {
        let mut image = Image::new();
        let place = SESSIONS + torn * PAGE as u64;
        image.at(place)[100] ^= 1;
        let report = mend_sessions(&mut image, &[]).unwrap();
        assert_eq!(report.mended, [(Mend::SessionCopy, place, 4096)]);
        // All of the step is in this copy.
        let [step] = &report.steps[..] else { panic!("{report:?}") };
        assert!(
            step.iter().all(|(at, length)| *at >= place && at + *length as u64 <= place + 4096)
        );
        assert_eq!(copy_of(&image, torn).unwrap(), Some(Session::closed(sequence)));
        assert!(copy_of(&image, 1 - torn).unwrap().is_some());
    }
}

#[test]
fn copies_in_each_others_place_are_written_anew_the_newer_last() {
    let mut image = Image::new();
    for copy in [0, 1] {
        let session = Session { flush_sequence: copy, ..Session::closed(1 - copy) };
        put_session(&mut image, copy, &session);
    }
    let report = mend_sessions(&mut image, &[]).unwrap();
    assert_eq!(report.mended, [(Mend::SessionCopy, SESSIONS, 8192)]);
    let starts: Vec<_> = report.steps.iter().map(|step| step[0].0).collect();
    assert_eq!(starts, [SESSIONS + 4096, SESSIONS]);
    // Sequence 1 stood in copy 0; the next that belong into 1 and 0 are 3 and 4.
    assert_eq!(copy_of(&image, 1).unwrap(), Some(Session::closed(3)));
    assert_eq!(copy_of(&image, 0).unwrap(), Some(Session::closed(4)));
}

#[test]
fn lists_that_cannot_be_are_written_without_what_cannot_be() {
    let mut image = Image::new();
    let session = Session {
        conditions: vec![
            (ZoneIndex(8), Condition::ReadOnly),
            (ZoneIndex(3), Condition::ReadOnly),
            (ZoneIndex(4), Condition::Offline),
            (ZoneIndex(3), Condition::Offline),
            (ZoneIndex(4), Condition::ReadOnly),
        ],
        dead: vec![
            (ZoneIndex(0), Extent::new(Blocks(0), Blocks(1))),
            (ZoneIndex(1), Extent::new(Blocks(20), Blocks(9))),
            (ZoneIndex(1), Extent::new(Blocks(24), Blocks(1))),
            (ZoneIndex(8), Extent::new(Blocks(0), Blocks(1))),
            (ZoneIndex(2), Extent::new(Blocks(3), Blocks(2))),
        ],
        ..Session::closed(5)
    };
    put_session(&mut image, 1, &session);
    let report = mend_sessions(&mut image, &[]).unwrap();
    assert_eq!(report.mended, [(Mend::SessionLists, SESSIONS + 4096, 4096)]);
    let starts: Vec<_> = report.steps.iter().map(|step| step[0].0).collect();
    assert_eq!(starts, [SESSIONS, SESSIONS + 4096]);
    // Offline is stronger; a dead range is cut to its zone's 24 blocks.
    let mended = Session {
        conditions: vec![(ZoneIndex(3), Condition::Offline), (ZoneIndex(4), Condition::Offline)],
        dead: vec![
            (ZoneIndex(1), Extent::new(Blocks(20), Blocks(4))),
            (ZoneIndex(2), Extent::new(Blocks(3), Blocks(2))),
        ],
        ..session
    };
    assert_eq!(copy_of(&image, 0).unwrap(), Some(Session { sequence: 6, ..mended.clone() }));
    assert_eq!(copy_of(&image, 1).unwrap(), Some(Session { sequence: 7, ..mended }));
}

#[test]
fn a_condition_that_is_not_known_becomes_read_only() {
    let mut image = Image::new();
    let session =
        Session { conditions: vec![(ZoneIndex(3), Condition::Offline)], ..Session::closed(1) };
    put_session(&mut image, 1, &session);
    let page = image.at(SESSIONS + 4096);
    page[100] = 0x3;
    let sum = crc32c(&page[..4092]).to_be_bytes();
    page[4092..4096].copy_from_slice(&sum);
    mend_sessions(&mut image, &[]).unwrap();
    let conditions = copy_of(&image, 1).unwrap().unwrap().conditions;
    assert_eq!(conditions, [(ZoneIndex(3), Condition::ReadOnly)]);
}

#[test]
fn without_a_whole_session_nothing_is_mended() {
    let mut image = Image::new();
    image.at(SESSIONS)[0] ^= 1;
    image.at(SESSIONS + 4096)[4000] ^= 1;
    let error = mend_sessions(&mut image, &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let context = error.context();
    assert_eq!((context.offset, context.length), (Some(SESSIONS), Some(8192)));
    // Nor with one of a later version; its field is named by its place in the file.
    let mut image = Image::new();
    let page = image.at(SESSIONS + 4096);
    page[11] = 2;
    let sum = crc32c(&page[..4092]).to_be_bytes();
    page[4092..4096].copy_from_slice(&sum);
    let error = mend_sessions(&mut image, &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!((error.context().offset, error.context().length), (Some(SESSIONS + 4104), Some(4)));
}

#[test]
fn a_session_of_another_image_does_not_count() {
    let mut image = Image::new();
    let page = Session::closed(9).encode(b"of another image").unwrap();
    image.at(SESSIONS + 4096)[..PAGE].copy_from_slice(&page);
    mend_sessions(&mut image, &[]).unwrap();
    assert_eq!(copy_of(&image, 1).unwrap(), Some(Session::closed(1)));
}

#[test]
fn a_new_condition_goes_to_both_copies_and_an_old_one_stays() {
    let mut image = Image::new();
    let offline =
        Session { conditions: vec![(ZoneIndex(3), Condition::Offline)], ..Session::closed(1) };
    put_session(&mut image, 1, &offline);
    let report = mend_sessions(&mut image, &[3, 5]).unwrap();
    assert_eq!(report.mended, []);
    let starts: Vec<_> = report.steps.iter().map(|step| step[0].0).collect();
    assert_eq!(starts, [SESSIONS, SESSIONS + 4096]);
    for (copy, sequence) in [(0, 2), (1, 3)] {
        let session = copy_of(&image, copy).unwrap().unwrap();
        assert_eq!(session.sequence, sequence);
        let conditions = [(ZoneIndex(3), Condition::Offline), (ZoneIndex(5), Condition::ReadOnly)];
        assert_eq!(session.conditions, conditions);
    }
}

/// Zones of one block each.
fn many_zones(zones: u32, conventional_zones: u32) -> Image {
    let size = u64::from(zones) * 512;
    let geometry = Geometry {
        zone_size: 512,
        zone_capacity: 512,
        conventional_zones,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append: 512,
        size,
        ..sample::geometry()
    };
    let tables = Tables { size, ..sample::tables() };
    Image::adopted(&geometry, &tables, vec![])
}

#[test]
fn a_session_has_room_for_so_many_conditions_and_no_more() {
    let mut image = many_zones(300, 0);
    let sessions = image.header.zonal.unwrap().sessions_offset;
    let zones: Vec<_> = (0..MAX_CONDITIONS).map(|zone| u32::try_from(zone).unwrap()).collect();
    mend_sessions(&mut image, &zones).unwrap();
    let error = mend_sessions(&mut image, &[240]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let context = error.context();
    assert_eq!((context.offset, context.length), (Some(sessions), Some(8192)));
    // One that has its condition already takes no more room.
    assert_eq!(mend_sessions(&mut image, &[239]).unwrap().steps, Vec::<Vec<_>>::new());
}

fn page(image: &Image, page: u32, pages: u64) -> (u64, Vec<u32>) {
    let start = image.header.zonal.unwrap().generations_offset + u64::from(page) * PAGE as u64;
    let (mut a, mut b) = ([0; PAGE], [0; PAGE]);
    image.read(start, &mut a).unwrap();
    image.read(start + pages * PAGE as u64, &mut b).unwrap();
    newest_page(page, &a, &b).unwrap()
}

#[test]
fn a_torn_copy_of_a_generation_page_is_made_from_the_other() {
    for (torn, sequence) in [(0, 2), (1, 3)] {
        let mut image = Image::new();
        for (copy, sequence) in [(0, 2), (1, 1)] {
            let bytes = encode_page(0, sequence, &[4, 5]);
            image.at(GENERATIONS + copy * 4096)[..PAGE].copy_from_slice(&bytes);
        }
        assert_eq!(mend_pages(&mut image), Report { mended: vec![], steps: vec![] });
        let place = GENERATIONS + torn * 4096;
        image.at(place)[9] ^= 1;
        let report = mend_pages(&mut image);
        assert_eq!(report.mended, [(Mend::GenerationCopy, place, 4096)]);
        assert_eq!(image.at(place)[..PAGE], encode_page(0, sequence, &[4, 5]));
    }
}

#[test]
fn generation_pages_in_each_others_place_are_written_anew_the_newer_last() {
    let mut image = Image::new();
    for (copy, sequence) in [(0, 1), (1, 2)] {
        let bytes = encode_page(0, sequence, &[u32::try_from(sequence).unwrap()]);
        image.at(GENERATIONS + copy * 4096)[..PAGE].copy_from_slice(&bytes);
    }
    let report = mend_pages(&mut image);
    assert_eq!(report.mended, [(Mend::GenerationCopy, GENERATIONS, 8192)]);
    // The second step changes the last sector alone: generations of this page are the same.
    let [older, newer] = &report.steps[..] else { panic!("{report:?}") };
    assert!(older.iter().all(|(place, _)| *place < GENERATIONS + 4096));
    assert_eq!(newer[..], [(GENERATIONS + 8192 - 512, 512)]);
    assert_eq!(image.at(GENERATIONS)[..PAGE], encode_page(0, 4, &[2]));
    assert_eq!(image.at(GENERATIONS + 4096)[..PAGE], encode_page(0, 5, &[2]));
}

#[test]
fn each_generation_page_is_mended_by_itself_and_two_torn_copies_are_left() {
    let mut image = many_zones(1021, 0);
    let start = image.header.zonal.unwrap().generations_offset;
    // Copy 1 of page 1, and both copies of page 0.
    for at in [0, 2, 3] {
        image.at(start + at * 4096)[5] = 1;
    }
    let report = mend_pages(&mut image);
    assert_eq!(report.mended, [(Mend::GenerationCopy, start + 3 * 4096, 4096)]);
    assert_eq!(page(&image, 1, 2), (1, vec![0; 1020]));
}

#[test]
fn a_zone_whose_end_is_lost_is_read_only_up_to_its_capacity() {
    let mut image = Image::new();
    for zone in [0, 2, 5] {
        image.set(0x3000 + 8 * zone, 1);
    }
    let report = mend_table(&mut image).unwrap();
    let expected = [
        (Mend::Conventional, 0x3000, 8),
        (Mend::ZoneReadOnly(2), 0x3010, 8),
        (Mend::ZoneReadOnly(5), 0x3028, 8),
    ];
    assert_eq!(report.mended, expected);
    // The conditions are durable before anything believes the table.
    let starts: Vec<_> = report.steps.iter().map(|step| step[0].0).collect();
    assert_eq!(starts, [SESSIONS, SESSIONS + 4096, 0x3000]);
    assert_eq!(image.number(0x3000), 1 << 63);
    assert_eq!([2, 5].map(|zone| image.number(0x3000 + 8 * zone)), [0xb000, 0x1_7000]);
    // The neighbours' entries are as they were.
    assert_eq!([1, 3].map(|zone| image.number(0x3000 + 8 * zone)), [0x4800, 0xc000]);
    let conditions = copy_of(&image, 1).unwrap().unwrap().conditions;
    assert_eq!(conditions, [2, 5].map(|zone| (ZoneIndex(zone), Condition::ReadOnly)));
    assert_eq!(mend_table(&mut image).unwrap(), Report { mended: vec![], steps: vec![] });
}

#[test]
fn without_a_session_only_conventional_zones_are_mended() {
    let mut image = Image::new();
    image.set(0x3000, 1);
    image.set(0x3010, 1);
    let report = repair(&mut image, |header, patch| mend_zones(header, None, patch)).unwrap();
    assert_eq!(report.mended, [(Mend::Conventional, 0x3000, 8)]);
    assert_eq!([0, 2].map(|zone| image.number(0x3000 + 8 * zone)), [1 << 63, 1]);
}

#[test]
fn where_the_session_has_no_room_for_all_lost_zones_all_are_left() {
    let mut image = many_zones(300, 1);
    let table = image.header.zone_table_offset;
    let sessions = image.header.zonal.unwrap().sessions_offset;
    for zone in 0..242 {
        image.set(table + 8 * zone, 1);
    }
    // What else is torn is mended all the same.
    image.at(sessions)[0] = 0;
    let report = mend_table(&mut image).unwrap();
    let expected = [(Mend::SessionCopy, sessions, 4096), (Mend::Conventional, table, 8)];
    assert_eq!(report.mended, expected);
    assert_eq!([1, 241].map(|zone| image.number(table + 8 * zone)), [1, 1]);
}

#[test]
fn a_disk_that_fails_ends_the_repair() {
    let mut image = Image::new();
    image.set(0x3010, 1);
    let failing = core::cell::Cell::new(false);
    let mut read = |offset: u64, buffer: &mut [u8]| match offset {
        SESSIONS.. if failing.get() => Err(Error::new(ErrorKind::Io, "the disk fails")),
        _ => image.read(offset, buffer),
    };
    let mut patch = Patch::new(image.file.len() as u64, &mut read as Read<'_>);
    let sessions = Sessions::read(&image.header, &image.header.zonal.unwrap(), &mut patch).unwrap();
    failing.set(true);
    let error = mend_zones(&image.header, Some(&sessions), &mut patch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn a_long_zone_table_is_looked_at_to_its_end() {
    let mut image = many_zones(65540, 65538);
    let table = image.header.zone_table_offset;
    for zone in [3, 65535, 65536, 65538] {
        image.set(table + 8 * zone, 1);
    }
    let report = mend_table(&mut image).unwrap();
    let entry = |zone: u64, length| (Mend::Conventional, table + 8 * zone, length);
    let lost = (Mend::ZoneReadOnly(65538), table + 8 * 65538, 8);
    assert_eq!(report.mended, [entry(3, 8), entry(65535, 16), lost]);
}

#[test]
fn the_marks_are_taken_away_from_the_header() {
    let mut image = Image::new();
    image.at(72)[..8].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x23]);
    let (header, features) = Header::parse_marked(&image.file, image.file.len() as u64).unwrap();
    assert_eq!((header, features), (image.header.clone(), Some(0x20)));
    let report = repair(&mut image, |_, patch| mend_header(0x20, patch)).unwrap();
    assert_eq!(report, Report { mended: vec![(Mend::Mark, 72, 8)], steps: vec![vec![(0, 512)]] });
    let (_, features) = Header::parse_marked(&image.file, image.file.len() as u64).unwrap();
    assert_eq!(features, None);
}

fn mend_maps(image: &mut Image, layout: Option<&Layout>) -> Report {
    repair(image, |header, patch| mend_entries(&header.tables, layout, patch)).unwrap()
}

#[test]
fn an_entry_without_its_flag_gets_it() {
    let sound = Image::new();
    let mut image = sound.clone();
    assert_eq!(mend_maps(&mut image, None), Report { mended: vec![], steps: vec![] });
    let places = [L1 + 16, L2, L2 + 8, L2 + 80, 0xb800 + 8];
    for place in places {
        image.set(place, image.number(place) & !COPIED);
    }
    let report = mend_maps(&mut image, None);
    let flag = |place, length| (Mend::Flag, place, length);
    let expected = [flag(L1 + 16, 8), flag(L2, 16), flag(L2 + 80, 8), flag(0xb808, 8)];
    assert_eq!(report.mended, expected);
    assert!(image.file == sound.file);
}

#[test]
fn an_entry_nobody_is_certain_of_is_left() {
    let sound = Image::new();
    for (place, entry) in [
        (L2 + 8, COPIED | 0xc02),     // a reserved bit
        (L2 + 8, 0xc02),              // and no flag
        (L2 + 8, 1 << 62 | 0xc00),    // compressed
        (L2 + 8, COPIED),             // counted, and nowhere
        (L1 + 8, COPIED | 0x10_0000), // past the file
        (L1 + 8, COPIED | L1),        // on the L1 table
        (L1 + 8, COPIED),
    ] {
        let mut image = sound.clone();
        image.set(place, entry);
        let broken = image.file.clone();
        let report = mend_maps(&mut image, None);
        assert_eq!(report, Report { mended: vec![], steps: vec![] }, "{entry:#x}");
        assert!(image.file == broken);
    }
}

#[test]
fn tables_are_left_where_two_entries_name_one() {
    let mut image = Image::new();
    image.set(L1 + 8, COPIED | L2);
    image.set(L2, image.number(L2) & OFFSET);
    assert_eq!(mend_maps(&mut image, None).mended, []);
    // Two that name none do not.
    image.set(L1 + 8, 0);
    image.set(L1 + 16, 0);
    assert_eq!(mend_maps(&mut image, None).mended, [(Mend::Flag, L2, 8)]);
}

#[test]
fn an_image_with_the_layout_of_its_creation_gets_its_tables_as_they_were_made() {
    let layout = Layout::plan(&Geometry::with_size(64 << 20)).unwrap();
    let mut file = vec![0; near(layout.data.offset)];
    for (offset, bytes) in layout.metadata(ID).unwrap() {
        file[near(offset)..][..bytes.len()].copy_from_slice(&bytes);
    }
    let sound = Image { file, header: layout.header(ID) };
    let (l1, l2) = (layout.l1.offset, layout.l2.offset);
    assert_eq!(Layout::of(&sound.header), Some(layout.clone()));
    let mut image = sound.clone();
    image.set(l1, 0x123);
    image.set(l1 + 8, COPIED | 1 << 55);
    image.set(l2 + 5 * 8, COPIED | 0x200);
    image.set(l2 + LARGE + 8, 2);
    // Past what was made.
    image.set(l2 + 32 * 8, 2);
    let report = mend_maps(&mut image, Some(&layout));
    let made = |place, length| (Mend::EntryAsMade, place, length);
    assert_eq!(report.mended, [made(l1, 16), made(l2 + 40, 8), made(l2 + LARGE + 8, 8)]);
    image.set(l2 + 32 * 8, 0);
    assert!(image.file == sound.file);
}

#[test]
fn refcounts_that_agree_are_left_alone() {
    let mut image = Image::new();
    assert_eq!(mend_counts(&mut image, true).unwrap(), Report { mended: vec![], steps: vec![] });
}

/// The sample with one count too low, one too high, and a leak.
fn miscounted() -> Image {
    let mut image = Image::new();
    for (cluster, count) in [(5, 0), (6, 3), (2, 1)] {
        image.at(BLOCKS + 2 * cluster)[..2].copy_from_slice(&[0, count]);
    }
    image
}

#[test]
fn counts_go_up_before_others_go_down() {
    let mut image = miscounted();
    let count = |kind, cluster: u64| (Mend::Count(kind), cluster * CLUSTER, CLUSTER);
    let report = mend_counts(&mut image, true).unwrap();
    let expected = [
        count(FindingKind::Leak, 2),
        count(FindingKind::Unreferenced, 5),
        count(FindingKind::CountedTwice, 6),
    ];
    assert_eq!(report.mended, expected);
    assert_eq!(report.steps, [[(BLOCKS, 512)], [(BLOCKS, 512)]]);
    assert_eq!(image.check(), []);
    assert!(image.file == Image::new().file);
}

#[test]
fn where_an_extension_is_not_known_nothing_is_freed() {
    let mut image = miscounted();
    let report = mend_counts(&mut image, false).unwrap();
    assert_eq!(report.mended, [(Mend::Count(FindingKind::Unreferenced), 5 * CLUSTER, CLUSTER)]);
    assert_eq!(report.steps, [[(BLOCKS, 512)]]);
    let left: Vec<_> = image.check().iter().map(|finding| finding.offset / CLUSTER).collect();
    assert_eq!(left, [2, 6]);
}

#[test]
fn a_lost_refcount_block_is_made_anew_behind_the_file() {
    // An entry that cannot be, one that names the zone table, and none.
    for (entry, bad) in [(0x123, true), (0x3000, true), (0, false)] {
        let mut image = Image::new();
        let end = image.file.len() as u64;
        image.set(REFCOUNT_TABLE, entry);
        let report = mend_counts(&mut image, true).unwrap();
        let table = (Mend::Count(FindingKind::BadRefcountBlock), REFCOUNT_TABLE, 8);
        assert_eq!(report.mended.contains(&table), bad, "{report:?}");
        // The old block's own cluster is not counted any more; what is counted is in use.
        assert!(report.mended.iter().all(|(_, offset, _)| *offset < end), "{report:?}");
        assert_eq!(image.number(REFCOUNT_TABLE), end);
        assert_eq!(image.file.len() as u64, end + CLUSTER);
        assert_eq!(image.check(), []);
        // The block is there before it is named.
        assert_eq!(report.steps.last(), Some(&vec![(REFCOUNT_TABLE, 512)]));
    }
}

#[test]
fn a_refcount_block_nobody_needs_is_not_made_anew() {
    let mut image = Image::new();
    let end = image.file.len();
    image.set(REFCOUNT_TABLE + 8, 0x123);
    let report = mend_counts(&mut image, true).unwrap();
    let table = (Mend::Count(FindingKind::BadRefcountBlock), REFCOUNT_TABLE + 8, 8);
    // The old block's cluster is a leak now.
    let leak = (Mend::Count(FindingKind::Leak), 0xa200, CLUSTER);
    assert_eq!(report.mended, [table, leak]);
    assert_eq!((image.number(REFCOUNT_TABLE + 8), image.file.len()), (0, end));
    assert_eq!(image.check(), []);
}

#[test]
fn blocks_count_new_blocks_and_themselves() {
    let mut image = Image::new();
    let end = image.file.len() as u64;
    image.set(REFCOUNT_TABLE, 0);
    image.set(REFCOUNT_TABLE + 8, 0);
    mend_counts(&mut image, true).unwrap();
    assert_eq!([0, 8].map(|at| image.number(REFCOUNT_TABLE + at)), [end, end + CLUSTER]);
    assert_eq!(image.check(), []);
}

/// A drive of 9 MiB of which all but the last zone has its place: two clusters of refcount table.
fn large() -> Image {
    let size = 9 << 20;
    let geometry = Geometry {
        size,
        zone_size: 1 << 20,
        zone_capacity: 1 << 20,
        conventional_zones: 8,
        max_open_zones: 0,
        max_active_zones: 0,
        ..sample::geometry()
    };
    Image::adopted(&geometry, &Tables { size, ..sample::tables() }, vec![])
}

#[test]
fn a_lost_refcount_table_is_made_anew() {
    let mut image = large();
    let table = image.header.tables.refcount_table_offset;
    assert_eq!(image.header.tables.refcount_table_clusters, 2);
    image.at(table)[..1024].fill(0);
    let report = mend_counts(&mut image, true).unwrap();
    // One finding: what is in use from the first cluster on. Between page and cluster are gaps.
    assert!(report.mended.iter().all(|(mend, ..)| *mend == Mend::Count(FindingKind::Unreferenced)));
    assert_eq!(image.check(), []);
}

#[test]
fn a_refcount_table_without_room_for_the_file_is_left() {
    let mut image = large();
    let table = image.header.tables.refcount_table_offset;
    image.header.tables.refcount_table_clusters = 1;
    let error = mend_counts(&mut image, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!((error.context().offset, error.context().length), (Some(table), Some(512)));
    assert!(error.detail().contains("no room"), "{error}");
}

#[test]
fn what_two_parts_share_keeps_the_refcounts_from_being_mended() {
    let mut image = miscounted();
    // Past the drive's end, data is mapped again.
    image.set(0xb800 + 8 * 40, COPIED | 0xa00);
    let error = mend_counts(&mut image, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!((error.context().offset, error.context().length), (Some(0xa00), Some(512)));
}

#[test]
fn a_refcount_table_that_is_hardly_one_is_left() {
    let mut image = Image::new();
    let table = image.file.len() as u64;
    // Every other entry is bad, so that no two are one finding.
    for _ in 0..(16 << 6) {
        image.file.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    let tables = &mut image.header.tables;
    (tables.refcount_table_offset, tables.refcount_table_clusters) = (table, 32);
    tables.file_len = image.file.len() as u64;
    let error = mend_counts(&mut image, true).unwrap_err();
    assert!(error.detail().contains("hardly anything"), "{error}");
    assert_eq!((error.context().offset, error.context().length), (Some(table), Some(512)));
}

#[test]
fn a_run_of_bad_entries_is_one_finding_and_each_is_mended() {
    let mut image = Image::new();
    for entry in 2..5 {
        image.set(REFCOUNT_TABLE + 8 * entry, 0x123);
    }
    let report = mend_counts(&mut image, true).unwrap();
    let bad = Mend::Count(FindingKind::BadRefcountBlock);
    assert_eq!(report.mended, [(bad, REFCOUNT_TABLE + 16, 24)]);
    let entries = [2, 3, 4].map(|entry| image.number(REFCOUNT_TABLE + 8 * entry));
    assert_eq!(entries, [0, 0, 0]);
}

#[test]
fn counts_of_each_block_are_those_of_its_own_clusters() {
    let mut image = Image::new();
    for cluster in [255, 256, 300] {
        image.at(BLOCKS + 2 * cluster)[..2].copy_from_slice(&[0, 1]);
    }
    let report = mend_counts(&mut image, true).unwrap();
    let leak =
        |cluster, clusters| (Mend::Count(FindingKind::Leak), CLUSTER * cluster, CLUSTER * clusters);
    assert_eq!(report.mended, [leak(255, 2), leak(300, 1)]);
    assert!(image.file == Image::new().file);
}

#[test]
fn counts_that_lie_in_something_else_are_named_by_their_entry() {
    let mut image = Image::new();
    image.set(REFCOUNT_TABLE + 8, 0x3000);
    let report = mend_counts(&mut image, true).unwrap();
    let bad = (Mend::Count(FindingKind::BadRefcountBlock), REFCOUNT_TABLE + 8, 8);
    assert_eq!(report.mended[0], bad);
    assert_eq!(image.number(REFCOUNT_TABLE + 8), 0);
    assert_eq!(image.check(), []);
}

#[test]
fn what_ends_where_a_block_does_needs_no_other_block() {
    let mut image = Image::new();
    let end = image.file.len();
    // Past the drive's end, the last cluster that the first block counts.
    image.set(0xb800 + 8 * 40, COPIED | (255 * CLUSTER));
    image.set(REFCOUNT_TABLE + 8, 0);
    mend_counts(&mut image, true).unwrap();
    assert_eq!((image.number(REFCOUNT_TABLE + 8), image.file.len()), (0, end));
    assert_eq!(image.check(), []);
}
