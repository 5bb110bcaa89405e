//! The parts of a schedule that its run passed over: steps without an effect, and stops that were not
//! reached, as rows of the trace and in words.

use crate::outcome::Event;
use crate::schedule::Schedule;

/// The events of a run, with a row for each step without an effect and each stop that was not
/// reached, where they would have happened.
pub fn with_passed_over(
    events: Vec<Event>,
    schedule: &Schedule,
    inert: &[u32],
    unreached: &[u32],
) -> Vec<Event> {
    if events.is_empty() {
        return events;
    }
    let row = |&step: &u32, said: &dyn Fn(&crate::schedule::Step) -> String| {
        schedule.steps.get(step as usize).map(|what| Event {
            step,
            actor: what.actor.name().to_owned(),
            what: said(what),
            goroutine: 0,
            pc: String::new(),
            sp: String::new(),
            lock: String::new(),
            barriers: String::new(),
        })
    };
    let inert = inert.iter().filter_map(|step| row(step, &|what| format!("no effect: {}", what.op)));
    let not_reached = |what: &crate::schedule::Step| {
        format!("not reached: {}", what.stop.map_or(String::new(), |stop| stop.to_string()))
    };
    let unreached = unreached.iter().filter_map(|step| row(step, &not_reached));
    let mut rows: Vec<Event> = inert.chain(unreached).collect();
    // Stable, and the events of a run are in the order of their steps: a row comes after its step's.
    let mut all = events;
    all.append(&mut rows);
    all.sort_by_key(|event| event.step);
    all
}

/// The same in words, for readers without the trace. Steps are numbered as there, from 0.
pub fn note(inert: &[u32], unreached: &[u32]) -> Option<String> {
    let listed = |steps: &[u32]| {
        let named: Vec<String> = steps.iter().take(8).map(u32::to_string).collect();
        let more = if steps.len() > named.len() { ", …" } else { "" };
        format!("{}{more}", named.join(", "))
    };
    let plural = |steps: &[u32]| if steps.len() == 1 { "" } else { "s" };
    let inert = (!inert.is_empty()).then(|| format!("step{} {} had no effect", plural(inert), listed(inert)));
    let unreached = (!unreached.is_empty()).then(|| match unreached {
        [one] => format!("the stop of step {one} was not reached"),
        many => format!("the stops of steps {} were not reached", listed(many)),
    });
    let parts: Vec<String> = inert.into_iter().chain(unreached).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(step: u32, what: &str) -> Event {
        let text = String::new;
        Event {
            step,
            actor: "m1".into(),
            what: what.into(),
            goroutine: 1,
            pc: text(),
            sp: text(),
            lock: text(),
            barriers: text(),
        }
    }

    #[test]
    fn passed_over_steps_have_rows_in_the_trace() {
        let text = "# sigstorm schedule 1\nm1 g1 call tiny @ copystack.begin; resume\ngc mark; scan g1\n";
        let schedule = Schedule::parse(text).unwrap();
        let events = vec![event(0, "g1"), event(1, "call tiny"), event(1, "call.done"), event(3, "mark")];
        let all = with_passed_over(events, &schedule, &[2, 4], &[1]);
        let whats: Vec<_> = all.iter().map(|event| (event.step, event.what.as_str())).collect();
        let expected = [
            (0, "g1"),
            (1, "call tiny"),
            (1, "call.done"),
            (1, "not reached: @ copystack.begin"),
            (2, "no effect: resume"),
            (3, "mark"),
            (4, "no effect: scan g1"),
        ];
        assert_eq!(whats, expected);
        assert_eq!(all[6].actor, "gc");
        assert!(
            with_passed_over(Vec::new(), &schedule, &[2], &[]).is_empty(),
            "a run without a trace has none"
        );
    }

    #[test]
    fn passed_over_steps_are_named_in_a_note() {
        assert_eq!(note(&[], &[]), None);
        assert_eq!(
            note(&[2, 4], &[1]).unwrap(),
            "steps 2, 4 had no effect; the stop of step 1 was not reached"
        );
        assert!(note(&(0..20).collect::<Vec<_>>(), &[]).unwrap().ends_with("7, … had no effect"));
    }
}
