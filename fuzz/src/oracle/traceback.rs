//! The traceback that a sample must have, derived from a shadow stack.
//!
//! A sample observes a goroutine at one instant: a PC and an SP on its stack, or its saved state
//! while its thread runs other code. The shadow stack knows the pending transition, and SP and PC
//! tell how far it has come, so exactly one traceback is right. While a frame replaces its
//! caller's PC two PCs are right for that caller. While a goroutine is off its stack, its saved SP
//! tells which of the known positions it has reached.

use sigstorm_runtime::FuncId;
use sigstorm_runtime::G;
use sigstorm_runtime::profiler::{MAX_FRAMES, Sample, SampleFrame};

use super::shadow_stack::{Pending, SavedAt, ShadowStack, info, step, within};

/// Bytes of the instruction that ends a callback's code, which the callback would return to.
const DEAD_END: usize = 2;

/// Where a goroutine was observed.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    /// PC that was interrupted.
    pub pc: usize,
    /// SP that was interrupted.
    pub sp: usize,
    /// Whether that SP is on its stack.
    pub on_stack: bool,
    /// Whether its thread was waiting in the kernel.
    pub in_kernel: bool,
    /// Its stack's top.
    pub top: usize,
    /// Its saved SP; zero where none is saved.
    pub saved_sp: usize,
    /// Its saved PC.
    pub saved_pc: usize,
}

/// One frame of it: the PC, and the SP as distance from the top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpectedFrame {
    /// Program counter.
    pub pc: usize,
    /// Distance from the top of the stack down to SP.
    pub below: usize,
}

/// The traceback that a sample must have.
#[derive(Clone, Copy, Debug)]
pub enum ExpectedTraceback {
    /// These frames; see [`ShadowStack::expected`].
    Frames(ExpectedFrames),
    /// None: the code is in no table, which is a reason to skip.
    UnknownCode,
    /// None: this goroutine cannot be where it was observed.
    Impossible,
}

/// The frames: one or two of the transition under way, then the chain, each frame in its call. They are not spelled
/// out, since this is made in a signal handler for every sample.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedFrames {
    head: [ExpectedFrame; 2],
    heads: usize,
    /// How many of the chain's frames follow, the outermost ones.
    chain: usize,
}

impl ExpectedFrames {
    /// How many frames a sample of it has. Never zero: the innermost frame is always there.
    pub fn len(&self) -> usize {
        (self.heads + self.chain).min(MAX_FRAMES)
    }

    fn at(pc: usize, below: usize) -> ExpectedFrames {
        ExpectedFrames { head: [ExpectedFrame { pc, below }, ExpectedFrame::default()], heads: 1, chain: 0 }
    }

    fn then(mut self, pc: usize, below: usize) -> ExpectedFrames {
        self.head[1] = ExpectedFrame { pc, below };
        self.heads = 2;
        self
    }

    /// Goes on with the chain, without its `skip` innermost frames.
    fn chain(mut self, stack: &ShadowStack, skip: usize) -> ExpectedTraceback {
        self.chain = stack.len.saturating_sub(skip);
        ExpectedTraceback::Frames(self)
    }

    fn chain_from(self, stack: &ShadowStack, above: Above) -> ExpectedTraceback {
        match above {
            Above::Top => self.chain(stack, 0),
            Above::Callers => self.chain(stack, 1),
            Above::Grandcallers => self.chain(stack, 2),
        }
    }
}

impl Observed {
    /// The goroutine as a sample of it observed it, with its bounds and saved state as they are now.
    pub fn by_sample(g: &G, sample: &Sample, in_kernel: bool) -> Observed {
        Observed {
            pc: sample.pc,
            sp: sample.sp,
            on_stack: g.stack.contains(sample.sp),
            in_kernel,
            ..Observed::saved(g)
        }
    }

