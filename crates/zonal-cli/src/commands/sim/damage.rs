//! Damage to an image's metadata of the kinds that a repair mends without a loss.

use zonal::sim::SimImage;

use super::random::Random;

const COPIED: u64 = 1 << 63;

fn number(image: &SimImage, at: u64) -> u64 {
    let mut bytes = [0; 8];
    image.read(at, &mut bytes);
    u64::from_be_bytes(bytes)
}

/// Damages the image; what it did.
pub(super) fn damage(image: &mut SimImage, random: &mut Random) -> &'static str {
    // The header's fields, as the qcow2 specification has them.
    let cluster = 1_u64 << (number(image, 16) & 0xffff_ffff);
    let (l1, refcount_table) = (number(image, 40), number(image, 48));
    let block = number(image, refcount_table);
    let l1_entries = number(image, 32) & 0xffff_ffff;
    let flagged = |image: &SimImage, from: u64, entries: u64| -> Vec<(u64, u64)> {
        let entries = (0..entries).map(|n| (from + 8 * n, number(image, from + 8 * n)));
        entries.filter(|(_, entry)| entry & COPIED != 0).collect()
    };
    match random.below(5) {
        0 | 1 => {
            // A table is large and most of it is empty.
            let tables = flagged(image, l1, l1_entries.min(64));
            let entries: Vec<_> = tables
                .iter()
                .flat_map(|(_, table)| flagged(image, table & !COPIED, (cluster / 8).min(64)))
                .collect();
            if entries.is_empty() {
                return "nothing";
            }
            let (place, entry) = random.of(&entries);
            image.write(place, &(entry & !COPIED).to_be_bytes());
            "an L2 entry without its flag"
        }
        2 => {
            let tables = flagged(image, l1, l1_entries.min(64));
            if tables.is_empty() {
                return "nothing";
            }
            let (place, entry) = random.of(&tables);
            image.write(place, &(entry & !COPIED).to_be_bytes());
            "an L1 entry without its flag"
        }
        3 => {
            let counted = random.next() % 8;
            image.write(block + 2 * counted, &[0, random.of(&[0, 2])]);
            "a wrong count"
        }
        _ => {
            image.write(79, &[number(image, 72).to_be_bytes()[7] | 1]);
            "the dirty mark"
        }
    }
}
