//! Instructions that no run can reach, and why.
//!
//! Code that always ends in a trap throws, panics or cleans up after a panic; a quiet
//! core does none of these. On the goroutine side the reasons are the frame kinds' own, and
//! stated by the labels in their code.

use sigstorm_inject::{Flow, Known, Region};
use sigstorm_runtime::unwind::functab::{FuncInfo, info};
use sigstorm_runtime::{
    FuncId, instrument::canary, instrument::defect, instrument::hooks, unwind::throw, unwind::traceback,
};

use crate::executor::number;

/// It calls what does not return.
const THROWS: &str = "it only throws or panics";
const PLANTED: &str = "only a planted defect comes there";
const WRONG: &str = "only a walk that goes wrong comes there";

/// Why no run of a quiet core reaches each instruction of `function`; nothing where one can.
pub(super) fn never(region: &Region, function: FuncId) -> Vec<Option<&'static str>> {
    let f = number(function);
    if !function.on_goroutine_stack() {
        return protocol(region, f);
    }
    let count = region.count(f);
    let mut reasons = vec![None; count];
    let FuncInfo { after_call, after_morestack, landing, slots, .. } = *info(function);
    let index_of = |address: usize| (0..count).find(|&index| region.address(f, index) == Some(address));
    for (index, reason) in reasons.iter_mut().enumerate() {
        if region.disassemble(f, index) == "ud2" {
            *reason = Some(match function {
                FuncId::Trampoline => "only barriers out of order end there",
                _ => "an exit is never resumed",
            });
        }
    }
    match function {
        _ if slots == 0 || function == FuncId::Entry => {}
        function => {
            let (Some(lands), Some(more), Some(called)) =
                (index_of(landing), index_of(after_morestack), index_of(after_call))
            else {
                return reasons;
            };
            if !matches!(function, FuncId::Deferring | FuncId::Callback) {
                reasons[lands] = Some("recoveries land in a deferring frame or a callback alone");
            }
            // Its event, the call, and the jump back.
            if function == FuncId::Nosplit {
                reasons[more - 2..=more].fill(Some("it has no stack check"));
            }
            if matches!(function, FuncId::Gopanic | FuncId::Goexit) {
                reasons[called + 1..more - 2].fill(Some("it never returns to whom it has interrupted"));
            }
        }
    }
    reasons
}

/// Whether each instruction is led to from the function's first.
fn led_to(flow: &[Flow]) -> Vec<bool> {
    let mut led = vec![false; flow.len()];
    let mut todo = vec![0];
    while let Some(index) = todo.pop() {
        let Some(seen) = led.get_mut(index).filter(|seen| !**seen) else { continue };
        *seen = true;
        if flow[index].anywhere {
            // Unknown.
            return vec![true; flow.len()];
        }
        todo.extend(flow[index].next.iter().flatten());
    }
    led
}

/// The reasons for a function of the protocol. A branch on a word that never changes goes
/// one way; what calls a thing that only a defect, a throw or a failed walk calls is that thing's.
fn protocol(region: &Region, f: usize) -> Vec<Option<&'static str>> {
    let quiet = [(defect::word(), Known::Zero)];
    let watched = [quiet[0], (hooks::word(), Known::NonZero)];
    let (always_traps, written, flow) =
        (region.always_traps(f), led_to(&region.flow(f)), region.flow_where(f, &watched));
    let (in_quiet, in_watched) = (led_to(&region.flow_where(f, &quiet)), led_to(&flow));
    let calls = |index: usize, targets: &[usize]| flow[index].calls.is_some_and(|to| targets.contains(&to));
    let reason = |index: usize| match index {
        _ if !written[index] && region.disassemble(f, index).starts_with("nop") => {
            Some("it only fills a gap")
        }
        _ if !written[index] => Some("nothing but a panic's clean-up leads there"),
        _ if always_traps[index] || calls(index, &throw::code()) => Some(THROWS),
        _ if !in_quiet[index] || calls(index, &canary::code()) => Some(PLANTED),
        _ if !in_watched[index] => Some("only a core that nobody watches comes there"),
        _ if calls(index, &[traceback::wrong_code()]) => Some(WRONG),
        _ => None,
    };
    around(&flow, (0..flow.len()).map(reason).collect())
}

/// The reasons, with those of what must come before or after such an instruction: what leads
/// to nothing else, and what nothing else leads to.
fn around(flow: &[Flow], mut reasons: Vec<Option<&'static str>>) -> Vec<Option<&'static str>> {
    let mut before = vec![Vec::new(); flow.len()];
    for (index, flow) in flow.iter().enumerate() {
        flow.next.iter().flatten().for_each(|&next| before[next].push(index));
    }
    loop {
        let mut changed = false;
        for index in 1..flow.len() {
            let after: Vec<usize> = flow[index].next.iter().flatten().copied().collect();
            let all = |of: &[usize]| {
                let reason = of.first().and_then(|&other| reasons[other]);
                reason.filter(|_| of.iter().all(|&other| reasons[other].is_some()))
            };
            if reasons[index].is_none()
                && let Some(reason) = all(&after).or_else(|| all(&before[index]))
            {
                reasons[index] = Some(reason);
                changed = true;
            }
        }
        if !changed {
            return reasons;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(next: &[usize]) -> Flow {
        Flow { next: [next.first().copied(), next.get(1).copied()], ..Flow::default() }
    }

    #[test]
    fn code_of_a_defect_lies_around_its_canary() {
        let canary = Flow { calls: Some(canary::code()[0]), ..to(&[4]) };
        // 1 branches to 2, which leads to the canary at 3, which leads to 4, and on; or to 5.
        let flow = [to(&[1]), to(&[2, 5]), to(&[3]), canary, to(&[5]), to(&[])];
        let seen = [None, None, None, Some(PLANTED), None, None];
        let reasons: Vec<bool> = around(&flow, seen.to_vec()).iter().map(Option::is_some).collect();
        assert_eq!(reasons, [false, false, true, true, true, false]);
        assert_eq!(led_to(&flow), [true; 6]);
    }

    #[test]
    fn code_without_a_predecessor_is_unreachable() {
        assert_eq!(led_to(&[to(&[2]), to(&[2]), to(&[])]), [true, false, true]);
        assert_eq!(led_to(&[Flow { anywhere: true, ..to(&[]) }, to(&[])]), [true, true]);
    }

    #[test]
    fn most_of_the_marked_code_is_reachable() {
        let region = crate::executor::region().expect("code");
        for &function in FuncId::ALL {
            let reasons = never(&region, function);
            assert_eq!(reasons.len(), region.count(number(function)));
            assert!(reasons[0].is_none(), "{function}");
        }
    }
}
