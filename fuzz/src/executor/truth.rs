//! The truth: what every goroutine's call chain is, kept by the one who decides it.
//!
//! Every call and return is the executor's decision, so it knows the chain without
//! looking: which frame kinds, and from their sizes where each body's SP is, as a
//! distance from the top of the stack. It also knows the transition that is under way,
//! and how far that has come shows in SP and PC alone: a pending call has happened once
//! SP is below the caller's body, a pending return once SP is at or above the frame's
//! end. So at any instruction there is one right answer.
//!
//! Neither the function table nor a barrier list is read here. Positions (where a
//! function's code is, where its call comes back to) come from the assembler's labels.
//! While a goroutine is off its stack, its saved SP says which of the known positions it
//! has come to.
//!
//! The truth also shadows what the program has written: each frame's slots, each object's
//! fields, the mailbox. Liveness is decided by these and not by memory.

use sigstorm_runtime::FuncId;
use sigstorm_runtime::gc::heap::{FIELDS, MAILBOX, OBJECTS};
use sigstorm_runtime::gc::mutator::SLOTS;
use sigstorm_runtime::profiler::MAX_FRAMES;
use sigstorm_runtime::unwind::functab::{FuncInfo, functab};

mod panics;
mod slots;

/// Deepest chain that a schedule can make.
pub const MAX_DEPTH: usize = 96;
/// Most bytes of frames that a schedule can make.
pub const MAX_BYTES: usize = 20 * 1024;
/// Bytes of the instruction that a callback's code ends with: what it would return to.
const DEAD_END: usize = 2;
/// Frames that the runtime adds on top: panics and deferred calls.
const SPARE: usize = 40;

/// A value of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    #[default]
    Nil,
    /// An object, by index.
    Object(u8),
    /// The address of a slot of the goroutine's own stack.
    Up {
        /// Whose, by the frame's place in the chain.
        frame: u8,
        /// Which one.
        slot: u8,
    },
}

impl Value {
    /// True of an address of the goroutine's own stack.
    pub fn is_up(self) -> bool {
        matches!(self, Value::Up { .. })
    }

    fn object(self) -> Option<usize> {
        match self {
            Value::Object(index) => Some(usize::from(index)),
            _ => None,
        }
    }
}

/// A frame of the chain.
#[derive(Clone, Copy, Debug)]
pub struct TrueFrame {
    /// Which kind.
    pub function: FuncId,
    /// Distance from the top of the stack down to its body's SP.
    pub body: usize,
    /// What its slots hold.
    pub slots: [Value; SLOTS],
    /// Where it returns to.
    pub returns: Returns,
    /// What it has deferred, and what it has begun of what others have.
    unwinding: panics::Unwinding,
}

/// Where in its caller a frame returns to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Returns {
    /// To where it was called.
    #[default]
    Call,
    /// To the other place: it has replaced its caller's PC.
    Other,
    /// To either, since it is replacing it right now; until then it was the other place's turn
    /// or not.
    Either {
        /// True where it returned to the other place so far.
        other: bool,
    },
}

/// What a goroutine was told to do, and may not have done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing: it is where it was saved.
    Nothing,
    /// To go on in the same frame: from its start or its landing to its ask.
    Continue,
    /// To call this.
    Call(FuncId),
    /// To return from the innermost frame.
    Return,
}

/// Where the innermost frame was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavedAt {
    /// At the outermost frame's first instruction.
    Start,
    /// In its ask.
    Ask,
    /// At its recovery landing.
    Landing,
}

/// One goroutine's truth.
#[derive(Debug)]
pub struct Truth {
    frames: [TrueFrame; MAX_DEPTH + SPARE],
    len: usize,
    /// The transition under way.
    pub pending: Pending,
    /// Where the innermost frame was saved before it.
    pub saved_at: SavedAt,
    /// What it was asked to do in its next prologue and has not done.
    pub asked: Asked,
    /// The same as the pending call began.
    asked_before: Asked,
}

/// What others may ask of a goroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// To scan itself.
    pub scan: bool,
    /// To let its thread go.
    pub yields: bool,
}

impl Asked {
    const NOTHING: Asked = Asked { scan: false, yields: false };
}

