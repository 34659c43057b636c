//! The record index: what `append` writes and `cat` reads, one line a record.
//!
//! JSON lines `{"record":0,"zone":0,"offset":0,"length":0,"generation":0,"drive":"00000000"}` or CSV
//! with those names in its first line; with several inputs also `file` and `file_offset`. Offsets and
//! lengths are bytes, `offset` absolute on the drive. A record takes up `length` rounded up to the
//! drive's block. `generation` is the zone's life and `drive` the first group of the image's id: by
//! them an index is known that speaks of an earlier life of a zone, or of another image. Lines
//! without them are believed.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    io::{self, BufRead, Write},
    str::FromStr,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zonal::Device;

/// One record as its line says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line<'a> {
    /// The record's number, from 0, over all inputs.
    pub(crate) record: u64,
    /// The zone it landed in.
    pub(crate) zone: u32,
    /// Where it landed: bytes from the drive's start.
    pub(crate) offset: u64,
    /// Its own bytes, without padding.
    pub(crate) length: u64,
    /// The input it was cut from, when there were several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) file: Option<Cow<'a, str>>,
    /// Where in that input it starts, in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) file_offset: Option<u64>,
    /// Which life of the zone it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) generation: Option<u32>,
    /// Which image it is on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) drive: Option<DriveId>,
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
            Self::Json => serde_json::to_writer(&mut *out, line)?,
            Self::Csv => write!(out, "{record},{zone},{offset},{length}")?,
            Self::Text => write!(out, "{record:>8} {zone:>6} {offset:>15} {length:>9}")?,
        }
        if let (Some(file), Some(file_offset)) = (file, file_offset) {
            match self {
                Self::Json => {}
                Self::Csv => write!(out, ",{},{file_offset}", quote(file))?,
                Self::Text => write!(out, "  {file_offset:>11}  {file}")?,
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
}

/// `text` as a CSV field.
fn quote(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) || text.starts_with(char::is_whitespace) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
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
    /// The line it stood on, from 1.
    pub(crate) line: u64,
}

/// A whole index, sorted by record.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Its records, ascending.
    pub(crate) entries: Vec<Entry>,
    /// The names of the inputs, in order of their first line.
    pub(crate) files: Vec<String>,
    /// Whether the last line was cut off and left out.
    pub(crate) torn: bool,
}

/// Which way the lines of an index are read.
enum Columns {
    Unknown,
    Json,
    /// Where each of `COLUMNS` stands.
    Csv([Option<usize>; COLUMNS.len()], String),
}

impl Index {
    /// Reads an index. `torn` lets the last line be cut off, as a killed `append` leaves it.
    ///
    /// # Errors
    /// Names the line that cannot be read, or that names a record again.
    pub(crate) fn read(mut input: impl BufRead, torn: bool) -> Result<Self> {
        let mut index = Self::default();
        let mut columns = Columns::Unknown;
        let mut names = HashMap::new();
        let mut text = Vec::new();
        for number in 1.. {
            text.clear();
            if input.read_until(b'\n', &mut text)? == 0 {
                break;
            }
            let whole = text.ends_with(b"\n");
            match columns.read(text.trim_ascii()) {
                Ok(Some(line)) => index.add(line, number, &mut names)?,
                Ok(None) => {}
                Err(_) if torn && !whole => index.torn = true,
                Err(error) => return Err(error.context(format!("line {number}"))),
            }
        }
        index.entries.sort_by_key(|entry| entry.record);
        for pair in index.entries.windows(2) {
            ensure!(
                pair[0].record != pair[1].record,
                "lines {} and {} both name record {}; use the index of one append",
                pair[0].line,
                pair[1].line,
                pair[0].record
            );
        }
        Ok(index)
    }

    fn add(&mut self, line: Line<'_>, number: u64, names: &mut HashMap<String, u32>) -> Result<()> {
        let Line { record, zone, offset, length, generation, drive, file, .. } = line;
        let place = || format!("line {number}");
        offset.checked_add(length).context("offset + length overflows").with_context(place)?;
        let file = match file {
            None => None,
            Some(name) => Some(match names.get(&*name) {
                Some(known) => *known,
                None => {
                    let new = u32::try_from(self.files.len())?;
                    self.files.push(name.clone().into_owned());
                    names.insert(name.into_owned(), new);
                    new
                }
            }),
        };
        let line = number;
        self.entries.push(Entry { record, zone, offset, length, generation, drive, file, line });
        Ok(())
    }

