//! The operations that take more than one step: flush, finish, reset, open, close, and settling
//! a zone over dead ranges. Each is one function that reads in the order of what happens.
//!
//! The order in which things reach the disk:
//! * flush: notes, wait, data sync, table;
//! * first write after a reset: table says "at start", then (with discard) the zone is punched,
//!   then the write;
//! * first write to a zone without clusters: zeros in those below its write pointer, a data sync,
//!   refcounts, then L2 entries, then the write;
//! * finish: zeros to the capacity, then the state; the table hears of it from the next flush,
//!   after its data sync;
//! * settling: zeros over dead ranges, data sync, the cut of a file, then the verdicts; of a device its
//!   zone report, then the verdicts.

use super::task::Desk;
use crate::block::{Block, GONE, node_text, write_kind};
use crate::buffer::Buffer;
use crate::device::{Drive, Medium};
use crate::engine::{IoKind, Zoned};
use crate::faults::{errno, is_injected};
use crate::image::{Clusters, Grant, Image, Span};
use crate::nvme::{Nvme, ONE_ZONE_BYTES};
use crate::zones::{Counts, GateLock, Join, Pages, Role, Settling, Standing, Zones, drained};
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use zonal_core::broken::{Rule, is_broken};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::units::{Blocks, Extent, ZoneIndex};
use zonal_core::zone::{Refusal, ZoneOp, ZoneState};

/// Zeros are written in pieces of this size where the disk cannot punch.
const ZERO_PIECE: u64 = 1 << 20;

/// So many spans of tables are changed at once, when a zone gets its clusters.
const SPANS_AT_ONCE: usize = 32;

/// What an operation works with.
#[derive(Clone)]
pub(super) struct Scene {
    pub(super) drive: Arc<Drive>,
    pub(super) desk: Rc<Desk>,
    /// Set once the operation does more than wait: from then on it is not given up, and its error
    /// is no refusal.
    pub(super) begun: Rc<Cell<bool>>,
}

impl Scene {
    fn zones(&self) -> &Arc<Zones> {
        &self.drive.zones
    }

    fn image(&self) -> Option<&Image> {
        self.drive.image()
    }
}

/// Opens, closes, finishes or resets a zone.
pub(super) async fn operate(scene: Scene, zone: ZoneIndex, op: ZoneOp) -> Result<()> {
    if scene.drive.is_device() {
        return operate_device(&scene, zone, op).await;
    }
    let zones = scene.zones();
    let gate = GateLock::new(zones, zone).await;
    match op {
        ZoneOp::Open => {}
        ZoneOp::Close | ZoneOp::Finish | ZoneOp::Reset => drained(&gate).await,
    }
    latched(zones)?;
    zones.would(zone, op).map_err(Error::from)?;
    let begun = scene.begun.replace(true);
    match op {
        ZoneOp::Open => make_ready(&scene, zone).await?,
        ZoneOp::Close | ZoneOp::Finish | ZoneOp::Reset => {}
    }
    // Held until the zone is full: clusters that it is given meanwhile, for a write that has been
    // given up since, would not be made zero below a write pointer at the capacity.
    let mut _turn = None;
    if op == ZoneOp::Finish {
        settle_reset(&scene, zone).await?;
        if let Some((image, clusters)) = lacking(&scene, zone) {
            _turn = Some(clusters.turn().await);
            if clusters.may_name(zone) {
                give(&scene, image, clusters, zone, zones.capacity(zone)).await?;
            }
        }
        zero_rest(&scene, zone).await?;
    }
    if let Err(refusal) = zones.operate(zone, op) {
        // Nothing has changed in this zone; of a reset of all zones, others may have.
        scene.begun.set(begun);
        return Err(refusal.into());
    }
    if op == ZoneOp::Reset { scene.drive.end_life(zone) } else { Ok(()) }
}