/// Where a goroutine was seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// PC that was interrupted.
    pub pc: usize,
    /// SP that was interrupted.
    pub sp: usize,
    /// True where that SP is on its stack.
    pub on_stack: bool,
    /// True where its thread was waiting in the kernel.
    pub in_kernel: bool,
    /// Its stack's top.
    pub top: usize,
    /// Its saved SP; zero where none is saved.
    pub saved_sp: usize,
    /// Its saved PC.
    pub saved_pc: usize,
}

/// One right frame: PC and SP as distance from the top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RightFrame {
    /// Program counter.
    pub pc: usize,
    /// Distance from the top of the stack down to SP.
    pub below: usize,
}

/// The right answer.
#[derive(Clone, Copy, Debug)]
pub enum Right {
    /// These frames; see [`Truth::expected`].
    Frames(Expected),
    /// None: the code is in no table, which is a reason to skip.
    UnknownCode,
    /// None: what was seen is no place where this goroutine can be.
    Impossible,
}

/// Right frames: one or two of the transition under way, then the chain, each frame in its
/// call. Not spelled out, since it is made in a signal handler for every sample.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    head: [RightFrame; 2],
    heads: usize,
    /// How many of the chain's frames follow, the outermost ones.
    chain: usize,
}

impl Expected {
    /// How many frames a sample of it has.
    pub fn len(&self) -> usize {
        (self.heads + self.chain).min(MAX_FRAMES)
    }

    /// True of no traceback: the innermost frame is always there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn at(pc: usize, below: usize) -> Expected {
        Expected { head: [RightFrame { pc, below }, RightFrame::default()], heads: 1, chain: 0 }
    }

    fn then(mut self, pc: usize, below: usize) -> Expected {
        self.head[1] = RightFrame { pc, below };
        self.heads = 2;
        self
    }

    /// Goes on with the chain, without its `skip` innermost frames.
    fn chain(mut self, truth: &Truth, skip: usize) -> Right {
        self.chain = truth.len.saturating_sub(skip);
        Right::Frames(self)
    }

    fn chain_from(self, truth: &Truth, above: Above) -> Right {
        match above {
            Above::Top => self.chain(truth, 0),
            Above::Callers => self.chain(truth, 1),
            Above::Grandcallers => self.chain(truth, 2),
        }
    }
}

fn info(function: FuncId) -> &'static FuncInfo {
    &functab()[usize::from(function.code())]
}

fn within(function: FuncId, pc: usize) -> bool {
    let info = info(function);
    info.start <= pc && pc < info.end
}

/// Bytes from the caller's body SP down to the callee's: return address, frame pointer,
/// frame.
fn step(function: FuncId) -> usize {
    16 + info(function).size
}

impl Default for Truth {
    fn default() -> Self {
        Self::new()
    }
}

impl Truth {
    /// Of a goroutine that does not exist.
    pub const fn new() -> Self {
        const FRAME: TrueFrame = TrueFrame {
            function: FuncId::Entry,
            body: 0,
            slots: [Value::Nil; SLOTS],
            returns: Returns::Call,
            unwinding: panics::Unwinding::NONE,
        };
        Truth {
            frames: [FRAME; MAX_DEPTH + SPARE],
            len: 0,
            pending: Pending::Nothing,
            saved_at: SavedAt::Ask,
            asked: Asked::NOTHING,
            asked_before: Asked::NOTHING,
        }
    }

    /// Forgets the goroutine.
    pub fn clear(&mut self) {
        self.len = 0;
        self.pending = Pending::Nothing;
        self.saved_at = SavedAt::Ask;
        self.asked = Asked::NOTHING;
    }

    /// True where the goroutine exists.
    pub fn lives(&self) -> bool {
        self.len != 0
    }

    /// A new goroutine: its outermost frame, not yet begun.
    pub fn start(&mut self) {
        self.clear();
        self.saved_at = SavedAt::Start;
        // No return address: a frame pointer and the frame.
        self.add(FuncId::Entry, 8 + info(FuncId::Entry).size);
    }

