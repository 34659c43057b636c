//! The commands that a zoned namespace is sent, as words.
//!
//! Fields have the names and places of the specifications' sections, by their titles: *NVMe Base Specification*
//! 2.0 (Flush command, Identify command), *NVM Command Set Specification* 1.0 (Write command, Read command), and
//! *Zoned Namespace Command Set Specification* 1.1 (Zone Append command, Zone Management Send command, Zone
//! Management Receive command). What begins at a block has it in CDW10 and CDW11 (SLBA, ZSLBA), and how many it
//! moves in bits 15:0 of CDW12 (NLB, counted from 0).

use super::identify::Structure;
use crate::sys::nvme::Command;
use zonal_core::zone::ZoneOp;

// Opcodes.
const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const ZONE_MANAGEMENT_SEND: u8 = 0x79;
const ZONE_MANAGEMENT_RECEIVE: u8 = 0x7A;
const ZONE_APPEND: u8 = 0x7D;
/// An admin command's.
const IDENTIFY: u8 = 0x06;

/// Force Unit Access (CDW12 of Write and Zone Append): durable on completion.
const FUA: u32 = 1 << 30;

/// Select All (CDW13 of Zone Management Send): it is done to all zones whose state allows it.
const SELECT_ALL: u32 = 1 << 8;

/// Partial Report (CDW13 of Zone Management Receive): no more zones are counted than are told of. Below it are 0:
/// *Report Zones*, of zones in all states.
const PARTIAL: u32 = 1 << 16;

/// Where the command set's identifier is (CSI, CDW11 of Identify).
const CSI_SHIFT: u32 = 24;

/// A namespace as commands name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) nsid: u32,
    /// The power of two of its block.
    pub(crate) block_shift: u32,
}

impl Namespace {
    /// Where on the drive the block is that a completion names, in bytes; one that is nowhere is at the
    /// end of all drives.
    pub(crate) fn offset(self, block: u64) -> u64 {
        block.saturating_mul(1 << self.block_shift)
    }

    /// A command that begins at byte `offset`, and moves `bytes` of blocks, if any.
    fn at(self, opcode: u8, offset: u64, bytes: usize, flags: u32) -> Command {
        let block = offset >> self.block_shift;
        // Counted from 0.
        let blocks = (bytes as u64 >> self.block_shift).saturating_sub(1);
        Command {
            opcode,
            nsid: self.nsid,
            cdw10: low(block),
            cdw11: low(block >> 32),
            cdw12: low(blocks) & 0xFFFF | flags,
            ..Command::default()
        }
    }

    /// *Flush*.
    pub(crate) fn flush(self) -> Command {
        Command { opcode: FLUSH, nsid: self.nsid, ..Command::default() }
    }

    /// *Write*.
    pub(crate) fn write(self, offset: u64, bytes: usize, durable: bool) -> Command {
        self.at(WRITE, offset, bytes, if durable { FUA } else { 0 })
    }

    /// *Read*.
    pub(crate) fn read(self, offset: u64, bytes: usize) -> Command {
        self.at(READ, offset, bytes, 0)
    }

    /// *Zone Append*, to the zone that starts at `zone`.
    pub(crate) fn append(self, zone: u64, bytes: usize, durable: bool) -> Command {
        self.at(ZONE_APPEND, zone, bytes, if durable { FUA } else { 0 })
    }

    /// *Zone Management Send*, to the zone that starts at `zone`.
    pub(crate) fn manage(self, zone: u64, op: ZoneOp) -> Command {
        // ZSA
        let action = match op {
            ZoneOp::Close => 0x01,
            ZoneOp::Finish => 0x02,
            ZoneOp::Open => 0x03,
            ZoneOp::Reset => 0x04,
        };
        Command { cdw13: action, cdw12: 0, ..self.at(ZONE_MANAGEMENT_SEND, zone, 0, 0) }
    }

