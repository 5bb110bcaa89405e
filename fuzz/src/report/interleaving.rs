//! A trace as people read races: a column for each thread, time going down.
//!
//! ```text
//! step  m1          gc             | g   pc          sp     lock  barriers
//!    3  call small                 | g1  small+0     -0x40  -     0/0
//!    4              barrier.store  | g1  -           -      gc    0/3
//! ```
//!
//! Pure: events in, lines out.

use console::measure_text_width;

use super::words::one_line;
use crate::outcome::Event;

/// The order of the columns; other actors come after these.
const ACTORS: [&str; 4] = ["m1", "m2", "gc", "ext"];

/// The details' names.
const DETAILS: [&str; 5] = ["g", "pc", "sp", "lock", "barriers"];

/// One line of the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The step and what happened, in its actor's column; as wide in every line.
    pub what: String,
    /// Where, and the state of the goroutine.
    pub details: String,
}

impl Line {
    /// The line as a report has it.
    pub fn plain(&self) -> String {
        format!("{}  | {}", self.what, self.details).trim_end().to_string()
    }

    /// The line as a terminal has it: what happened stands out.
    pub fn styled(&self) -> String {
        format!("{}  {}", self.what, console::style(format!("| {}", self.details).trim_end()).dim())
    }
}

/// The events as lines, under a line of headings. Nothing for no events.
pub fn lay_out(events: &[Event]) -> Vec<Line> {
    if events.is_empty() {
        return Vec::new();
    }
    let actors = actors(events);
    let mut rows: Vec<(Vec<String>, Vec<String>)> = Vec::with_capacity(events.len() + 1);
    let heading = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    rows.push((heading(&[&["step"], &actors[..]].concat()), heading(&DETAILS)));
    let mut step = None;
    for event in events {
        let mut columns = vec![String::new(); actors.len() + 1];
        // Once for each step: where the number changes, another step begins.
        if step.replace(event.step) != Some(event.step) {
            columns[0] = format!("{:4}", event.step);
        }
        if let Some(place) = actors.iter().position(|&actor| actor == event.actor) {
            columns[place + 1] = one_line(&event.what);
        }
        rows.push((columns, details(event)));
    }
    let (whats, details): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let lines = aligned(&whats).into_iter().zip(aligned(&details));
    lines.map(|(what, details)| Line { what, details }).collect()
}

fn actors(events: &[Event]) -> Vec<&str> {
    let occurs = |actor: &&str| events.iter().any(|event| event.actor == *actor);
    let mut actors: Vec<&str> = ACTORS.into_iter().filter(occurs).collect();
    for event in events {
        if !actors.contains(&event.actor.as_str()) {
            actors.push(&event.actor);
        }
    }
    actors
}

fn details(event: &Event) -> Vec<String> {
    let or_dash = |text: &str| if text.is_empty() { "-".into() } else { one_line(text) };
    let goroutine = if event.goroutine == 0 { "-".into() } else { format!("g{}", event.goroutine) };
    vec![goroutine, or_dash(&event.pc), or_dash(&event.sp), or_dash(&event.lock), or_dash(&event.barriers)]
}

/// Each row's cells, padded to their columns' widths.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| measure_text_width(&row[column])).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let pad =
        |(cell, width): (&String, &usize)| format!("{cell}{}", " ".repeat(width - measure_text_width(cell)));
    rows.iter().map(|row| row.iter().zip(&widths).map(pad).collect::<Vec<_>>().join("  ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(step: u32, actor: &str, what: &str, goroutine: u8, pc: &str) -> Event {
        let (actor, what, pc) = (actor.into(), what.into(), pc.into());
        Event {
            step,
            actor,
            what,
            goroutine,
            pc,
            sp: String::new(),
            lock: "gc".into(),
            barriers: "0/3".into(),
        }
    }

    #[test]
    fn columns_of_a_trace_line_up() {
        let events = [
            event(0, "gc", "barrier.store", 1, ""),
            event(0, "gc", "ünïcode\n", 1, "small+0x12"),
            event(11, "m1", "signal", 0, "x"),
        ];
        let lines: Vec<_> = lay_out(&events).iter().map(Line::plain).collect();
        let expected = [
            "step  m1      gc             | g   pc          sp  lock  barriers",
            "   0          barrier.store  | g1  -           -   gc    0/3",
            "              ünïcode        | g1  small+0x12  -   gc    0/3",
            "  11  signal                 | -   x           -   gc    0/3",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn only_actors_that_occur_have_a_column() {
        let one = lay_out(&[event(7, "ext", "signal", 0, "")]);
        assert!(one[0].what.starts_with("step  ext"), "{}", one[0].what);
        let unknown = lay_out(&[event(0, "m9", "a", 0, ""), event(1, "m2", "b", 0, "")]);
        assert!(unknown[0].what.starts_with("step  m2  m9"));
        assert!(lay_out(&[]).is_empty());
    }
}