    fn add(&mut self, function: FuncId, body: usize) {
        let (slots, returns, unwinding) = Default::default();
        self.frames[self.len] = TrueFrame { function, body, slots, returns, unwinding };
        self.len += 1;
    }

    /// Number of frames.
    pub fn depth(&self) -> usize {
        self.len
    }

    /// The frames, outermost first.
    pub fn frames(&self) -> &[TrueFrame] {
        &self.frames[..self.len]
    }

    /// The frame `up` levels above the innermost.
    pub fn frame(&mut self, up: usize) -> Option<&mut TrueFrame> {
        let index = self.len.checked_sub(up + 1)?;
        self.frames.get_mut(index)
    }

    /// The innermost frame.
    pub fn top(&self) -> Option<&TrueFrame> {
        self.frames().last()
    }

    /// True where a frame of this kind can be called here.
    pub fn can_call(&self, function: FuncId) -> bool {
        let Some(top) = self.top() else { return false };
        // As a linker would: code without a check calls no code without one.
        let unchecked =
            matches!(function, FuncId::Nosplit | FuncId::Leaf | FuncId::Syscall | FuncId::Cgocall);
        let fits = self.len < MAX_DEPTH && top.body + step(function) <= MAX_BYTES;
        fits && !(unchecked && top.function == FuncId::Nosplit)
    }

    /// The innermost frame is about to call this, or is about to go on with its prologue.
    pub fn calls(&mut self, function: FuncId) {
        self.pending = Pending::Call(function);
        self.asked_before = self.asked;
    }

    /// Whether the pending call, which has happened, did in its prologue what was asked of the
    /// goroutine before. With foreign frames under it a goroutine stays on its thread, and that
    /// it was to leave is forgotten.
    pub fn has_done_what_was_asked(&mut self) -> bool {
        use FuncId::{Cgocall, Entry, Leaf, Nosplit, Syscall};
        if !matches!(self.pending, Pending::Call(function) if !matches!(function, Cgocall | Entry | Leaf | Nosplit | Syscall))
        {
            return true;
        }
        let Asked { scan, yields } = self.asked_before;
        self.asked.yields &= !self.is_in_foreign_call();
        !(scan && self.asked.scan || yields && self.asked.yields)
    }

    /// The pending call has happened and the callee asks.
    pub fn called(&mut self) {
        if let Pending::Call(function) = self.pending
            && function != FuncId::Leaf
        {
            let body = self.top().map_or(0, |f| f.body) + step(function);
            self.add(function, body);
        }
        self.settled();
    }

    /// The pending return has happened and the caller asks.
    pub fn returned(&mut self) {
        self.len = self.len.saturating_sub(1);
        self.settled();
    }

    /// The innermost frame asks.
    pub fn settled(&mut self) {
        self.pending = Pending::Nothing;
        self.saved_at = SavedAt::Ask;
    }

    /// True where the innermost frame asks at this place.
    pub fn asks(&self, pc: usize, below: usize) -> bool {
        self.top().is_some_and(|top| top.body == below && info(top.function).after_next_op == pc)
    }

    /// True where the frame `up` levels above the innermost has slots.
    pub fn has_slots(&self, up: usize) -> bool {
        let frame = self.len.checked_sub(up + 1).map(|index| self.frames[index]);
        frame.is_some_and(|frame| frame.function != FuncId::Cgocall)
    }

    /// Callbacks that are under way.
    pub fn callbacks(&self) -> usize {
        self.frames().iter().filter(|f| f.function == FuncId::Callback).count()
    }

    /// True from the beginning of its outermost foreign call to the end.
    pub fn is_in_foreign_call(&self) -> bool {
        self.frames().iter().any(|f| f.function == FuncId::Cgocall)
    }

    /// True where the innermost frame has a caller's PC to replace, and there is another place.
    pub fn can_set_pc(&self) -> bool {
        let Some(caller) = self.len.checked_sub(2).map(|i| self.frames[i].function) else { return false };
        let has_slots = self.top().is_some_and(|top| info(top.function).slots != 0);
        has_slots && info(caller).after_call_other != info(caller).after_call
    }

    /// The innermost frame is about to replace its caller's PC.
    pub fn replaces_pc(&mut self) {
        if let Some(top) = self.frame(0) {
            top.returns = Returns::Either { other: top.returns == Returns::Other };
        }
    }

