//! The record index: what `append` writes and `cat` reads, one line a record.
//!
//! JSON lines `{"record":0,"zone":0,"offset":0,"length":0,"generation":0,"drive":"00000000"}` or CSV
//! (RFC 4180) with those names in its first line; with several inputs also `file` and `file_offset`.
//! Offsets and lengths are bytes, `offset` absolute on the drive. A record takes up `length` rounded
//! up to the drive's block. `generation` is the zone's life and `drive` the first group of the
//! image's id: by them an index is known that speaks of an earlier life of a zone, or of another
//! image. Lines without them are believed.
//!
//! A file's name is bytes. CSV has them as they are, quoted where they hold commas, quotes or line
//! ends. JSON has text: of a name that is not UTF-8, `file` is what can be shown, and `file_bytes`
//! all of it in hexadecimal.
//!
//! A line acknowledges its record only when it is whole, which a cut in the middle of writing it
//! does not leave: it ends with a line end, or with the brace that closes its object.

use std::{
    borrow::Cow,
    collections::HashMap,
    ffi::OsStr,
    fmt,
    io::{self, BufRead, Write},
    os::unix::ffi::OsStrExt,
    str::FromStr,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zonal::Device;

/// One record as its line says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// The record's number, from 0, over all inputs.
    pub(crate) record: u64,
    /// The zone it landed in.
    pub(crate) zone: u32,
    /// Where it landed: bytes from the drive's start.
    pub(crate) offset: u64,
    /// Its own bytes, without padding.
    pub(crate) length: u64,
    /// The name of the input it was cut from, when there were several.
    pub(crate) file: Option<Cow<'a, [u8]>>,
    /// Where in that input it starts, in bytes.
    pub(crate) file_offset: Option<u64>,
    /// Which life of the zone it belongs to.
    pub(crate) generation: Option<u32>,
    /// Which image it is on.
    pub(crate) drive: Option<DriveId>,
}

/// A line as JSON has it.
#[derive(Serialize, Deserialize)]
struct JsonLine<'a> {
    record: u64,
    zone: u32,
    offset: u64,
    length: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    file: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    file_offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    file_bytes: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    generation: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    drive: Option<DriveId>,
}

impl<'a> From<&'a Line<'_>> for JsonLine<'a> {
    fn from(line: &'a Line<'_>) -> Self {
        let Line { record, zone, offset, length, ref file, file_offset, generation, drive } = *line;
        let name = file.as_deref();
        let file_bytes = name.filter(|name| std::str::from_utf8(name).is_err());
        let file_bytes = file_bytes.map(|name| Hex(Cow::Borrowed(name)));
        let file = name.map(String::from_utf8_lossy);
        Self { record, zone, offset, length, file, file_offset, file_bytes, generation, drive }
    }
}

impl<'a> From<JsonLine<'a>> for Line<'a> {
    fn from(line: JsonLine<'a>) -> Self {
        let JsonLine { record, zone, offset, length, file_offset, generation, drive, .. } = line;
        let file = match (line.file_bytes, line.file) {
            (Some(Hex(name)), _) => Some(name),
            (None, Some(Cow::Borrowed(name))) => Some(Cow::Borrowed(name.as_bytes())),
            (None, Some(Cow::Owned(name))) => Some(Cow::Owned(name.into_bytes())),
            (None, None) => None,
        };
        Self { record, zone, offset, length, file, file_offset, generation, drive }
    }
}

/// Bytes as two hexadecimal digits each.
struct Hex<'a>(Cow<'a, [u8]>);

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Hex<'_> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(input)?;
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok());
        let bytes: Option<Vec<u8>> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| match *pair {
                [high, low] => Some(digit(high)? << 4 | digit(low)?),
                _ => None,
            })
            .collect();
        let wrong = || serde::de::Error::custom("file_bytes is not pairs of hexadecimal digits");
        bytes.map(|bytes| Self(Cow::Owned(bytes))).ok_or_else(wrong)
    }
}

/// The first group of an image's id, as `info` prints it: eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DriveId(u32);

impl DriveId {
    /// That of the drive, if it has an id.
    pub(crate) fn of(device: &Device) -> Option<Self> {
        let [a, b, c, d, ..] = device.info().image_id?;
        Some(Self(u32::from_be_bytes([a, b, c, d])))
    }
}

