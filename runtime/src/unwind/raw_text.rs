//! Text for code that runs in a signal handler: it neither allocates nor takes a lock.
//!
//! A throw may come from the profiling handler or from a fault, and the interrupted code may hold the
//! allocator's lock or the one of standard error.

use core::fmt::{self, Arguments, Write};

/// A short text; the rest of a longer one is cut off.
pub(super) struct Short {
    bytes: [u8; 64],
    len: usize,
}

impl Short {
    /// Returns the text that `arguments` make. They must be ASCII.
    pub(super) fn of(arguments: Arguments<'_>) -> Short {
        let mut short = Short { bytes: [0; 64], len: 0 };
        // It fails only if a part of the text cannot be formatted, which then is missing.
        let _ = short.write_fmt(arguments);
        short
    }

    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let count = text.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
        Ok(())
    }
}

/// Standard error, written through a buffer of its own.
pub(super) struct Stderr {
    bytes: [u8; 512],
    len: usize,
}

impl Stderr {
    pub(super) fn new() -> Stderr {
        Stderr { bytes: [0; 512], len: 0 }
    }

    /// Prints. Text that standard error does not take is lost.
    pub(super) fn print(&mut self, arguments: Arguments<'_>) {
        let _ = self.write_fmt(arguments);
    }

    fn flush(&mut self) {
        let mut rest = &self.bytes[..self.len];
        while !rest.is_empty() {
            // SAFETY: the kernel reads the bytes, which outlive the call.
            let count = unsafe { libc::write(libc::STDERR_FILENO, rest.as_ptr().cast(), rest.len()) };
            match usize::try_from(count) {
                Ok(count) => rest = &rest[count..],
                Err(_) if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.len = 0;
    }
}

impl Write for Stderr {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.len == self.bytes.len() {
                self.flush();
            }
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_is_cut_off_at_its_end() {
        assert_eq!(Short::of(format_args!("{}+{:#x}", "small", 26)).as_str(), "small+0x1a");
        let long = Short::of(format_args!("{:100}|", "x"));
        assert_eq!(long.as_str(), format!("{:64}", "x"));
    }
}
