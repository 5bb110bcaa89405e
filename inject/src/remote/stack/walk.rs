//! From frame to frame.

use std::ops::{Range, RangeInclusive};

use iced_x86::{Decoder, DecoderOptions, FlowControl};

use crate::remote::registers::Registers;
use crate::remote::symbols::{Symbols, Unwind};
use crate::remote::tracer::Tracer;

use super::evaluate;
use super::pages::Pages;
use super::values::{RA, RBP, RSP, Values};
use super::{End, Frame, Lost, Stack, Via};

/// Where the registers lie in the kernel's `struct ucontext`, which a handler's return leaves SP at.
const SIGCONTEXT: u64 = 40;

/// The longest call instruction, with prefixes.
const LONGEST_CALL: usize = 9;

/// `rt_sigreturn`, which a thread may be held in.
const SYS_RT_SIGRETURN: u64 = libc::SYS_rt_sigreturn as u64;

pub(super) struct Walk<'a> {
    tracer: &'a Tracer,
    symbols: &'a Symbols,
    pid: i32,
    memory: Pages<'a>,
    /// Code outside all objects, once that was looked for.
    other_code: Option<Vec<Range<u64>>>,
    /// The kernel's frames that were crossed.
    signals: Vec<u64>,
}

/// The next frame outward; `None` if there is none.
type Next = Result<Option<(Values, Via)>, Lost>;

impl<'a> Walk<'a> {
    pub(super) fn new(tracer: &'a Tracer, symbols: &'a Symbols, pid: i32) -> Self {
        let memory = Pages::new(tracer, pid);
        Self { tracer, symbols, pid, memory, other_code: None, signals: Vec::new() }
    }

    pub(super) fn run(mut self, registers: &Registers, depth: usize) -> Stack {
        let mut values = Values::of(registers);
        let mut frames = vec![Frame { pc: registers.pc(), sp: registers.sp(), via: Via::Registers }];
        // The PC is behind the system call, where there is anything.
        let returning = registers.0.orig_rax == SYS_RT_SIGRETURN;
        loop {
            let frame = frames[frames.len() - 1];
            let next = match returning && frames.len() == 1 {
                true => self.interrupted(frame.sp),
                false => self.next(&frame, &values),
            };
            let (pc, sp, via) = match next {
                Ok(None) => return Stack { frames, end: End::Root },
                Err(lost) => return Stack { frames, end: End::Lost(lost) },
                Ok(Some((caller, via))) => {
                    values = caller;
                    (values.get(RA).unwrap_or(0), values.get(RSP).unwrap_or(0), via)
                }
            };
            let end = match via {
                Via::Signal => None,
                _ if sp <= frame.sp => Some(End::Lost(Lost::Backwards { from: frame.sp, to: sp })),
                _ if pc == 0 => Some(End::Root),
                _ if !self.is_code(pc.wrapping_sub(1)) => Some(End::Lost(Lost::NotCode { pc })),
                _ => None,
            };
            let full = frames.len() >= depth;
            if let Some(end) = end.or(full.then_some(End::Depth)) {
                return Stack { frames, end };
            }
            frames.push(Frame { pc, sp, via });
        }
    }

    fn next(&mut self, frame: &Frame, values: &Values) -> Next {
        let symbols = self.symbols;
        let mapped = symbols.find(frame.lookup_address());
        let mapped = mapped.map(|place| &symbols.objects()[place.object]);
        let unwind = mapped.map_or(Unwind::None, |mapped| {
            mapped.object.unwind_at(frame.pc.wrapping_sub(mapped.bias), frame.is_return_address())
        });
        match unwind {
            Unwind::SignalReturn => self.interrupted(frame.sp),
            Unwind::Row(row) => {
                let via = if row.is_signal { Via::Signal } else { Via::Table };
                if row.is_signal {
                    self.cross(frame.sp)?;
                }
                Ok(evaluate::caller(&row, values, &mut self.memory)?.map(|caller| (caller, via)))
            }
            Unwind::None if frame.is_return_address() => self.by_frame_pointer(frame, values),
            Unwind::None => {
                let is_stub = mapped.is_some_and(|m| m.object.is_stub(frame.pc.wrapping_sub(m.bias)));
                let is_code = self.is_code(frame.pc);
                let pushed = match (is_code, is_stub) {
                    (false, _) => Some(0..=0),
                    // The lazy resolver's arguments.
                    (true, true) => Some(0..=2),
                    (true, false) => self.pushed(frame.pc).map(|pushed| pushed..=pushed),
                };
                if let Some(caller) = pushed.and_then(|pushed| self.entered(frame.sp, pushed, values)) {
                    return Ok(Some((caller, Via::Entry)));
                }
                match (is_code, is_stub) {
                    (false, _) => Err(Lost::NotCode { pc: frame.pc }),
                    (true, true) => Err(Lost::NoRow { pc: frame.pc }),
                    (true, false) => self.by_frame_pointer(frame, values),
                }
            }
        }
    }

    /// The frame that a signal interrupted, from the kernel's frame.
    fn interrupted(&mut self, ucontext: u64) -> Next {
        self.cross(ucontext)?;
        let mut words = [0; 17];
        for (index, word) in (0..).zip(&mut words) {
            *word = self.memory.word(ucontext.wrapping_add(SIGCONTEXT + 8 * index))?;
        }
        Ok(Some((Values::of_sigcontext(&words), Via::Signal)))
    }

