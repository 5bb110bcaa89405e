//! A stopped thread's general registers.

use iced_x86::Register;

/// The general registers of a stopped thread.
#[derive(Clone, Copy)]
pub struct Registers(pub libc::user_regs_struct);

/// When the kernel makes an interrupted system call again. Where no handler runs, it always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// After a handler, too.
    Always,
    /// After a handler whose action has SA_RESTART.
    AsActionSays,
    /// Not after a handler: the call ends with EINTR.
    UnlessHandled,
}

impl Registers {
    /// The address of the instruction that runs next.
    pub fn pc(&self) -> u64 {
        self.0.rip
    }

    /// RSP.
    pub fn sp(&self) -> u64 {
        self.0.rsp
    }

    /// Returns whether the thread stopped in a system call that the kernel makes again when the
    /// thread goes on, unless a signal's handler prevents it.
    pub fn restarts_syscall(&self) -> bool {
        self.restart().is_some()
    }

    /// When the kernel makes the system call again in which the thread stopped.
    pub(super) fn restart(&self) -> Option<Restart> {
        match self.0.rax as i64 {
            _ if (self.0.orig_rax as i64) < 0 => None,
            // ERESTARTSYS.
            -512 => Some(Restart::AsActionSays),
            // ERESTARTNOINTR.
            -513 => Some(Restart::Always),
            // ERESTARTNOHAND, ERESTART_RESTARTBLOCK.
            -514 | -516 => Some(Restart::UnlessHandled),
            _ => None,
        }
    }

    /// The value of a 64-bit register, or of a segment's base; `None` for other registers.
    pub(super) fn value(&self, register: Register) -> Option<u64> {
        let r = &self.0;
        Some(match register {
            Register::RAX => r.rax,
            Register::RBX => r.rbx,
            Register::RCX => r.rcx,
            Register::RDX => r.rdx,
            Register::RSI => r.rsi,
            Register::RDI => r.rdi,
            Register::RBP => r.rbp,
            Register::RSP => r.rsp,
            Register::R8 => r.r8,
            Register::R9 => r.r9,
            Register::R10 => r.r10,
            Register::R11 => r.r11,
            Register::R12 => r.r12,
            Register::R13 => r.r13,
            Register::R14 => r.r14,
            Register::R15 => r.r15,
            Register::RIP => r.rip,
            Register::FS => r.fs_base,
            Register::GS => r.gs_base,
            Register::CS | Register::DS | Register::ES | Register::SS => 0,
            _ => {
                let full = register.full_register();
                if full == register {
                    return None;
                }
                // Only ECX and its like address memory: 32 bits of the full register.
                self.value(full)? & 0xffff_ffff
            }
        })
    }
}

impl std::fmt::Debug for Registers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registers {{ pc: {:#x}, sp: {:#x} }}", self.pc(), self.sp())
    }
}
