//! What `bench` writes, and how it tells on reading whether it got its own record back.
//!
//! Every block of a record starts with a header that names the run, the job, the record's sequence
//! number and the block's place in the record; the rest is noise of the job's own, the same in each
//! of its records. A record that landed elsewhere, a torn one, an old one and zeros all differ.

/// Bytes of the header: tag, run, sequence (8 each), job, block (4 each); little-endian.
const HEADER: usize = 32;

/// The header's first bytes.
const TAG: [u8; 8] = *b"zonalrec";

/// One job's pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    run: u64,
    job: u32,
    block: usize,
    noise: Vec<u8>,
}

/// The next number of a simple generator (splitmix64), good enough for noise and random offsets.
pub(super) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Pattern {
    /// The pattern of `job` in the run called `run`, for records of `record_bytes` on a drive with
    /// blocks of `block` bytes.
    pub(super) fn new(run: u64, job: u32, record_bytes: usize, block: usize) -> Self {
        let mut state = run ^ (u64::from(job) << 32);
        let mut noise = Vec::with_capacity(record_bytes);
        while noise.len() < record_bytes {
            noise.extend_from_slice(&splitmix(&mut state).to_le_bytes());
        }
        noise.truncate(record_bytes);
        Self { run, job, block, noise }
    }

    fn header(&self, sequence: u64, block: usize) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&TAG);
        header[8..16].copy_from_slice(&self.run.to_le_bytes());
        header[16..24].copy_from_slice(&sequence.to_le_bytes());
        header[24..28].copy_from_slice(&self.job.to_le_bytes());
        // Records hold far fewer blocks than 32 bits count.
        header[28..].copy_from_slice(&u32::try_from(block).unwrap_or(u32::MAX).to_le_bytes());
        header
    }

    /// Fills a whole buffer; from then on [`stamp`](Self::stamp) is enough for each record.
    pub(super) fn fill(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.noise[..buffer.len()]);
    }

    /// Makes a filled buffer the record `sequence`.
    pub(super) fn stamp(&self, buffer: &mut [u8], sequence: u64) {
        for (at, block) in buffer.chunks_exact_mut(self.block).enumerate() {
            block[..HEADER].copy_from_slice(&self.header(sequence, at));
        }
    }

    /// Compares `record` with what record `sequence` must hold.
    ///
    /// # Errors
    /// What is there instead, for people.
    pub(super) fn compare(&self, record: &[u8], sequence: u64) -> Result<(), String> {
        let expected = self.noise.chunks_exact(self.block);
        for (at, (block, noise)) in record.chunks_exact(self.block).zip(expected).enumerate() {
            let (header, body) = block.split_at(HEADER);
            if header != self.header(sequence, at) || body != &noise[HEADER..] {
                return Err(format!("block {at} of it holds {}", describe(block)));
            }
        }
        Ok(())
    }
}

/// What a block seems to be.
fn describe(block: &[u8]) -> String {
    if block.iter().all(|byte| *byte == 0) {
        return "zeros".into();
    }
    let (Some(&sequence), Some(&job), true) =
        (block[16..24].as_array::<8>(), block[24..28].as_array::<4>(), block.starts_with(&TAG))
    else {
        return "something that no bench wrote".into();
    };
    let (job, sequence) = (u32::from_le_bytes(job), u64::from_le_bytes(sequence));
    format!("record {sequence} of job {job}, or a part of it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pattern: &Pattern, sequence: u64) -> Vec<u8> {
        let mut buffer = vec![0; 8192];
        pattern.fill(&mut buffer);
        pattern.stamp(&mut buffer, sequence);
        buffer
    }

    #[test]
    fn a_record_is_itself_and_nothing_else() {
        let pattern = Pattern::new(7, 1, 8192, 4096);
        let mine = record(&pattern, 5);
        assert_eq!(pattern.compare(&mine, 5), Ok(()));
        assert!(pattern.compare(&mine, 6).unwrap_err().contains("record 5 of job 1"));
        let other_run = Pattern::new(8, 1, 8192, 4096);
        assert!(other_run.compare(&mine, 5).is_err());
        let other_job = Pattern::new(7, 2, 8192, 4096);
        assert!(other_job.compare(&mine, 5).is_err());
    }

    #[test]
    fn one_wrong_byte_anywhere_is_seen() {
        let pattern = Pattern::new(7, 1, 8192, 4096);
        for at in [0, 31, 32, 4095, 4096, 8191] {
            let mut torn = record(&pattern, 5);
            torn[at] ^= 1;
            assert!(pattern.compare(&torn, 5).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_stands_there_instead_is_told() {
        let pattern = Pattern::new(7, 1, 8192, 4096);
        assert!(pattern.compare(&[0; 8192], 5).unwrap_err().contains("zeros"));
        assert!(pattern.compare(&[9; 8192], 5).unwrap_err().contains("no bench"));
    }
}
