//! The results of a group's measurement: rows, tables, plots. They are plain data, kept as JSON.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The groups, in the order in which they are measured and shown.
pub const GROUPS: [&str; 7] = ["lock", "traceback", "handler", "barriers", "copystack", "harness", "probe"];

/// Ours against one of theirs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The group.
    pub group: String,
    /// The case that was measured.
    pub name: String,
    /// The peer that it is compared with.
    pub peer: String,
    /// Our figure, the median over the turns.
    pub ours_ns: f64,
    /// Theirs.
    pub theirs_ns: f64,
    /// The median of ours by theirs over the turns; lower is better.
    pub ratio: f64,
    /// The 10th and the 90th percentile of that.
    pub spread: [f64; 2],
    /// The goal: the highest ratio wanted, if one was ever set.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub goal: Option<f64>,
    /// The command that measures it.
    pub command: String,
}

/// Figures that are no ratios.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sheet {
    /// Their title.
    pub title: String,
    /// The columns.
    pub head: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

/// A line of a plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// A plot; both axes are logarithmic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plot {
    /// The file's name, without `.svg`.
    pub file: String,
    /// Its title.
    pub title: String,
    /// The titles of the axes.
    pub axes: [String; 2],
    /// The lines.
    pub lines: Vec<Line>,
}

/// A group's figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The group.
    pub group: String,
    /// The machine and the date of the measurement.
    pub measured: String,
    /// Whether the settings were short ones, so that the figures are plausible at best.
    pub quick: bool,
    /// How long it took.
    pub seconds: f64,
    /// The ratios.
    pub rows: Vec<Row>,
    /// Other figures.
    pub sheets: Vec<Sheet>,
    /// Plots.
    pub plots: Vec<Plot>,
    /// Notes for readers.
    pub notes: Vec<String>,
}

/// Returns the folder of reports: `SIGSTORM_BENCH`, or the repository's `reports`.
pub fn reports() -> PathBuf {
    match std::env::var_os("SIGSTORM_BENCH") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../reports"),
    }
}

impl Figures {
    fn path(reports: &Path, group: &str) -> PathBuf {
        reports.join("bench").join(format!("{group}.json"))
    }

    /// Writes the figures to their file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, reports: &Path) -> io::Result<()> {
        fs::create_dir_all(reports.join("bench"))?;
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(Figures::path(reports, &self.group), text)
    }

    /// Reads the figures of one group; none if it was never measured.
    ///
    /// # Errors
    /// If the file cannot be read, or holds something else.
    pub fn load(reports: &Path, group: &str) -> io::Result<Option<Figures>> {
        match fs::read(Figures::path(reports, group)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
