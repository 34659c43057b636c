//! What a controller and a namespace say of themselves (*Identify command*), taken apart and checked.
//!
//! Every structure is of [`IDENTIFY_BYTES`], little-endian. Nothing is believed that the rules could
//! not work with, and nothing is allocated by what it says.
//!
//! Fields have the names of the figures in the sections on Identify of *NVM Command Set Specification* 1.0
//! (Identify Namespace), *NVMe Base Specification* 2.0 (Identify Controller) and *Zoned Namespace Command Set
//! Specification* 1.1 (I/O Command Set specific Identify Namespace and Identify Controller).

use zonal_core::error::{Error, ErrorKind, Result};

/// Bytes of every Identify data structure.
pub(crate) const IDENTIFY_BYTES: usize = 4096;

/// One of them.
pub(crate) type Page = [u8; IDENTIFY_BYTES];

/// The controller's memory page is of at least so many bytes (`CAP.MPSMIN` of 0). A program cannot ask
/// for it; with the least one no limit that counts in pages comes out too high.
const PAGE_SHIFT: u32 = 12;

/// Which structure is asked for (`CNS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Structure {
    /// Identify Namespace, of the NVM command set.
    Namespace,
    /// Identify Controller.
    Controller,
    /// I/O Command Set specific Identify Namespace, of zoned namespaces.
    ZonedNamespace,
    /// I/O Command Set specific Identify Controller, of zoned namespaces.
    ZonedController,
}

impl Structure {
    /// CNS, and the command set's identifier (CSI): 2 is that of zoned namespaces.
    pub(crate) fn codes(self) -> (u8, u8) {
        match self {
            Self::Namespace => (0x00, 0),
            Self::Controller => (0x01, 0),
            Self::ZonedNamespace => (0x05, 2),
            Self::ZonedController => (0x06, 2),
        }
    }
}

/// What a zoned namespace is like. Sizes in bytes; limits of 0 mean none, as in sysfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) block_size: u32,
    /// All of it.
    pub(crate) size: u64,
    pub(crate) zone_size: u64,
    pub(crate) max_open_zones: u32,
    pub(crate) max_active_zones: u32,
    /// The longest transfer, if there is a limit (MDTS).
    pub(crate) transfer: Option<u64>,
    /// The longest append, if it has one of its own (ZASL).
    pub(crate) append: Option<u64>,
}

