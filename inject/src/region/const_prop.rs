//! Constant propagation for a few memory words: a branch on a known word goes one way, so the
//! other side is unreachable.
//!
//! A switch that is never thrown and a pointer that is always set decide branches. A word is
//! followed from its load to the branch that it decides, through registers only. A value that
//! passes through memory or through arithmetic is not followed, and both sides stay reachable.

use iced_x86::{
    ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
    RflagsBits,
};

use super::{Flow, Region};

/// The constant property of a word of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// All its bits are zero.
    Zero,
    /// At least one bit is set.
    NonZero,
}

/// A register's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Unknown,
    /// The address of a known word.
    Address(u64),
    /// The value of a known word.
    Word(Known),
    /// A value with this lowest byte.
    Byte(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    registers: [Value; 16],
    zero: Option<bool>,
    carry: Option<bool>,
}

impl State {
    const UNKNOWN: State = State { registers: [Value::Unknown; 16], zero: None, carry: None };

    /// The state that holds after either of two.
    fn meet(&self, other: &State) -> State {
        let mut met = *self;
        for (mine, theirs) in met.registers.iter_mut().zip(&other.registers) {
            if *mine != *theirs {
                *mine = Value::Unknown;
            }
        }
        met.zero = met.zero.filter(|_| self.zero == other.zero);
        met.carry = met.carry.filter(|_| self.carry == other.carry);
        met
    }

    fn of(&self, register: Register) -> Value {
        match register {
            _ if register.is_gpr32() || register.is_gpr64() => match self.registers[register.number()] {
                Value::Byte(_) => Value::Unknown,
                value => value,
            },
            _ if register.is_gpr8() && register.full_register().number() == register.number() => {
                match self.registers[register.number()] {
                    Value::Word(Known::Zero) => Value::Byte(0),
                    value @ Value::Byte(_) => value,
                    _ => Value::Unknown,
                }
            }
            _ => Value::Unknown,
        }
    }

    /// Returns whether a branch is taken, if that is known.
    fn taken(&self, condition: ConditionCode) -> Option<bool> {
        match condition {
            ConditionCode::e => self.zero,
            ConditionCode::ne => self.zero.map(|zero| !zero),
            ConditionCode::b => self.carry,
            ConditionCode::ae => self.carry.map(|carry| !carry),
            _ => None,
        }
    }
}

/// The transfer function: from the state before an instruction to the state after it.
struct Transfer<'a> {
    region: &'a Region,
    known: &'a [(usize, Known)],
    info: InstructionInfoFactory,
}