impl fmt::Display for DriveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for DriveId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match u32::from_str_radix(text, 16) {
            Ok(id) if text.len() == 8 => Ok(Self(id)),
            _ => bail!("drive {text:?} is not eight hexadecimal digits"),
        }
    }
}

impl Serialize for DriveId {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DriveId {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(input)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Columns for people.
    Text,
    /// An object a line.
    Json,
    /// Comma-separated values with a header.
    Csv,
}

/// The names of the columns; `file` and `file_offset` only with several inputs.
const COLUMNS: [&str; 8] =
    ["record", "zone", "offset", "length", "file", "file_offset", "generation", "drive"];

impl Format {
    /// Writes what stands above the lines.
    pub(crate) fn write_header(self, out: &mut impl Write, with_files: bool) -> io::Result<()> {
        match self {
            Self::Json => Ok(()),
            Self::Csv if with_files => writeln!(out, "{}", COLUMNS.join(",")),
            Self::Csv => {
                writeln!(out, "{},{}", COLUMNS[..4].join(","), COLUMNS[6..].join(","))
            }
            Self::Text => {
                write!(out, "{:>8} {:>6} {:>15} {:>9}", "record", "zone", "offset", "length")?;
                writeln!(out, "{}", if with_files { "  file_offset  file" } else { "" })
            }
        }
    }

    /// Writes one line.
    pub(crate) fn write_line(self, out: &mut impl Write, line: &Line<'_>) -> io::Result<()> {
        let Line { record, zone, offset, length, file, file_offset, generation, drive } = line;
        match self {
            Self::Json => serde_json::to_writer(&mut *out, &JsonLine::from(line))?,
            Self::Csv => write!(out, "{record},{zone},{offset},{length}")?,
            Self::Text => write!(out, "{record:>8} {zone:>6} {offset:>15} {length:>9}")?,
        }
        if let (Some(file), Some(file_offset)) = (file, file_offset) {
            match self {
                Self::Json => {}
                Self::Csv => {
                    out.write_all(b",")?;
                    out.write_all(&quote(file))?;
                    write!(out, ",{file_offset}")?;
                }
                Self::Text => write!(out, "  {file_offset:>11}  {}", on_one_line(file))?,
            }
        }
        if self == Self::Csv {
            out.write_all(b",")?;
            generation.map_or(Ok(()), |generation| write!(out, "{generation}"))?;
            out.write_all(b",")?;
            drive.map_or(Ok(()), |drive| write!(out, "{drive}"))?;
        }
        out.write_all(b"\n")
    }

    /// The word that asks for it.
    const fn word(self) -> &'static str {
        match self {
            Self::Text => "neither --json nor --csv",
            Self::Json => "--json",
            Self::Csv => "--csv",
        }
    }

    /// Refuses to put lines of this form behind those of `index`.
    pub(crate) fn goes_on(self, index: &Index) -> Result<()> {
        match index.format {
            Some(format) if format != self => bail!(
                "its lines were written with {}, and these, with {}, would go behind them",
                format.word(),
                self.word()
            ),
            None if self == Self::Text => {
                bail!("nothing reads lines for people; say --json or --csv")
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// `name` as a CSV field.
fn quote(name: &[u8]) -> Cow<'_, [u8]> {
    let special = |byte: &u8| matches!(byte, b',' | b'"' | b'\n' | b'\r');
    let spaced = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_whitespace);
    if !name.iter().any(special) && !spaced(name.first()) && !spaced(name.last()) {
        return Cow::Borrowed(name);
    }
    let mut quoted = vec![b'"'];
    for &byte in name {
        quoted.extend(std::iter::repeat_n(byte, if byte == b'"' { 2 } else { 1 }));
    }
    quoted.push(b'"');
    Cow::Owned(quoted)
}

/// `name` for people: quoted and with escapes where it would not stay on its line.
pub(crate) fn on_one_line(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        Ok(_) | Err(_) => format!("{:?}", OsStr::from_bytes(name)),
    }
}

/// A record of an [`Index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// See [`Line::record`].
    pub(crate) record: u64,
    /// See [`Line::zone`].
    pub(crate) zone: u32,
    /// See [`Line::offset`].
    pub(crate) offset: u64,
    /// See [`Line::length`].
    pub(crate) length: u64,
    /// See [`Line::generation`].
    pub(crate) generation: Option<u32>,
    /// See [`Line::drive`].
    pub(crate) drive: Option<DriveId>,
    /// Which of [`Index::files`] it was cut from.
    file: Option<u32>,
    /// See [`Line::file_offset`].
    pub(crate) file_offset: Option<u64>,
    /// The line it stood on, from 1.
    pub(crate) line: u64,
}

