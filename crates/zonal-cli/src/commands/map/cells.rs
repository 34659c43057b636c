//! Which zones share a cell, and what a cell shows of them.

use zonal::{ZoneInfo, ZoneState};

/// Every state, the one that matters most first: a cell of several zones shows the first that one
/// of them has.
pub(crate) const STATES: [ZoneState; 8] = [
    ZoneState::Offline,
    ZoneState::ReadOnly,
    ZoneState::ExplicitlyOpen,
    ZoneState::ImplicitlyOpen,
    ZoneState::Closed,
    ZoneState::Full,
    ZoneState::Empty,
    ZoneState::NotWp,
];

/// The letter of a state.
pub(crate) const fn letter(state: ZoneState) -> char {
    match state {
        ZoneState::Offline => 'x',
        ZoneState::ReadOnly => 'r',
        ZoneState::ExplicitlyOpen => 'e',
        ZoneState::ImplicitlyOpen => 'i',
        ZoneState::Closed => 'c',
        ZoneState::Full => 'f',
        ZoneState::Empty => '.',
        ZoneState::NotWp => 'n',
    }
}

/// How much of a zone is written, of what can be; nothing where there is no write pointer.
pub(crate) fn fill_of(zone: &ZoneInfo) -> (u64, u64) {
    match (zone.state, zone.write_pointer) {
        (ZoneState::NotWp | ZoneState::Offline, _) | (_, None) => (0, 0),
        (ZoneState::Full, _) => (zone.capacity, zone.capacity),
        (_, Some(wp)) => (wp.saturating_sub(zone.start), zone.capacity),
    }
}

/// One or several neighbouring zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// The first of them.
    pub(super) first: u32,
    /// How many they are.
    pub(super) zones: u32,
    /// The first of [`STATES`] that one of them has.
    pub(super) state: ZoneState,
    /// Bytes written, of zones with a write pointer.
    pub(super) written: u64,
    /// Bytes that can be written of these.
    pub(super) capacity: u64,
}

impl Cell {
    fn of(zones: &[ZoneInfo]) -> Option<Self> {
        let state = *STATES.iter().find(|state| zones.iter().any(|zone| zone.state == **state))?;
        let fills = zones.iter().map(fill_of);
        let (written, capacity) = fills.fold((0, 0), |sum, fill| (sum.0 + fill.0, sum.1 + fill.1));
        let count = u32::try_from(zones.len()).ok()?;
        Some(Self { first: zones.first()?.zone, zones: count, state, written, capacity })
    }

    /// How many of `steps` steps it is high. Only what is empty is 0, only what is full all of them.
    pub(super) fn height(&self, steps: u32) -> u32 {
        if self.written == 0 || self.capacity == 0 {
            return 0;
        }
        if self.written >= self.capacity {
            return steps;
        }
        let height = u128::from(self.written) * u128::from(steps) / u128::from(self.capacity);
        u32::try_from(height).unwrap_or(steps).clamp(1, steps - 1)
    }
}

/// A drive, or some zones of it, as cells.
#[derive(Debug)]
pub(super) struct Map {
    /// The drive.
    pub(super) name: String,
    /// How many zones there are.
    pub(super) zones: u32,
    /// How many share a cell; the last may have fewer.
    pub(super) zones_per_cell: u32,
    pub(super) cells: Vec<Cell>,
    /// How many zones are in each state that there is, in the order of [`STATES`].
    pub(super) states: Vec<(ZoneState, usize)>,
    /// The size of the first zone, and whether all are as large.
    pub(super) zone_size: u64,
    /// Bytes written, and bytes that can be, of zones with a write pointer.
    pub(super) written: u64,
    pub(super) capacity: u64,
}

impl Map {
    /// The picture of the zones in `report`, with at most `most` cells.
    pub(super) fn of(name: &str, report: &[ZoneInfo], most: u32) -> Self {
        let zones = u32::try_from(report.len()).unwrap_or(u32::MAX);
        let zones_per_cell = zones.div_ceil(most.max(1)).next_power_of_two();
        let cells: Vec<Cell> =
            report.chunks(zones_per_cell as usize).filter_map(Cell::of).collect();
        let states = STATES
            .into_iter()
            .map(|state| (state, report.iter().filter(|zone| zone.state == state).count()))
            .filter(|(_, count)| *count > 0)
            .collect();
        Self {
            name: name.to_owned(),
            zones,
            zones_per_cell,
            states,
            zone_size: report.first().map_or(0, |zone| zone.size),
            written: cells.iter().map(|cell| cell.written).sum(),
            capacity: cells.iter().map(|cell| cell.capacity).sum(),
            cells,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use zonal::ZoneKind;

    pub(in super::super) fn zone(number: u32, state: ZoneState, written: u64) -> ZoneInfo {
        let start = u64::from(number) << 20;
        ZoneInfo {
            zone: number,
            kind: ZoneKind::Sequential,
            state,
            start,
            write_pointer: Some(start + written),
            capacity: 1 << 20,
            size: 1 << 20,
        }
    }

    #[test]
    fn a_zone_has_a_cell_of_its_own_while_there_is_room() {
        let report: Vec<ZoneInfo> =
            (0..4).map(|number| zone(number, ZoneState::Closed, 4096)).collect();
        let map = Map::of("disk", &report, 4);
        assert_eq!((map.zones_per_cell, map.cells.len()), (1, 4));
        let map = Map::of("disk", &report, 3);
        assert_eq!((map.zones_per_cell, map.cells.len()), (2, 2));
        assert_eq!((map.cells[1].first, map.cells[1].written), (2, 8192));
    }

    #[test]
    fn the_state_that_matters_most_shows_and_the_fill_is_shared() {
        let report = [
            zone(0, ZoneState::Empty, 0),
            zone(1, ZoneState::Full, 0),
            zone(2, ZoneState::Offline, 0),
            zone(3, ZoneState::Closed, 1 << 19),
        ];
        let map = Map::of("disk", &report, 1);
        let cell = map.cells[0];
        assert_eq!(
            (cell.state, cell.written, cell.capacity),
            (ZoneState::Offline, 3 << 19, 3 << 20)
        );
        assert_eq!(map.states.len(), 4);
    }

    #[test]
    fn only_what_is_empty_looks_empty_and_only_what_is_full_full() {
        let height = |written| Cell::of(&[zone(0, ZoneState::Closed, written)]).unwrap().height(8);
        assert_eq!([0, 1, 1 << 19, (1 << 20) - 1, 1 << 20].map(height), [0, 1, 4, 7, 8],);
    }
}
