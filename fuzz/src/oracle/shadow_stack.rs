//! Shadow stacks: the harness's own record of each goroutine's call chain.
//!
//! The harness decides every call and every return, so it knows the chain without looking:
//! which frame kinds it consists of and, from their sizes, where the SP of each body is, as a
//! distance from the top of the stack. It also knows the transition under way. SP and PC alone
//! tell how far that transition has come: a pending call has happened once SP is below the
//! caller's body, a pending return once SP is at or above the end of the frame. So there is one
//! right traceback at every instruction ([`super::traceback`]).
//!
//! A shadow stack reads neither the function table nor a barrier list. Positions (where the code
//! of a function is, where its call comes back to) come from the assembler's labels.
//!
//! A shadow stack also records what the program has written into the slots of each frame
//! ([`super::slots`]), and what each frame has deferred ([`super::panics`]). Liveness is decided
//! by these records and not by memory.

use sigstorm_runtime::FuncId;
use sigstorm_runtime::gc::mutator::SLOTS;
use sigstorm_runtime::unwind::functab::{FuncInfo, functab};

use super::panics::Unwinding;

/// The most frames that a schedule can push.
pub const MAX_DEPTH: usize = 96;
/// The most bytes of frames that a schedule can push.
pub const MAX_BYTES: usize = 20 * 1024;
/// Frames that the runtime pushes on top of those: panics and deferred calls.
const SPARE: usize = 40;

/// A value of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Value {
    /// No pointer.
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
    /// Whether it is an address on the goroutine's own stack.
    pub fn is_up(self) -> bool {
        matches!(self, Value::Up { .. })
    }

    pub(super) fn object(self) -> Option<usize> {
        match self {
            Value::Object(index) => Some(usize::from(index)),
            _ => None,
        }
    }
}

/// A frame of the chain.
#[derive(Clone, Copy, Debug)]
pub struct ShadowFrame {
    /// Which kind.
    pub function: FuncId,
    /// Distance from the top of the stack down to its body's SP.
    pub body: usize,
    /// The values of its slots.
    pub slots: [Value; SLOTS],
    /// The place in its caller that it returns to.
    pub returns: Returns,
    /// Its deferred calls, and the deferred call that it runs for another frame.
    pub(super) unwinding: Unwinding,
}

/// The place in its caller that a frame returns to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Returns {
    /// The place after the call.
    #[default]
    Call,
    /// The other place: the frame has replaced its caller's PC.
    Other,
    /// Either of the two: the frame is replacing its caller's PC at this moment.
    Either {
        /// Whether the frame returned to the other place until now.
        other: bool,
    },
}

/// The transition that a goroutine was told to make and may not have completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// None: it is where it was saved.
    Nothing,
    /// Continuing in the same frame: from its start or its landing to its ask.
    Continue,
    /// A call of this function.
    Call(FuncId),
    /// A return from the innermost frame.
    Return,
}

/// The place at which the innermost frame was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavedAt {
    /// At the outermost frame's first instruction.
    Start,
    /// In its ask.
    Ask,
    /// At its recovery landing.
    Landing,
}

/// Slots of one frame that an operation is writing at this moment: they hold the old value or the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BeingWritten {
    /// The frame's place in the chain.
    pub(super) frame: usize,
    /// The slots, a bit each.
    pub(super) slots: u8,
}

/// The shadow stack of one goroutine.
#[derive(Debug)]
pub struct ShadowStack {
    pub(super) frames: [ShadowFrame; MAX_DEPTH + SPARE],
    pub(super) len: usize,
    /// The transition under way.
    pub pending: Pending,
    /// Where the innermost frame was saved before it.
    pub saved_at: SavedAt,
    pub(super) being_written: Option<BeingWritten>,
    /// Whether the goroutine is being ended where it stands.
    ends: bool,
}

pub(super) fn info(function: FuncId) -> &'static FuncInfo {
    &functab()[usize::from(function.code())]
}

pub(super) fn within(function: FuncId, pc: usize) -> bool {
    let info = info(function);
    info.start <= pc && pc < info.end
}

