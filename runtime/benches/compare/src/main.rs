//! Makes the tables and plots of what the groups' benches have kept: `bench.md`,
//! `bench.json` and an SVG a plot. Prints the tables of the groups that it is given.

use std::error::Error;
use std::fs;
use std::process::ExitCode;

use sigstorm_compare::{Figures, GROUPS, Row, plot, reports, table};

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

const HEAD: &str = "# Measured side by side

Each ratio is ours by theirs: below 1 ours is faster. Cases take turns every few milliseconds in one process, and a ratio is \
the median over the turns, with the 10th and 90th percentile. `just bench` measures all of it again, `just bench GROUP` one \
group; both write this file, [bench.json](bench.json) and what is in [bench/](bench).

";

fn run(shown: &[String]) -> Result<(), Box<dyn Error>> {
    if let Some(unknown) = shown.iter().find(|group| !GROUPS.contains(&group.as_str())) {
        return Err(format!("there is no group '{unknown}'; there are: {}", GROUPS.join(" ")).into());
    }
    let reports = reports();
    let mut rows: Vec<Row> = Vec::new();
    let mut text = HEAD.to_owned();
    for group in GROUPS {
        let Some(figures) = Figures::load(&reports, group)? else { continue };
        for plot in &figures.plots {
            plot::draw(plot, &reports.join("bench").join(format!("{}.svg", plot.file)))?;
        }
        let part = table::group(&figures);
        if shown.iter().any(|shown| shown == group) {
            println!("{part}");
        }
        text += &part;
        text += "\n";
        rows.extend(figures.rows);
    }
    if rows.is_empty() {
        return Err("nothing was measured yet".into());
    }
    let mut json = serde_json::to_string_pretty(&rows)?;
    json.push('\n');
    fs::write(reports.join("bench.json"), json)?;
    fs::write(reports.join("bench.md"), format!("{}\n", text.trim_end()))?;
    println!("kept in {}", reports.canonicalize()?.join("bench.md").display());
    Ok(())
}