    /// The goroutine in its saved state, as it is now.
    pub fn saved(g: &G) -> Observed {
        Observed {
            pc: 0,
            sp: 0,
            on_stack: false,
            in_kernel: false,
            top: g.stack.top.get(),
            saved_sp: g.sched.sp.get(),
            saved_pc: g.sched.pc.get(),
        }
    }
}

impl ShadowStack {
    /// Whether these are the frames of the expected traceback; `top` is the stack's.
    pub fn matches(&self, expected: &ExpectedTraceback, frames: &[SampleFrame], top: usize) -> bool {
        let ExpectedTraceback::Frames(expected) = expected else { return false };
        expected.len() == frames.len()
            && frames.iter().enumerate().all(|(index, found)| {
                let found = ExpectedFrame { pc: found.pc, below: top.wrapping_sub(found.sp) };
                self.is_expected(expected, index, found)
            })
    }

    /// The right traceback for a goroutine that was observed there.
    pub fn expected(&self, observed: Observed) -> ExpectedTraceback {
        match (observed.in_kernel, observed.on_stack) {
            (true, _) => self.expected_in_kernel(observed),
            (false, true) => self.expected_on_stack(observed),
            (false, false) => self.expected_saved(observed),
        }
    }

    /// In the kernel the stub has made its system call with the body's SP, and was interrupted
    /// where that comes back to: not at the transition point, which has the same SP.
    fn expected_in_kernel(&self, observed: Observed) -> ExpectedTraceback {
        let below = observed.top.wrapping_sub(observed.sp);
        let back = info(FuncId::Syscall).landing;
        match self.top() {
            Some(top) if top.function == FuncId::Syscall && (observed.pc, below) == (back, top.body) => {
                ExpectedFrames::at(back, below).chain(self, 1)
            }
            _ => ExpectedTraceback::Impossible,
        }
    }

    fn expected_on_stack(&self, observed: Observed) -> ExpectedTraceback {
        let Some(top) = self.top() else { return ExpectedTraceback::Impossible };
        let below = observed.top.wrapping_sub(observed.sp);
        let here = ExpectedFrames::at(observed.pc, below);
        if within(FuncId::Leaf, observed.pc) {
            return ExpectedTraceback::UnknownCode;
        }
        if within(FuncId::SwitchIn, observed.pc) {
            // Arriving: SP is there, PC follows.
            return match self.position(below, Some(observed.saved_pc)) {
                Some((pc, skip)) => ExpectedFrames::at(pc, below).chain_from(self, skip),
                None => ExpectedTraceback::Impossible,
            };
        }
        if within(FuncId::SwitchOut, observed.pc) {
            // A call from a frame whose SP is one word up.
            return match self.position(below - 8, None) {
                Some((pc, skip)) => here.then(pc, below - 8).chain_from(self, skip),
                None => ExpectedTraceback::Impossible,
            };
        }
        let caller = self.len.checked_sub(2).map(|i| self.frames[i]);
        if within(FuncId::Trampoline, observed.pc) {
            // The return has happened, whatever the trampoline has done so far.
            return match caller {
                Some(c) if self.pending == Pending::Return && below == c.body => {
                    let [pc, _] = self.comes_back_to(self.len - 2);
                    ExpectedFrames::at(pc, below).chain(self, 2)
                }
                _ => ExpectedTraceback::Impossible,
            };
        }
        match self.pending {
            Pending::Call(_) if below > top.body => here.chain(self, 0),
            Pending::Return if top.function != FuncId::Entry && below <= top.body - step(top.function) => {
                here.chain(self, 2)
            }
            _ => here.chain(self, 1),
        }
    }