/// Puts together what the four structures say.
///
/// # Errors
/// `Unsupported`, or `NotZoned` where there are no zones; what stands in the way.
pub(crate) fn identity(
    namespace: &Page,
    controller: &Page,
    zoned_namespace: &Page,
    zoned_controller: &Page,
) -> Result<Identity> {
    let format = format_in_use(namespace);
    let (block_size, metadata) = block_format(namespace, format);
    if metadata != 0 {
        let text = format!(
            "its blocks have {metadata} bytes of metadata each, for which zonal has no use; format it \
             without (nvme format --lbaf)"
        );
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let block_size = block_size.ok_or_else(|| strange("a block of no possible size"))?;
    let bytes = |blocks: u64, what: &str| {
        let bytes = blocks.checked_mul(u64::from(block_size));
        let bytes = bytes.filter(|&bytes| bytes <= i64::MAX as u64);
        bytes.ok_or_else(|| strange(&format!("{what} of {blocks} blocks")))
    };
    let zone_blocks = quad(zoned_namespace, LBAFE + 16 * format);
    if zone_blocks == 0 {
        let text = "its zones are of 0 blocks: the format it has is not zoned; format it so";
        return Err(Error::new(ErrorKind::NotZoned, text));
    }
    Ok(Identity {
        block_size,
        size: bytes(quad(namespace, NSZE), "a size")?,
        zone_size: bytes(zone_blocks, "zones")?,
        max_open_zones: limit(word(zoned_namespace, MOR)),
        max_active_zones: limit(word(zoned_namespace, MAR)),
        transfer: pages(controller[MDTS]),
        append: pages(zoned_controller[ZASL]),
    })
}

// Where fields lie, in bytes. Identify Namespace:
/// Namespace Size, in blocks.
const NSZE: usize = 0;
/// Formatted LBA Size: the format in use.
const FLBAS: usize = 26;
/// LBA Formats, of 4 bytes each: metadata (MS, 15:0), block (LBADS, a power of two, 23:16).
const LBAF: usize = 128;
// Identify Controller:
/// Maximum Data Transfer Size.
const MDTS: usize = 77;
// I/O Command Set specific Identify Controller:
/// Zone Append Size Limit.
const ZASL: usize = 0;
// I/O Command Set specific Identify Namespace:
/// Maximum Active Resources.
const MAR: usize = 4;
/// Maximum Open Resources.
const MOR: usize = 8;
/// LBA Format Extensions, of 16 bytes each: zone size (ZSZE, in blocks, 63:0).
const LBAFE: usize = 2816;

/// Which of the 64 formats the namespace has: bits 3:0, and 6:5 above them.
fn format_in_use(namespace: &Page) -> usize {
    let flbas = usize::from(namespace[FLBAS]);
    flbas & 0xF | flbas >> 1 & 0x30
}

/// A format's bytes a block, where they can be, and of metadata.
fn block_format(namespace: &Page, format: usize) -> (Option<u32>, u16) {
    let at = LBAF + 4 * format;
    let metadata = u16::from_le_bytes([namespace[at], namespace[at + 1]]);
    let shift = u32::from(namespace[at + 2]);
    ((9..=16).contains(&shift).then(|| 1 << shift), metadata)
}

/// A power of two of the controller's pages; none where it says 0, or more than anybody asks for.
fn pages(power: u8) -> Option<u64> {
    1_u64.checked_shl(u32::from(power) + PAGE_SHIFT).filter(|_| power != 0)
}

/// A limit as NVMe counts it: from 0, and all ones for none.
fn limit(resources: u32) -> u32 {
    resources.wrapping_add(1)
}

fn word(page: &Page, at: usize) -> u32 {
    page[at..].first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn quad(page: &Page, at: usize) -> u64 {
    page[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn strange(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("its identify data have {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Pages([Page; 4]);

    impl Pages {
        /// 256 MiB in zones of 3 MiB, blocks of 4096 bytes in the third format.
        fn new() -> Self {
            let mut pages = [[0; IDENTIFY_BYTES]; 4];
            let [namespace, controller, zoned, zoned_controller] = &mut pages;
            namespace[NSZE..NSZE + 8].copy_from_slice(&65536_u64.to_le_bytes());
            namespace[FLBAS] = 2;
            namespace[LBAF + 8 + 2] = 12;
            zoned[LBAFE + 32..LBAFE + 40].copy_from_slice(&768_u64.to_le_bytes());
            zoned[MAR..MAR + 4].copy_from_slice(&5_u32.to_le_bytes());
            zoned[MOR..MOR + 4].copy_from_slice(&3_u32.to_le_bytes());
            (controller[MDTS], zoned_controller[ZASL]) = (7, 5);
            Self(pages)
        }

        fn identity(&self) -> Result<Identity> {
            let [namespace, controller, zoned, zoned_controller] = &self.0;
            identity(namespace, controller, zoned, zoned_controller)
        }
    }

    #[test]
    fn a_namespace_is_what_its_bytes_say() {
        let expected = Identity {
            block_size: 4096,
            size: 256 << 20,
            zone_size: 3 << 20,
            max_open_zones: 4,
            max_active_zones: 6,
            transfer: Some(512 << 10),
            append: Some(128 << 10),
        };
        assert_eq!(Pages::new().identity().unwrap(), expected);
    }

    #[test]
    fn what_has_no_limit_says_so_in_its_own_way() {
        let mut pages = Pages::new();
        pages.0[2][MAR..MOR + 4].fill(0xFF);
        (pages.0[1][MDTS], pages.0[3][ZASL]) = (0, 0);
        let identity = pages.identity().unwrap();
        assert_eq!((identity.max_open_zones, identity.max_active_zones), (0, 0));
        assert_eq!((identity.transfer, identity.append), (None, None));
    }

    #[test]
    fn formats_above_the_sixteenth_have_two_more_bits() {
        let mut pages = Pages::new();
        pages.0[0][FLBAS] = 0b0010_0001;
        pages.0[0][LBAF + 4 * 17 + 2] = 9;
        pages.0[2][LBAFE + 16 * 17..][..8].copy_from_slice(&64_u64.to_le_bytes());
        let identity = pages.identity().unwrap();
        assert_eq!((identity.block_size, identity.zone_size), (512, 32 << 10));
    }

    #[test]
    fn what_the_rules_cannot_work_with_is_refused_by_name() {
        let refused = |change: fn(&mut [Page; 4])| {
            let mut pages = Pages::new();
            change(&mut pages.0);
            let error = pages.identity().unwrap_err();
            (error.kind(), error.to_string())
        };
        let (kind, text) = refused(|pages| pages[0][LBAF + 8] = 8);
        assert!(kind == ErrorKind::Unsupported && text.contains("8 bytes of metadata"), "{text}");
        let (kind, text) = refused(|pages| pages[0][LBAF + 8 + 2] = 40);
        assert!(kind == ErrorKind::Unsupported && text.contains("a block of no"), "{text}");
        let (kind, text) = refused(|pages| pages[0][..8].fill(0xFF));
        assert!(kind == ErrorKind::Unsupported && text.contains("a size of"), "{text}");
        let (kind, text) = refused(|pages| pages[2][LBAFE + 32..LBAFE + 40].fill(0));
        assert!(kind == ErrorKind::NotZoned && text.contains("not zoned"), "{text}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 4 * 64),
            at in prop::collection::vec(0..IDENTIFY_BYTES - 64, 4),
            flbas: u8,
        ) {
            let mut pages = Pages::new();
            for ((page, bytes), at) in pages.0.iter_mut().zip(bytes.chunks(64)).zip(at) {
                page[at..at + 64].copy_from_slice(bytes);
            }
            pages.0[0][FLBAS] = flbas;
            if let Ok(identity) = pages.identity() {
                prop_assert!(identity.zone_size > 0 && identity.size <= i64::MAX as u64);
            }
        }
    }
}
