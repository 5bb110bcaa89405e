//! The registers of a frame, by the numbers that DWARF gives them.

use crate::remote::registers::Registers;

pub(super) const RBP: u16 = 6;
pub(super) const RSP: u16 = 7;
/// The return address, which is the caller's PC.
pub(super) const RA: u16 = 16;

/// The general registers and the PC of a frame. A register may be unknown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values([Option<u64>; 17]);

impl Values {
    pub(super) fn of(registers: &Registers) -> Self {
        let r = &registers.0;
        let values = [
            r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15, r.rip,
        ];
        Self(values.map(Some))
    }

    /// From the first 17 words of the kernel's `struct sigcontext`.
    pub(super) fn of_sigcontext(words: &[u64; 17]) -> Self {
        let &[r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip] = words;
        let values = [rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip];
        Self(values.map(Some))
    }

    pub(super) fn get(&self, register: u16) -> Option<u64> {
        *self.0.get(usize::from(register))?
    }

    pub(super) fn set(&mut self, register: u16, value: Option<u64>) {
        if let Some(place) = self.0.get_mut(usize::from(register)) {
            *place = value;
        }
    }
}