    fn expected_saved(&self, observed: Observed) -> ExpectedTraceback {
        let Some(top) = self.top() else { return ExpectedTraceback::Impossible };
        if observed.saved_sp == 0 {
            // Nothing saved but the transition point of a system call or a foreign call.
            let entered = |stub| info(stub).after_next_op;
            return match (self.pending, top.function) {
                (Pending::Call(stub @ (FuncId::Syscall | FuncId::Cgocall)), _) => {
                    ExpectedFrames::at(entered(stub), top.body + step(stub)).chain(self, 0)
                }
                (_, stub @ (FuncId::Syscall | FuncId::Cgocall)) => {
                    ExpectedFrames::at(entered(stub), top.body).chain(self, 1)
                }
                // A callback that has been taken down.
                (Pending::Return, FuncId::Callback) => {
                    let stub = top.body - step(FuncId::Callback);
                    ExpectedFrames::at(entered(FuncId::Cgocall), stub).chain(self, 2)
                }
                _ => ExpectedTraceback::Impossible,
            };
        }
        let below = observed.top.wrapping_sub(observed.saved_sp);
        match self.position(below, Some(observed.saved_pc)) {
            Some((pc, skip)) => ExpectedFrames::at(pc, below).chain_from(self, skip),
            None => ExpectedTraceback::Impossible,
        }
    }

    /// The known position that the goroutine is at, given its SP as distance from the top: the PC, and the frames
    /// above. `saved` where that PC was saved and two
    /// positions share the SP; without it the goroutine is on its way out to its thread.
    fn position(&self, below: usize, saved: Option<usize>) -> Option<(usize, Above)> {
        let top = self.top()?;
        let label = self.saved_label(top);
        match self.pending {
            Pending::Nothing => {
                (below == top.body || self.saved_at == SavedAt::Start).then_some((label, Above::Callers))
            }
            Pending::Call(callee) => {
                let entered = top.body + 8;
                if callee != FuncId::Leaf && below == top.body + step(callee) {
                    Some((info(callee).after_next_op, Above::Top))
                } else if below == entered && !matches!(callee, FuncId::Syscall | FuncId::Cgocall) {
                    // A callback begins where the runtime has put it, and not by a call.
                    let i = info(callee);
                    let begins = callee == FuncId::Callback && saved == Some(i.start);
                    Some((if begins { i.start } else { i.after_morestack }, Above::Top))
                } else if below == top.body {
                    Some((label, Above::Callers))
                } else {
                    None
                }
            }
            Pending::Return => {
                let i = info(top.function);
                // These leave their stacks once more: the stubs as they are, a callback once
                // its frame is taken down.
                let leaves = matches!(top.function, FuncId::Syscall | FuncId::Cgocall | FuncId::Entry);
                if top.function == FuncId::Callback && below + step(top.function) == top.body + 8 {
                    return Some((i.end - DEAD_END, Above::Callers));
                }
                if below == top.body {
                    let left = leaves && saved.is_none_or(|pc| pc == i.after_morestack);
                    return Some((if left { i.after_morestack } else { label }, Above::Callers));
                }
                let caller = self.frames[self.len.checked_sub(2)?];
                (below == caller.body).then_some((info(caller.function).after_next_op, Above::Grandcallers))
            }
            Pending::Continue => {
                let ask = info(top.function).after_next_op;
                let arrived = below == top.body && saved.is_none_or(|pc| pc == ask);
                if arrived {
                    Some((ask, Above::Callers))
                } else {
                    (below == top.body || self.saved_at == SavedAt::Start).then_some((label, Above::Callers))
                }
            }
        }
    }

    /// Frame `index` of an expected traceback of this goroutine, innermost first.
    pub fn expected_frame(&self, right: &ExpectedFrames, index: usize) -> Option<ExpectedFrame> {
        if index >= right.len() {
            return None;
        }
        if index < right.heads {
            return Some(right.head[index]);
        }
        let frame = right.chain - 1 - (index - right.heads);
        let [pc, _] = self.comes_back_to(frame);
        Some(ExpectedFrame { pc, below: self.frames[frame].body })
    }

    /// Whether `found` is right as frame `index` of an expected traceback of this goroutine.
    pub fn is_expected(&self, right: &ExpectedFrames, index: usize, found: ExpectedFrame) -> bool {
        let Some(expected) = self.expected_frame(right, index) else { return false };
        let other = || match index.checked_sub(right.heads) {
            Some(above) => self.comes_back_to(right.chain - 1 - above)[1],
            None => expected.pc,
        };
        found.below == expected.below && (found.pc == expected.pc || found.pc == other())
    }

