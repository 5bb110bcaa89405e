//! The operations, in one table.
//!
//! A row is all there is to an operation: its payload, how it is written, and its
//! code for each class of actor that has it. Both directions of both forms read
//! the table, so a new operation is one new row. **A code, once given, never
//! changes and is never given again; nor does the order of a row's operands**, which
//! is the order of their bits: kept corpora rely on both.
//!
//! How an operation is written is a small pattern: `{slot}` stands for the operand
//! of that name, `[..]` may be left out, for the operand's first value.

use super::operand::{
    BUFFER, CALLEE, COUNT, Domain, FIELD, GOROUTINE, HZ, NTH, Packer, SLOT, STACK, SWITCH, TIMES, Unpacker,
    WORK,
};
use super::{Actor, Class, Goroutine, Work};
use sigstorm_runtime::FuncId;
use std::sync::OnceLock;

impl Op {
    /// The names of the kinds of operation, in their order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(Row::name)
    }
}

/// The table's row of one operation.
pub(super) struct Row {
    /// How it is written; begins with its name.
    pub(super) form: &'static str,
    /// Its operands by name, lowest bits first.
    pub(super) operands: &'static [(&'static str, Domain)],
    /// The classes of actor that have it, with its code there.
    pub(super) classes: &'static [(Class, u8)],
    unpack: fn(&mut Unpacker) -> Op,
}

impl Row {
    /// The first word of its text.
    pub(super) fn name(&self) -> &'static str {
        self.form.split([' ', '[']).next().unwrap_or(self.form)
    }

    /// Its code for a class of actor.
    pub(super) fn code(&self, class: Class) -> Option<u8> {
        let (_, code) = self.classes.iter().find(|(c, _)| *c == class)?;
        Some(*code)
    }

    /// The operation with this argument; bits that no operand has do not count.
    pub(super) fn op(&self, arg: u8) -> Op {
        (self.unpack)(&mut Unpacker::new(arg))
    }

    /// The row with this name.
    pub(super) fn by_name(name: &str) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.name() == name)
    }
}