    /// Keeps only the records of the input called `name`.
    pub(crate) fn keep_file(&mut self, name: &str) -> Result<()> {
        let Some(file) = self.files.iter().position(|file| file == name) else {
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
fn some_of(names: &[String]) -> String {
    let mut text = names.iter().take(5).map(|name| format!("{name:?}")).collect::<Vec<_>>();
    if names.len() > 5 {
        text.push(format!("{} more", names.len() - 5));
    }
    text.join(", ")
}

impl Columns {
    /// Reads one line; a header or an empty line holds no record.
    fn read<'a>(&mut self, text: &'a [u8]) -> Result<Option<Line<'a>>> {
        if text.is_empty() {
            return Ok(None);
        }
        if matches!(self, Self::Unknown) {
            if text.starts_with(b"{") {
                *self = Self::Json;
            } else {
                *self = csv_columns(text)?;
                return Ok(None);
            }
        }
        match self {
            Self::Unknown => Ok(None),
            Self::Json => Ok(Some(serde_json::from_slice(text)?)),
            // Appending an index to another repeats the header.
            Self::Csv(_, header) if header.as_bytes() == text => Ok(None),
            Self::Csv(columns, _) => csv_line(columns, std::str::from_utf8(text)?).map(Some),
        }
    }
}

/// The columns that a CSV header names.
fn csv_columns(text: &[u8]) -> Result<Columns> {
    let wrong = || {
        anyhow!(
            "neither a JSON object nor a CSV header with record, zone, offset, length; \
             write the index with append --json or --csv"
        )
    };
    let header = std::str::from_utf8(text).map_err(|_| wrong())?;
    let names = csv_fields(header).map_err(|_| wrong())?;
    let columns = COLUMNS.map(|column| names.iter().position(|name| name == column));
    if columns[..4].iter().any(Option::is_none) {
        return Err(wrong());
    }
    Ok(Columns::Csv(columns, header.to_owned()))
}

fn csv_line<'a>(columns: &[Option<usize>; COLUMNS.len()], text: &str) -> Result<Line<'a>> {
    let fields = csv_fields(text)?;
    let field = |column: usize| columns[column].and_then(|at| fields.get(at));
    let number = |column: usize| -> Result<u64> {
        let text = field(column).with_context(|| format!("no {}", COLUMNS[column]))?;
        text.parse().map_err(|_| anyhow!("{} {text:?} is not a number", COLUMNS[column]))
    };
    Ok(Line {
        record: number(0)?,
        zone: u32::try_from(number(1)?).context("zone does not fit 32 bits")?,
        offset: number(2)?,
        length: number(3)?,
        file: field(4).cloned().map(Cow::Owned),
        file_offset: field(5).map(|_| number(5)).transpose()?,
        generation: match field(6).filter(|text| !text.is_empty()) {
            Some(_) => Some(u32::try_from(number(6)?).context("generation does not fit 32 bits")?),
            None => None,
        },
        drive: field(7).filter(|text| !text.is_empty()).map(|text| text.parse()).transpose()?,
    })
}

/// Splits a CSV line; quoted fields may hold commas and doubled quotes, but no line end.
fn csv_fields(text: &str) -> Result<Vec<String>> {
    let mut fields = Vec::with_capacity(COLUMNS.len());
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut tail = quoted;
            loop {
                let (part, after) = tail.split_once('"').context("a quote is not closed")?;
                field.push_str(part);
                tail = after;
                match tail.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        tail = after;
                    }
                    None => break,
                }
            }
            fields.push(field);
            match tail.strip_prefix(',') {
                Some(after) => rest = after,
                None if tail.is_empty() => return Ok(fields),
                None => bail!("text after a closing quote"),
            }
        } else {
            match rest.split_once(',') {
                Some((field, after)) => {
                    fields.push(field.to_owned());
                    rest = after;
                }
                None => {
                    fields.push(rest.to_owned());
                    return Ok(fields);
                }
            }
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
            file: file.map(Cow::Borrowed),
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
                assert_eq!(index.files, name.map(str::to_owned).into_iter().collect::<Vec<_>>());
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
        assert!(index.torn);
        assert_eq!(index.entries.len(), 1);
    }

    #[test]
    fn one_file_can_be_picked() {
        let text = written(Format::Csv, &[line(0, Some("a")), line(1, Some("b"))]);
        let mut index = Index::read(text.as_bytes(), false).unwrap();
        assert!(index.keep_file("c").unwrap_err().to_string().contains("\"a\", \"b\""));
        index.keep_file("b").unwrap();
        assert_eq!(index.entries.len(), 1);
        assert_eq!(index.entries[0].record, 1);
    }
}
