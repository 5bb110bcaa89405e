//! Running an instruction at another address than its own.
//!
//! A thread that is to pass a breakpoint which stays must run the instruction under it, and no
//! other thread may miss the breakpoint meanwhile. So the instruction runs out of line: a copy of
//! it lies in a *slot* of a scratch area, followed by a jump to the instruction after the
//! original. The thread is continued at the slot; it stops no second time. (kprobes call this a
//! boosted probe; gdb's displaced stepping and uprobes single-step the copy instead.)
//!
//! # What becomes of each instruction
//!
//! | instruction | |
//! |---|---|
//! | plain | copied |
//! | with an operand relative to the instruction pointer | copied, the displacement changed: the area lies within 2 GiB |
//! | `jmp`, `jcc`, `loop`, `jrcxz` to a place in the code | emulated: the tracer sets the PC |
//! | `call` to a place in the code | a slot that pushes the original's return address and jumps |
//! | `call` through a register or memory | emulated; through a slot where the tracer cannot push |
//! | any `call`, in a single step | emulated |
//! | `ret`, `jmp` through a register or memory | copied: they do not depend on their address |
//! | `syscall` | copied, and RCX set to the original's next address, as the kernel would |
//! | the program's own `int3` | the trap that has already happened is passed on |
//!
//! A `syscall` may block: the thread sleeps in its slot, and nobody waits for it.
//!
//! # A thread that stops in a slot
//!
//! A signal or an interruption can stop a thread inside a slot. [`Copied::original`] says which
//! original state this is: the instruction has not run, or it has. The tracer changes PC (and, for
//! a call that is half done, SP) before anybody, the signal's frame included, sees them. A system
//! call that is to be made again is made again at the original, because the kernel takes two bytes
//! from the PC that it finds.
//!
//! # Gotchas
//!
//! - With hardware shadow stacks a slot's call would push no shadow entry: Linux turns these on for
//!   no program that does not ask.
//! - A transaction (`xbegin`) keeps its fall-back address.

use iced_x86::{Code, ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

use super::registers::Registers;

/// The bytes of a slot.
pub(super) const SLOT: u64 = 32;
/// The longest instruction.
pub(super) const LONGEST: usize = 15;

/// How the instruction at an address is run elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In a slot.
    Slot,
    /// By the tracer.
    Emulate,
    /// It is the program's own breakpoint.
    OwnTrap,
}

/// An instruction out of line.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutOfLine {
    pub(super) way: Way,
    pub(super) instruction: Instruction,
}

/// The instruction at `address`, which starts with `bytes`, and how it can run elsewhere.
///
/// # Errors
///
/// The reason for which it cannot.
pub(super) fn analyse(address: u64, bytes: &[u8]) -> Result<OutOfLine, &'static str> {
    let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        return Err("it is no instruction");
    }
    let far = matches!(
        instruction.op0_kind(),
        OpKind::FarBranch16 | OpKind::FarBranch32 | OpKind::NearBranch16 | OpKind::NearBranch32
    );
    if far {
        return Err("its target is of a kind that 64-bit code does not use");
    }
    let way = match instruction.flow_control() {
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => Way::Emulate,
        FlowControl::IndirectCall if instruction.code() == Code::Call_rm64 => Way::Emulate,
        FlowControl::IndirectCall => return Err("it is a far call"),
        FlowControl::Interrupt if instruction.code() == Code::Int3 => Way::OwnTrap,
        FlowControl::Interrupt if instruction.code() == Code::Int_imm8 && instruction.immediate8() == 3 => {
            return Err("it is a two-byte breakpoint of the program's own");
        }
        _ => Way::Slot,
    };
    Ok(OutOfLine { way, instruction })
}

/// The kind of code in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The instruction, then a jump.
    Plain,
    /// `syscall`, then the value of RCX, then a jump.
    Syscall,
    /// A push, the upper half of what was pushed, then a jump to this target.
    Call { target: u64 },
}

/// A slot that is in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    pub(super) address: u64,
    next: u64,
    len: u64,
    kind: Kind,
}

const PUSH: u64 = 5;
const PUSHED: u64 = 13;

impl Copied {
    /// Sets the registers of a thread that stopped `offset` bytes into the slot to those that it
    /// would have at the original. Returns whether the instruction has still to run.
    pub(super) fn original(&self, offset: u64, regs: &mut Registers) -> bool {
        let regs = &mut regs.0;
        match self.kind {
            Kind::Call { target } if offset >= PUSHED => {
                regs.rip = target;
                return false;
            }
            Kind::Call { .. } if offset >= PUSH => regs.rsp += 8,
            Kind::Call { .. } => {}
            _ if offset < self.len => {}
            kind => {
                if kind == Kind::Syscall {
                    regs.rcx = self.next;
                }
                regs.rip = self.next;
                return false;
            }
        }
        regs.rip = self.address;
        true
    }
}

