//! The names of a mounted drive: `cnv/` and `seq/`, of each only if there are such zones, and in them a
//! file for each zone, numbered from 0 in the order of the zones. With aggregated conventional zones
//! `cnv/0` is all of them (Linux, `Documentation/filesystems/zonefs.rst`).
//!
//! Invariant: an inode's number says what it is. Nothing is ever created, removed or renamed, so names and
//! inodes are computed, not kept.

use fuser::INodeNo;
use zonal::{Geometry, ZoneKind};

const CONVENTIONAL: INodeNo = INodeNo(2);
const SEQUENTIAL: INodeNo = INodeNo(3);
/// The inode of zone 0's file.
const FILES: u64 = 4;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Root,
    Folder(ZoneKind),
    File(File),
}

/// A file: a zone, or a run of conventional ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) kind: ZoneKind,
    /// Its first zone.
    pub(super) zone: u32,
    /// Its first byte on the drive.
    pub(super) start: u64,
    /// The most that it can hold, in bytes.
    pub(super) capacity: u64,
}

impl File {
    pub(super) fn inode(&self) -> INodeNo {
        INodeNo(FILES + u64::from(self.zone))
    }
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) inode: INodeNo,
    pub(super) is_folder: bool,
    pub(super) name: String,
}

/// The names, and what they stand for.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    geometry: Geometry,
    /// Whether the conventional zones are one file.
    aggregated: bool,
}

impl Tree {
    pub(super) fn new(geometry: &Geometry, aggregated: bool) -> Self {
        Self { geometry: geometry.clone(), aggregated }
    }

    /// How many files a folder has.
    pub(super) fn files(&self, kind: ZoneKind) -> u32 {
        match kind {
            ZoneKind::Sequential => self.geometry.sequential_zones(),
            ZoneKind::Conventional if self.aggregated => self.geometry.conventional_zones.min(1),
            ZoneKind::Conventional => self.geometry.conventional_zones,
        }
    }

    /// The folders there are.
    pub(super) fn folders(&self) -> impl Iterator<Item = (INodeNo, ZoneKind, &'static str)> + '_ {
        [(CONVENTIONAL, ZoneKind::Conventional, "cnv"), (SEQUENTIAL, ZoneKind::Sequential, "seq")]
            .into_iter()
            .filter(|(_, kind, _)| self.files(*kind) > 0)
    }

    /// The `n`th file of a folder.
    pub(super) fn file(&self, kind: ZoneKind, n: u32) -> Option<File> {
        if n >= self.files(kind) {
            return None;
        }
        let conventional = self.geometry.conventional_zones;
        let (zone, zones) = match kind {
            ZoneKind::Sequential => (conventional + n, 1),
            ZoneKind::Conventional if self.aggregated => (0, conventional),
            ZoneKind::Conventional => (n, 1),
        };
        let capacity =
            (zone..zone + zones).map(|zone| self.geometry.capacity_of(index(zone))).sum();
        Some(File { kind, zone, start: self.geometry.start_of(index(zone)), capacity })
    }

    /// A sequential file's name, from the root on.
    pub(super) fn sequential_name(&self, file: &File) -> String {
        format!("seq/{}", file.zone.saturating_sub(self.geometry.conventional_zones))
    }

    /// What an inode is, if there is such a one.
    pub(super) fn node(&self, inode: INodeNo) -> Option<Node> {
        if inode == INodeNo::ROOT {
            return Some(Node::Root);
        }
        if let Some((_, kind, _)) = self.folders().find(|(folder, ..)| *folder == inode) {
            return Some(Node::Folder(kind));
        }
        let zone = u32::try_from(inode.0.checked_sub(FILES)?).ok()?;
        let conventional = self.geometry.conventional_zones;
        match zone.checked_sub(conventional) {
            Some(n) => self.file(ZoneKind::Sequential, n),
            None => self.file(ZoneKind::Conventional, zone),
        }
        .map(Node::File)
    }

    /// What a name in a folder stands for. A number is written in one way only: `7`, not `07`.
    pub(super) fn lookup(&self, parent: Node, name: &str) -> Option<(INodeNo, Node)> {
        match parent {
            Node::Root => {
                let (inode, kind, _) = self.folders().find(|(_, _, folder)| *folder == name)?;
                Some((inode, Node::Folder(kind)))
            }
            Node::Folder(kind) => {
                let n: u32 = name.parse().ok()?;
                let file = self.file(kind, n).filter(|_| n.to_string() == name)?;
                Some((file.inode(), Node::File(file)))
            }
            Node::File(_) => None,
        }
    }

    /// The `n`th entry of a folder, `.` and `..` not counted.
    pub(super) fn entry(&self, folder: Node, n: u64) -> Option<Entry> {
        match folder {
            Node::Root => {
                let (inode, _, name) = self.folders().nth(usize::try_from(n).ok()?)?;
                Some(Entry { inode, is_folder: true, name: name.to_owned() })
            }
            Node::Folder(kind) => {
                let file = self.file(kind, u32::try_from(n).ok()?)?;
                Some(Entry { inode: file.inode(), is_folder: false, name: n.to_string() })
            }
            Node::File(_) => None,
        }
    }

    /// All files.
    pub(super) fn all_files(&self) -> impl Iterator<Item = File> + '_ {
        [ZoneKind::Conventional, ZoneKind::Sequential]
            .into_iter()
            .flat_map(move |kind| (0..self.files(kind)).filter_map(move |n| self.file(kind, n)))
    }
}

