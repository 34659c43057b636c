//! A dump as it is read: frame after frame, each checked before it is handed on.

use std::io::{self, Read};

use anyhow::{Context, Result, anyhow};
use zonal::{Error, ErrorKind};
use zonal_core::format::dump::{Checker, FRAME_BYTES, Frame, HEADER_BYTES, Header};

/// A stream, read up to some frame.
pub(super) struct Stream<R> {
    input: R,
    name: String,
    header: Header,
    checker: Checker,
    at: u64,
    data: Vec<u8>,
}

impl<R: Read> Stream<R> {
    /// Reads the header.
    pub(super) fn begin(mut input: R, name: &str) -> Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        let filled = fill(&mut input, &mut bytes).context(name.to_owned())?;
        // Too short for a header and not like one: it is something else.
        if filled < HEADER_BYTES && !bytes.starts_with(&zonal_core::format::dump::MAGIC) {
            let error = Error::new(ErrorKind::NotZoned, "it is no dump; make one with: zonal dump");
            return Err(error.on(name).into());
        }
        let named = |error: Error| error.on(name);
        if filled < HEADER_BYTES {
            return Err(named(cut_off(filled as u64)).into());
        }
        let header = Header::decode(&bytes).map_err(named)?;
        let checker = Checker::new(&header);
        let at = HEADER_BYTES as u64;
        Ok(Self { input, name: name.to_owned(), header, checker, at, data: Vec::new() })
    }

    /// What the stream began with.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// The next frame, whose data is then in [`Self::data`]; `None` after the end.
    pub(super) fn next(&mut self) -> Result<Option<Frame>> {
        self.try_next().map_err(|error| match error.downcast::<Error>() {
            Ok(error) => anyhow!(error.on(self.name.as_str())),
            Err(error) => error.context(self.name.clone()),
        })
    }

    fn try_next(&mut self) -> Result<Option<Frame>> {
        let mut bytes = [0; FRAME_BYTES];
        let filled = fill(&mut self.input, &mut bytes)?;
        if filled == 0 && self.checker.is_ended() {
            return Ok(None);
        }
        if filled < FRAME_BYTES && !self.checker.is_ended() {
            return Err(cut_off(self.at + filled as u64).into());
        }
        let frame = Frame::decode(&bytes, self.at)?;
        self.checker.take(&frame, self.at)?;
        self.at += FRAME_BYTES as u64;
        self.data.resize(frame.data_bytes() as usize, 0);
        let filled = fill(&mut self.input, &mut self.data)?;
        if filled < self.data.len() {
            return Err(cut_off(self.at + filled as u64).into());
        }
        if !frame.fits(&self.data) {
            let text = "data of the dump has a wrong checksum";
            let error = Error::new(ErrorKind::Damaged, text).at(self.at, filled as u64);
            return Err(error.into());
        }
        self.at += filled as u64;
        Ok(Some(frame))
    }

    /// The bytes that followed the last frame.
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }
}

fn cut_off(at: u64) -> Error {
    Error::new(ErrorKind::Damaged, "the dump is cut off here; make it anew").at(at, 0)
}

/// Reads until `bytes` are full or the input ends; returns how many there are.
fn fill(input: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match input.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