/// Makes a zone read-only or offline once nothing is in flight in it.
pub(super) async fn condemn(scene: Scene, zone: ZoneIndex, condition: ZoneState) {
    let zones = scene.zones();
    let gate = GateLock::new(zones, zone).await;
    drained(&gate).await;
    if let Err(error) = zones.set_condition(zone, condition) {
        tracing::warn!("zone {zone}: not {condition} as its fault plan wants: {error}");
    }
}

/// The same on a device: by the rules first, then by the device, whose word on what came of it
/// holds.
async fn operate_device(scene: &Scene, zone: ZoneIndex, op: ZoneOp) -> Result<()> {
    let zones = scene.zones();
    let gate = GateLock::new(zones, zone).await;
    drained(&gate).await;
    latched(zones)?;
    zones.would(zone, op).map_err(Error::from)?;
    if op == ZoneOp::Open {
        hold(scene, zone).await?;
    }
    if let Some(block) = scene.drive.block() {
        block.can_call()?;
    }
    // A full zone is finished, and an empty one is not left to be what somebody else made of it.
    let before = zones.operate(zone, op).map_err(Error::from)?;
    scene.begun.set(true);
    if op != ZoneOp::Open && scene.drive.block().is_some_and(Block::holds_files) {
        // What closes, fills or empties a zone closes its file as well.
        zones.withhold(zone);
    }
    let (mut done, mut standing) = manage(scene, zone, op).await;
    // Some devices want an open place for a finish, and close no zone that a file keeps open.
    while op == ZoneOp::Finish
        && let Some(block) = scene.drive.block().filter(|block| block.holds_files())
        && done.as_ref().is_err_and(|error| error.kind() == ErrorKind::TooManyOpenZones)
        && zones.close_first_opened()
    {
        if make_place(scene, block, zone).await.is_err() {
            break;
        }
        (done, standing) = manage(scene, zone, op).await;
    }
    let refused = done.is_err().then_some(before);
    match standing {
        Ok(standing) => {
            zones.take_over(zone, standing, refused);
            done
        }
        Err(error) => {
            tracing::warn!("zone {zone}: its report failed, it takes no more writes: {error}");
            zones.is_unknown(zone, refused);
            done.and(Err(error))
        }
    }
}

/// Closes the files of zones that are closed, and of `zone`, whose gate the caller holds.
async fn make_place(scene: &Scene, block: &Block, zone: ZoneIndex) -> Result<()> {
    // First its own, so that whoever waits for this gate is not waited for.
    scene.desk.answer(block.let_go(zone, None)?).await?;
    let_go_of_closed(scene, block, zone).await
}

/// Has a device do something to a zone, and asks it what came of that, which is the second answer.
async fn manage(scene: &Scene, zone: ZoneIndex, op: ZoneOp) -> (Result<()>, Result<Standing>) {
    match &scene.drive.medium {
        Medium::Block(block) => match block.manage(zone, op) {
            Ok(answer) => match scene.desk.answer(answer).await {
                Ok((done, standing)) => (done, told(scene, standing)),
                Err(error) => (Err(error), ask(scene, zone).await),
            },
            Err(error) => (Err(error), ask(scene, zone).await),
        },
        Medium::Nvme(_) => {
            let start = scene.zones().offset_of(zone, Blocks::ZERO);
            let (done, _) = scene.desk.command(Zoned::Manage(op), start, None).await;
            (done.map(|_| ()).map_err(command_failed), ask(scene, zone).await)
        }
        Medium::Memory(_) | Medium::Image(_) | Medium::File(_) | Medium::Planned(_) => {
            (Err(no_device()), Err(no_device()))
        }
    }
}