    fn cross(&mut self, frame: u64) -> Result<(), Lost> {
        if self.signals.contains(&frame) {
            return Err(Lost::Loop { frame });
        }
        self.signals.push(frame);
        Ok(())
    }

    /// The number of words that lie between SP and the return address where RBP is not yet, or no
    /// longer, the function's own: at its start, behind `push rbp`, and at `ret`.
    fn pushed(&mut self, pc: u64) -> Option<u64> {
        const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
        const PUSH_RBP: u8 = 0x55;
        const RET: u8 = 0xc3;
        let mut code = [0; 5];
        if self.memory.read(pc, &mut code[..1]).is_some() && code[0] == RET {
            return Some(0);
        }
        let start = self.symbols.address(self.symbols.function_at(pc)?)?;
        self.memory.read(start, &mut code)?;
        let push = if code.starts_with(&ENDBR64) { ENDBR64.len() } else { 0 };
        match pc - start {
            offset if offset == 0 || offset == push as u64 => Some(0),
            offset if offset == push as u64 + 1 && code[push] == PUSH_RBP => Some(1),
            _ => None,
        }
    }

    /// The caller of code that was entered by a call and has pushed so many words.
    fn entered(&mut self, sp: u64, mut pushed: RangeInclusive<u64>, values: &Values) -> Option<Values> {
        pushed.find_map(|pushed| {
            let at = sp.wrapping_add(8 * pushed);
            let pc = self.memory.word(at).ok().filter(|pc| self.is_behind_call(*pc))?;
            let mut caller = *values;
            caller.set(RA, Some(pc));
            caller.set(RSP, Some(at.wrapping_add(8)));
            Some(caller)
        })
    }

    fn by_frame_pointer(&mut self, frame: &Frame, values: &Values) -> Next {
        let lost = Lost::NoRow { pc: frame.pc };
        let rbp = values.get(RBP).ok_or(lost)?;
        // The outermost frame has zero there (psABI), but a function may use RBP for anything while
        // it runs.
        if rbp == 0 && frame.is_return_address() {
            return Ok(None);
        }
        if rbp < frame.sp || rbp % 8 != 0 {
            return Err(lost);
        }
        let pc = self.memory.word(rbp.wrapping_add(8))?;
        if pc == 0 {
            return Ok(None);
        }
        if !self.is_behind_call(pc) {
            return Err(lost);
        }
        let mut caller = *values;
        caller.set(RBP, Some(self.memory.word(rbp)?));
        caller.set(RA, Some(pc));
        caller.set(RSP, Some(rbp.wrapping_add(16)));
        Ok(Some((caller, Via::FramePointer)))
    }

    /// Returns whether an address is in code: an object's, or any that the process has mapped.
    fn is_code(&mut self, address: u64) -> bool {
        if self.symbols.is_code(address) {
            return true;
        }
        let others = self.other_code.get_or_insert_with(|| {
            let mappings = self.tracer.mappings(self.pid).unwrap_or_default();
            let is_code = |permissions: &str| permissions.as_bytes().get(2) == Some(&b'x');
            mappings.into_iter().filter(|m| is_code(&m.permissions)).map(|m| m.range).collect()
        });
        others.iter().any(|code| code.contains(&address))
    }

    /// Returns whether an address lies in code and the instruction before it is a call.
    fn is_behind_call(&mut self, pc: u64) -> bool {
        let mut bytes = [0; LONGEST_CALL];
        let Some(start) = pc.checked_sub(LONGEST_CALL as u64) else { return false };
        self.is_code(pc - 1) && self.memory.read(start, &mut bytes).is_some() && ends_with_call(&bytes)
    }
}

/// Returns whether some instruction at the end of `bytes` is a call.
fn ends_with_call(bytes: &[u8]) -> bool {
    (2..=bytes.len()).any(|length| {
        let code = &bytes[bytes.len() - length..];
        let instruction = Decoder::new(64, code, DecoderOptions::NONE).decode();
        let is_call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
        is_call && instruction.len() == length
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_instructions_are_recognised_from_behind() {
        let calls: [&[u8]; 7] = [
            &[0xe8, 1, 2, 3, 4],
            &[0xff, 0xd0],
            &[0x41, 0xff, 0xd3],
            &[0xff, 0x15, 1, 2, 3, 4],
            &[0x3e, 0xff, 0xd0],
            &[0x67, 0xe8, 1, 2, 3, 4],
            &[0x43, 0xff, 0x94, 0xec, 1, 2, 3, 4],
        ];
        for call in calls {
            let bytes = [&[0x90; LONGEST_CALL][call.len()..], call].concat();
            assert!(ends_with_call(&bytes), "{call:02x?}");
        }
        for other in [&[0xe9, 1, 2, 3, 4][..], &[0xff, 0xe0], &[0xc3], &[0xff, 0x30]] {
            let bytes = [&[0x90; LONGEST_CALL][other.len()..], other].concat();
            assert!(!ends_with_call(&bytes), "{other:02x?}");
        }
    }
}
