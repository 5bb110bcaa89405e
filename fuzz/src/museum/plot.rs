//! Survival curves: for each specimen a panel, in which every baseline's share of trials that
//! have not found it yet falls with time.

use super::statistics::survival;
use super::tally::Tally;
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

const COLUMNS: usize = 4;
const PANEL: (u32, u32) = (250, 130);
/// Above the panels: what they show.
const HEAD: u32 = 44;
/// Time begins here: a hundredth of a second.
const FROM: f64 = 0.01;

const HUNT: RGBColor = RGBColor(0x0b, 0x5c, 0xad);
const RANDOM: RGBColor = RGBColor(0xd0, 0x6a, 0x00);

fn color(baseline: &str) -> RGBColor {
    if baseline == "hunt" { HUNT } else { RANDOM }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The plot, as SVG. Specimens that must be silent have no panel.
pub fn svg(tallies: &[Tally], budget: u64) -> Result<String> {
    let shown: Vec<&Tally> = tallies.iter().filter(|tally| !tally.must_be_silent).collect();
    let mut names: Vec<&str> = shown.iter().map(|tally| tally.name).collect();
    names.dedup();
    let rows = names.len().div_ceil(COLUMNS).max(1);
    let size = (PANEL.0 * COLUMNS as u32, HEAD + PANEL.1 * rows as u32);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&root, &names, rows, &shown, budget).map_err(|error| anyhow!("cannot draw: {error}"))?;
    }
    Ok(text)
}

fn draw(
    root: &Area,
    names: &[&str],
    rows: usize,
    shown: &[&Tally],
    budget: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let (head, panels) = root.split_vertically(HEAD);
    let title = "Share of trials that have not found it yet, by seconds (logarithmic)";
    head.draw_text(title, &("sans-serif", 15).into_text_style(root), (10, 6))?;
    let mut baselines: Vec<&str> = shown.iter().map(|tally| tally.baseline).collect();
    baselines.sort_unstable();
    baselines.dedup();
    for (index, baseline) in baselines.iter().enumerate() {
        let color = color(baseline);
        let style = ("sans-serif", 13).into_text_style(root).color(&color);
        head.draw_text(baseline, &style, (10 + 80 * index as i32, 26))?;
    }
    for (area, &name) in panels.split_evenly((rows, COLUMNS)).iter().zip(names) {
        let curves: Vec<&&Tally> = shown.iter().filter(|tally| tally.name == name).collect();
        panel(area, name, &curves, budget as f64)?;
    }
    root.present()?;
    Ok(())
}

fn panel(area: &Area, name: &str, curves: &[&&Tally], budget: f64) -> Result<(), Box<dyn std::error::Error>> {
    let mut chart = ChartBuilder::on(area)
        .caption(name, ("sans-serif", 12))
        .margin(6)
        .x_label_area_size(18)
        .y_label_area_size(28)
        .build_cartesian_2d((FROM..budget).log_scale(), 0.0..1.05)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_labels(5)
        .y_labels(3)
        .label_style(("sans-serif", 10))
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| format!("{y:.1}"))
        .draw()?;
    for tally in curves {
        let style = color(tally.baseline).stroke_width(2);
        chart.draw_series(LineSeries::new(steps(&tally.seconds, budget), style))?;
    }
    Ok(())
}

/// The corners of a curve that falls in steps.
fn steps(seconds: &[Option<f64>], budget: f64) -> Vec<(f64, f64)> {
    let mut share = 1.0;
    let mut corners = vec![(FROM, share)];
    for (time, next) in survival(seconds) {
        let time = time.clamp(FROM, budget);
        corners.extend([(time, share), (time, next)]);
        share = next;
    }
    corners.push((budget, share));
    corners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_falls_in_steps() {
        let corners = steps(&[Some(2.0), Some(1.0)], 10.0);
        assert_eq!(corners, [(0.01, 1.0), (1.0, 1.0), (1.0, 0.5), (2.0, 0.5), (2.0, 0.0), (10.0, 0.0)]);
        assert_eq!(steps(&[None], 10.0), [(0.01, 1.0), (10.0, 1.0)]);
    }

    #[test]
    fn nothing_to_draw_is_no_error() {
        assert!(svg(&[], 60).unwrap().starts_with("<svg"));
    }
}