/// Asks a device how a zone stands.
pub(super) async fn ask(scene: &Scene, zone: ZoneIndex) -> Result<Standing> {
    let asked = match &scene.drive.medium {
        Medium::Block(block) => scene.desk.answer(block.ask(zone)?).await?,
        Medium::Nvme(nvme) => {
            let some = report(scene, nvme, zone, ONE_ZONE_BYTES).await;
            some.and_then(|some| some.into_iter().next().ok_or_else(no_device))
        }
        Medium::Memory(_) | Medium::Image(_) | Medium::File(_) | Medium::Planned(_) => {
            Err(no_device())
        }
    };
    told(scene, asked)
}

/// What a device has told of a zone; of one that is gone nothing more comes, of any zone.
fn told(scene: &Scene, standing: Result<Standing>) -> Result<Standing> {
    if standing.as_ref().is_err_and(is_gone) {
        scene.zones().latch(GONE);
        return Err(scene.zones().latched_error());
    }
    standing
}

/// Whether an error says that there is no device any more.
fn is_gone(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    let errno = source.and_then(io::Error::raw_os_error);
    error.kind() == ErrorKind::NotFound || matches!(errno, Some(libc::ENODEV | libc::ENXIO))
}

/// How zones stand from `first` on, at least one and as many as a report of so many bytes has.
async fn report(
    scene: &Scene,
    nvme: &Nvme,
    first: ZoneIndex,
    bytes: usize,
) -> Result<Vec<Standing>> {
    let start = scene.zones().offset_of(first, Blocks::ZERO);
    let buffer = Some(Buffer::unpooled(bytes));
    let (asked, report) = scene.desk.command(Zoned::Report, start, buffer).await;
    asked.map_err(command_failed)?;
    nvme.standings(report.as_deref().unwrap_or_default(), first)
}

fn no_device() -> Error {
    Error::new(ErrorKind::Unsupported, "no device is below")
}

fn command_failed(error: io::Error) -> Error {
    let text = node_text(&error).unwrap_or_else(|| error.to_string());
    Error::new(write_kind(&error), text).with_source(error)
}

/// Resets all sequential zones that can be reset.
pub(super) async fn reset_all(scene: Scene) -> Result<()> {
    if let Medium::Nvme(nvme) = &scene.drive.medium
        && reset_at_once(&scene, nvme).await?
    {
        return Ok(());
    }
    for zone in (0..scene.zones().geometry.zones()).map(ZoneIndex) {
        match scene.zones().cells().load(zone).state() {
            ZoneState::NotWp | ZoneState::ReadOnly | ZoneState::Offline => {}
            ZoneState::Empty
            | ZoneState::ImplicitlyOpen
            | ZoneState::ExplicitlyOpen
            | ZoneState::Closed
            | ZoneState::Full => operate(scene.clone(), zone, ZoneOp::Reset).await?,
        }
    }
    Ok(())
}

/// The same by one command, with nothing in flight in any zone: also a zone that is empty must take no
/// data while it is on its way. What came of it the device says. False: nothing is done yet, as the command
/// would reset zones too that are read-only by our word alone, so that their data can be saved.
async fn reset_at_once(scene: &Scene, nvme: &Nvme) -> Result<bool> {
    let zones = scene.zones();
    let all = || (0..zones.count()).map(ZoneIndex);
    let mut gates = Vec::with_capacity(zones.count() as usize);
    for zone in all() {
        let gate = GateLock::new(zones, zone).await;
        drained(&gate).await;
        gates.push(gate);
    }
    latched(zones)?;
    if zones.has_dead() {
        return Ok(false);
    }
    scene.begun.set(true);
    // Of a zone that there is nothing to reset in, none.
    let before: Vec<_> = all().map(|zone| zones.operate(zone, ZoneOp::Reset).ok()).collect();
    let (done, _) = scene.desk.command(Zoned::ResetAll, 0, None).await;
    let done = done.map(|_| ()).map_err(command_failed);
    let mut next = 0;
    while next < zones.count() {
        let some = match report(scene, nvme, ZoneIndex(next), nvme.report_bytes()).await {
            Ok(some) => some,
            Err(error) => {
                tracing::warn!(
                    "a report failed, zones from {next} on take no more writes: {error}"
                );
                for zone in all().skip(next as usize) {
                    let before = before[zone.index()];
                    if before.is_some() {
                        zones.is_unknown(zone, before.filter(|_| done.is_err()));
                    }
                }
                return done.and(Err(error));
            }
        };
        for (standing, zone) in some.into_iter().zip((next..).map(ZoneIndex)) {
            // The command leaves out zones that have died, and says nothing of them.
            let reset = done.is_ok() && standing.wp == Some(Blocks::ZERO);
            zones.take_over(zone, standing, before[zone.index()].filter(|_| !reset));
            next = zone.0 + 1;
        }
    }
    done.map(|()| true)
}