/// The bytes of a slot at `slot`, and what is known of them. `target` is for an indirect call.
///
/// # Errors
///
/// The reason for which the instruction cannot run there.
pub(super) fn slot(
    instruction: &Instruction,
    bytes: &[u8],
    slot: u64,
    target: Option<u64>,
) -> Result<(Vec<u8>, Copied), &'static str> {
    let (address, next, len) = (instruction.ip(), instruction.next_ip(), instruction.len());
    let copied = |kind| Copied { address, next, len: len as u64, kind };
    let direct = is_direct_call(instruction).then(|| instruction.near_branch_target());
    if let Some(target) = direct.or(target) {
        // push (sign-extended lower half); mov dword ptr [rsp+4], upper half; jmp
        let mut code = vec![0x68];
        code.extend((next as u32).to_le_bytes());
        code.extend([0xc7, 0x44, 0x24, 0x04]);
        code.extend(((next >> 32) as u32).to_le_bytes());
        jump(&mut code, slot, target);
        return Ok((code, copied(Kind::Call { target })));
    }
    let mut code = bytes[..len].to_vec();
    if instruction.is_ip_rel_memory_operand() || instruction.mnemonic() == Mnemonic::Xbegin {
        let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
        let decoded = decoder.decode();
        let constants = decoder.get_constant_offsets(&decoded);
        let (at, size, target) = if decoded.is_ip_rel_memory_operand() {
            (constants.displacement_offset(), constants.displacement_size(), decoded.ip_rel_memory_address())
        } else {
            (constants.immediate_offset(), constants.immediate_size(), decoded.near_branch_target())
        };
        let distance = target.wrapping_sub(slot + len as u64) as i64;
        let Ok(distance) = i32::try_from(distance) else {
            return Err("its operand is out of the scratch area's reach");
        };
        if size != 4 {
            return Err("its operand is of a kind that 64-bit code does not use");
        }
        code[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }
    let kind = if instruction.code() == Code::Syscall { Kind::Syscall } else { Kind::Plain };
    if kind == Kind::Syscall {
        // lea rcx, [rip + distance]: leaves the flags alone.
        let distance = next.wrapping_sub(slot + len as u64 + 7) as i64;
        let distance = i32::try_from(distance).map_err(|_| "it is out of the scratch area's reach")?;
        code.extend([0x48, 0x8d, 0x0d]);
        code.extend(distance.to_le_bytes());
    }
    jump(&mut code, slot, next);
    Ok((code, copied(kind)))
}

/// Appends a jump that changes nothing but the PC.
fn jump(code: &mut Vec<u8>, slot: u64, target: u64) {
    let distance = target.wrapping_sub(slot + code.len() as u64 + 5) as i64;
    if let Ok(distance) = i32::try_from(distance) {
        code.push(0xe9);
        code.extend(distance.to_le_bytes());
    } else {
        code.extend([0xff, 0x25, 0, 0, 0, 0]);
        code.extend(target.to_le_bytes());
    }
}

/// An emulated instruction's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The registers are as after it.
    Done,
    /// It calls this address: the return address must be pushed.
    Call(u64),
    /// It faults where it reads its target: let the processor do it.
    Fault,
}

/// Returns whether the instruction is a call to a place in the code. Its slot has several
/// instructions, so that a single step must emulate it.
pub(super) fn is_direct_call(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::Call && instruction.op0_kind() == OpKind::NearBranch64
}

/// Runs a branch or a call on `regs`. `word` reads the program's memory.
pub(super) fn emulate(
    instruction: &Instruction,
    regs: &mut Registers,
    word: impl Fn(u64) -> Option<u64>,
) -> Effect {
    if is_direct_call(instruction) {
        return Effect::Call(instruction.near_branch_target());
    }
    if instruction.flow_control() == FlowControl::IndirectCall {
        let target = if instruction.op0_kind() == OpKind::Register {
            regs.value(instruction.op0_register())
        } else {
            let address = instruction.virtual_address(0, 0, |register, _, _| regs.value(register));
            address.and_then(word)
        };
        return target.map_or(Effect::Fault, Effect::Call);
    }
    let taken = match instruction.flow_control() {
        FlowControl::UnconditionalBranch => true,
        _ => is_taken(instruction, regs),
    };
    regs.0.rip = if taken { instruction.near_branch_target() } else { instruction.next_ip() };
    Effect::Done
}