/// A whole index, sorted by record.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Its records, ascending.
    pub(crate) entries: Vec<Entry>,
    /// The names of the inputs, in order of their first line.
    pub(crate) files: Vec<Vec<u8>>,
    /// How its lines look; unknown where there is none.
    pub(crate) format: Option<Format>,
    /// The number of the last line, if that was cut off and left out.
    pub(crate) cut_off: Option<u64>,
    /// How many bytes were read, and how many of them are whole lines.
    pub(crate) bytes: u64,
    pub(crate) whole_bytes: u64,
    /// Whether the last whole line has no line end.
    pub(crate) unended: bool,
}

/// Which way the lines of an index are read.
enum Columns {
    Unknown,
    Json,
    Csv(CsvColumns),
}

/// What a CSV header says.
struct CsvColumns {
    /// Where each of `COLUMNS` stands.
    places: [Option<usize>; COLUMNS.len()],
    count: usize,
    header: Vec<u8>,
}

/// One line as it stands in the file; of CSV, all lines that a quoted name spans.
#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    lines: u64,
    /// Whether its end is there.
    whole: bool,
}

impl Text {
    /// Reads the next one; false at the file's end.
    fn read(&mut self, input: &mut impl BufRead, columns: &Columns) -> io::Result<bool> {
        self.bytes.clear();
        (self.lines, self.whole) = (0, false);
        let mut quoted = false;
        loop {
            let before = self.bytes.len();
            if input.read_until(b'\n', &mut self.bytes)? == 0 {
                return Ok(self.lines > 0);
            }
            self.lines += 1;
            let added = &self.bytes[before..];
            let json = match columns {
                Columns::Unknown => self.bytes.trim_ascii_start().starts_with(b"{"),
                Columns::Json => true,
                Columns::Csv(_) => false,
            };
            quoted ^= !json && added.iter().filter(|byte| **byte == b'"').count() % 2 == 1;
            self.whole = added.ends_with(b"\n") && !quoted;
            if !quoted {
                return Ok(true);
            }
        }
    }
}

impl Index {
    /// Reads an index. `resumes` lets the last line be cut off, as a killed `append` leaves it.
    ///
    /// # Errors
    /// Names the line that cannot be read, or that names a record again.
    pub(crate) fn read(mut input: impl BufRead, resumes: bool) -> Result<Self> {
        let mut index = Self::default();
        let mut columns = Columns::Unknown;
        let mut names = HashMap::new();
        let mut text = Text::default();
        let mut number = 1;
        while text.read(&mut input, &columns)? {
            index.bytes += text.bytes.len() as u64;
            match columns.read(&text) {
                Ok(Some(line)) => index.add(line, number, &mut names)?,
                Ok(None) => {}
                Err(_) if !text.whole && resumes => {
                    index.cut_off = Some(number);
                    break;
                }
                Err(_) if !text.whole => bail!(
                    "line {number} is cut off, as a kill or a power cut leaves the line that was \
                     being written; remove it to have the records before it, and get its own record \
                     anew with append --resume"
                ),
                Err(error) => return Err(error.context(format!("line {number}"))),
            }
            index.whole_bytes = index.bytes;
            index.unended = !text.whole;
            number += text.lines;
        }
        index.format = match columns {
            Columns::Unknown => None,
            Columns::Json => Some(Format::Json),
            Columns::Csv(_) => Some(Format::Csv),
        };
        index.sort()?;
        Ok(index)
    }

    fn sort(&mut self) -> Result<()> {
        self.entries.sort_by_key(|entry| entry.record);
        for pair in self.entries.windows(2) {
            ensure!(
                pair[0].record != pair[1].record,
                "lines {} and {} both name record {}; use the index of one append",
                pair[0].line,
                pair[1].line,
                pair[0].record
            );
        }
        Ok(())
    }