/// Sees to it that a zone can take data: its reset is durable, and it has a place for all of it.
pub(super) async fn make_ready(scene: &Scene, zone: ZoneIndex) -> Result<()> {
    settle_reset(scene, zone).await?;
    hold(scene, zone).await?;
    allocate(scene, zone).await
}

/// Opens a zone's file for writing where that is what opens the zone on its device, and closes others for it
/// where there may be no more.
async fn hold(scene: &Scene, zone: ZoneIndex) -> Result<()> {
    let Some(block) = scene.drive.block().filter(|block| block.holds_files()) else {
        return Ok(());
    };
    let zones = scene.zones();
    // Whoever waits for a gate below waits for the holder of one whose file is open, and that one, going on
    // from here at once, waits for none.
    while !block.is_held(zone) {
        zones.make_room_for(zone).map_err(Error::from)?;
        let_go_of_closed(scene, block, zone).await?;
        match scene.desk.answer(block.hold(zone)?).await? {
            Ok(()) => {}
            // Others hold some too: fewer are left than the limits say.
            Err(error) if error.kind() == ErrorKind::TooManyOpenZones => {
                if !zones.close_first_opened() {
                    return Err(error);
                }
            }
            Err(error) => return Err(found_dead(scene, block, zone).await.unwrap_or(error)),
        }
    }
    zones.admit(zone);
    Ok(())
}

/// The refusal of a zone that has died while its file was closed, which nobody hears of before it cannot be
/// opened. Nothing is in flight there.
async fn found_dead(scene: &Scene, block: &Block, zone: ZoneIndex) -> Option<Error> {
    let answer = block.ask_unopened(zone).ok()?;
    let standing = scene.desk.answer(answer).await.ok()?.ok()?;
    let refusal = match standing.state {
        ZoneState::ReadOnly => Refusal::ReadOnly,
        ZoneState::Offline => Refusal::Offline,
        ZoneState::NotWp
        | ZoneState::Empty
        | ZoneState::ImplicitlyOpen
        | ZoneState::ExplicitlyOpen
        | ZoneState::Closed
        | ZoneState::Full => return None,
    };
    scene.zones().take_over(zone, standing, None);
    Some(scene.drive.refused(zone, refusal))
}

/// Closes the files of zones that the rules have closed, or filled, since they were opened, as soon as
/// nothing is in flight there. Who is about to open such a zone holds its gate, and goes first.
async fn let_go_of_closed(scene: &Scene, block: &Block, but: ZoneIndex) -> Result<()> {
    let zones = scene.zones();
    let closed = |zone: &ZoneIndex| *zone != but && !zones.cells().load(*zone).state().is_open();
    for zone in block.held().into_iter().filter(closed) {
        let gate = GateLock::new(zones, zone).await;
        drained(&gate).await;
        if zones.may_let_go(zone) {
            scene.desk.answer(block.let_go(zone, Some(gate))?).await?;
        }
    }
    Ok(())
}

/// The image, and what gives clusters, if a zone is missing some.
fn lacking(scene: &Scene, zone: ZoneIndex) -> Option<(&Image, &Clusters)> {
    let image = scene.image()?;
    let clusters = image.clusters()?;
    scene.zones().is_withheld(zone).then_some((image, clusters))
}

