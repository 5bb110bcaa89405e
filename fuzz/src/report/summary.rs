//! The parts that summaries of hunts, storms and sweeps have in common.

use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanCount;

use super::Inconclusive;

/// The machine's part in a summary.
#[derive(Debug, Default)]
pub struct Machine {
    /// Each worker's core, by its number.
    pub cores: Vec<usize>,
    /// Why there is no answer, if there is none.
    pub inconclusive: Option<Inconclusive>,
    /// Warnings about the cores, and other notes.
    pub notes: Vec<String>,
}

/// By how many seconds a budget was overrun; nothing where there is none.
pub fn overrun(budget: Option<u64>, seconds: f64) -> Option<f64> {
    budget.map(|budget| (seconds - budget as f64).max(0.0))
}

/// Columns of named counts side by side, under their headings.
pub fn side_by_side(headings: [&str; 3], columns: &[Vec<(&str, u64)>; 3]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(headings.iter().flat_map(|heading| [heading, ""]));
    for row in 0..columns.iter().map(Vec::len).max().unwrap_or(0) {
        let cells = columns.iter().flat_map(|column| match column.get(row) {
            Some((name, number)) => [(*name).to_string(), HumanCount(*number).to_string()],
            None => [String::new(), String::new()],
        });
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1).step_by(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrun_is_what_exceeds_the_budget() {
        assert_eq!(
            (overrun(None, 9.0), overrun(Some(10), 9.0), overrun(Some(8), 9.0)),
            (None, Some(0.0), Some(1.0))
        );
    }
}
