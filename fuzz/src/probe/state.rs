//! The state of a thread that a signal's handler must leave as it was: `errno`, the blocked signals, the
//! alternate stack.
//!
//! The kernel restores registers, mask and alternate stack from the signal's frame when the handler returns. So
//! they differ only if the handler changed the frame, which is read as the handler is entered and as it returns.
//! `errno` is the C library's, in the thread's own storage; its address is computed the way the library's
//! `__errno_location` does.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};
use sigstorm_inject::remote::symbols::{FunctionId, Symbols};
use sigstorm_inject::remote::{Delivery, Tracer};

/// The kernel's signal frame on x86-64, from the restorer's word on.
mod frame {
    pub const STACK: usize = 24;
    pub const REGISTERS: usize = 48;
    /// R8 to RFLAGS.
    pub const REGISTER_COUNT: usize = 18;
    pub const MASK: usize = 304;
    pub const SIZE: usize = 312;
    pub const NAMES: [&str; REGISTER_COUNT] = [
        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax",
        "rcx", "rsp", "rip", "rflags",
    ];
}

/// The steps of `__errno_location`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// RAX is this number.
    Set(u64),
    /// RAX is the word at this address.
    Load(u64),
    /// RAX is the thread pointer.
    ThreadPointer,
    /// The thread pointer is added.
    AddThreadPointer,
    /// A number is added.
    Add(u64),
    /// The word at this address is added.
    AddLoaded(u64),
}

/// How to find a thread's `errno`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrnoLocation(Vec<Step>);

impl ErrnoLocation {
    /// The C library's function that finds it.
    pub const FUNCTION: &str = "__errno_location";

    /// Reads the C library's function; nothing if the program has none, or it does something unknown.
    pub fn find(
        tracer: &Tracer,
        symbols: &Symbols,
        pid: i32,
        functions: &[FunctionId],
    ) -> Option<ErrnoLocation> {
        functions.iter().find_map(|id| {
            let address = symbols.address(*id)?;
            let mut bytes = [0; 48];
            tracer.read(pid, address, &mut bytes).ok()?;
            ErrnoLocation::decode(&bytes, address)?.with_loaded(|address| tracer.read_word(pid, address).ok())
        })
    }

    /// The offset of thread-local storage is a word that the loader writes once: it is read once, too.
    fn with_loaded(self, load: impl Fn(u64) -> Option<u64>) -> Option<ErrnoLocation> {
        let loaded = self.0.into_iter().map(|step| match step {
            Step::Load(address) => load(address).map(Step::Set),
            Step::AddLoaded(address) => load(address).map(Step::Add),
            step => Some(step),
        });
        loaded.collect::<Option<_>>().map(ErrnoLocation)
    }

    fn decode(bytes: &[u8], address: u64) -> Option<ErrnoLocation> {
        let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
        let mut steps = Vec::new();
        let mut instruction = Instruction::default();
        for _ in 0..8 {
            decoder.decode_out(&mut instruction);
            match instruction.code() {
                Code::Endbr64 | Code::Nopw | Code::Nopd | Code::Nop_rm32 => {}
                Code::Retnq => return Some(ErrnoLocation(steps)),
                _ => steps.push(step(&instruction)?),
            }
        }
        None
    }

    /// The address of a held thread's `errno`.
    pub fn address(&self, tracer: &Tracer, tid: i32) -> Option<u64> {
        let pid = tracer.process_of(tid)?;
        let thread_pointer = tracer.registers(tid).ok()?.0.fs_base;
        let load = |address| tracer.read_word(pid, address).ok();
        self.0.iter().try_fold(0u64, |rax, step| {
            Some(match *step {
                Step::Set(number) => number,
                Step::Load(address) => load(address)?,
                Step::ThreadPointer => thread_pointer,
                Step::AddThreadPointer => rax.wrapping_add(thread_pointer),
                Step::Add(number) => rax.wrapping_add(number),
                Step::AddLoaded(address) => rax.wrapping_add(load(address)?),
            })
        })
    }
}

fn step(instruction: &Instruction) -> Option<Step> {
    if instruction.op0_register() != Register::RAX {
        return None;
    }
    let displacement = instruction.memory_displacement64();
    let is_thread_pointer = instruction.segment_prefix() == Register::FS
        && instruction.memory_base() == Register::None
        && displacement == 0;
    match (instruction.code(), instruction.op1_kind()) {
        (Code::Mov_r64_rm64, OpKind::Memory) if is_thread_pointer => Some(Step::ThreadPointer),
        (Code::Add_r64_rm64, OpKind::Memory) if is_thread_pointer => Some(Step::AddThreadPointer),
        (Code::Mov_r64_rm64, OpKind::Memory) if instruction.is_ip_rel_memory_operand() => {
            Some(Step::Load(instruction.ip_rel_memory_address()))
        }
        (Code::Add_r64_rm64, OpKind::Memory) if instruction.is_ip_rel_memory_operand() => {
            Some(Step::AddLoaded(instruction.ip_rel_memory_address()))
        }
        (Code::Lea_r64_m, _) if instruction.memory_base() == Register::RAX => Some(Step::Add(displacement)),
        (Code::Mov_rm64_imm32, _) => Some(Step::Set(instruction.immediate(1))),
        (Code::Add_rm64_imm8 | Code::Add_rm64_imm32 | Code::Add_RAX_imm32, _) => {
            Some(Step::Add(instruction.immediate(1)))
        }
        _ => None,
    }
}