/// Gives a zone the clusters it is missing.
async fn allocate(scene: &Scene, zone: ZoneIndex) -> Result<()> {
    let Some((image, clusters)) = lacking(scene, zone) else { return Ok(()) };
    let _turn = clusters.turn().await;
    let wp = scene.zones().cells().load(zone).wp();
    give(scene, image, clusters, zone, wp).await
}

/// Gives a zone the clusters it is missing, with the turn to do so: counted first, then entered, each
/// durably. They read as zeros below `end`.
async fn give(
    scene: &Scene,
    image: &Image,
    clusters: &Clusters,
    zone: ZoneIndex,
    end: Blocks,
) -> Result<()> {
    let zones = scene.zones();
    if !zones.is_withheld(zone) {
        return Ok(());
    }
    latched(zones)?;
    let grants = image.grants(zone)?;
    for grant in &grants {
        zero_below(scene, image, zone, grant, end).await?;
        change_tables(scene, &grant.counts).await?;
        clusters.names(zone);
        change_tables(scene, &grant.entries).await?;
    }
    image.complete(zone, &grants);
    zones.admit(zone);
    Ok(())
}

/// Makes clusters read as zeros, durably, below a zone's block `end`, as the zone does where it has
/// none yet. What they were before is still in them: a table, or the data of another program.
async fn zero_below(
    scene: &Scene,
    image: &Image,
    zone: ZoneIndex,
    grant: &Grant,
    end: Blocks,
) -> Result<()> {
    let end = scene.zones().offset_of(zone, end);
    let (_, cluster) = image.layout();
    let mut any = false;
    for run in &grant.runs {
        let below = end.saturating_sub(run.guest * cluster).next_multiple_of(cluster);
        let length = below.min(run.clusters * cluster);
        if length > 0 {
            any = true;
            zero_piece(scene, run.host, length).await.map_err(allocation_failed)?;
        }
    }
    if any { sync_data(scene).await } else { Ok(()) }
}

fn allocation_failed(error: io::Error) -> Error {
    let text = format!("its clusters cannot be allocated: {}", super::io_text(&error));
    Error::new(super::io_kind(&error), text).with_source(error)
}

/// Changes pages of refcount blocks or L2 tables, durably, so many at a time.
async fn change_tables(scene: &Scene, spans: &[Span]) -> Result<()> {
    for spans in spans.chunks(SPANS_AT_ONCE) {
        change_spans(scene, spans).await.map_err(allocation_failed)?;
    }
    Ok(())
}

async fn change_spans(scene: &Scene, spans: &[Span]) -> io::Result<()> {
    let reads: Vec<_> = spans
        .iter()
        .map(|span| {
            let buffer = Buffer::unpooled(span.length);
            scene.desk.io(IoKind::Read, span.offset, span.length as u64, Some(buffer))
        })
        .collect();
    let mut batch = Vec::with_capacity(spans.len());
    for (read, span) in reads.into_iter().zip(spans) {
        let (read, buffer) = read.await;
        let Some(mut buffer) = buffer else { return Err(io::ErrorKind::Other.into()) };
        if (read? as usize) < span.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        span.apply(&mut buffer);
        batch.push((span.offset, buffer));
    }
    write_all_durably(scene, batch).await
}

/// Sees to it that a zone's reset is durable before the zone takes data again.
async fn settle_reset(scene: &Scene, zone: ZoneIndex) -> Result<()> {
    if !scene.zones().is_reset_pending(zone) {
        return Ok(());
    }
    if is_broken(Rule::PunchAfterEntry) {
        punch(scene, zone).await;
    }
    persist(scene).await?;
    latched(scene.zones())?;
    punch(scene, zone).await;
    Ok(())
}