/// Bytes from the body SP of a caller down to its callee's: return address, frame pointer, frame.
pub(super) fn step(function: FuncId) -> usize {
    16 + info(function).size
}

impl Default for ShadowStack {
    fn default() -> Self {
        Self::new()
    }
}

impl ShadowStack {
    /// The shadow stack of a goroutine that does not exist.
    pub const fn new() -> Self {
        const FRAME: ShadowFrame = ShadowFrame {
            function: FuncId::Entry,
            body: 0,
            slots: [Value::Nil; SLOTS],
            returns: Returns::Call,
            unwinding: Unwinding::NONE,
        };
        ShadowStack {
            frames: [FRAME; MAX_DEPTH + SPARE],
            len: 0,
            pending: Pending::Nothing,
            saved_at: SavedAt::Ask,
            being_written: None,
            ends: false,
        }
    }

    /// Forgets the goroutine's frames.
    pub fn clear(&mut self) {
        self.len = 0;
        self.pending = Pending::Nothing;
        self.saved_at = SavedAt::Ask;
        self.being_written = None;
        self.ends = false;
    }

    /// Whether the goroutine exists.
    pub fn lives(&self) -> bool {
        self.len != 0
    }

    /// Starts a new goroutine: its outermost frame, of which no instruction has run.
    pub fn start(&mut self) {
        self.clear();
        self.saved_at = SavedAt::Start;
        // No return address: a frame pointer and the frame.
        self.add(FuncId::Entry, 8 + info(FuncId::Entry).size);
    }

    fn add(&mut self, function: FuncId, body: usize) {
        let (slots, returns, unwinding) = Default::default();
        self.frames[self.len] = ShadowFrame { function, body, slots, returns, unwinding };
        self.len += 1;
    }

    /// The number of frames.
    pub fn depth(&self) -> usize {
        self.len
    }

    /// The frames, outermost first.
    pub fn frames(&self) -> &[ShadowFrame] {
        &self.frames[..self.len]
    }

    /// The frame `up` levels above the innermost.
    pub fn frame(&mut self, up: usize) -> Option<&mut ShadowFrame> {
        let index = self.len.checked_sub(up + 1)?;
        self.frames.get_mut(index)
    }

    /// The innermost frame.
    pub fn top(&self) -> Option<&ShadowFrame> {
        self.frames().last()
    }

    /// Whether the innermost frame can call a frame of this kind.
    pub fn can_call(&self, function: FuncId) -> bool {
        let Some(top) = self.top() else { return false };
        // The linker's rule: code without a stack check calls no code without one.
        let unchecked =
            matches!(function, FuncId::Nosplit | FuncId::Leaf | FuncId::Syscall | FuncId::Cgocall);
        let fits = self.len < MAX_DEPTH && top.body + step(function) <= MAX_BYTES;
        fits && !(unchecked && top.function == FuncId::Nosplit)
    }

    /// Whether the prologue of `function` honours requests: to scan the stack, to yield.
    pub fn has_preemptible_prologue(function: FuncId) -> bool {
        use FuncId::{Cgocall, Entry, Leaf, Nosplit, Syscall};
        !matches!(function, Cgocall | Entry | Leaf | Nosplit | Syscall)
    }

    /// Notes that the pending call has happened and that the callee asks.
    pub fn called(&mut self) {
        if let Pending::Call(function) = self.pending
            && function != FuncId::Leaf
        {
            let body = self.top().map_or(0, |f| f.body) + step(function);
            self.add(function, body);
        }
        self.settled();
    }

    /// Notes that the pending return has happened and that the caller asks.
    pub fn returned(&mut self) {
        self.len = self.len.saturating_sub(1);
        self.settled();
    }

    /// Notes that the goroutine is about to be ended where it stands.
    pub fn is_ended(&mut self) {
        self.ends = true;
    }

    /// Whether a thread that drops the goroutine now must leave it ended: it returns from its outermost
    /// frame, or is being ended where it stands.
    pub fn must_end(&self) -> bool {
        self.ends || (self.pending == Pending::Return && self.len == 1)
    }

