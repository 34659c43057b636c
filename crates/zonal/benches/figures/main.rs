//! Every figure of `docs/performance.md`, measured by one command:
//!
//! ```text
//! cargo bench -p zonal --bench figures -- [--seconds N] [--pairs N] [--only NAME] [--dir DIR] [--markdown]
//! ```
//!
//! Machines are noisy and differ, so nothing is claimed but ratios: two sides run in turns,
//! A B B A A B …, and each pair of neighbours gives one ratio. Quoted is the median of the pairs,
//! with the smallest and the largest; neighbours of the same side give the noise floor. Both
//! sides use the same file system, block size, depth, batches and direct I/O, on files of which
//! every block was written before. fio and qemu-img are measured where they are installed.
//!
//! A benchmark is not a test: it says what it finds, and never fails for being slow.

mod handles;
mod image;
mod memory;
mod options;
mod pairs;
mod rows;
mod system;
mod table;
mod tools;
mod untorn;

use options::{Command, Options};
use rows::Bench;

fn main() -> anyhow::Result<()> {
    match options::parse(std::env::args().skip(1))? {
        Command::Help => print!("{}", options::HELP),
        Command::List => {
            rows::ROWS.iter().for_each(|row| println!("{:<14} {}", row.name, row.work))
        }
        Command::Measure(options) => measure(options)?,
    }
    Ok(())
}

fn measure(options: Options) -> anyhow::Result<()> {
    let wanted =
        |row: &&rows::Row| options.only.as_ref().is_none_or(|only| row.name.contains(&**only));
    let conditions = system::conditions(&options)?;
    let mut bench = Bench::new(&options)?;
    let mut lines = Vec::new();
    for row in rows::ROWS.iter().filter(wanted) {
        eprintln!("{}: {} …", row.name, row.work);
        lines.extend(
            (row.measure)(&mut bench).unwrap_or_else(|error| {
                vec![table::Line::skip(row.work, "", format!("{error:#}"))]
            }),
        );
    }
    print!("{}", table::render(&conditions, &lines, options.markdown));
    Ok(())
}