impl Transfer<'_> {
    /// The value of an operand.
    fn operand(&self, state: &State, instruction: &Instruction, operand: u32) -> Value {
        match instruction.op_kind(operand) {
            OpKind::Register => state.of(instruction.op_register(operand)),
            OpKind::Memory => self.load(state, instruction),
            _ => Value::Unknown,
        }
    }

    fn load(&self, state: &State, instruction: &Instruction) -> Value {
        if instruction.memory_index() != Register::None || instruction.has_segment_prefix() {
            return Value::Unknown;
        }
        let size = instruction.memory_size().size() as u64;
        let (base, displacement) = (instruction.memory_base(), instruction.memory_displacement64());
        let address = match (instruction.is_ip_rel_memory_operand(), state.of(base)) {
            (true, _) => instruction.ip_rel_memory_address(),
            (false, Value::Address(address)) => address.wrapping_add(displacement),
            _ => return Value::Unknown,
        };
        for &(at, known) in self.known {
            let at = at as u64;
            let inside = address >= at && address + size <= at + 8;
            if inside && (known == Known::Zero || size == 8) {
                return Value::Word(known);
            }
        }
        // A table of addresses, such as the linker's.
        let held = self.region.words.get(&address);
        match held.filter(|_| size == 8 && instruction.is_ip_rel_memory_operand()) {
            Some(&held) if self.known.iter().any(|&(at, _)| at as u64 == held) => Value::Address(held),
            _ => Value::Unknown,
        }
    }

    /// The state after an instruction.
    fn after(&mut self, state: &State, instruction: &Instruction) -> State {
        let mut next = *state;
        let first = || self.operand(state, instruction, 0);
        let (mut result, mut zero, mut carry) = (Value::Unknown, None, None);
        match instruction.mnemonic() {
            Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
                let address = instruction.ip_rel_memory_address();
                if self.known.iter().any(|&(at, _)| at as u64 == address) {
                    result = Value::Address(address);
                }
            }
            Mnemonic::Mov if instruction.op0_register().is_gpr8() => {
                if let Ok(byte) = instruction.try_immediate(1) {
                    result = Value::Byte(byte as u8);
                }
            }
            Mnemonic::Mov => result = self.operand(state, instruction, 1),
            Mnemonic::Xor if same(instruction) => {
                (result, zero, carry) = (Value::Word(Known::Zero), Some(true), Some(false));
            }
            Mnemonic::And if first() == Value::Word(Known::Zero) => {
                (result, zero, carry) = (Value::Word(Known::Zero), Some(true), Some(false));
            }
            Mnemonic::Test => match first() {
                Value::Word(Known::Zero) => (zero, carry) = (Some(true), Some(false)),
                Value::Byte(byte) if same(instruction) => (zero, carry) = (Some(byte == 0), Some(false)),
                Value::Word(Known::NonZero) if same(instruction) && instruction.op0_register().is_gpr64() => {
                    (zero, carry) = (Some(false), Some(false));
                }
                _ => {}
            },
            Mnemonic::Cmp if instruction.try_immediate(1).is_ok_and(|with| with == 0) => {
                match first() {
                    Value::Word(Known::Zero) => (zero, carry) = (Some(true), Some(false)),
                    // The lower half of a word that is not zero may be zero.
                    Value::Word(Known::NonZero) if !instruction.op0_register().is_gpr32() => {
                        (zero, carry) = (Some(false), Some(false));
                    }
                    _ => {}
                }
            }
            Mnemonic::Bt if first() == Value::Word(Known::Zero) => carry = Some(false),
            _ => {}
        }
        if instruction.rflags_modified() & (RflagsBits::ZF | RflagsBits::CF) != 0 {
            (next.zero, next.carry) = (zero, carry);
        }
        for used in self.info.info(instruction).used_registers() {
            let writes =
                !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
            if writes && used.register().is_gpr() {
                next.registers[used.register().full_register().number()] = Value::Unknown;
            }
        }
        if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
            // A call preserves the registers that the C ABI makes it preserve.
            use Register::{R8, R9, R10, R11, RAX, RCX, RDI, RDX, RSI};
            for register in [RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11] {
                next.registers[register.number()] = Value::Unknown;
            }
            (next.zero, next.carry) = (None, None);
        }
        if result != Value::Unknown && instruction.op0_kind() == OpKind::Register {
            let to = instruction.op0_register();
            // Writing a register's lower half clears its upper half, which is zero in a known zero.
            let fits = match result {
                Value::Byte(_) => to.is_gpr8() && to.full_register().number() == to.number(),
                Value::Word(Known::Zero) => to.is_gpr32() || to.is_gpr64(),
                _ => to.is_gpr64(),
            };
            if fits {
                next.registers[to.number()] = result;
            }
        }
        next
    }
}