    /// Whether a scan that begins at the first of these frames reaches a return address more than
    /// `first` bytes above it that can have a barrier. Addresses of a transition under way are left out.
    pub fn is_due_a_barrier(&self, expected: &ExpectedTraceback, first: usize) -> bool {
        let ExpectedTraceback::Frames(right) = expected else { return false };
        let Some(start) = self.expected_frame(right, 0) else { return false };
        (1..right.chain).any(|index| {
            let above = start.below - self.frames[index - 1].body;
            self.frames[index].function != FuncId::Callback && above > first
        })
    }
}

/// The frames above a position.
#[derive(Clone, Copy, Debug)]
enum Above {
    /// The innermost frame itself, in its call, and its callers.
    Top,
    /// The innermost frame's callers.
    Callers,
    /// The callers of the innermost frame's caller.
    Grandcallers,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(stack: &ShadowStack, observed: Observed) -> Vec<ExpectedFrame> {
        match stack.expected(observed) {
            ExpectedTraceback::Frames(right) => {
                (0..right.len()).map(|i| stack.expected_frame(&right, i).unwrap()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn chain() -> ShadowStack {
        let mut stack = ShadowStack::new();
        stack.start();
        stack.settled();
        stack.pending = Pending::Call(FuncId::Small);
        stack.called();
        stack
    }

    const TOP: usize = 0x10000;

    fn observed(pc: usize, below: usize) -> Observed {
        Observed { pc, sp: TOP - below, on_stack: true, in_kernel: false, top: TOP, saved_sp: 0, saved_pc: 0 }
    }

    #[test]
    fn bodies_lie_where_frame_sizes_put_them() {
        let stack = chain();
        let bodies: Vec<usize> = stack.frames().iter().map(|f| f.body).collect();
        assert_eq!(bodies, [40, 40 + 16 + 80]);
    }

    #[test]
    fn pending_call_has_happened_once_sp_is_below_the_body() {
        let mut stack = chain();
        stack.pending = Pending::Call(FuncId::Tiny);
        let small = info(FuncId::Small);
        let tiny = info(FuncId::Tiny);
        let before = frames(&stack, observed(small.after_next_op, 136));
        assert_eq!(before[0], ExpectedFrame { pc: small.after_next_op, below: 136 });
        assert_eq!(before.len(), 2);
        let after = frames(&stack, observed(tiny.start, 144));
        assert_eq!(after[0], ExpectedFrame { pc: tiny.start, below: 144 });
        assert_eq!(after[1], ExpectedFrame { pc: small.after_call, below: 136 });
        assert_eq!(after.len(), 3);
    }

    #[test]
    fn pending_return_has_happened_once_sp_is_at_the_frames_end() {
        let mut stack = chain();
        stack.pending = Pending::Return;
        let small = info(FuncId::Small);
        let entry = info(FuncId::Entry);
        let at_ret = frames(&stack, observed(small.end - 1, 48));
        assert_eq!(at_ret.len(), 2);
        let back = frames(&stack, observed(entry.after_call, 40));
        assert_eq!(back, [ExpectedFrame { pc: entry.after_call, below: 40 }]);
        let trampoline = info(FuncId::Trampoline);
        let hit = frames(&stack, observed(trampoline.start, 40));
        assert_eq!(hit, [ExpectedFrame { pc: entry.after_call, below: 40 }]);
    }

    #[test]
    fn system_call_is_at_one_place_in_the_kernel() {
        let mut stack = chain();
        stack.pending = Pending::Call(FuncId::Syscall);
        stack.called();
        stack.pending = Pending::Return;
        let stub = info(FuncId::Syscall);
        let body = stack.top().unwrap().body;
        let at = |pc, below| Observed { in_kernel: true, ..observed(pc, below) };
        let there = frames(&stack, at(stub.landing, body));
        assert_eq!(there[0], ExpectedFrame { pc: stub.landing, below: body });
        assert_eq!(there.len(), 3);
        for elsewhere in
            [at(stub.after_next_op, body), at(stub.landing - 2, body), at(stub.landing, body + 8)]
        {
            assert!(matches!(stack.expected(elsewhere), ExpectedTraceback::Impossible), "{elsewhere:?}");
        }
        // Held there by a breakpoint instead, any instruction of the stub is as good.
        assert_eq!(frames(&stack, observed(stub.after_next_op, body)).len(), 3);
    }

    #[test]
    fn trampoline_is_impossible_without_a_pending_return() {
        let stack = chain();
        let trampoline = info(FuncId::Trampoline);
        assert!(matches!(stack.expected(observed(trampoline.start, 40)), ExpectedTraceback::Impossible));
    }

    #[test]
    fn frame_that_replaced_its_callers_pc_returns_to_the_other_place() {
        let mut stack = chain();
        let (small, entry) = (info(FuncId::Small), info(FuncId::Entry));
        assert!(stack.can_set_pc());
        let at = observed(small.after_next_op, 136);
        let found = |pc| ExpectedFrame { pc, below: 40 };
        let right = |stack: &ShadowStack| match stack.expected(at) {
            ExpectedTraceback::Frames(right) => {
                [entry.after_call, entry.after_call_other, entry.after_next_op]
                    .map(|pc| stack.is_expected(&right, 1, found(pc)))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(right(&stack), [true, false, false]);
        for (meanwhile, after) in
            [([true, true, false], [false, true, false]), ([true, true, false], [true, false, false])]
        {
            stack.replaces_pc();
            assert_eq!(right(&stack), meanwhile);
            stack.replaced_pc();
            assert_eq!(right(&stack), after);
        }
        // A callee of its own comes back to where it was called.
        stack.replaces_pc();
        stack.replaced_pc();
        stack.pending = Pending::Call(FuncId::Tiny);
        stack.called();
        let chain = frames(&stack, observed(info(FuncId::Tiny).after_next_op, 136 + 48));
        assert_eq!(
            chain.iter().map(|f| f.pc).skip(1).collect::<Vec<_>>(),
            [small.after_call, entry.after_call_other]
        );
        stack.pending = Pending::Return;
        stack.returned();
        stack.pending = Pending::Return;
        let hit = frames(&stack, observed(info(FuncId::Trampoline).start, 40));
        assert_eq!(hit, [ExpectedFrame { pc: entry.after_call_other, below: 40 }]);
    }

    #[test]
    fn recovery_cuts_the_chain_at_the_deferring_frame() {
        let mut stack = chain();
        stack.pending = Pending::Call(FuncId::Deferring);
        stack.called();
        let body = stack.top().unwrap().body;
        for _ in 0..3 {
            stack.pending = Pending::Call(FuncId::Tiny);
            stack.called();
        }
        stack.recovered(body);
        assert_eq!(stack.depth(), 3);
        assert_eq!(stack.saved_at, SavedAt::Landing);
    }

    #[test]
    fn barrier_is_due_where_a_return_address_is_far_enough_up() {
        let mut stack = chain();
        let saved = |stack: &ShadowStack| {
            stack.expected(Observed {
                on_stack: false,
                saved_sp: TOP - stack.top().unwrap().body,
                ..observed(0, 0)
            })
        };
        assert!(!stack.is_due_a_barrier(&saved(&stack), 1024));
        assert!(!stack.is_due_a_barrier(&saved(&stack), 0), "the innermost frame has none");
        stack.pending = Pending::Call(FuncId::Huge);
        stack.called();
        stack.pending = Pending::Call(FuncId::Tiny);
        stack.called();
        assert!(stack.is_due_a_barrier(&saved(&stack), 0));
        assert!(stack.is_due_a_barrier(&saved(&stack), 1024));
        assert!(!stack.is_due_a_barrier(&saved(&stack), 4096));
    }
}