fn index(zone: u32) -> zonal::ZoneIndex {
    zonal::ZoneIndex(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(conventional: u32, aggregated: bool) -> Tree {
        let geometry = Geometry {
            zone_size: 1 << 20,
            zone_capacity: 768 << 10,
            conventional_zones: conventional,
            ..Geometry::with_size(8 << 20)
        };
        Tree::new(&geometry, aggregated)
    }

    fn named(tree: &Tree, folder: &str, name: &str) -> Option<Node> {
        let (_, folder) = tree.lookup(Node::Root, folder)?;
        let (inode, node) = tree.lookup(folder, name)?;
        assert_eq!(tree.node(inode), Some(node), "an inode is what its name was");
        Some(node)
    }

    #[test]
    fn files_are_numbered_within_their_folder() {
        let tree = tree(3, false);
        let Some(Node::File(file)) = named(&tree, "seq", "0") else { panic!("there is no seq/0") };
        assert_eq!((file.zone, file.start, file.capacity), (3, 3 << 20, 768 << 10));
        let Some(Node::File(file)) = named(&tree, "cnv", "2") else { panic!("there is no cnv/2") };
        assert_eq!((file.zone, file.start, file.capacity), (2, 2 << 20, 1 << 20));
        assert_eq!(named(&tree, "seq", "5"), None);
        assert_eq!(named(&tree, "cnv", "3"), None);
    }

    #[test]
    fn aggregated_conventional_zones_are_one_file() {
        let tree = tree(3, true);
        let Some(Node::File(file)) = named(&tree, "cnv", "0") else { panic!("there is no cnv/0") };
        assert_eq!((file.zone, file.start, file.capacity), (0, 0, 3 << 20));
        assert_eq!(named(&tree, "cnv", "1"), None);
        assert_eq!(tree.node(INodeNo(FILES + 1)), None, "no file of its own");
    }

    #[test]
    fn a_folder_without_files_is_not_there() {
        assert_eq!(tree(0, false).lookup(Node::Root, "cnv"), None);
        assert_eq!(tree(8, false).lookup(Node::Root, "seq"), None);
        assert_eq!(tree(0, false).entry(Node::Root, 0).map(|entry| entry.name), Some("seq".into()));
    }

    #[test]
    fn nothing_else_has_a_name() {
        let tree = tree(1, false);
        for name in ["", "00", "+1", "-1", "1 ", "..", "4294967296", "seq"] {
            assert_eq!(named(&tree, "seq", name), None, "{name}");
        }
        for inode in [0, FILES + 8, u64::MAX] {
            assert_eq!(tree.node(INodeNo(inode)), None, "{inode}");
        }
    }
}