/// Gives the space of a zone that was reset back to the file system, if that is to be done. Where
/// it cannot be done the space stays taken; what is in it is above the write pointer, where nobody
/// reads.
async fn punch(scene: &Scene, zone: ZoneIndex) {
    let (zones, Some(image)) = (scene.zones(), scene.image()) else { return };
    if !poll_fn(|cx| zones.begin_punch(zone, cx.waker())).await {
        return;
    }
    let mut punch = Punch { zones, zone, done: false };
    let length = u64::from(zones.capacity(zone).0) * zones.block_size();
    for piece in image.mapping().pieces(zones.offset_of(zone, 0.into()), length) {
        let Some(host) = piece.host else { continue };
        if let (Err(error), _) = scene.desk.io(IoKind::Zero, host, piece.length, None).await {
            tracing::debug!("zone {zone}: its space cannot be given back: {error}");
        }
    }
    punch.done = true;
}

/// The punching of a zone; over when dropped.
struct Punch<'a> {
    zones: &'a Zones,
    zone: ZoneIndex,
    done: bool,
}

impl Drop for Punch<'_> {
    fn drop(&mut self) {
        self.zones.end_punch(self.zone, self.done);
    }
}

/// Makes everything acknowledged before it durable; shared by all who wait at the same time.
pub(super) async fn flush(scene: Scene) -> Result<()> {
    let zones = scene.zones();
    if !scene.drive.has_engine() {
        return Ok(());
    }
    match role(zones, Join::Flush).await {
        Role::Done => latched(zones),
        Role::Lead => {
            let mut lead = Lead { zones, join: Join::Flush, covered: None };
            lead.covered = Some(flush_round(&scene).await?);
            Ok(())
        }
    }
}

/// One round for all who joined; returns the last ticket it covers. A failed sync is no reason
/// to try again: what it left on the disk is unknown, so the drive takes no more writes.
async fn flush_round(scene: &Scene) -> Result<u64> {
    let zones = scene.zones();
    // Those that were submitted together with this one join before it begins.
    others_first().await;
    latched(zones)?;
    let mut covered = zones.note();
    wait_drained(zones).await;
    if zones.has_joined_since(covered) {
        covered = zones.note();
        wait_drained(zones).await;
    }
    latched(zones)?;
    scene.begun.set(true);
    Counts::add(&zones.counts.flush_rounds);
    if is_broken(Rule::DataBeforePointer) {
        zones.prove();
        persist(scene).await?;
    }
    if !is_broken(Rule::DataSynced) {
        sync_data(scene).await.inspect_err(|_| zones.forget_notes())?;
    }
    if !is_broken(Rule::DataBeforePointer) {
        zones.prove();
        persist(scene).await?;
    }
    Ok(covered)
}

/// Lets everything else that this queue has to start go first.
pub(super) async fn others_first() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn wait_drained(zones: &Zones) {
    poll_fn(|cx| if zones.has_drained(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }).await;
}

async fn sync_data(scene: &Scene) -> Result<()> {
    Counts::add(&scene.zones().counts.data_syncs);
    let mut result = scene.desk.io(IoKind::SyncData, 0, 0, None).await.0;
    while let (Err(error), Some(block)) = (&result, scene.drive.block())
        && block.syncs_by_another(error)
    {
        result = scene.desk.io(IoKind::SyncData, 0, 0, None).await.0;
    }
    result.map(|_| ()).map_err(|error| {
        scene.zones().latch(&blamed("a data sync failed", &error));
        scene.zones().latched_error().with_source(error)
    })
}

/// Writes the table pages whose shadow has changed, durably; shared likewise.
async fn persist(scene: &Scene) -> Result<()> {
    let zones = scene.zones();
    match role(zones, Join::Persist).await {
        Role::Done => latched(zones),
        Role::Lead => {
            let mut lead = Lead { zones, join: Join::Persist, covered: None };
            latched(zones)?;
            let pages = zones.build_pages();
            // A file has no table: where it ends is the write pointer.
            if let Some(image) = scene.image() {
                write_pages(scene, image, &pages).await?;
            }
            zones.persisted(&pages);
            lead.covered = Some(pages.covered);
            Ok(())
        }
    }
}