    fn add(
        &mut self,
        line: Line<'_>,
        number: u64,
        names: &mut HashMap<Vec<u8>, u32>,
    ) -> Result<()> {
        let Line { record, zone, offset, length, generation, drive, file, file_offset } = line;
        let place = || format!("line {number}");
        offset.checked_add(length).context("offset + length overflows").with_context(place)?;
        let file = match file {
            None => None,
            Some(name) => Some(match names.get(&*name) {
                Some(known) => *known,
                None => {
                    let new = u32::try_from(self.files.len())?;
                    self.files.push(name.to_vec());
                    names.insert(name.into_owned(), new);
                    new
                }
            }),
        };
        let line = number;
        self.entries.push(Entry {
            record,
            zone,
            offset,
            length,
            generation,
            drive,
            file,
            file_offset,
            line,
        });
        Ok(())
    }

    /// The name of the input that `entry` was cut from, if its line says it.
    pub(crate) fn file_of(&self, entry: &Entry) -> Option<&[u8]> {
        self.files.get(entry.file? as usize).map(Vec::as_slice)
    }

    /// Keeps only the records of the input called `name`.
    pub(crate) fn keep_file(&mut self, name: &OsStr) -> Result<()> {
        let Some(file) = self.files.iter().position(|file| file == name.as_bytes()) else {
            if self.files.is_empty() {
                bail!("its lines name no file; leave out --file, since there was one input");
            }
            bail!("no record of {name:?}; it has those of {}", some_of(&self.files));
        };
        let file = u32::try_from(file).ok();
        self.entries.retain(|entry| entry.file == file);
        Ok(())
    }

    /// The first run of record numbers that are missing between the entries.
    pub(crate) fn gap(&self) -> Option<std::ops::RangeInclusive<u64>> {
        self.entries
            .windows(2)
            .find(|pair| pair[1].record - pair[0].record > 1)
            .map(|pair| pair[0].record + 1..=pair[1].record - 1)
    }
}

/// The first few of `names`, for a message.
fn some_of(names: &[Vec<u8>]) -> String {
    let some = names.iter().take(5).map(|name| format!("{:?}", OsStr::from_bytes(name)));
    let mut text = some.collect::<Vec<_>>();
    if names.len() > 5 {
        text.push(format!("{} more", names.len() - 5));
    }
    text.join(", ")
}

impl Columns {
    /// Reads one line; a header or an empty line holds no record.
    fn read<'a>(&mut self, line: &'a Text) -> Result<Option<Line<'a>>> {
        let text = line.bytes.trim_ascii();
        if text.is_empty() {
            return Ok(None);
        }
        if matches!(self, Self::Unknown) && text.starts_with(b"{") {
            *self = Self::Json;
        }
        match self {
            Self::Json => {
                let line: JsonLine<'_> = serde_json::from_slice(text).map_err(explain_json)?;
                Ok(Some(line.into()))
            }
            // Of numbers without an end nobody knows how many digits are missing.
            Self::Unknown | Self::Csv(_) if !line.whole => bail!("no line end"),
            Self::Unknown => {
                *self = Self::Csv(CsvColumns::of(text)?);
                Ok(None)
            }
            // Appending an index to another repeats the header.
            Self::Csv(columns) if columns.header == text => Ok(None),
            Self::Csv(columns) => match (columns.line(text), CsvColumns::of(text)) {
                (Err(_), Ok(other)) => {
                    *columns = other;
                    Ok(None)
                }
                (line, _) => line.map(Some),
            },
        }
    }
}

/// What is wrong with a JSON line, and what to do with one that was cut off and written behind.
fn explain_json(error: serde_json::Error) -> anyhow::Error {
    if error.is_data() {
        return error.into();
    }
    anyhow!(
        "it is no whole JSON object ({error}); if it was cut off, remove it, and get its record anew \
         with append --resume"
    )
}

impl CsvColumns {
    /// The columns that a CSV header names.
    fn of(text: &[u8]) -> Result<Self> {
        let wrong = || {
            anyhow!(
                "neither a JSON object nor a CSV header with record, zone, offset, length; \
                 write the index with append --json or --csv"
            )
        };
        let names = csv_fields(text).map_err(|_| wrong())?;
        let places = COLUMNS.map(|column| names.iter().position(|name| name == column.as_bytes()));
        if places[..4].iter().any(Option::is_none) {
            return Err(wrong());
        }
        Ok(Self { places, count: names.len(), header: text.to_owned() })
    }

