//! Instructions that no run can come to, and why.
//!
//! What ends in a trap whatever happens throws, panics or cleans up after a panic; a quiet
//! core does none of these. On the goroutine side the reasons are the frame kinds' own, and
//! stated by the labels in their code.

use sigstorm_inject::{Flow, Region};
use sigstorm_runtime::table::{FunctionInfo, info};
use sigstorm_runtime::{Function, canary};

use crate::executor::number;

/// Why no run of a quiet core comes to each instruction of `function`; nothing where one can.
pub(super) fn never(region: &Region, function: Function) -> Vec<Option<&'static str>> {
    let f = number(function);
    if !function.on_goroutine_stack() {
        let (doomed, flow) = (region.doomed(f), region.flow(f));
        let (led_to, planted) = (led_to(&flow), planted(&flow));
        let reason = |index: usize| match (doomed[index], led_to[index], planted[index]) {
            (true, ..) => Some("it only throws or panics"),
            (_, false, _) if region.disassemble(f, index).starts_with("nop") => Some("it only fills a gap"),
            (_, false, _) => Some("nothing but a panic's clean-up leads there"),
            (.., true) => Some("only a planted defect comes there"),
            _ => None,
        };
        return (0..flow.len()).map(reason).collect();
    }
    let count = region.count(f);
    let mut reasons = vec![None; count];
    let FunctionInfo { end, after_call, after_more, landing, slots, .. } = *info(function);
    let index_of = |address: usize| (0..count).find(|&index| region.address(f, index) == Some(address));
    let last = count.saturating_sub(1);
    let dies = |index: usize| region.address(f, index) == Some(end - 2) && region.doomed(f)[index];
    match function {
        Function::Entry if dies(last) => reasons[last] = Some("an exit is never resumed"),
        Function::Trampoline if dies(last) => reasons[last] = Some("only barriers out of order end there"),
        _ if slots == 0 || function == Function::Entry => {}
        function => {
            let (Some(lands), Some(more), Some(called)) =
                (index_of(landing), index_of(after_more), index_of(after_call))
            else {
                return reasons;
            };
            if !matches!(function, Function::Deferring | Function::Callback) {
                reasons[lands] = Some("recoveries land in a deferring frame or a callback alone");
            }
            // Its event, the call, and the jump back.
            if function == Function::Nosplit {
                reasons[more - 2..=more].fill(Some("it has no stack check"));
            }
            if matches!(function, Function::Gopanic | Function::Goexit) {
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
            // Who knows.
            return vec![true; flow.len()];
        }
        todo.extend(flow[index].next.iter().flatten());
    }
    led
}

/// Whether each instruction runs only where a defect is planted: it calls what notes that, or
/// all that can come before it or after it does.
fn planted(flow: &[Flow]) -> Vec<bool> {
    let canaries = canary::code();
    let mut planted: Vec<bool> =
        flow.iter().map(|f| f.calls.is_some_and(|target| canaries.contains(&target))).collect();
    let mut before = vec![Vec::new(); flow.len()];
    for (index, flow) in flow.iter().enumerate() {
        flow.next.iter().flatten().for_each(|&next| before[next].push(index));
    }
    loop {
        let mut changed = false;
        for index in 1..flow.len() {
            let after: Vec<usize> = flow[index].next.iter().flatten().copied().collect();
            let all = |of: &[usize]| !of.is_empty() && of.iter().all(|&other| planted[other]);
            if !planted[index] && (all(&after) || all(&before[index])) {
                planted[index] = true;
                changed = true;
            }
        }
        if !changed {
            return planted;
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
    fn what_a_defect_alone_runs_is_what_lies_around_a_canary() {
        let canary = Flow { calls: Some(canary::code()[0]), ..to(&[4]) };
        // 1 branches to 2, which leads to the canary at 3, which leads to 4, and on; or to 5.
        let flow = [to(&[1]), to(&[2, 5]), to(&[3]), canary, to(&[5]), to(&[])];
        assert_eq!(planted(&flow), [false, false, true, true, true, false]);
        assert_eq!(led_to(&flow), [true; 6]);
    }

    #[test]
    fn what_nothing_leads_to_is_told() {
        assert_eq!(led_to(&[to(&[2]), to(&[2]), to(&[])]), [true, false, true]);
        assert_eq!(led_to(&[Flow { anywhere: true, ..to(&[]) }, to(&[])]), [true, true]);
    }

    #[test]
    fn most_of_the_marked_code_can_be_come_to() {
        let region = crate::executor::region().expect("code");
        for &function in Function::ALL {
            let reasons = never(&region, function);
            assert_eq!(reasons.len(), region.count(number(function)));
            assert!(reasons[0].is_none(), "{function}");
        }
    }
}
