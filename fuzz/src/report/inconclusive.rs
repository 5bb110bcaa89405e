//! Runs that have no answer.
//!
//! "Nothing found" is an answer only where something was run that could have found it. Where it was
//! not, a command says so: `"inconclusive":"REASON"` in its summary, a sentence for people, and exit
//! status 3. A finding that was made all the same wins.

/// A worker with less of a core than this did not run: what it did is chance.
pub const LEAST_SHARE: f64 = 0.05;

/// Why a run has no answer: what there was none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inconclusive {
    /// No schedule was run to its end.
    Schedules,
    /// No signal was delivered, so no walk was begun.
    Signals,
    /// No step of the schedule had an effect.
    Steps,
    /// Nothing was disturbed.
    Injections,
    /// A worker had less than [`LEAST_SHARE`] of a core.
    CoreTime,
    /// The probed program never installed a handler for the signal.
    Handler,
    /// The probed program came to none of the boundaries.
    Boundaries,
    /// Something was found, and there was no time to try it again.
    Confirmation,
}

impl Inconclusive {
    /// As summaries have it.
    pub fn name(self) -> &'static str {
        match self {
            Inconclusive::Schedules => "no-schedules",
            Inconclusive::Signals => "no-signals",
            Inconclusive::Steps => "no-steps",
            Inconclusive::Injections => "no-injections",
            Inconclusive::CoreTime => "no-core-time",
            Inconclusive::Handler => "no-handler",
            Inconclusive::Boundaries => "no-boundaries-reached",
            Inconclusive::Confirmation => "not-tried-again",
        }
    }

    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Inconclusive::Schedules => "no schedule was run to its end, so nothing can be said",
            Inconclusive::Signals => "no signal was delivered, so nothing can be said",
            Inconclusive::Steps => "no step had an effect, so nothing can be said",
            Inconclusive::Injections => "nothing was disturbed, so nothing can be said",
            Inconclusive::CoreTime => {
                "a worker had less than 5 % of a core, so nothing can be said; try again on a quieter machine"
            }
            Inconclusive::Handler => {
                "the program never had a handler for the signal, or never called --from, so nothing was injected; is it another signal (--signal)?"
            }
            Inconclusive::Confirmation => {
                "what was found has not been tried again, so it may be chance; give it more time (--seconds)"
            }
            Inconclusive::Boundaries => {
                "the program came to none of these boundaries, so nothing was injected; name others (--at), see --list"
            }
        }
    }
}

/// Of a campaign that found nothing: its schedules, its signals, whether it ran all that it was asked
/// to, and each worker's share of a core, as far as that was measured.
pub fn of_campaign(
    schedules: u64,
    signals: u64,
    all_run: bool,
    shares: impl IntoIterator<Item = Option<f64>>,
) -> Option<Inconclusive> {
    let starved = || shares.into_iter().flatten().any(|share| share < LEAST_SHARE);
    if schedules == 0 {
        Some(Inconclusive::Schedules)
    } else if !all_run && starved() {
        Some(Inconclusive::CoreTime)
    } else if signals == 0 {
        Some(Inconclusive::Signals)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn campaign_that_ran_nothing_has_no_answer() {
        let of =
            |schedules, signals, all_run, share| of_campaign(schedules, signals, all_run, [Some(0.9), share]);
        assert_eq!(of(0, 0, false, Some(0.9)), Some(Inconclusive::Schedules));
        assert_eq!(of(0, 0, true, None), Some(Inconclusive::Schedules));
        assert_eq!(of(9, 0, true, Some(0.9)), Some(Inconclusive::Signals));
        assert_eq!(of(9, 9, false, Some(0.04)), Some(Inconclusive::CoreTime));
        // It did what it was asked to, however long that took; and what was not measured says nothing.
        assert_eq!(of(9, 9, true, Some(0.04)), None);
        assert_eq!(of(9, 9, false, None), None);
        assert_eq!(of(9, 9, false, Some(0.06)), None);
    }
}