    /// It has replaced it.
    pub fn replaced_pc(&mut self) {
        if let Some(top) = self.frame(0)
            && let Returns::Either { other } = top.returns
        {
            top.returns = if other { Returns::Call } else { Returns::Other };
        }
    }

    /// Where frame `index` of the chain goes on once its callee has returned: one place, or two.
    fn comes_back_to(&self, index: usize) -> [usize; 2] {
        let info = info(self.frames[index].function);
        let callee = self.frames().get(index + 1);
        match callee.map_or(Returns::Call, |callee| callee.returns) {
            Returns::Call => [info.after_call; 2],
            Returns::Other => [info.after_call_other; 2],
            Returns::Either { .. } => [info.after_call, info.after_call_other],
        }
    }

    /// Cuts the chain back to the frame with this body, at its landing.
    pub fn recovered(&mut self, body: usize) {
        while self.len > 1 && self.frames[self.len - 1].body > body {
            self.len -= 1;
        }
        // From the landing it goes on to its ask.
        self.pending = Pending::Continue;
        self.saved_at = SavedAt::Landing;
    }

    /// PC at which the innermost frame was saved.
    fn saved_label(&self, frame: &TrueFrame) -> usize {
        match self.saved_at {
            SavedAt::Start => info(frame.function).start,
            SavedAt::Ask => info(frame.function).after_next_op,
            SavedAt::Landing => info(frame.function).landing,
        }
    }

    /// The right traceback for a goroutine that was seen there.
    pub fn right(&self, seen: Seen) -> Right {
        match (seen.in_kernel, seen.on_stack) {
            (true, _) => self.right_in_kernel(seen),
            (false, true) => self.right_on_stack(seen),
            (false, false) => self.right_saved(seen),
        }
    }

    /// In the kernel the stub has made its system call with the body's SP, and was interrupted
    /// where that comes back to: not at the transition point, which has the same SP.
    fn right_in_kernel(&self, seen: Seen) -> Right {
        let below = seen.top.wrapping_sub(seen.sp);
        let back = info(FuncId::Syscall).landing;
        match self.top() {
            Some(top) if top.function == FuncId::Syscall && (seen.pc, below) == (back, top.body) => {
                Expected::at(back, below).chain(self, 1)
            }
            _ => Right::Impossible,
        }
    }

