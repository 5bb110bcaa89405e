//! Control flow within a function: where each instruction leads, and which instructions can
//! only end in a trap.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::Region;

/// Where an instruction leads within its function. Calls are taken to return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The numbers of the instructions that can run next.
    pub next: [Option<usize>; 2],
    /// The address that the instruction calls, if it is written in the instruction or in the
    /// table entry that the instruction names.
    pub calls: Option<usize>,
    /// Whether the instruction jumps to an address from a register or a jump table.
    pub anywhere: bool,
}

impl Region {
    /// Where each instruction of function `f` leads, in order of address; empty if there is no
    /// such function.
    pub fn flow(&self, f: usize) -> Vec<Flow> {
        let code = self.instructions(f);
        let find = |ip: u64| code.binary_search_by_key(&ip, Instruction::ip).ok();
        let word = |address: u64| self.words.get(&address).map(|&word| word as usize);
        let flow = |instruction: &Instruction| {
            let next = find(instruction.next_ip());
            let target = instruction.near_branch_target();
            match instruction.flow_control() {
                FlowControl::UnconditionalBranch => Flow { next: [find(target), None], ..Flow::default() },
                FlowControl::ConditionalBranch => Flow { next: [next, find(target)], ..Flow::default() },
                FlowControl::Call => {
                    Flow { next: [next, None], calls: Some(target as usize), ..Flow::default() }
                }
                FlowControl::IndirectCall => {
                    let calls = instruction
                        .is_ip_rel_memory_operand()
                        .then(|| word(instruction.ip_rel_memory_address()));
                    Flow { next: [next, None], calls: calls.flatten(), ..Flow::default() }
                }
                // A function's tail call, through the linker's table or a function pointer.
                FlowControl::IndirectBranch if instruction.is_ip_rel_memory_operand() => {
                    Flow { calls: word(instruction.ip_rel_memory_address()), ..Flow::default() }
                }
                FlowControl::IndirectBranch if is_tail_call(&code, instruction) => Flow::default(),
                FlowControl::IndirectBranch => Flow { anywhere: true, ..Flow::default() },
                FlowControl::Return | FlowControl::Exception => Flow::default(),
                _ => Flow { next: [next, None], ..Flow::default() },
            }
        };
        code.iter().map(flow).collect()
    }

    /// Returns for each instruction of function `f` whether every path from it ends in a trap
    /// (`ud2`) or in an endless loop. Calls are taken to return. Such code throws, panics, or
    /// cleans up after a panic.
    pub fn always_traps(&self, f: usize) -> Vec<bool> {
        let code = self.instructions(f);
        let find = |ip: u64| code.binary_search_by_key(&ip, Instruction::ip).ok();
        let mut traps = vec![true; code.len()];
        // An instruction that can leave the function does not always trap, nor does one that
        // can reach such an instruction.
        loop {
            let mut changed = false;
            for (index, instruction) in code.iter().enumerate() {
                let next = || find(instruction.next_ip()).is_some_and(|next| !traps[next]);
                let target = || find(instruction.near_branch_target()).is_none_or(|target| !traps[target]);
                let escapes = match instruction.flow_control() {
                    FlowControl::Return | FlowControl::IndirectBranch => true,
                    FlowControl::UnconditionalBranch => target(),
                    FlowControl::ConditionalBranch => next() || target(),
                    FlowControl::Exception => false,
                    _ => next(),
                };
                if escapes && traps[index] {
                    traps[index] = false;
                    changed = true;
                }
            }
            if !changed {
                return traps;
            }
        }
    }
}

/// Returns whether an indirect jump goes to another function: its address was loaded as it
/// stands in memory. The address of a `match` arm is computed from a jump table's entry.
fn is_tail_call(code: &[Instruction], jump: &Instruction) -> bool {
    if jump.op0_kind() == OpKind::Memory {
        return jump.memory_index() == Register::None;
    }
    let register = jump.op0_register();
    let mut before = code.iter().take_while(|i| i.ip() < jump.ip()).collect::<Vec<_>>();
    while let Some(instruction) = before.pop() {
        if instruction.flow_control() != FlowControl::Next {
            return false;
        }
        let writes = instruction.op_count() != 0
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == register;
        if writes && instruction.mnemonic() != Mnemonic::Push {
            return instruction.mnemonic() == Mnemonic::Mov
                && instruction.op1_kind() == OpKind::Memory
                && instruction.memory_index() == Register::None;
        }
    }
    false
}