    fn line<'a>(&self, text: &[u8]) -> Result<Line<'a>> {
        let fields = csv_fields(text)?;
        let field = |column: usize| self.places[column].and_then(|at| fields.get(at));
        // A field that may be left empty.
        let text = |column: usize| field(column).filter(|bytes| !bytes.is_empty());
        let number = |column: usize| -> Result<u64> {
            let bytes = field(column).with_context(|| format!("no {}", COLUMNS[column]))?;
            let digits = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
            digits.with_context(|| {
                let text = String::from_utf8_lossy(bytes);
                format!("{} {text:?} is not a number", COLUMNS[column])
            })
        };
        let line = Line {
            record: number(0)?,
            zone: u32::try_from(number(1)?).context("zone does not fit 32 bits")?,
            offset: number(2)?,
            length: number(3)?,
            file: text(4).cloned().map(Cow::Owned),
            file_offset: text(5).map(|_| number(5)).transpose()?,
            generation: match text(6) {
                Some(_) => {
                    Some(u32::try_from(number(6)?).context("generation does not fit 32 bits")?)
                }
                None => None,
            },
            drive: text(7).map(|id| String::from_utf8_lossy(id).parse()).transpose()?,
        };
        let (count, named) = (fields.len(), self.count);
        ensure!(count == named, "{count} fields, but {named} names in the header");
        Ok(line)
    }
}

/// Splits a CSV line; quoted fields may hold commas, doubled quotes and line ends.
fn csv_fields(text: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut fields = Vec::with_capacity(COLUMNS.len());
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
                (rest[..end].to_vec(), &rest[end..])
            }
        };
        fields.push(field);
        match after {
            [] => return Ok(fields),
            [b',', after @ ..] => rest = after,
            _ => bail!("text after a closing quote"),
        }
    }
}