    /// Notes that the innermost frame asks.
    pub fn settled(&mut self) {
        self.pending = Pending::Nothing;
        self.saved_at = SavedAt::Ask;
    }

    /// Whether the innermost frame asks at this PC with this SP, a distance below the top.
    pub fn asks(&self, pc: usize, below: usize) -> bool {
        self.top().is_some_and(|top| top.body == below && info(top.function).after_next_op == pc)
    }

    /// Whether the frame `up` levels above the innermost has slots.
    pub fn has_slots(&self, up: usize) -> bool {
        let frame = self.len.checked_sub(up + 1).map(|index| self.frames[index]);
        frame.is_some_and(|frame| frame.function != FuncId::Cgocall)
    }

    /// The number of callbacks under way.
    pub fn callbacks(&self) -> usize {
        self.frames().iter().filter(|f| f.function == FuncId::Callback).count()
    }

    /// Whether a foreign call is under way, a callback within it included.
    pub fn is_in_foreign_call(&self) -> bool {
        self.frames().iter().any(|f| f.function == FuncId::Cgocall)
    }

    /// Whether the innermost frame can replace its caller's PC: it has a caller, which has another place.
    pub fn can_set_pc(&self) -> bool {
        let Some(caller) = self.len.checked_sub(2).map(|i| self.frames[i].function) else { return false };
        let has_slots = self.top().is_some_and(|top| info(top.function).slots != 0);
        has_slots && info(caller).after_call_other != info(caller).after_call
    }

    /// Notes that the innermost frame begins to replace its caller's PC.
    pub fn replaces_pc(&mut self) {
        if let Some(top) = self.frame(0) {
            top.returns = Returns::Either { other: top.returns == Returns::Other };
        }
    }

    /// Notes that the innermost frame has replaced its caller's PC.
    pub fn replaced_pc(&mut self) {
        if let Some(top) = self.frame(0)
            && let Returns::Either { other } = top.returns
        {
            top.returns = if other { Returns::Call } else { Returns::Other };
        }
    }

    /// The PC at which frame `index` of the chain continues once its callee has returned: one place, or two.
    pub(super) fn comes_back_to(&self, index: usize) -> [usize; 2] {
        let info = info(self.frames[index].function);
        let callee = self.frames().get(index + 1);
        match callee.map_or(Returns::Call, |callee| callee.returns) {
            Returns::Call => [info.after_call; 2],
            Returns::Other => [info.after_call_other; 2],
            Returns::Either { .. } => [info.after_call, info.after_call_other],
        }
    }

    /// Notes that an operation begins to write these slots (a bit each) of the frame `up` levels above the
    /// innermost. Until [`ShadowStack::written`] they may hold the old value or the new one, and point to
    /// nothing for certain.
    pub fn begins_to_write(&mut self, up: usize, slots: u8) {
        let Some(frame) = self.len.checked_sub(up + 1) else { return };
        let values = self.frames[frame].slots.iter_mut().enumerate();
        values.filter(|(slot, _)| slots >> slot & 1 == 1).for_each(|(_, value)| *value = Value::Nil);
        self.being_written = Some(BeingWritten { frame, slots });
    }

    /// Notes that no slot is being written any more.
    pub fn written(&mut self) {
        self.being_written = None;
    }

    /// Cuts the chain back to the frame with this body, at its landing.
    pub fn recovered(&mut self, body: usize) {
        while self.len > 1 && self.frames[self.len - 1].body > body {
            self.len -= 1;
        }
        // From the landing it continues to its ask.
        self.pending = Pending::Continue;
        self.saved_at = SavedAt::Landing;
    }

    /// The PC at which the innermost frame was saved.
    pub(super) fn saved_label(&self, frame: &ShadowFrame) -> usize {
        match self.saved_at {
            SavedAt::Start => info(frame.function).start,
            SavedAt::Ask => info(frame.function).after_next_op,
            SavedAt::Landing => info(frame.function).landing,
        }
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
