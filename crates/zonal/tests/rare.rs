//! What happens rarely on an image: space that cannot be given back.

#![allow(clippy::unwrap_used, reason = "a failed test")]

use zonal::sim::{self, FaultPlan, SimDisk, SimImage, SimMode};
use zonal::{Buffer, Completion, Geometry, OpenOptions, Queue, QueueOptions, Request};

const ZONE: u64 = 64 << 10;

fn geometry(zones: u64) -> Geometry {
    Geometry {
        zone_size: ZONE,
        zone_capacity: ZONE,
        max_append: 64 << 10,
        ..Geometry::with_size(zones * ZONE)
    }
}

/// An empty drive's image, and where its data begins.
fn image(geometry: &Geometry) -> (SimImage, u64) {
    let auto = SimMode::Auto { seed: 1, faults: FaultPlan::default() };
    let disk = SimDisk::new(&SimImage::new(0, 4096), auto);
    sim::create(&disk, geometry).unwrap();
    let image = disk.image();
    let data = image.len() - geometry.size.next_multiple_of(2 << 20);
    (image, data)
}

fn run(queue: &mut Queue, request: Request) -> Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

#[test]
fn space_that_cannot_be_given_back_does_not_stop_the_zone() {
    let geometry = geometry(2);
    let (image, data) = image(&geometry);
    // Punching the first zone meets its last block; the writes below do not.
    let bad = data + ZONE - 4096..data + ZONE;
    let faults = FaultPlan { bad_range: Some(bad), ..FaultPlan::default() };
    let disk = SimDisk::new(&image, SimMode::Auto { seed: 1, faults });
    let options = OpenOptions { discard: true, ..OpenOptions::default() };
    let drive = sim::open(&disk, &options).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    for _ in 0..2 {
        let append = Request::append(0, Buffer::from_slice(&[7; 4096]));
        assert_eq!(run(&mut queue, append).result.unwrap(), 4096);
        run(&mut queue, Request::flush()).result.unwrap();
        run(&mut queue, Request::reset(0)).result.unwrap();
    }
}