impl Region {
    /// Where each instruction of function `f` leads, as [`Region::flow`], while each of the
    /// `known` words, named by its address, keeps its property.
    pub fn flow_where(&self, f: usize, known: &[(usize, Known)]) -> Vec<Flow> {
        let mut flow = self.flow(f);
        if flow.iter().any(|flow| flow.anywhere) {
            // The target of such a jump can be reached with anything in the registers.
            return flow;
        }
        let code = self.instructions(f);
        let mut transfer = Transfer { region: self, known, info: InstructionInfoFactory::new() };
        let mut before: Vec<Option<State>> = vec![None; code.len()];
        let mut todo = vec![(0, State::UNKNOWN)];
        while let Some((index, state)) = todo.pop() {
            let Some(slot) = before.get_mut(index) else { continue };
            let met = slot.map_or(state, |had| had.meet(&state));
            if *slot == Some(met) {
                continue;
            }
            *slot = Some(met);
            let after = transfer.after(&met, &code[index]);
            let next = successors(&flow[index], &code[index], &met);
            todo.extend(next.into_iter().flatten().map(|next| (next, after)));
        }
        for ((flow, instruction), state) in flow.iter_mut().zip(&code).zip(&before) {
            if let Some(state) = state {
                flow.next = successors(flow, instruction, state);
            }
        }
        flow
    }
}

/// Returns whether both operands are the same register.
fn same(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && instruction.op0_register() == instruction.op1_register()
}

/// The successors that are reachable in this state.
fn successors(flow: &Flow, instruction: &Instruction, state: &State) -> [Option<usize>; 2] {
    let [on, off] = flow.next;
    match state.taken(instruction.condition_code()) {
        _ if instruction.flow_control() != FlowControl::ConditionalBranch => flow.next,
        Some(true) => [None, off],
        Some(false) => [on, None],
        None => flow.next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodeFunction;
    use core::arch::naked_asm;
    use core::sync::atomic::AtomicU64;
    use iced_x86::{Decoder, DecoderOptions};

    static SWITCH: AtomicU64 = AtomicU64::new(0);

    /// Tests the switch in every way that is followed, and in one that is not.
    #[unsafe(naked)]
    extern "C" fn tests_switch() {
        naked_asm!(
            "mov rax, [rip + {switch}]", // 0
            "test eax, 4",               // 1
            "jne 2f",                    // 2
            "lea rbx, [rip + {switch}]", // 3
            "test byte ptr [rbx + 1], 2",// 4
            "jne 2f",                    // 5
            "mov ecx, [rbx]",            // 6
            "bt rcx, 3",                 // 7
            "jb 2f",                     // 8
            "add rcx, 1",                // 9
            "test rcx, rcx",             // 10
            "je 3f",                     // 11
            "2:",
            "nop",                       // 12
            "3:",
            "ret",                       // 13
            switch = sym SWITCH,
        )
    }

    #[test]
    fn known_word_decides_branches_that_test_it() {
        let start = tests_switch as *const () as usize;
        let mut decoder = Decoder::with_ip(
            64,
            // SAFETY: The function has 56 bytes, and the text section goes on behind it.
            unsafe { core::slice::from_raw_parts(start as *const u8, 64) },
            start as u64,
            DecoderOptions::NONE,
        );
        let end = (0..14).map(|_| decoder.decode().next_ip()).last().unwrap() as usize;
        let region = Region::decode(&[CodeFunction { name: "tests_switch", start, end }]).expect("code");
        let word = &raw const SWITCH as usize;
        let open = |known: &[(usize, Known)]| -> Vec<[Option<usize>; 2]> {
            let flow = region.flow_where(0, known);
            [2, 5, 8, 11].iter().map(|&i: &usize| flow[i].next).collect()
        };
        let both = [[Some(3), Some(12)], [Some(6), Some(12)], [Some(9), Some(12)], [Some(12), Some(13)]];
        assert_eq!(open(&[]), both, "nothing is known");
        let quiet = [[Some(3), None], [Some(6), None], [Some(9), None], [Some(12), Some(13)]];
        assert_eq!(open(&[(word, Known::Zero)]), quiet);
        assert_eq!(open(&[(word + 8, Known::Zero)]), both, "the known word is another one");
        assert_eq!(open(&[(word, Known::NonZero)]), both, "the bit that is set is unknown");
    }
}