/// What failed, and that a fault plan did it, if so.
fn blamed(what: &str, error: &io::Error) -> String {
    if is_injected(error) { format!("{what}: {error}") } else { what.to_owned() }
}

async fn write_pages(scene: &Scene, image: &Image, pages: &Pages) -> Result<()> {
    let zones = scene.zones();
    Counts::add(&zones.counts.table_writes);
    let batches = image.page_writes(zones, pages).map_err(|error| {
        zones.latch("the session record cannot be written");
        zones.latched_error().with_source(error)
    })?;
    for batch in batches {
        // Another's sync may have failed while the one before was written.
        latched(zones)?;
        write_all_durably(scene, batch).await.map_err(|error| {
            zones.latch(&blamed("a write of the zone table failed", &error));
            zones.latched_error().with_source(error)
        })?;
    }
    Ok(())
}

/// Starts all writes of a batch, then waits for all.
async fn write_all_durably(scene: &Scene, batch: Vec<(u64, Buffer)>) -> io::Result<()> {
    let writes: Vec<_> = batch
        .into_iter()
        .map(|(offset, buffer)| {
            let length = buffer.len();
            let io = scene.desk.io(IoKind::WriteDurable, offset, length as u64, Some(buffer));
            (io, length)
        })
        .collect();
    let mut result = Ok(());
    for (write, length) in writes {
        let whole = match write.await.0 {
            Ok(written) if written as usize == length => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => Err(error),
        };
        result = result.and(whole);
    }
    result
}

/// Zeroes a settling zone's dead ranges, durably, cuts its file, and settles it.
pub(super) async fn settle(scene: Scene, settling: Settling) {
    scene.begun.set(true);
    let zone = settling.zone;
    let (dead, wp) = (settling.dead.clone(), settling.wp());
    let mut settler = Settler { zones: scene.zones(), settling: Some(settling), zeroed: false };
    if scene.drive.is_device() {
        return settle_as_reported(&scene, zone, settler).await;
    }
    let mut zeroed = Ok(());
    for &extent in dead.iter().filter(|_| !is_broken(Rule::DeadRangesZeroed)) {
        zeroed = match zeroed {
            Ok(()) => zero(&scene, zone, extent).await,
            failed @ Err(_) => failed,
        };
    }
    if zeroed.is_ok() && !dead.is_empty() {
        zeroed = sync_data(&scene).await;
    }
    let zeroed = zeroed.and_then(|()| scene.drive.cut(zone, wp));
    if let Err(error) = &zeroed {
        tracing::warn!("zone {zone}: a failed range cannot be zeroed, read-only now: {error}");
        // That they must not be read has to be durable before anybody hears of the outcome.
        scene.zones().hide(zone, &dead);
        if let Err(error) = persist(&scene).await {
            tracing::warn!("zone {zone}: that it is read-only is not durable: {error}");
        }
    }
    settler.zeroed = zeroed.is_ok();
}

/// Settles a device's zone by what the device says of it. A zone of which it says nothing takes no
/// more writes.
async fn settle_as_reported(scene: &Scene, zone: ZoneIndex, mut settler: Settler<'_>) {
    match ask(scene, zone).await {
        Ok(standing) => {
            if let Some(settling) = settler.settling.take() {
                settler.zones.settled_as_reported(settling, standing);
            }
        }
        Err(error) => {
            tracing::warn!("zone {zone}: its report failed, it takes no more writes: {error}");
        }
    }
}

/// Settles a zone when dropped, so that it is settled even if the task is given up: its queue's
/// ring failed.
struct Settler<'a> {
    zones: &'a Zones,
    settling: Option<Settling>,
    zeroed: bool,
}