    fn right_on_stack(&self, seen: Seen) -> Right {
        let Some(top) = self.top() else { return Right::Impossible };
        let below = seen.top.wrapping_sub(seen.sp);
        let here = Expected::at(seen.pc, below);
        if within(FuncId::Leaf, seen.pc) {
            return Right::UnknownCode;
        }
        if within(FuncId::SwitchIn, seen.pc) {
            // Arriving: SP is there, PC follows.
            return match self.position(below, Some(seen.saved_pc)) {
                Some((pc, skip)) => Expected::at(pc, below).chain_from(self, skip),
                None => Right::Impossible,
            };
        }
        if within(FuncId::SwitchOut, seen.pc) {
            // A call from a frame whose SP is one word up.
            return match self.position(below - 8, None) {
                Some((pc, skip)) => here.then(pc, below - 8).chain_from(self, skip),
                None => Right::Impossible,
            };
        }
        let caller = self.len.checked_sub(2).map(|i| self.frames[i]);
        if within(FuncId::Trampoline, seen.pc) {
            // The return has happened, whatever the trampoline has done so far.
            return match caller {
                Some(c) if self.pending == Pending::Return && below == c.body => {
                    let [pc, _] = self.comes_back_to(self.len - 2);
                    Expected::at(pc, below).chain(self, 2)
                }
                _ => Right::Impossible,
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

    fn right_saved(&self, seen: Seen) -> Right {
        let Some(top) = self.top() else { return Right::Impossible };
        if seen.saved_sp == 0 {
            // Nothing saved but the transition point of a system call or a foreign call.
            let entered = |stub| info(stub).after_next_op;
            return match (self.pending, top.function) {
                (Pending::Call(stub @ (FuncId::Syscall | FuncId::Cgocall)), _) => {
                    Expected::at(entered(stub), top.body + step(stub)).chain(self, 0)
                }
                (_, stub @ (FuncId::Syscall | FuncId::Cgocall)) => {
                    Expected::at(entered(stub), top.body).chain(self, 1)
                }
                // A callback that has been taken down.
                (Pending::Return, FuncId::Callback) => {
                    let stub = top.body - step(FuncId::Callback);
                    Expected::at(entered(FuncId::Cgocall), stub).chain(self, 2)
                }
                _ => Right::Impossible,
            };
        }
        let below = seen.top.wrapping_sub(seen.saved_sp);
        match self.position(below, Some(seen.saved_pc)) {
            Some((pc, skip)) => Expected::at(pc, below).chain_from(self, skip),
            None => Right::Impossible,
        }
    }

    /// Which known position the goroutine is at, given SP at it, as distance from the top:
    /// its PC, and how the chain goes on above. `saved` where that PC was saved and two
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

    /// Frame `index` of an answer of this goroutine's, innermost first.
    pub fn expected(&self, right: &Expected, index: usize) -> Option<RightFrame> {
        if index >= right.len() {
            return None;
        }
        if index < right.heads {
            return Some(right.head[index]);
        }
        let frame = right.chain - 1 - (index - right.heads);
        let [pc, _] = self.comes_back_to(frame);
        Some(RightFrame { pc, below: self.frames[frame].body })
    }

    /// True where `found` is right as frame `index` of an answer of this goroutine's.
    pub fn is_right(&self, right: &Expected, index: usize, found: RightFrame) -> bool {
        let Some(expected) = self.expected(right, index) else { return false };
        let other = || match index.checked_sub(right.heads) {
            Some(above) => self.comes_back_to(right.chain - 1 - above)[1],
            None => expected.pc,
        };
        found.below == expected.below && (found.pc == expected.pc || found.pc == other())
    }

    /// Whether a scan that begins at the first of these frames comes to a return address more than
    /// `first` bytes above it that can have a barrier. Those of a transition under way are left out.
    pub fn is_due_a_barrier(&self, right: &Right, first: usize) -> bool {
        let Right::Frames(right) = right else { return false };
        let Some(start) = self.expected(right, 0) else { return false };
        (1..right.chain).any(|index| {
            let above = start.below - self.frames[index - 1].body;
            self.frames[index].function != FuncId::Callback && above > first
        })
    }

    // -- liveness ---------------------------------------------------------------------

    /// The objects that this goroutine's frames point to, as a set.
    pub fn roots(&self) -> u64 {
        self.frames()
            .iter()
            .flat_map(|frame| frame.slots)
            .filter_map(Value::object)
            .fold(0, |set, index| set | 1 << index)
    }
}

/// How the chain goes on above a position.
#[derive(Clone, Copy, Debug)]
enum Above {
    /// With the innermost frame itself, in its call.
    Top,
    /// With its caller.
    Callers,
    /// With its caller's caller.
    Grandcallers,
}

/// What the objects and the mailbox hold.
#[derive(Debug)]
pub struct HeapTruth {
    /// Fields of every object.
    pub fields: [[Value; FIELDS]; OBJECTS],
    /// The global root.
    pub mailbox: [Value; MAILBOX],
}

impl Default for HeapTruth {
    fn default() -> Self {
        Self::new()
    }
}

impl HeapTruth {
    /// Of an empty heap.
    pub const fn new() -> Self {
        HeapTruth { fields: [[Value::Nil; FIELDS]; OBJECTS], mailbox: [Value::Nil; MAILBOX] }
    }

    /// Forgets everything. Fields of objects are set as they are allocated.
    pub fn clear(&mut self) {
        self.mailbox = [Value::Nil; MAILBOX];
    }

    /// Every object that can be reached from `roots` and the mailbox.
    pub fn reachable(&self, roots: u64) -> u64 {
        let mailbox = self.mailbox.iter().filter_map(|v| v.object());
        let mut todo = mailbox.fold(roots, |set, index| set | 1 << index);
        let mut seen = 0;
        while todo != 0 {
            let index = todo.trailing_zeros() as usize;
            seen |= 1 << index;
            for field in self.fields[index].iter().filter_map(|v| v.object()) {
                todo |= 1 << field;
            }
            todo &= !seen;
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(truth: &Truth, seen: Seen) -> Vec<RightFrame> {
        match truth.right(seen) {
            Right::Frames(right) => (0..right.len()).map(|i| truth.expected(&right, i).unwrap()).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn chain() -> Truth {
        let mut truth = Truth::new();
        truth.start();
        truth.settled();
        truth.pending = Pending::Call(FuncId::Small);
        truth.called();
        truth
    }

    const TOP: usize = 0x10000;

    fn seen(pc: usize, below: usize) -> Seen {
        Seen { pc, sp: TOP - below, on_stack: true, in_kernel: false, top: TOP, saved_sp: 0, saved_pc: 0 }
    }

    #[test]
    fn bodies_are_where_the_frame_sizes_put_them() {
        let truth = chain();
        let bodies: Vec<usize> = truth.frames().iter().map(|f| f.body).collect();
        assert_eq!(bodies, [40, 40 + 16 + 80]);
    }

    #[test]
    fn a_pending_call_has_happened_once_sp_is_below_the_body() {
        let mut truth = chain();
        truth.pending = Pending::Call(FuncId::Tiny);
        let small = info(FuncId::Small);
        let tiny = info(FuncId::Tiny);
        let before = frames(&truth, seen(small.after_next_op, 136));
        assert_eq!(before[0], RightFrame { pc: small.after_next_op, below: 136 });
        assert_eq!(before.len(), 2);
        let after = frames(&truth, seen(tiny.start, 144));
        assert_eq!(after[0], RightFrame { pc: tiny.start, below: 144 });
        assert_eq!(after[1], RightFrame { pc: small.after_call, below: 136 });
        assert_eq!(after.len(), 3);
    }

    #[test]
    fn a_pending_return_has_happened_once_sp_is_at_the_frames_end() {
        let mut truth = chain();
        truth.pending = Pending::Return;
        let small = info(FuncId::Small);
        let entry = info(FuncId::Entry);
        let at_ret = frames(&truth, seen(small.end - 1, 48));
        assert_eq!(at_ret.len(), 2);
        let back = frames(&truth, seen(entry.after_call, 40));
        assert_eq!(back, [RightFrame { pc: entry.after_call, below: 40 }]);
        let trampoline = info(FuncId::Trampoline);
        let hit = frames(&truth, seen(trampoline.start, 40));
        assert_eq!(hit, [RightFrame { pc: entry.after_call, below: 40 }]);
    }

    #[test]
    fn in_the_kernel_there_is_one_place_to_be() {
        let mut truth = chain();
        truth.pending = Pending::Call(FuncId::Syscall);
        truth.called();
        truth.pending = Pending::Return;
        let stub = info(FuncId::Syscall);
        let body = truth.top().unwrap().body;
        let at = |pc, below| Seen { in_kernel: true, ..seen(pc, below) };
        let there = frames(&truth, at(stub.landing, body));
        assert_eq!(there[0], RightFrame { pc: stub.landing, below: body });
        assert_eq!(there.len(), 3);
        for elsewhere in
            [at(stub.after_next_op, body), at(stub.landing - 2, body), at(stub.landing, body + 8)]
        {
            assert!(matches!(truth.right(elsewhere), Right::Impossible), "{elsewhere:?}");
        }
        // Held there by a breakpoint instead, any instruction of the stub is as good.
        assert_eq!(frames(&truth, seen(stub.after_next_op, body)).len(), 3);
    }

    #[test]
    fn the_trampoline_is_impossible_without_a_return() {
        let truth = chain();
        let trampoline = info(FuncId::Trampoline);
        assert!(matches!(truth.right(seen(trampoline.start, 40)), Right::Impossible));
    }

    #[test]
    fn a_frame_that_replaces_its_callers_pc_returns_to_the_other_place() {
        let mut truth = chain();
        let (small, entry) = (info(FuncId::Small), info(FuncId::Entry));
        assert!(truth.can_set_pc());
        let at = seen(small.after_next_op, 136);
        let found = |pc| RightFrame { pc, below: 40 };
        let right = |truth: &Truth| match truth.right(at) {
            Right::Frames(right) => [entry.after_call, entry.after_call_other, entry.after_next_op]
                .map(|pc| truth.is_right(&right, 1, found(pc))),
            other => panic!("{other:?}"),
        };
        assert_eq!(right(&truth), [true, false, false]);
        for (meanwhile, after) in
            [([true, true, false], [false, true, false]), ([true, true, false], [true, false, false])]
        {
            truth.replaces_pc();
            assert_eq!(right(&truth), meanwhile);
            truth.replaced_pc();
            assert_eq!(right(&truth), after);
        }
        // A callee of its own comes back to where it was called.
        truth.replaces_pc();
        truth.replaced_pc();
        truth.pending = Pending::Call(FuncId::Tiny);
        truth.called();
        let chain = frames(&truth, seen(info(FuncId::Tiny).after_next_op, 136 + 48));
        assert_eq!(
            chain.iter().map(|f| f.pc).skip(1).collect::<Vec<_>>(),
            [small.after_call, entry.after_call_other]
        );
        truth.pending = Pending::Return;
        truth.returned();
        truth.pending = Pending::Return;
        let hit = frames(&truth, seen(info(FuncId::Trampoline).start, 40));
        assert_eq!(hit, [RightFrame { pc: entry.after_call_other, below: 40 }]);
    }

    #[test]
    fn a_recovery_cuts_the_chain_at_the_deferring_frame() {
        let mut truth = chain();
        truth.pending = Pending::Call(FuncId::Deferring);
        truth.called();
        let body = truth.top().unwrap().body;
        for _ in 0..3 {
            truth.pending = Pending::Call(FuncId::Tiny);
            truth.called();
        }
        truth.recovered(body);
        assert_eq!(truth.depth(), 3);
        assert_eq!(truth.saved_at, SavedAt::Landing);
    }

    #[test]
    fn what_is_reachable_is_found_through_cycles() {
        let mut heap = HeapTruth::new();
        heap.fields[1] = [Value::Object(2), Value::Nil];
        heap.fields[2] = [Value::Object(1), Value::Object(3)];
        heap.mailbox[0] = Value::Object(9);
        assert_eq!(heap.reachable(1 << 1), 0b10_0000_1110);
        assert_eq!(heap.reachable(0), 1 << 9);
    }

    #[test]
    fn what_was_asked_before_a_call_is_done_in_its_prologue() {
        let asks = |scan, yields| Asked { scan, yields };
        let mut truth = chain();
        truth.asked = asks(true, false);
        truth.calls(FuncId::Nosplit);
        assert!(truth.has_done_what_was_asked(), "it has no check");
        truth.calls(FuncId::Tiny);
        assert!(!truth.has_done_what_was_asked());
        truth.asked = asks(false, true);
        assert!(truth.has_done_what_was_asked(), "this was asked meanwhile");
        truth.calls(FuncId::Tiny);
        assert!(!truth.has_done_what_was_asked());
        truth.calls(FuncId::Cgocall);
        truth.called();
        truth.calls(FuncId::Callback);
        assert!(truth.has_done_what_was_asked(), "with foreign frames under it a goroutine stays");
    }

    #[test]
    fn a_barrier_is_due_where_a_return_address_is_far_enough_up() {
        let mut truth = chain();
        let saved = |truth: &Truth| {
            truth.right(Seen { on_stack: false, saved_sp: TOP - truth.top().unwrap().body, ..seen(0, 0) })
        };
        assert!(!truth.is_due_a_barrier(&saved(&truth), 1024));
        assert!(!truth.is_due_a_barrier(&saved(&truth), 0), "the innermost frame has none");
        truth.pending = Pending::Call(FuncId::Huge);
        truth.called();
        truth.pending = Pending::Call(FuncId::Tiny);
        truth.called();
        assert!(truth.is_due_a_barrier(&saved(&truth), 0));
        assert!(truth.is_due_a_barrier(&saved(&truth), 1024));
        assert!(!truth.is_due_a_barrier(&saved(&truth), 4096));
    }
}
