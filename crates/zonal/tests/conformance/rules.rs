//! The rules, each on a drive of its own. What a drive lacks, it refuses as the table says.

use crate::abilities::{ABILITIES, Cell};
use crate::backends::{BLOCK, ROOM};
use crate::bench::{Bench, blocks_of, options};
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use zonal::{Buffer, ErrorKind, QueueOptions, Request, ZoneKind, ZoneState};

/// What it says, and what tries it.
type Rule = (&'static str, fn(&mut Bench));

pub(crate) const RULES: &[Rule] = &[
    ("an append says where it landed", append_reports_its_place),
    ("concurrent appends lie side by side", concurrent_appends_are_distinct),
    ("an append may be addressed anywhere in its zone", append_at_goes_to_the_end),
    ("ordered appends of any length keep their order", ordered_appends_keep_order),
    ("a write goes to the write pointer and nowhere else", write_at_only_at_the_pointer),
    ("an append over the limit is refused", append_over_the_limit_is_refused),
    ("what is off the block is refused", misaligned_is_refused),
    ("what is not on the drive is out of range", out_of_range_is_refused),
    ("a zone takes its capacity and no more", a_full_zone_is_full),
    ("a reset empties a zone and hides its earlier life", reset_empties),
    ("reset all empties every zone", reset_all_empties),
    ("a finished zone is full and padded with zeros", finish_fills),
    ("open and close move a zone's state", open_and_close),
    ("the limits on open and active zones hold", limits_hold),
    ("reads from the write pointer on show zeros", reads_past_the_pointer_are_zeros),
    ("a durable write and a flush cover what they say", durable_writes_and_flushes),
    ("closing keeps what was written", close_keeps),
    ("a drive opened to be read is not changed", read_only_changes_nothing),
    ("the limits that are stated are the limits", limits_are_true),
    ("each request ends once, with its tag and buffer", requests_end_once),
    ("a drive is closed when its queues are gone", close_wants_no_queues),
    ("a second writer is refused", second_writer_is_refused),
    ("read-only and offline zones keep to it", conditions_hold),
    ("conventional zones are written anywhere", conventional_zones),
    ("whoever polls is woken", polling_wakes),
];

/// What the table says of an ability.
fn stated(bench: &Bench, name: &str) -> Cell {
    let at = ABILITIES.iter().position(|ability| ability.name == name).expect("an ability");
    bench.backend.cells[at]
}

fn append_reports_its_place(bench: &mut Bench) {
    let mut queue = bench.queue();
    for zone in bench.zones().into_iter().take(2) {
        for n in 0..3_u8 {
            let place = queue.append(zone.zone, n + 1, 2);
            assert_eq!(place, zone.start + 2 * BLOCK * u64::from(n));
            assert_eq!(queue.read(place, 2), [n + 1; 2]);
        }
        assert_eq!(bench.zone(zone.zone).write_pointer, Some(zone.start + 6 * BLOCK));
        assert_eq!(bench.zone(zone.zone).state, ZoneState::ImplicitlyOpen);
    }
}

fn concurrent_appends_are_distinct(bench: &mut Bench) {
    const EACH: u8 = 40;
    let zone = bench.zones()[0];
    let place = |first: u8| {
        let mut queue = bench.queue();
        for n in first..first + EACH {
            queue.push(Request::append(zone.zone, blocks_of(n, 2)).tag(n.into())).unwrap();
        }
        queue.submit_and_wait(EACH.into()).unwrap();
        let ended = std::iter::from_fn(|| queue.next_completion());
        ended.map(|c| (c.result.map(|_| c.offset).unwrap(), c.tag as u8)).collect::<Vec<_>>()
    };
    let place = &place;
    let places: BTreeMap<u64, u8> = std::thread::scope(|scope| {
        let threads = [1, 101].map(|first| scope.spawn(move || place(first)));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(places.len(), 2 * usize::from(EACH), "no two have one place");
    let mut queue = bench.queue();
    for ((place, byte), expected) in places.into_iter().zip((zone.start..).step_by(8192)) {
        assert_eq!(place, expected, "nothing is left out between them");
        assert_eq!(queue.read(place, 2), [byte; 2]);
    }
}

fn append_at_goes_to_the_end(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let mut queue = bench.queue();
    queue.append(zone.zone, 1, 1);
    for offset in [zone.start, zone.start + 8 * BLOCK, zone.start + 17] {
        let end = bench.zone(zone.zone).write_pointer.unwrap();
        assert_eq!(queue.ok(Request::append_at(offset, blocks_of(2, 1))).offset, end);
    }
}

fn ordered_appends_keep_order(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let limit = bench.drive().limits().append_bytes_max / BLOCK;
    let mut queue = bench.queue();
    let lengths = [1, limit, limit + 1, 2, 1];
    for (n, blocks) in (1..).zip(lengths) {
        let request = Request::append_ordered(zone.zone, blocks_of(n, blocks));
        queue.push(request.tag(n.into())).unwrap();
    }
    queue.submit_and_wait(lengths.len()).unwrap();
    let mut places = BTreeMap::new();
    while let Some(completion) = queue.next_completion() {
        completion.result.unwrap();
        places.insert(completion.tag, completion.offset);
    }
    let mut end = zone.start;
    for (n, blocks) in (1..).zip(lengths) {
        assert_eq!(places[&n], end, "{n}");
        assert_eq!(queue.read(end, blocks), vec![n as u8; blocks as usize]);
        end += blocks * BLOCK;
    }
}

fn write_at_only_at_the_pointer(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let mut queue = bench.queue();
    queue.ok(Request::write_at(zone.start, blocks_of(1, 2)));
    for wrong in [0, BLOCK, 3 * BLOCK] {
        let request = Request::write_at(zone.start + wrong, blocks_of(2, 1));
        queue.refused(request, BLOCK as usize, ErrorKind::NotAtWritePointer);
    }
    assert_eq!(bench.zone(zone.zone).write_pointer, Some(zone.start + 2 * BLOCK));
    queue.ok(Request::write_at(zone.start + 2 * BLOCK, blocks_of(3, 1)));
    assert_eq!(queue.read(zone.start, 4), [1, 1, 3, 0]);
}

fn append_over_the_limit_is_refused(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let limit = bench.drive().limits().append_bytes_max;
    let mut queue = bench.queue();
    let request = Request::append(zone.zone, blocks_of(1, limit / BLOCK + 1));
    queue.refused(request, (limit + BLOCK) as usize, ErrorKind::AppendTooLarge);
    assert_eq!(bench.zone(zone.zone).state, ZoneState::Empty, "nothing has changed");
    queue.append(zone.zone, 1, limit / BLOCK);
}

fn misaligned_is_refused(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let mut queue = bench.queue();
    for length in [0, 1, BLOCK as usize + 512] {
        let data = || Buffer::from_slice(&vec![1; length]);
        for request in [
            Request::append(zone.zone, data()),
            Request::append_ordered(zone.zone, data()),
            Request::write_at(zone.start, data()),
            Request::read_at(zone.start, data()),
        ] {
            queue.refused(request, length, ErrorKind::InvalidInput);
        }
    }
    for request in [
        Request::write_at(zone.start + 512, blocks_of(1, 1)),
        Request::read_at(zone.start + 512, blocks_of(1, 1)),
    ] {
        queue.refused(request, BLOCK as usize, ErrorKind::InvalidInput);
    }
    assert_eq!(bench.zone(zone.zone).state, ZoneState::Empty);
}

fn out_of_range_is_refused(bench: &mut Bench) {
    let (size, zones) = (bench.drive().geometry().size, bench.drive().geometry().zones());
    let mut queue = bench.queue();
    for request in [
        Request::append(zones, blocks_of(1, 1)),
        Request::append_at(size, blocks_of(1, 1)),
        Request::write_at(size, blocks_of(1, 1)),
        Request::read_at(size, blocks_of(1, 1)),
    ] {
        queue.refused(request, BLOCK as usize, ErrorKind::OutOfRange);
    }
    let across = Request::read_at(size - BLOCK, blocks_of(1, 2));
    queue.refused(across, 2 * BLOCK as usize, ErrorKind::OutOfRange);
    for request in
        [Request::reset(zones), Request::open(zones), Request::close(zones), Request::finish(zones)]
    {
        queue.refused(request, 0, ErrorKind::OutOfRange);
    }
    assert_eq!(bench.drive().report(zones..=zones).unwrap_err().kind(), ErrorKind::OutOfRange);
}

fn a_full_zone_is_full(bench: &mut Bench) {
    if !bench.fill() {
        return;
    }
    let zone = bench.zones()[0];
    let end = zone.start + zone.capacity;
    let mut queue = bench.queue();
    let over = ROOM / BLOCK + 1;
    for request in [
        Request::append(zone.zone, blocks_of(2, over)),
        Request::append_ordered(zone.zone, blocks_of(2, over)),
        Request::write_at(end - ROOM, blocks_of(2, over)),
    ] {
        queue.refused(request, (over * BLOCK) as usize, ErrorKind::BeyondCapacity);
    }
    assert_eq!(queue.append(zone.zone, 2, ROOM / BLOCK), end - ROOM);
    let full = bench.zone(zone.zone);
    assert_eq!((full.state, full.write_pointer), (ZoneState::Full, Some(end)));
    for request in [
        Request::append(zone.zone, blocks_of(3, 1)),
        Request::append_ordered(zone.zone, blocks_of(3, 1)),
        Request::write_at(end - BLOCK, blocks_of(3, 1)),
    ] {
        queue.refused(request, BLOCK as usize, ErrorKind::ZoneFull);
    }
    queue.refused(Request::open(zone.zone), 0, ErrorKind::InvalidTransition);
    queue.refused(Request::close(zone.zone), 0, ErrorKind::InvalidTransition);
    assert_eq!(queue.read(end - ROOM, ROOM / BLOCK), [2; 3]);
    queue.ok(Request::reset(zone.zone));
    assert_eq!(queue.append(zone.zone, 4, 1), zone.start);
}

fn reset_empties(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let mut queue = bench.queue();
    queue.append(zone.zone, 1, 4);
    queue.ok(Request::reset(zone.zone));
    let empty = bench.zone(zone.zone);
    assert_eq!((empty.state, empty.write_pointer), (ZoneState::Empty, Some(zone.start)));
    assert_eq!(queue.read(zone.start, 4), [0; 4]);
    assert_eq!(queue.append(zone.zone, 2, 1), zone.start);
    assert_eq!(queue.read(zone.start, 4), [2, 0, 0, 0]);
    queue.ok(Request::reset(zone.zone));
    queue.ok(Request::reset(zone.zone));
}

fn reset_all_empties(bench: &mut Bench) {
    let mut queue = bench.queue();
    for zone in bench.zones().into_iter().take(3) {
        queue.append(zone.zone, 1, 1);
    }
    queue.ok(Request::reset_all());
    assert!(bench.zones().iter().all(|zone| zone.state == ZoneState::Empty));
    let zone = bench.zones()[0];
    assert_eq!(queue.read(zone.start, 1), [0]);
}

fn finish_fills(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let mut queue = bench.queue();
    queue.append(zone.zone, 1, 1);
    let finish = Request::finish(zone.zone);
    match stated(bench, "finish") {
        Cell::Has => {
            queue.ok(finish);
            let full = bench.zone(zone.zone);
            assert_eq!(full.state, ZoneState::Full);
            assert_eq!(full.write_pointer, Some(zone.start + zone.capacity));
            assert_eq!(queue.read(zone.start, 3), [1, 0, 0]);
            let request = Request::append(zone.zone, blocks_of(2, 1));
            queue.refused(request, BLOCK as usize, ErrorKind::ZoneFull);
            queue.ok(Request::finish(zone.zone));
        }
        Cell::Refuses(kind) => {
            queue.refused(finish, 0, kind);
            let open = bench.zone(zone.zone);
            assert_eq!(open.state, ZoneState::ImplicitlyOpen, "nothing has changed");
            assert_eq!(queue.append(zone.zone, 2, 1), zone.start + BLOCK);
        }
        Cell::Lacks => panic!("a drive that finishes nothing says so"),
    }
}

fn open_and_close(bench: &mut Bench) {
    let zone = bench.zones()[0].zone;
    let mut queue = bench.queue();
    queue.refused(Request::close(zone), 0, ErrorKind::InvalidTransition);
    queue.ok(Request::open(zone));
    assert_eq!(bench.zone(zone).state, ZoneState::ExplicitlyOpen);
    queue.ok(Request::close(zone));
    let unwritten = match stated(bench, "closed unwritten: empty") {
        Cell::Has => ZoneState::Empty,
        Cell::Lacks | Cell::Refuses(_) => ZoneState::Closed,
    };
    assert_eq!(bench.zone(zone).state, unwritten, "nothing was written");
    queue.append(zone, 1, 1);
    queue.ok(Request::close(zone));
    assert_eq!(bench.zone(zone).state, ZoneState::Closed);
    queue.append(zone, 1, 1);
    queue.ok(Request::open(zone));
    assert_eq!(bench.zone(zone).state, ZoneState::ExplicitlyOpen);
    assert_eq!(bench.drive().zones_in_use(), (1, 1));
}

fn limits_hold(bench: &mut Bench) {
    let limits = bench.drive().limits();
    let zones = bench.zones();
    let mut queue = bench.queue();
    let (open, active) = (limits.max_open_zones, limits.max_active_zones);
    if (open, active) == (None, None) {
        assert_eq!(stated(bench, "limits on zones"), Cell::Lacks);
        for zone in &zones {
            queue.ok(Request::open(zone.zone));
        }
        return;
    }
    // Zones that were opened by writes make room, those that were opened on purpose do not.
    if let Some(active) = active.map(|active| active as usize) {
        for zone in &zones[..active] {
            queue.append(zone.zone, 1, 1);
        }
        let open = open.unwrap_or(active as u32);
        assert_eq!(bench.drive().zones_in_use(), (open, active as u32));
        let request = Request::append(zones[active].zone, blocks_of(1, 1));
        queue.refused(request, BLOCK as usize, ErrorKind::TooManyActiveZones);
        queue.ok(Request::reset_all());
    }
    let Some(open) = open.map(|open| open as usize) else { return };
    for zone in &zones[..=open] {
        queue.append(zone.zone, 1, 1);
    }
    assert_eq!(bench.drive().zones_in_use().0, open as u32);
    queue.ok(Request::reset_all());
    for zone in &zones[..open] {
        queue.ok(Request::open(zone.zone));
    }
    queue.refused(Request::open(zones[open].zone), 0, ErrorKind::TooManyOpenZones);
    queue.ok(Request::close(zones[0].zone));
    queue.ok(Request::open(zones[open].zone));
}

fn reads_past_the_pointer_are_zeros(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let mut queue = bench.queue();
    assert_eq!(queue.read(zone.start, 4), [0; 4]);
    queue.append(zone.zone, 1, 3);
    assert_eq!(queue.read(zone.start, 8), [1, 1, 1, 0, 0, 0, 0, 0]);
    assert_eq!(queue.read(zone.start + 2 * BLOCK, 2), [1, 0]);
    assert_eq!(queue.read(zone.start + zone.size - BLOCK, 1), [0]);
    if let Some(next) = bench.zones().get(1) {
        queue.append(next.zone, 2, 1);
        assert_eq!(queue.read(next.start - BLOCK, 2), [0, 2], "across zones");
    }
}

fn durable_writes_and_flushes(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let durable = stated(bench, "durable writes") == Cell::Has;
    let mut queue = bench.queue();
    queue.append(zone.zone, 1, 1);
    let completion = queue.ok(Request::append(zone.zone, blocks_of(2, 1)).fua());
    assert_eq!(completion.flags.contains(zonal::Flags::DURABLE), durable);
    let before = bench.drive().metrics();
    queue.append(zone.zone, 3, 1);
    queue.ok(Request::flush());
    let synced = bench.drive().metrics().data_syncs - before.data_syncs;
    let behind_an_engine = stated(bench, "a descriptor to poll") == Cell::Has;
    assert_eq!(
        synced,
        u64::from(behind_an_engine),
        "one sync for one flush, where there is a disk"
    );
    queue.ok(Request::flush());
}

fn close_keeps(bench: &mut Bench) {
    let zones = bench.zones();
    let kept = stated(bench, "kept when closed") == Cell::Has;
    let mut queue = bench.queue();
    queue.append(zones[0].zone, 1, 5);
    queue.ok(Request::reset(zones[0].zone));
    queue.append(zones[0].zone, 2, 3);
    if let [_, second, third, ..] = &zones[..] {
        queue.append(second.zone, 3, 1);
        queue.ok(Request::finish(second.zone));
        queue.ok(Request::open(third.zone));
    }
    drop(queue);
    bench.reopen(false);
    let after = bench.zones();
    let mut queue = bench.queue();
    if !kept {
        assert!(after.iter().all(|zone| zone.state == ZoneState::Empty));
        assert_eq!(queue.read(zones[0].start, 1), [0]);
        return;
    }
    assert_eq!(after[0].write_pointer, Some(zones[0].start + 3 * BLOCK));
    let stays_open = stated(bench, "open outlives") == Cell::Has;
    let was_open = |open, closed| if stays_open { open } else { closed };
    assert_eq!(after[0].state, was_open(ZoneState::ImplicitlyOpen, ZoneState::Closed));
    assert_eq!(queue.read(zones[0].start, 4), [2, 2, 2, 0]);
    if let [_, second, third, ..] = &after[..] {
        let third_is = was_open(ZoneState::ExplicitlyOpen, ZoneState::Empty);
        assert_eq!((second.state, third.state), (ZoneState::Full, third_is));
        assert_eq!(queue.read(second.start, 2), [3, 0]);
    }
    assert_eq!(queue.append(zones[0].zone, 4, 1), zones[0].start + 3 * BLOCK);
}

fn read_only_changes_nothing(bench: &mut Bench) {
    let zone = bench.zones()[0];
    bench.queue().append(zone.zone, 1, 1);
    bench.reopen(true);
    let before = bench.drive().report(..).unwrap();
    let mut queue = bench.queue();
    let kind = ErrorKind::DeviceReadOnly;
    for request in [
        Request::append(zone.zone, blocks_of(2, 1)),
        Request::append_ordered(zone.zone, blocks_of(2, 1)),
        Request::write_at(zone.start, blocks_of(2, 1)),
    ] {
        queue.refused(request, BLOCK as usize, kind);
    }
    for request in [
        Request::open(zone.zone),
        Request::close(zone.zone),
        Request::reset(zone.zone),
        Request::finish(zone.zone),
        Request::reset_all(),
        Request::flush(),
    ] {
        queue.refused(request, 0, kind);
    }
    let error = bench.drive().set_condition(zone.zone, ZoneState::ReadOnly).unwrap_err();
    assert_eq!(error.kind(), kind);
    let kept = stated(bench, "kept when closed") == Cell::Has;
    assert_eq!(queue.read(zone.start, 2), [u8::from(kept), 0]);
    drop(queue);
    assert_eq!(bench.drive().report(..).unwrap(), before);
    // Another reader is no trouble.
    bench.open(true).unwrap();
}

fn limits_are_true(bench: &mut Bench) {
    let limits = bench.drive().limits();
    let engines: &[_] = match (bench.backend.name, bench.backend.engine) {
        (name, _) if name.starts_with("mem:") => &["memory"],
        (_, zonal::EngineChoice::Threads) => &["threads"],
        (_, zonal::EngineChoice::IoUring) => &["io_uring"],
        (_, zonal::EngineChoice::Auto) => &["io_uring", "threads"],
    };
    assert!(engines.contains(&limits.engine), "{}", limits.engine);
    assert_eq!(u64::from(limits.block_size), BLOCK);
    assert_eq!(limits.finish, stated(bench, "finish") == Cell::Has);
    let several = stated(bench, "several zones") == Cell::Has;
    assert_eq!(bench.zones().len() > 1, several);
    let zone = bench.zones()[0];
    let mut queue = bench.queue();
    queue.append(zone.zone, 1, limits.append_bytes_max / BLOCK);
    queue.append(zone.zone, 1, 1);
    let length = limits.transfer_bytes_max + BLOCK;
    let request = Request::read_at(zone.start, Buffer::unpooled(length as usize));
    queue.refused(request, length as usize, ErrorKind::InvalidInput);
}

fn requests_end_once(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let options = QueueOptions { depth: 8, ..options() };
    let mut queue = bench.drive().queue(&options).unwrap();
    for tag in 0..8 {
        queue.push(Request::append(zone.zone, blocks_of(tag as u8, 1)).tag(tag)).unwrap();
    }
    let full = queue.push(Request::append(zone.zone, blocks_of(9, 1)).tag(9)).unwrap_err();
    queue.submit_and_wait(8).unwrap();
    let mut tags = [0; 10];
    while let Some(completion) = queue.next_completion() {
        completion.result.unwrap();
        assert!(completion.buffer.unwrap().iter().all(|&b| u64::from(b) == completion.tag));
        tags[completion.tag as usize] += 1;
    }
    assert_eq!(tags, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
    assert_eq!(queue.in_flight(), 0);
    queue.push(full.0).unwrap();
    queue.submit_and_wait(1).unwrap();
    assert_eq!(queue.next_completion().unwrap().tag, 9);
}

fn close_wants_no_queues(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let queue = bench.queue();
    let error = bench.drive().clone().close().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    drop(queue);
    // It goes on as if nothing had been asked.
    bench.queue().append(zone.zone, 1, 1);
    bench.drive().clone().close().unwrap();
    let error = bench.drive().queue(&QueueOptions::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::DeviceReadOnly);
}

fn second_writer_is_refused(bench: &mut Bench) {
    if stated(bench, "one writer") == Cell::Lacks {
        bench.open(false).unwrap();
        return;
    }
    assert_eq!(bench.open(false).unwrap_err().kind(), ErrorKind::InUse);
    bench.open(true).unwrap();
    bench.reopen(false);
}

fn conditions_hold(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let mut queue = bench.queue();
    queue.append(zone.zone, 1, 1);
    let set = bench.drive().set_condition(zone.zone, ZoneState::ReadOnly);
    if let Cell::Refuses(kind) = stated(bench, "set_condition") {
        assert_eq!(set.unwrap_err().kind(), kind);
        queue.append(zone.zone, 1, 1);
        return;
    }
    set.unwrap();
    let append = || Request::append(zone.zone, blocks_of(2, 1));
    queue.refused(append(), BLOCK as usize, ErrorKind::ZoneReadOnly);
    queue.refused(Request::reset(zone.zone), 0, ErrorKind::ZoneReadOnly);
    assert_eq!(queue.read(zone.start, 2), [1, 0]);
    bench.drive().set_condition(zone.zone, ZoneState::Offline).unwrap();
    queue.refused(append(), BLOCK as usize, ErrorKind::ZoneOffline);
    let read = Request::read_at(zone.start, blocks_of(0, 1));
    queue.refused(read, BLOCK as usize, ErrorKind::ZoneOffline);
    assert_eq!(bench.zone(zone.zone).write_pointer, None);
    let error = bench.drive().set_condition(zone.zone, ZoneState::Full).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

fn conventional_zones(bench: &mut Bench) {
    let zone = bench.drive().report(0..1).unwrap()[0];
    if let Cell::Refuses(kind) = stated(bench, "conventional zones") {
        assert_eq!(zone.kind, ZoneKind::Sequential);
        let request = Request::write_at(BLOCK, blocks_of(1, 1));
        bench.queue().refused(request, BLOCK as usize, kind);
        return;
    }
    assert_eq!((zone.kind, zone.state), (ZoneKind::Conventional, ZoneState::NotWp));
    let mut queue = bench.queue();
    for (offset, byte) in [(4 * BLOCK, 1), (0, 2), (4 * BLOCK, 3)] {
        queue.ok(Request::write_at(offset, blocks_of(byte, 1)));
        assert_eq!(queue.read(offset, 1), [byte]);
    }
    let append = Request::append(0, blocks_of(1, 1));
    queue.refused(append, BLOCK as usize, ErrorKind::InvalidInput);
    queue.refused(Request::reset(0), 0, ErrorKind::InvalidInput);
}

fn polling_wakes(bench: &mut Bench) {
    let zone = bench.zones()[0];
    let mut queue = bench.queue();
    for byte in 1..20 {
        queue.push(Request::append(zone.zone, blocks_of(byte, 1))).unwrap();
        let ended = loop {
            // What there is to take in may be a step of something longer.
            if !queue.prepare_to_poll().unwrap() {
                queue.submit().unwrap();
                match queue.next_completion() {
                    Some(ended) => break ended,
                    None => continue,
                }
            }
            let fd = queue.poll_fd().unwrap();
            // SAFETY: the queue has the descriptor open, and is not touched meanwhile.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
            let woken = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap();
            assert_eq!(woken, 1, "ten seconds, and nobody was woken");
        };
        ended.result.unwrap();
    }
}
