//! One JSON object with `"version":1`, the promise that its fields keep their names and meaning.

use std::io::{self, Write};

use serde::Serialize;

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// Writes `body` with its version as one line.
pub(crate) fn print(mut out: impl Write, body: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut out, &Versioned { version: 1, body })?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_first() {
        #[derive(Serialize)]
        struct Body {
            flushed: bool,
        }
        let mut out = Vec::new();
        print(&mut out, &Body { flushed: true }).unwrap();
        assert_eq!(out, b"{\"version\":1,\"flushed\":true}\n");
    }
}