macro_rules! ops {
    ($(#[$emeta:meta])* pub enum Op { $(
        $(#[$meta:meta])*
        $Variant:ident $({ $($(#[$fmeta:meta])* $field:ident: $ty:ty as $operand:ident),+ $(,)? })?
            = $form:literal, $($Class:ident $code:literal)&+;
    )+ }) => {
        $(#[$emeta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Op { $(
            $(#[$meta])*
            #[doc = concat!("\n\nWritten `", $form, "`.")]
            $Variant $({ $($(#[$fmeta])* $field: $ty,)+ })?,
        )+ }

        enum Ordinal { $($Variant),+ }

        /// Every operation.
        #[allow(unused_variables)]
        pub(super) static TABLE: &[Row] = &[$(Row {
            form: $form,
            operands: &[$($((stringify!($field), $operand.domain)),+)?],
            classes: &[$((Class::$Class, $code)),+],
            unpack: |args| Op::$Variant $({ $($field: args.take(&$operand)),+ })?,
        }),+];

        impl Op {
            /// How many kinds of operation there are.
            pub const KINDS: usize = [$(Ordinal::$Variant),+].len();

            /// Its row in the table.
            pub(super) fn row(&self) -> &'static Row {
                &TABLE[self.kind()]
            }

            /// Which of the kinds of operation it is, below [`KINDS`](Self::KINDS).
            pub fn kind(&self) -> usize {
                match self { $(Op::$Variant { .. } => Ordinal::$Variant as usize,)+ }
            }

            /// The argument byte, or nothing if a payload is outside its range.
            pub fn arg(&self) -> Option<u8> {
                let mut args = Packer::default();
                match *self {
                    $(Op::$Variant $({ $($field),+ })? => { $($(args.put(&$operand, $field)?;)+)? })+
                }
                Some(args.arg())
            }
        }
    };
}

ops! {
    /// The operation of a step.
    ///
    /// Payloads are plain numbers with the ranges given; a step whose payload is
    /// outside is not [valid](super::Step::canonical) and has no form.
    pub enum Op {
        /// Go on from where a stop holds it.
        Resume = "resume", M 0 & Gc 0 & Ext 0;
        /// Take a profiling signal.
        Signal = "signal", M 1 & Gc 1 & Ext 1;
        /// Run a goroutine.
        Run {
            /// Which.
            g: Goroutine as GOROUTINE,
        } = "run {g}", M 2;
        /// Call a frame kind, each call from the one before.
        Call {
            /// The callee; [`FuncId::is_callable`] is true of it.
            kind: FuncId as CALLEE,
            /// How many calls: 1, 2, 4 or 8.
            times: u8 as TIMES,
        } = "call {kind}[*{times}]", M 3;
        /// Return from the innermost frames.
        Ret {
            /// How many, 1 to 8.
            frames: u8 as COUNT,
        } = "ret[ {frames}]", M 4;
        /// Enter a system call.
        Syscall = "syscall", M 5;
        /// Give up the thread.
        Yield = "yield", M 6;
        /// Panic.
        Panic = "panic", M 7;
        /// Recover, in a deferred call.
        Recover = "recover", M 8;
        /// End the goroutine through its deferred calls.
        Exit = "exit", M 9;
        /// Register a deferred call.
        Defer = "defer", M 10;
        /// Put a new object into a slot of the innermost frame.
        Alloc {
            /// The slot, 0 to 3.
            slot: u8 as SLOT,
        } = "alloc {slot}", M 11;
        /// Read a field of an object.
        Load {
            /// The slot that gets what the field holds, 0 to 3.
            dst: u8 as SLOT,
            /// The slot that holds the object, 0 to 3.
            src: u8 as SLOT,
            /// The field, 0 or 1.
            field: u8 as FIELD,
        } = "load {dst} = {src}.{field}", M 12;
        /// Write a field of an object, with a write barrier.
        Store {
            /// The slot that holds the object, 0 to 3.
            obj: u8 as SLOT,
            /// The slot whose pointer is written, 0 to 3.
            src: u8 as SLOT,
            /// The field, 0 or 1.
            field: u8 as FIELD,
        } = "store {obj}.{field} = {src}", M 13;
        /// Copy a slot to another.
        Move {
            /// The slot that is written, 0 to 3.
            dst: u8 as SLOT,
            /// The slot that is read, 0 to 3.
            src: u8 as SLOT,
        } = "move {dst} = {src}", M 14;
        /// Clear a slot.
        Clear {
            /// The slot, 0 to 3.
            slot: u8 as SLOT,
        } = "clear {slot}", M 15;
        /// Write a slot of an outer frame through an up-pointer.
        Up {
            /// How many frames up, 1 to 8.
            frames: u8 as COUNT,
            /// The own slot that is read, 0 to 3.
            src: u8 as SLOT,
            /// The slot up there that is written, 0 to 3.
            dst: u8 as SLOT,
        } = "up {frames} slot {dst} = {src}", M 16;
        /// Move in bulk onto an outer frame.
        Bulk {
            /// How many frames up, 1 to 8.
            frames: u8 as COUNT,
        } = "bulk {frames}", M 17;
        /// Keep an up-pointer, to a slot of an outer frame, in a slot.
        Ref {
            /// The own slot that gets the pointer, 0 to 3.
            dst: u8 as SLOT,
            /// How many frames up it points, 1 to 8.
            frames: u8 as COUNT,
            /// The slot up there that it points to, 0 to 3.
            to: u8 as SLOT,
        } = "ref {dst} = up {frames} slot {to}", M 18;
        /// Start or stop profiling.
        Rate {
            /// Start it.
            on: bool as SWITCH,
        } = "rate {on}", M 19 & Gc 8 & Ext 2;
        /// Profile at another rate.
        Hz {
            /// 100, 250, 500 or 1,000 signals a second.
            hz: u32 as HZ,
        } = "hz {hz}", M 28 & Gc 11 & Ext 3;
        /// Get a profiling signal while in the handler of one: it is pending until that ends.
        Pend = "pend", M 29 & Gc 12 & Ext 4;
        /// Read the samples that the buffers hold.
        Read = "read", Gc 13 & Ext 5;
        /// Become a machine of the runtime, one that runs no goroutines.
        Attach = "attach", Ext 6;
        /// Cease to be one.
        Detach = "detach", Ext 7;
        /// Put an object from a slot into the mailbox, with a write barrier.
        Send {
            /// The slot, 0 to 3; the place in the mailbox, too.
            slot: u8 as SLOT,
        } = "send {slot}", M 20;
        /// Make a foreign call. The thread then runs foreign code until it is told something.
        Foreign = "foreign", M 21;
        /// In foreign code: call back in.
        Callback = "callback", M 22;
        /// Begin concurrent marking.
        Mark = "mark", Gc 2;
        /// Scan a goroutine's stack.
        Scan {
            /// Whose.
            g: Goroutine as GOROUTINE,
        } = "scan {g}", M 37 & Gc 3;
        /// Blacken grey objects.
        Drain {
            /// How many, 1 to 8.
            objects: u8 as COUNT,
        } = "drain[ {objects}]", M 40 & Gc 4;
        /// Terminate marking.
        Term = "term", Gc 5;
        /// Sweep.
        Sweep = "sweep", Gc 6;
        /// Shrink a goroutine's stack.
        Shrink {
            /// Whose.
            g: Goroutine as GOROUTINE,
        } = "shrink {g}", M 38 & Gc 7;
        /// Do a part of a cycle, as the collector does under its own names.
        Collect {
            /// Which.
            work: Work as WORK,
        } = "collect {work}", M 39;
        /// A whole cycle with the world stopped.
        Stw = "stw", Gc 16;
        /// Make a goroutine and leave it to the machine that takes it.
        Spawn {
            /// Which.
            g: Goroutine as GOROUTINE,
        } = "spawn {g}", M 32;
        /// Give up the thread until somebody makes the goroutine runnable.
        Park = "park", M 33;
        /// Make a parked goroutine runnable.
        Ready {
            /// Which.
            g: Goroutine as GOROUTINE,
        } = "ready {g}", M 34 & Gc 14;
        /// Ask a goroutine that another thread runs to let that thread go.
        Preempt {
            /// Which.
            g: Goroutine as GOROUTINE,
        } = "preempt {g}", M 35 & Gc 15;
        /// Replace the PC of the innermost frame's caller by the other place where the call may
        /// come back to.
        SetPc = "setpc", M 36;
        /// Option: a stack barrier in every frame.
        EveryFrame = "every_frame", World 0;
        /// Option: the size of new goroutines' stacks.
        Stack {
            /// 2,048, 4,096, 8,192 or 16,384.
            bytes: u32 as STACK,
        } = "stack {bytes}", World 1;
        /// Option: a share of the old stacks is made unreadable.
        Unreadable {
            /// Every nth, 1 to 4.
            every: u8 as NTH,
        } = "unreadable {every}", World 2;
        /// Option: how many samples a machine's buffer holds.
        Buffer {
            /// 1, 2, 4 or 8.
            samples: u8 as BUFFER,
        } = "buffer {samples}", World 3;
        /// Option: system calls are traced.
        Trace = "trace", World 7;
        /// Option: mark termination leaves the barriers to the sweep and to the next cycle.
        KeepBarriers = "keep_barriers", World 4;
        /// Option: a scan halves a stack first, if little of it is used.
        ScanShrinks = "scan_shrinks", World 5;
    }
}

/// The rows by class and code: every input of an engine is decoded by it.
fn by_code() -> &'static [[Option<&'static Row>; 64]; 4] {
    static INDEX: OnceLock<[[Option<&'static Row>; 64]; 4]> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index = [[None; 64]; 4];
        for row in TABLE {
            for &(class, code) in row.classes {
                index[class as usize][usize::from(code)] = Some(row);
            }
        }
        index
    })
}

impl Op {
    /// The operation with this code and argument for a class of actor, if one is
    /// assigned. Argument bits that it has no use for do not count.
    pub fn from_code(class: Class, code: u8, arg: u8) -> Option<Op> {
        let row = by_code()[class as usize].get(usize::from(code)).copied().flatten()?;
        Some(row.op(arg))
    }

    /// Its code for a class of actor, if that class has it.
    pub fn code(&self, class: Class) -> Option<u8> {
        self.row().code(class)
    }

    /// Its name: the first word of its text.
    pub fn name(&self) -> &'static str {
        self.row().name()
    }

    /// The classes of actor that have it.
    pub fn classes(&self) -> impl Iterator<Item = Class> + use<> {
        self.row().classes.iter().map(|(class, _)| *class)
    }

    /// Returns whether this actor can do it.
    pub fn valid_for(&self, actor: Actor) -> bool {
        self.code(actor.class()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rows_of_the_operations_table_have_names_and_codes_of_their_own() {
        let mut names = HashSet::new();
        let mut codes = HashSet::new();
        for row in TABLE {
            assert!(names.insert(row.name()), "two rows are named {}", row.name());
            let bits: u32 = row.operands.iter().map(|(_, d)| d.bits()).sum();
            assert!(bits <= 8, "{}: {bits} bits", row.name());
            for (class, code) in row.classes {
                assert!(*code < 64 && codes.insert((*class, *code)), "{}", row.name());
            }
            // The parser takes an operation without a class to be one of the actor's.
            let world = row.code(Class::World).is_some();
            assert!(!world || row.classes.len() == 1, "{}", row.name());
        }
    }

    #[test]
    fn arguments_survive_and_extra_bits_do_not() {
        for row in TABLE {
            let bits: u32 = row.operands.iter().map(|(_, d)| d.bits()).sum();
            for arg in 0..=u8::MAX {
                let op = row.op(arg);
                assert_eq!(u32::from(op.arg().unwrap()), u32::from(arg) & ((1 << bits) - 1));
                assert_eq!(op.row().name(), row.name());
            }
        }
    }

    #[test]
    fn payloads_are_where_the_table_says() {
        let m = |code, arg| Op::from_code(Class::M, code, arg).unwrap();
        assert_eq!(m(2, 3), Op::Run { g: Goroutine::G4 });
        let call = Op::Call { kind: FuncId::Leaf, times: 4 };
        assert_eq!(m(3, 0b1111_0111), Op::Call { kind: FuncId::Leaf, times: 4 });
        assert_eq!(call.arg(), Some(0b10111));
        assert_eq!(m(12, 0b1_10_01), Op::Load { dst: 1, src: 2, field: 1 });
        assert_eq!(m(13, 0b1_10_01), Op::Store { obj: 1, src: 2, field: 1 });
        assert_eq!(m(16, (3 << 5) | (1 << 3) | 2), Op::Up { frames: 3, src: 1, dst: 3 });
        assert_eq!(m(18, (3 << 5) | (2 << 2) | 1), Op::Ref { dst: 1, frames: 3, to: 3 });
        assert_eq!(m(19, 1), Op::Rate { on: true });
        assert_eq!(Op::from_code(Class::World, 1, 2), Some(Op::Stack { bytes: 8192 }));
        assert_eq!(Op::from_code(Class::Ext, 8, 0), None);
    }

    #[test]
    fn actors_have_their_own_operations() {
        let scan = Op::Scan { g: Goroutine::G1 };
        assert!(scan.valid_for(Actor::Gc) && !scan.valid_for(Actor::Ext));
        assert!(Op::Mark.valid_for(Actor::Gc) && !Op::Mark.valid_for(Actor::M1));
        assert!(Op::EveryFrame.valid_for(Actor::World) && !Op::EveryFrame.valid_for(Actor::Ext));
        let rate = Op::Rate { on: false };
        assert!(rate.classes().eq([Class::M, Class::Gc, Class::Ext]));
        assert!(!Op::Resume.valid_for(Actor::World));
    }
}