impl Drop for Settler<'_> {
    fn drop(&mut self) {
        if let Some(settling) = self.settling.take() {
            self.zones.settled(settling, self.zeroed);
        }
    }
}

/// Zeroes a zone from its write pointer to its capacity.
async fn zero_rest(scene: &Scene, zone: ZoneIndex) -> Result<()> {
    let word = scene.zones().cells().load(zone);
    if word.state() == ZoneState::Full || is_broken(Rule::FinishZeroes) {
        return Ok(());
    }
    latched(scene.zones())?;
    zero(scene, zone, Extent { start: word.wp(), end: scene.zones().capacity(zone) }).await
}

/// Makes a range read as zeros: punched where the disk can, else written.
async fn zero(scene: &Scene, zone: ZoneIndex, extent: Extent) -> Result<()> {
    let zones = scene.zones();
    let offset = zones.offset_of(zone, extent.start);
    let length = u64::from(extent.length().0) * zones.block_size();
    if length == 0 {
        return Ok(());
    }
    let Some(mapping) = scene.drive.mapping() else {
        scene.drive.zero_memory(offset, length);
        return Ok(());
    };
    for piece in mapping.pieces(offset, length) {
        // What is nowhere reads as zeros.
        let Some(host) = piece.host else { continue };
        zero_piece(scene, host, piece.length).await.map_err(|error| {
            Error::new(super::io_kind(&error), "zeroing").at(offset, length).with_source(error)
        })?;
    }
    Ok(())
}

async fn zero_piece(scene: &Scene, host: u64, length: u64) -> io::Result<()> {
    match scene.desk.io(IoKind::Zero, host, length, None).await.0 {
        Ok(_) => Ok(()),
        Err(error) if is_unsupported(&error) => write_zeros(scene, host, length).await,
        Err(error) => Err(error),
    }
}

async fn write_zeros(scene: &Scene, host: u64, length: u64) -> io::Result<()> {
    let end = host + length;
    let mut at = host;
    #[allow(clippy::cast_possible_truncation)] // at most ZERO_PIECE
    let mut buffer = Buffer::unpooled(ZERO_PIECE.min(length) as usize);
    buffer.fill(0);
    while at < end {
        let piece = (end - at).min(ZERO_PIECE);
        let (result, back) = scene.desk.io(IoKind::Write, at, piece, Some(buffer)).await;
        let written = u64::from(result?);
        if written < 512 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        at += written - written % 512;
        let Some(back) = back else { return Err(io::ErrorKind::Other.into()) };
        buffer = back;
    }
    Ok(())
}

/// Whether a range that was to be zeroed has to be written instead.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    [libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL].map(Some).contains(&errno(error))
}

async fn role(zones: &Zones, join: Join) -> Role {
    let ticket = zones.join(join);
    poll_fn(|cx| zones.role(join, ticket, cx.waker())).await
}

fn latched(zones: &Zones) -> Result<()> {
    if zones.is_latched() { Err(zones.latched_error()) } else { Ok(()) }
}

/// The lead of a group; given up when dropped. Without `covered` others lead in its place; they
/// find out for themselves what stood in the way.
struct Lead<'a> {
    zones: &'a Zones,
    join: Join,
    covered: Option<u64>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if self.join == Join::Flush && self.covered.is_none() {
            self.zones.forget_notes();
        }
        self.zones.led(self.join, self.covered);
    }
}

/// The error of an operation on a zone, with its place.
pub(super) fn in_zone(zones: &Zones, zone: ZoneIndex, op: ZoneOp, error: Error) -> Error {
    let offset = zones.offset_of(zone, 0.into());
    error.during(op.as_str()).in_zone(zone.0).at(offset, 0)
}

/// The error of a request that waited too long.
pub(crate) fn stalled(waits_for: &str) -> Error {
    let text = format!("waited past its deadline for {waits_for}");
    Error::new(ErrorKind::Stalled, text)
}
