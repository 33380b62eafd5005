//! What is printed, and how it looks.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;

use crate::history::clip;

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Characters of one cell or note: a server's sentence fits, an endless one does not.
const LONGEST: usize = 2_000;

/// Writes to standard output. Whoever reads it may leave early, as `head` does: that is no failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        end => end.context("cannot write to standard output"),
    }
}

/// Writes a value as JSON to standard output.
pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Writes a line to standard error. There is nobody to tell when that cannot be done.
pub(super) fn note(text: &str) {
    let lines: Vec<String> = text.lines().map(|line| clip(line, LONGEST)).collect();
    let _written = writeln!(io::stderr().lock(), "lazaretto: {}", lines.join("\n  "));
}

/// Says what a long work is at, to whoever watches.
pub(super) fn progress(text: &str) {
    if io::stderr().is_terminal() {
        note(text);
    }
}

/// How much a cell wants to be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Colour {
    /// As the rest.
    #[default]
    Plain,
    /// All is well.
    Green,
    /// Look here.
    Yellow,
    /// No.
    Red,
}

impl Colour {
    /// What turns it on.
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
            Self::Red => "\x1b[31m",
        }
    }
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    /// A cell; nothing is written as a dash, and what would steer the terminal is left out.
    pub(super) fn new(text: &str, colour: Colour) -> Self {
        let text = clip(text, LONGEST);
        Self { text: if text.is_empty() { "-".to_owned() } else { text }, colour }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Colour::Plain)
    }
}

/// Whether standard output shows colours.
pub(super) fn coloured() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// A table as kubectl writes them, without a header where that is empty. The last column is not padded, and may be as long as it likes.
pub(super) fn table(header: &[&str], rows: &[Vec<Cell>], coloured: bool) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
        cells.chain(header.get(column).map(|title| title.len())).max().unwrap_or_default()
    };
    let columns = rows.iter().map(Vec::len).chain([header.len()]).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = (&str, Colour)>| {
        for (column, (cell, colour)) in cells.enumerate() {
            let paint = if coloured { colour.code() } else { "" };
            let plain = if paint.is_empty() { "" } else { "\x1b[0m" };
            text.extend([paint, cell, plain]);
            if column + 1 < widths.len() {
                text += &" ".repeat(3 + widths[column].saturating_sub(cell.chars().count()));
            }
        }
        text.push('\n');
    };
    if !header.is_empty() {
        line(&mut header.iter().map(|title| (*title, Colour::Plain)));
    }
    for row in rows {
        line(&mut row.iter().map(|cell| (cell.text.as_str(), cell.colour)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colours() {
        let rows = [vec!["a".into(), Cell::new("Refuse", Colour::Red), "why".into()], vec!["longer".into(), "Admit".into(), "".into()]];
        let plain = "A        VERDICT   REASON\na        Refuse    why\nlonger   Admit     -\n";
        assert_eq!(table(&["A", "VERDICT", "REASON"], &rows, false), plain);
        let coloured = plain.replace("Refuse", "\x1b[31mRefuse\x1b[0m");
        assert_eq!(table(&["A", "VERDICT", "REASON"], &rows, true), coloured);
    }

    #[test]
    fn a_cell_does_not_steer_the_terminal() {
        assert_eq!(Cell::from("a\x1b[2Jb\nc").text, "a[2Jbc");
    }
}
