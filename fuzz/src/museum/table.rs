//! The table, for a terminal and for `museum.md`.

use super::tally::Tally;
use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use indicatif::HumanCount;

const HEADINGS: [&str; 9] = [
    "specimen",
    "by",
    "reached",
    "triggered",
    "found",
    "median s",
    "range s",
    "median schedules",
    "verdicts",
];

/// A row's cells, as in [`HEADINGS`].
fn cells(tally: &Tally) -> [String; 9] {
    let of = |n: usize| format!("{n}/{}", tally.trials);
    // An event that never happened in most trials has no median; in a table that is a dash.
    let number = |n: Option<f64>, text: fn(f64) -> String| n.map_or("-".into(), text);
    let range = match tally.range_seconds {
        (None, _) => "-".into(),
        (Some(from), Some(to)) => format!("{} to {}", seconds(from), seconds(to)),
        (Some(from), None) => format!("from {}", seconds(from)),
    };
    [
        tally.name.into(),
        tally.baseline.into(),
        of(tally.reached),
        of(tally.triggered),
        of(tally.detected),
        number(tally.median_seconds, seconds),
        range,
        number(tally.median_schedules, |n| HumanCount(n.round() as u64).to_string()),
        verdicts(tally),
    ]
}

/// The verdicts, the most frequent first.
fn verdicts(tally: &Tally) -> String {
    let mut verdicts: Vec<_> = tally.verdicts.iter().collect();
    verdicts.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
    if verdicts.is_empty() {
        return if tally.must_be_silent { "silent, as it must be" } else { "-" }.into();
    }
    let unexpected = |name: &str| !tally.expected.contains(&name);
    let text = |(name, times): &(&String, &usize)| {
        let mark = if unexpected(name) { " (!)" } else { "" };
        let times = if **times == tally.trials { String::new() } else { format!(" {times}") };
        format!("{name}{times}{mark}")
    };
    verdicts.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Seconds, as exactly as they are worth reading.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 10.0 => format!("{s:.2}"),
        s if s < 100.0 => format!("{s:.1}"),
        s => format!("{s:.0}"),
    }
}

/// As a terminal has it.
pub fn terminal(tallies: &[Tally]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(HEADINGS);
    for tally in tallies {
        let right = if tally.must_be_silent { tally.is_silent } else { tally.caught };
        let row = cells(tally).into_iter().enumerate().map(|(column, text)| match (column, right) {
            (4, false) => Cell::new(text).fg(Color::Red),
            _ => Cell::new(text),
        });
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(2).take(6) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// As `museum.md` has it; `link` says where a specimen's page is.
pub fn markdown(tallies: &[Tally], link: impl Fn(&str) -> Option<String>) -> String {
    let mut text = format!("| {} |\n", HEADINGS.join(" | "));
    text += "|---|---|--:|--:|--:|--:|--:|--:|---|\n";
    let mut last = "";
    for tally in tallies {
        let mut cells = cells(tally);
        if tally.name == last {
            cells[0].clear();
        } else if let Some(link) = link(tally.name) {
            cells[0] = format!("[{}]({link})", tally.name);
        }
        last = tally.name;
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text
}
