//! Tables, for a terminal and in Markdown. They are the same text.

use std::fmt::Write;

use crate::{Figures, Row};

/// A figure with three digits that count.
pub fn ns(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn ratio(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 0.0995 => format!("{v:.2}"),
        v => format!("{v:.4}"),
    }
}

/// A table with aligned columns; the first ones are text.
fn grid(head: &[&str], rows: &[Vec<String>], text_columns: usize) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([head[column].chars().count()]).max()
    };
    let widths: Vec<usize> = (0..head.len()).filter_map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::from("|");
        for (column, cell) in cells.enumerate() {
            let width = widths[column];
            let written = if column < text_columns {
                write!(line, " {cell:<width$} |")
            } else {
                write!(line, " {cell:>width$} |")
            };
            written.expect("a string takes everything");
        }
        line + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    text += "|";
    for (column, width) in widths.iter().enumerate() {
        text += &"-".repeat(width + 1);
        text += if column < text_columns { "-|" } else { ":|" };
    }
    text += "\n";
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

fn cells(row: &Row) -> Vec<String> {
    let goal = row.goal.map_or(String::new(), |goal| {
        let met = if row.ratio <= goal { "met" } else { "missed" };
        format!("{} {met}", ratio(goal))
    });
    vec![
        row.name.clone(),
        row.peer.clone(),
        ns(row.ours_ns),
        ns(row.theirs_ns),
        ratio(row.ratio),
        format!("{} to {}", ratio(row.spread[0]), ratio(row.spread[1])),
        goal,
    ]
}

/// The rows of one group, as a table.
pub fn ratios(rows: &[Row]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    grid(&["what", "peer", "ours, ns", "theirs, ns", "ours / theirs", "spread", "at most"], &cells, 2)
}

/// Everything of one group.
pub fn group(figures: &Figures) -> String {
    let mut text = format!("## {}\n\n", figures.group);
    let settings = if figures.quick { "; **quick settings: plausible at best**" } else { "" };
    text += &format!(
        "`just bench {}`: {:.0} s on {}{settings}.\n\n",
        figures.group, figures.seconds, figures.measured
    );
    text += &ratios(&figures.rows);
    for sheet in &figures.sheets {
        let head: Vec<&str> = sheet.head.iter().map(String::as_str).collect();
        text += &format!("\n{}:\n\n{}", sheet.title, grid(&head, &sheet.rows, 1));
    }
    for plot in &figures.plots {
        text += &format!("\n![{}](bench/{}.svg)\n", plot.title, plot.file);
    }
    if !figures.notes.is_empty() {
        text += "\n";
    }
    for note in &figures.notes {
        text += &format!("- {note}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!([0.123, 1.0, 12.34, 123.4, 99.97].map(ns), ["0.12", "1.00", "12.3", "123", "100"]);
        assert_eq!([0.012, 0.5, 123.4].map(ratio), ["0.0120", "0.50", "123"]);
    }

    #[test]
    fn columns_are_aligned_and_a_missed_goal_is_said() {
        let row = Row {
            group: "g".to_owned(),
            name: "walk".to_owned(),
            peer: "theirs".to_owned(),
            ours_ns: 4.0,
            theirs_ns: 1.0,
            ratio: 4.0,
            spread: [3.5, 4.5],
            goal: Some(3.0),
            command: String::new(),
        };
        let text = ratios(&[row.clone(), Row { name: "a longer name".to_owned(), ratio: 2.0, ..row }]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{text}");
        assert!(lines[2].contains("3.00 missed") && lines[3].contains("3.00 met"), "{text}");
    }
}