/// The field that begins behind its quote, and what follows it.
fn unquote(text: &[u8]) -> Result<(Vec<u8>, &[u8])> {
    let mut field = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.iter().position(|byte| *byte == b'"').context("a quote is not closed")?;
        field.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"\"") {
            Some(after) => {
                field.push(b'"');
                rest = after;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: u64, file: Option<&str>) -> Line<'_> {
        Line {
            record,
            zone: 3,
            offset: 12288,
            length: 77,
            generation: Some(5),
            drive: Some(DriveId(0xab)),
            file: file.map(|file| Cow::Borrowed(file.as_bytes())),
            file_offset: file.map(|_| 5),
        }
    }

    fn written(format: Format, lines: &[Line<'_>]) -> String {
        let mut out = Vec::new();
        format.write_header(&mut out, lines[0].file.is_some()).unwrap();
        for line in lines {
            format.write_line(&mut out, line).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    fn error_of(text: &str) -> String {
        format!("{:#}", Index::read(text.as_bytes(), false).unwrap_err())
    }

    #[test]
    fn a_json_line_holds_the_promised_numbers_first() {
        let whole = "{\"record\":0,\"zone\":3,\"offset\":12288,\"length\":77,\
                     \"generation\":5,\"drive\":\"000000ab\"}\n";
        assert_eq!(written(Format::Json, &[line(0, None)]), whole);
        let bare = Line { generation: None, drive: None, ..line(0, None) };
        let text = "{\"record\":0,\"zone\":3,\"offset\":12288,\"length\":77}\n";
        assert_eq!(written(Format::Json, &[bare]), text);
    }

    #[test]
    fn what_was_written_reads_back_sorted() {
        for name in [None, Some("a"), Some("odd, \"name\""), Some(" \u{e9}")] {
            for format in [Format::Json, Format::Csv] {
                let text = written(format, &[line(7, name), line(2, name), line(3, name)]);
                let index = Index::read(text.as_bytes(), false).unwrap();
                let records: Vec<u64> = index.entries.iter().map(|entry| entry.record).collect();
                assert_eq!(records, [2, 3, 7]);
                assert_eq!(index.entries[0].length, 77);
                assert_eq!(index.entries[0].generation, Some(5));
                assert_eq!(index.entries[0].drive, Some(DriveId(0xab)));
                assert_eq!(index.files, name.map(Vec::from).into_iter().collect::<Vec<_>>());
                assert_eq!(index.gap(), Some(4..=6));
            }
        }
    }

    #[test]
    fn csv_columns_may_stand_in_any_order_and_repeat_their_header() {
        let text = "offset,length,record,zone\n0,1,0,0\noffset,length,record,zone\n\n4096,2,1,0\n";
        let index = Index::read(text.as_bytes(), false).unwrap();
        assert_eq!(index.entries.len(), 2);
        assert_eq!((index.entries[1].offset, index.entries[1].line), (4096, 5));
        assert_eq!((index.entries[1].generation, index.entries[1].drive), (None, None));
        let text = "record,zone,offset,length,generation,drive\n0,0,0,1,,\n";
        let index = Index::read(text.as_bytes(), false).unwrap();
        assert_eq!((index.entries[0].generation, index.entries[0].drive), (None, None));
    }

    #[test]
    fn a_bad_line_is_named() {
        let good = "{\"record\":0,\"zone\":0,\"offset\":0,\"length\":1}\n";
        assert!(
            error_of(&format!("{good}{{\"record\":1}}\n")).starts_with("line 2: missing field")
        );
        assert!(error_of("record,zone,offset,length\n1,2,x,4\n").contains("line 2: offset \"x\""));
        assert!(error_of("record,zone,offset,length\n1,2\n").contains("line 2: no offset"));
        assert!(
            error_of("record,zone,offset,length,drive\n1,2,3,4,ab\n").contains("eight hexadecimal")
        );
        assert!(error_of("hello\n").contains("line 1: neither"));
        assert!(error_of("\u{0}\u{1}").contains("line 1"));
        assert!(error_of(&format!("{good}\n{good}")).contains("lines 1 and 3 both name record 0"));
        let far = "{\"record\":0,\"zone\":0,\"offset\":18446744073709551615,\"length\":1}";
        assert!(error_of(far).contains("line 1: offset + length overflows"));
    }

    #[test]
    fn a_torn_last_line_is_forgiven_only_when_asked() {
        let text = "{\"record\":0,\"zone\":0,\"offset\":0,\"length\":1}\n{\"record\":1,\"zo";
        assert!(Index::read(text.as_bytes(), false).is_err());
        let index = Index::read(text.as_bytes(), true).unwrap();
        assert_eq!(index.cut_off, Some(2));
        assert_eq!(index.entries.len(), 1);
    }

    #[test]
    fn a_csv_line_without_its_end_is_not_believed() {
        let text = "record,zone,offset,length\n0,0,0,65536\n1,1,8388608,655";
        assert!(error_of(text).contains("line 3 is cut off"));
        let index = Index::read(text.as_bytes(), true).unwrap();
        assert_eq!((index.entries.len(), index.cut_off), (1, Some(3)));
        let cut = usize::try_from(index.whole_bytes).unwrap();
        assert_eq!(&text[cut..], "1,1,8388608,655");
        // Nor a header, whose last name may be longer.
        let index = Index::read(b"record,zone,offset,length".as_slice(), true).unwrap();
        assert_eq!((index.whole_bytes, index.cut_off), (0, Some(1)));
        // A quote that stays open takes in all that follows, and is not cut off where it began.
        let text = "record,zone,offset,length,file,file_offset\n0,0,0,1,\"a\n,0\n1,1,1,1,b,0\n";
        assert!(error_of(text).contains("line 2 is cut off"));
        let more = "record,zone,offset,length\n0,0,0,1,1\n";
        assert!(error_of(more).contains("line 2: 5 fields, but 4 names"));
    }

    #[test]
    fn a_line_number_counts_the_lines_of_names() {
        let text = "record,zone,offset,length,file,file_offset\n\
                    0,0,0,1,\"a\n\nb\",0\n1,0,0,x,c,0\n";
        assert!(error_of(text).contains("line 5: length \"x\""));
        let more = format!("{{\"record\":0,\"zone\":0,{}", "\n");
        assert!(error_of(&more).contains("line 1: it is no whole JSON object"));
    }

    #[test]
    fn one_file_can_be_picked() {
        let text = written(Format::Csv, &[line(0, Some("a")), line(1, Some("b"))]);
        let mut index = Index::read(text.as_bytes(), false).unwrap();
        assert!(index.keep_file("c".as_ref()).unwrap_err().to_string().contains("\"a\", \"b\""));
        index.keep_file("b".as_ref()).unwrap();
        assert_eq!(index.entries.len(), 1);
        assert_eq!(index.entries[0].record, 1);
    }
}