/// `errno` before a signal is delivered.
pub fn errno(tracer: &Tracer, location: Option<&ErrnoLocation>, tid: i32) -> Option<i32> {
    let address = location?.address(tracer, tid)?;
    let mut bytes = [0; 4];
    tracer.read(tracer.process_of(tid)?, address, &mut bytes).ok()?;
    Some(i32::from_le_bytes(bytes))
}

/// The kernel's frame of a signal, as it is in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Box<[u8; frame::SIZE]>);

impl Frame {
    /// Reads a delivery's frame.
    pub fn read(tracer: &Tracer, tid: i32, delivery: &Delivery) -> Option<Frame> {
        let mut bytes = Box::new([0; frame::SIZE]);
        tracer.read(tracer.process_of(tid)?, delivery.frame, &mut bytes[..]).ok()?;
        Some(Frame(bytes))
    }

    fn word(&self, offset: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.0[offset..offset + 8]);
        u64::from_le_bytes(word)
    }

    /// The differences that the handler made: what, and the values before and after.
    pub fn changes(&self, after: &Frame, with_registers: bool) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut compare = |name: &'static str, offset: usize| {
            let (before, after) = (self.word(offset), after.word(offset));
            if before != after {
                changes.push(Change { name, before: format!("{before:#x}"), after: format!("{after:#x}") });
            }
        };
        compare("the set of blocked signals", frame::MASK);
        compare("the alternate stack's address", frame::STACK);
        compare("the alternate stack's size", frame::STACK + 16);
        if with_registers {
            for (number, name) in frame::NAMES.into_iter().enumerate() {
                compare(name, frame::REGISTERS + 8 * number);
            }
        }
        changes
    }
}

/// Something that a handler did not leave as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: &'static str,
    /// The value before the handler.
    pub before: String,
    /// The value after it.
    pub after: String,
}

/// The change of `errno`, if it is another.
pub fn errno_change(before: Option<i32>, after: Option<i32>) -> Option<Change> {
    let (before, after) = (before?, after?);
    let name = |errno| match errno {
        0 => "0 (no error)".to_owned(),
        _ => format!("{errno} ({:?})", nix::errno::Errno::from_raw(errno)),
    };
    (before != after).then(|| Change { name: "errno", before: name(before), after: name(after) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_location_is_understood_in_each_library() {
        // glibc, a shared library: endbr64; mov rax, [rip+0x10]; add rax, fs:0; ret
        let glibc = [
            0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8b, 0x05, 0x10, 0, 0, 0, 0x64, 0x48, 0x03, 0x04, 0x25, 0, 0, 0,
            0, 0xc3,
        ];
        assert_eq!(
            ErrnoLocation::decode(&glibc, 0x1000),
            Some(ErrnoLocation(vec![Step::Load(0x101b), Step::AddThreadPointer]))
        );
        // glibc, static: mov rax, -0x40; add rax, fs:0; ret
        let linked =
            [0x48, 0xc7, 0xc0, 0xc0, 0xff, 0xff, 0xff, 0x64, 0x48, 0x03, 0x04, 0x25, 0, 0, 0, 0, 0xc3];
        assert_eq!(
            ErrnoLocation::decode(&linked, 0),
            Some(ErrnoLocation(vec![Step::Set(-0x40i64 as u64), Step::AddThreadPointer]))
        );
        // musl: mov rax, fs:0; add rax, 0x34; ret
        let musl = [0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x48, 0x83, 0xc0, 0x34, 0xc3];
        assert_eq!(
            ErrnoLocation::decode(&musl, 0),
            Some(ErrnoLocation(vec![Step::ThreadPointer, Step::Add(0x34)]))
        );
        assert_eq!(ErrnoLocation::decode(&[0x90; 48], 0), None);
        assert_eq!(ErrnoLocation::decode(&[0x31, 0xc0, 0xc3], 0), None, "xor eax, eax; ret");
    }

    #[test]
    fn changes_of_a_frame_are_named() {
        let before = Frame(Box::new([0; frame::SIZE]));
        let mut after = before.clone();
        assert!(before.changes(&after, true).is_empty());
        after.0[frame::MASK] = 4;
        after.0[frame::REGISTERS + 16 * 8] = 1;
        let names = |with| before.changes(&after, with).iter().map(|change| change.name).collect::<Vec<_>>();
        assert_eq!(names(false), ["the set of blocked signals"]);
        assert_eq!(names(true), ["the set of blocked signals", "rip"]);
        assert_eq!(errno_change(Some(2), Some(9)).unwrap().after, "9 (EBADF)");
        assert_eq!((errno_change(Some(2), Some(2)), errno_change(None, Some(2))), (None, None));
    }
}
