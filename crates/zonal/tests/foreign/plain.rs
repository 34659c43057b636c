//! Plain qcow2 images made byte by byte, where QEMU's tools are not: for the simulated disk and for
//! fuzzing. Clusters of data lie in the file in the order they are named.

use zonal::sim::SimImage;

/// An image of a drive of `size` bytes in clusters of 2^`bits`, where each cluster of the drive in
/// `data` is there and full of its byte.
pub(crate) fn plain(bits: u32, size: u64, data: &[(u64, u8)]) -> SimImage {
    let cluster = 1_u64 << bits;
    let entries = cluster / 8;
    let l1_entries = size.div_ceil(cluster).div_ceil(entries);
    let mut tables: Vec<u64> = data.iter().map(|(guest, _)| guest / entries).collect();
    tables.sort_unstable();
    tables.dedup();
    // Header, refcount table, refcount blocks (with room to spare), L1, L2 tables, data.
    let blocks = 1 + (l1_entries + data.len() as u64 * 2 + 64) / (cluster / 2);
    let table_clusters = (blocks * 8).div_ceil(cluster);
    let l1 = 1 + table_clusters + blocks;
    let l2 = l1 + (l1_entries * 8).div_ceil(cluster);
    let first = l2 + tables.len() as u64;
    let clusters = first + data.len() as u64;

    let mut image = SimImage::new(clusters * cluster, 512);
    let mut put = |at: u64, value: u64| image.write(at, &value.to_be_bytes());
    put(0, 0x5146_49fb_0000_0003);
    put(16, u64::from(bits));
    put(24, size);
    put(32, l1_entries);
    put(40, l1 * cluster);
    put(48, cluster);
    put(56, table_clusters << 32);
    put(96, 4 << 32 | 104);
    for block in 0..blocks {
        put(cluster + block * 8, (1 + table_clusters + block) * cluster);
    }
    let copied = 1 << 63;
    for (n, table) in (0..).zip(&tables) {
        put(l1 * cluster + table * 8, ((l2 + n) * cluster) | copied);
    }
    for (n, (guest, _)) in (0..).zip(data) {
        let table = tables.binary_search(&(guest / entries)).expect("it was listed") as u64;
        put((l2 + table) * cluster + guest % entries * 8, ((first + n) * cluster) | copied);
    }
    for counted in 0..clusters {
        image.write((1 + table_clusters) * cluster + counted * 2, &[0, 1]);
    }
    for (n, (_, byte)) in (0..).zip(data) {
        image.write((first + n) * cluster, &vec![*byte; 1 << bits]);
    }
    image
}