/// Returns whether a conditional branch is taken, and counts for the loop instructions.
fn is_taken(instruction: &Instruction, regs: &mut Registers) -> bool {
    let flags = regs.0.eflags;
    let flag = |bit: u32| flags >> bit & 1 == 1;
    let (carry, parity, zero, sign, overflow) = (flag(0), flag(2), flag(6), flag(7), flag(11));
    let narrow = matches!(
        instruction.code(),
        Code::Jecxz_rel8_64 | Code::Loop_rel8_64_ECX | Code::Loope_rel8_64_ECX | Code::Loopne_rel8_64_ECX
    );
    let mut count = |by: u64| {
        let mask = if narrow { 0xffff_ffff } else { u64::MAX };
        let left = (regs.0.rcx & mask).wrapping_sub(by) & mask;
        if by != 0 {
            // A write to ECX clears the upper half.
            regs.0.rcx = left;
        }
        left
    };
    match instruction.mnemonic() {
        Mnemonic::Jrcxz | Mnemonic::Jecxz => return count(0) == 0,
        Mnemonic::Loop => return count(1) != 0,
        Mnemonic::Loope => return count(1) != 0 && zero,
        Mnemonic::Loopne => return count(1) != 0 && !zero,
        _ => {}
    }
    match instruction.condition_code() {
        ConditionCode::None => true,
        ConditionCode::o => overflow,
        ConditionCode::no => !overflow,
        ConditionCode::b => carry,
        ConditionCode::ae => !carry,
        ConditionCode::e => zero,
        ConditionCode::ne => !zero,
        ConditionCode::be => carry || zero,
        ConditionCode::a => !carry && !zero,
        ConditionCode::s => sign,
        ConditionCode::ns => !sign,
        ConditionCode::p => parity,
        ConditionCode::np => !parity,
        ConditionCode::l => sign != overflow,
        ConditionCode::ge => sign == overflow,
        ConditionCode::le => zero || sign != overflow,
        ConditionCode::g => !zero && sign == overflow,
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::Register;

    use super::*;

    fn registers() -> Registers {
        // SAFETY: All-zero bytes are a valid record.
        Registers(unsafe { std::mem::zeroed() })
    }

    fn out_of_line(bytes: &[u8]) -> OutOfLine {
        analyse(0x1000, bytes).expect("it can be stepped out of line")
    }

    /// The distance that the jump at the slot's end has.
    fn target_of_jump(code: &[u8], at: usize, slot: u64) -> u64 {
        assert_eq!(code[at], 0xe9);
        let distance = i32::from_le_bytes(code[at + 1..at + 5].try_into().expect("four bytes"));
        (slot + at as u64 + 5).wrapping_add_signed(i64::from(distance))
    }

    #[test]
    fn plain_instruction_is_copied_and_followed_by_a_jump_to_the_next() {
        let bytes = [0x48, 0x89, 0xe5];
        let (code, copied) = slot(&out_of_line(&bytes).instruction, &bytes, 0x9000, None).expect("near");
        assert_eq!(code[..3], bytes);
        assert_eq!(target_of_jump(&code, 3, 0x9000), 0x1003);
        let mut regs = registers();
        assert!(copied.original(0, &mut regs));
        assert_eq!(regs.pc(), 0x1000);
        assert!(!copied.original(3, &mut regs));
        assert_eq!(regs.pc(), 0x1003);
    }

    #[test]
    fn displacement_from_the_instruction_pointer_is_changed() {
        // cmp dword ptr [rip+0x10], 7: an immediate follows the displacement.
        let bytes = [0x83, 0x3d, 0x10, 0, 0, 0, 7];
        let (code, _) = slot(&out_of_line(&bytes).instruction, &bytes, 0x9000, None).expect("near");
        let copy = Decoder::with_ip(64, &code, 0x9000, DecoderOptions::NONE).decode();
        assert_eq!(copy.ip_rel_memory_address(), 0x1017);
        assert_eq!(copy.immediate8(), 7);
        let far = slot(&out_of_line(&bytes).instruction, &bytes, 0x9_0000_0000, None);
        assert_eq!(far.err(), Some("its operand is out of the scratch area's reach"));
    }

    #[test]
    fn system_call_leaves_rcx_as_at_its_own_address() {
        let bytes = [0x0f, 0x05];
        let (code, copied) = slot(&out_of_line(&bytes).instruction, &bytes, 0x9000, None).expect("near");
        let lea = Decoder::with_ip(64, &code[2..], 0x9002, DecoderOptions::NONE).decode();
        assert_eq!((lea.op0_register(), lea.ip_rel_memory_address()), (Register::RCX, 0x1002));
        assert_eq!(target_of_jump(&code, 9, 0x9000), 0x1002);
        let mut regs = registers();
        assert!(!copied.original(2, &mut regs));
        assert_eq!((regs.pc(), regs.0.rcx), (0x1002, 0x1002));
    }

    #[test]
    fn half_done_call_is_undone() {
        let bytes = [0xe8, 0xfb, 0xef, 0xff, 0xff];
        let (code, copied) = slot(&out_of_line(&bytes).instruction, &bytes, 0x9000, None).expect("near");
        assert_eq!(target_of_jump(&code, 13, 0x9000), 0);
        let mut regs = registers();
        regs.0.rsp = 0x7000;
        assert!(copied.original(0, &mut regs));
        assert_eq!((regs.pc(), regs.sp()), (0x1000, 0x7000));
        regs.0.rsp = 0x6ff8;
        assert!(copied.original(5, &mut regs));
        assert_eq!((regs.pc(), regs.sp()), (0x1000, 0x7000));
        regs.0.rsp = 0x6ff8;
        assert!(!copied.original(13, &mut regs));
        assert_eq!((regs.pc(), regs.sp()), (0, 0x6ff8));
        let (far, _) = slot(&out_of_line(&bytes).instruction, &bytes, 1 << 45, None).expect("absolute jump");
        assert!(far.len() as u64 <= SLOT);
    }

    #[test]
    fn conditional_branches_follow_the_flags() {
        // je +2 and jg +2, each with and without ZF.
        for (bytes, zero, expected) in [
            ([0x74, 2], true, 0x1004),
            ([0x74, 2], false, 0x1002),
            ([0x7f, 2], true, 0x1002),
            ([0x7f, 2], false, 0x1004),
        ] {
            let mut regs = registers();
            regs.0.eflags = u64::from(zero) << 6;
            assert_eq!(emulate(&out_of_line(&bytes).instruction, &mut regs, |_| None), Effect::Done);
            assert_eq!(regs.pc(), expected);
        }
    }

    #[test]
    fn loop_counts_in_the_register_of_its_address_size() {
        let mut regs = registers();
        regs.0.rcx = 1 << 32 | 1;
        emulate(&out_of_line(&[0xe2, 0x10]).instruction, &mut regs, |_| None);
        assert_eq!((regs.pc(), regs.0.rcx), (0x1012, 1 << 32));
        regs.0.rcx = 1 << 32 | 1;
        emulate(&out_of_line(&[0x67, 0xe2, 0x10]).instruction, &mut regs, |_| None);
        assert_eq!((regs.pc(), regs.0.rcx), (0x1003, 0));
        emulate(&out_of_line(&[0xe3, 0x10]).instruction, &mut regs, |_| None);
        assert_eq!((regs.pc(), regs.0.rcx), (0x1012, 0));
    }

    #[test]
    fn indirect_call_reads_its_target_through_registers_and_segments() {
        let mut regs = registers();
        regs.0.rbx = 0x100;
        regs.0.rcx = 3;
        regs.0.fs_base = 0x5000;
        let word = |address| Some(address + 1);
        // call [rbx+rcx*8+0x10], call fs:[rbx], call rbx, call [rip+0]
        for (bytes, target) in [
            (&[0xff, 0x54, 0xcb, 0x10][..], 0x129),
            (&[0x64, 0xff, 0x13], 0x5101),
            (&[0xff, 0xd3], 0x100),
            (&[0xff, 0x15, 0, 0, 0, 0], 0x1007),
        ] {
            let effect = emulate(&out_of_line(bytes).instruction, &mut regs, word);
            assert_eq!(effect, Effect::Call(target), "{bytes:x?}");
        }
        assert_eq!(emulate(&out_of_line(&[0xff, 0x13]).instruction, &mut regs, |_| None), Effect::Fault);
    }

    #[test]
    fn breakpoints_of_the_program_and_strange_branches_are_recognised() {
        assert_eq!(out_of_line(&[0xcc]).way, Way::OwnTrap);
        assert!(analyse(0x1000, &[0xcd, 3]).is_err());
        assert!(analyse(0x1000, &[0x06]).is_err());
        assert!(analyse(0x1000, &[0xff, 0x18]).is_err(), "a far call");
    }
}
