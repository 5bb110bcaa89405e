//! Plots, as SVG.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::Plot;

const SIZE: (u32, u32) = (900, 540);
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(0, 0, 0),
];

/// The least and the greatest of some values, with room around.
fn range(values: impl Iterator<Item = f64>, room: f64) -> Option<std::ops::Range<f64>> {
    let bounds = values.filter(|v| *v > 0.0).fold(None, |bounds: Option<(f64, f64)>, v| {
        Some(bounds.map_or((v, v), |(least, greatest)| (least.min(v), greatest.max(v))))
    });
    bounds.map(|(least, greatest)| least / room..greatest * room)
}

/// Draws a plot; one without points is an error.
///
/// # Errors
/// If there is nothing to draw, or the file cannot be written.
pub fn draw(plot: &Plot, path: &Path) -> Result<(), Box<dyn Error>> {
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let x = range(points().map(|p| p.0), 1.1).ok_or_else(|| format!("{}: nothing to draw", plot.file))?;
    let y = range(points().map(|p| p.1), 1.5).ok_or_else(|| format!("{}: nothing to draw", plot.file))?;
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(&plot.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(45)
        .y_label_area_size(70)
        .build_cartesian_2d(x.log_scale(), y.log_scale())?;
    chart
        .configure_mesh()
        .x_desc(&plot.axes[0])
        .y_desc(&plot.axes[1])
        .x_label_formatter(&|v| label(*v))
        .y_label_formatter(&|v| label(*v))
        .light_line_style(RGBColor(240, 240, 240))
        .draw()?;
    for (line, colour) in plot.lines.iter().zip(COLOURS.iter().cycle()) {
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(3))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    root.present()?;
    Ok(())
}

fn label(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", crate::table::ns(v / 1e6)),
        v if v >= 10_000.0 => format!("{} k", crate::table::ns(v / 1e3)),
        v if v.fract() == 0.0 => format!("{v}"),
        v => crate::table::ns(v),
    }
}
