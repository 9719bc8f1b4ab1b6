//! What commands print: for people in a terminal, and JSON where it is piped.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

pub(super) const STRONG: Style = Style::new().bold();
pub(super) const FAINT: Style = Style::new().dimmed();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default();
pub(super) const NOTE: Style = AnsiColor::Cyan.on_default();
pub(super) const CAUTION: Style = AnsiColor::Yellow.on_default();

/// Whether to print JSON: where it was asked for, and where nobody is looking.
pub(super) fn is_json(asked: bool) -> bool {
    asked || !io::stdout().is_terminal()
}

/// Prints a line; colours are left out where they are not understood or not wanted (`NO_COLOR`).
pub(super) fn line(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(anstream::stdout(), "{text}")
}

/// Whether somebody sees what goes to standard error.
pub(super) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Writes over what was written so before; a last, empty one leaves nothing.
pub(super) fn status(text: impl std::fmt::Display) {
    // There is nobody left to tell of a standard error that is closed.
    drop(write!(anstream::stderr().lock(), "\r{text}\x1b[K"));
}

/// Prints `value` as JSON, on one line.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(serde_json::to_string(value)?)?)
}

/// Prints columns, each as wide as its widest entry.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let padded = |cells: &[String; N]| -> String {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    line(format_args!("{STRONG}{}{STRONG:#}", padded(&headings.map(str::to_owned))))?;
    rows.iter().try_for_each(|row| line(padded(row)))
}

/// Prints why a command failed: what was being done first, then its causes.
pub(super) fn error(error: &anyhow::Error) {
    let mut stderr = anstream::stderr().lock();
    // There is nobody left to tell of a standard error that is closed.
    drop(writeln!(stderr, "{BAD}error:{BAD:#} {error}"));
    for cause in error.chain().skip(1) {
        drop(writeln!(stderr, "  because: {cause}"));
    }
}