    /// *Zone Management Send*, a reset of all zones (Select All).
    pub(crate) fn reset_all(self) -> Command {
        let Command { cdw13, .. } = self.manage(0, ZoneOp::Reset);
        Command { cdw13: cdw13 | SELECT_ALL, ..self.manage(0, ZoneOp::Reset) }
    }

    /// *Zone Management Receive*, a report of the zones from byte `offset` on.
    pub(crate) fn report(self, offset: u64, bytes: usize) -> Command {
        // NUMD, counted from 0.
        let words = (bytes / 4).saturating_sub(1) as u64;
        let at = self.at(ZONE_MANAGEMENT_RECEIVE, offset, 0, 0);
        Command { cdw12: low(words), cdw13: PARTIAL, ..at }
    }

    /// *Identify*, an admin command.
    pub(crate) fn identify(self, structure: Structure) -> Command {
        let (structure_code, set) = structure.codes();
        let nsid = match structure {
            Structure::Namespace | Structure::ZonedNamespace => self.nsid,
            Structure::Controller | Structure::ZonedController => 0,
        };
        Command {
            opcode: IDENTIFY,
            nsid,
            cdw10: structure_code.into(),
            cdw11: u32::from(set) << CSI_SHIFT,
            ..Command::default()
        }
    }
}

/// The lower half.
#[allow(clippy::cast_possible_truncation, reason = "that is what is meant")]
fn low(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: Namespace = Namespace { nsid: 7, block_shift: 12 };

    fn words(command: Command) -> [u32; 5] {
        assert!(command.nsid == 7);
        let Command { opcode, cdw10, cdw11, cdw12, cdw13, .. } = command;
        [opcode.into(), cdw10, cdw11, cdw12, cdw13]
    }

    #[test]
    fn commands_are_those_of_the_specifications() {
        let far = 5 << 44; // block 5 << 32
        assert_eq!(words(NAMESPACE.append(far, 8192, false)), [0x7D, 0, 5, 1, 0]);
        assert_eq!(words(NAMESPACE.append(0, 4096, true)), [0x7D, 0, 0, 1 << 30, 0]);
        assert_eq!(words(NAMESPACE.write(4096, 256 << 12, true)), [1, 1, 0, 255 | 1 << 30, 0]);
        assert_eq!(words(NAMESPACE.read(8192, 65536 << 12)), [2, 2, 0, 65535, 0]);
        assert_eq!(words(NAMESPACE.flush()), [0; 5]);
        let sent = [ZoneOp::Close, ZoneOp::Finish, ZoneOp::Open, ZoneOp::Reset]
            .map(|op| words(NAMESPACE.manage(12288, op)));
        assert_eq!(sent, [1, 2, 3, 4].map(|action| [0x79, 3, 0, 0, action]));
        assert_eq!(words(NAMESPACE.reset_all()), [0x79, 0, 0, 0, 0x104]);
        assert_eq!(words(NAMESPACE.report(4096, 4096)), [0x7A, 1, 0, 1023, 1 << 16]);
    }

    #[test]
    fn a_structure_is_asked_of_whom_it_belongs_to() {
        let asked = |structure| {
            let Command { opcode, nsid, cdw10, cdw11, .. } = NAMESPACE.identify(structure);
            assert_eq!(opcode, 6);
            (nsid, cdw10, cdw11)
        };
        assert_eq!(asked(Structure::Namespace), (7, 0, 0));
        assert_eq!(asked(Structure::Controller), (0, 1, 0));
        assert_eq!(asked(Structure::ZonedNamespace), (7, 5, 2 << 24));
        assert_eq!(asked(Structure::ZonedController), (0, 6, 2 << 24));
    }

    #[test]
    fn a_block_that_is_nowhere_is_past_every_drive() {
        assert_eq!(NAMESPACE.offset(3), 12288);
        assert_eq!(NAMESPACE.offset(u64::MAX), u64::MAX);
    }
}
