//! The coverage listing: the disassembly of each function with counts in the margin.

use std::fmt::Write;

use sigstorm_inject::Region;
use sigstorm_runtime::FuncId;

use super::coverage::{Coverage, InstructionCoverage};
use crate::executor::number;

/// The remark beside an instruction at which nothing was done.
fn remark(place: &InstructionCoverage) -> Option<&'static str> {
    match (place.crossed + place.afterwards, place.never) {
        (0, Some(never)) => Some(never),
        _ => place.why().map(|why| why.name()),
    }
}

fn count(n: u64) -> String {
    if n == 0 { "-".to_owned() } else { n.to_string() }
}

/// Reached and reachable instructions of a function.
fn tally(coverage: &Coverage, function: FuncId) -> (usize, usize) {
    let reachable: Vec<&InstructionCoverage> =
        coverage.reachable().filter(|place| place.function == function).collect();
    (reachable.iter().filter(|place| place.injected()).count(), reachable.len())
}

/// As text.
pub fn text(coverage: &Coverage, region: &Region) -> String {
    let mut out = String::new();
    let (injected, boundaries) = (coverage.injected(), coverage.boundaries());
    // Writing to a string does not fail.
    let _ = writeln!(out, "{injected} of {boundaries} reachable instructions\n");
    let _ = writeln!(out, "{:>8} {:>8} {:>8}", "crossed", "signals", "others");
    for &function in FuncId::ALL {
        let (injected, all) = tally(coverage, function);
        let _ = writeln!(out, "\n{function}: {injected} of {all}");
        let boundaries = region.boundaries(number(function));
        for (place, boundary) in coverage.of(function).zip(boundaries) {
            let code = region.disassemble(number(function), usize::from(place.index));
            let [crossed, signals, others] =
                [place.crossed + place.afterwards, place.signals, place.handovers].map(count);
            let _ = write!(out, "{crossed:>8} {signals:>8} {others:>8}  ");
            let _ = write!(out, "#{:<4} +{:#05x}  {code:<44}", place.index, boundary.offset);
            let _ = writeln!(out, "{}", remark(place).map_or(String::new(), |why| format!("; {why}")));
        }
    }
    let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const STYLE: &str = "\
body{font:14px/1.45 ui-monospace,monospace;margin:2em;max-width:76em;color:#222;background:#fff}\
h1,h2,p{font-family:system-ui,sans-serif}h2{font-size:1.05em;margin:1.6em 0 .3em}\
h2 small{font-weight:normal;color:#777}table{border-collapse:collapse}\
td,th{padding:0 .8em;text-align:right;white-space:pre}td.c,th.c{text-align:left}\
tr.y{background:#e8f5e9}tr.n{background:#ffebee}tr.d{color:#999}td.w{text-align:left;color:#777;white-space:normal}\
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}tr.y{background:#16301a}tr.n{background:#3d1a1d}}";

/// As an HTML page of its own.
pub fn html(coverage: &Coverage, region: &Region) -> String {
    let mut out = String::new();
    let (injected, boundaries) = (coverage.injected(), coverage.boundaries());
    // Writing to a string does not fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>sigstorm sweep</title>\n\
         <style>{STYLE}</style>\n<h1>Every instruction of the protocol</h1>\n\
         <p>{injected} of {boundaries} reachable instructions: a signal was delivered there, or, where \
         signals are blocked, another thread went on while one was held there.</p>\n<p>"
    );
    for &function in FuncId::ALL {
        let _ = write!(out, "<a href=\"#{function}\">{function}</a> ");
    }
    out.push_str("</p>\n");
    for &function in FuncId::ALL {
        let (injected, all) = tally(coverage, function);
        let _ = writeln!(
            out,
            "<h2 id=\"{function}\">{function} <small>{injected} of {all}</small></h2>\n<table>\
             <tr><th>crossed<th>signals<th>others<th>#<th>offset<th class=\"c\">instruction<th>"
        );
        let boundaries = region.boundaries(number(function));
        for (place, boundary) in coverage.of(function).zip(boundaries) {
            let code = escaped(&region.disassemble(number(function), usize::from(place.index)));
            let class = match (place.injected(), place.never) {
                (true, _) => "y",
                (false, Some(_)) => "d",
                (false, None) => "n",
            };
            let [crossed, signals, others] =
                [place.crossed + place.afterwards, place.signals, place.handovers].map(count);
            let _ = writeln!(
                out,
                "<tr class=\"{class}\"><td>{crossed}<td>{signals}<td>{others}<td>{}<td>+{:#x}\
                 <td class=\"c\">{code}<td class=\"w\">{}",
                place.index,
                boundary.offset,
                escaped(remark(place).unwrap_or("")),
            );
        }
        out.push_str("</table>\n");
    }
    out
}
