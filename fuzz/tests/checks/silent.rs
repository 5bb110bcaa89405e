//! The control: where nothing is changed no check fires.

use sigstorm::outcome::Verdict;
use sigstorm::tamper::Told;

use crate::common::{Blow, Check, QUIET};

#[test]
fn healthy_runtime_is_not_accused() {
    let untouched = |_, _, _| Told::Yes;
    let check = Check::new("silent::healthy_runtime_is_not_accused", Verdict::HarnessError, "", untouched);
    let counts = check.blow(Blow { seconds: 2, threads: 2, rate: 1_000 }).is_silent();
    assert!(counts.signals > 100 && counts.operations > 1_000 && counts.rounds > 0, "{counts:?}");
}

#[test]
fn healthy_runtime_with_few_signals_is_not_accused() {
    let name = "silent::healthy_runtime_with_few_signals_is_not_accused";
    let counts = Check::new(name, Verdict::HarnessError, "", |_, _, _| Told::Yes).blow(QUIET).is_silent();
    assert!(counts.signals > 0 && counts.operations > 1_000 && counts.rounds > 0, "{counts:?}");
}
