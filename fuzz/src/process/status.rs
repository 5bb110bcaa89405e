//! How children end.

/// The exit status of a child that ends by itself. Any other status, and any signal, is a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Its budget is used up, or it was asked to end; nothing was found.
    Done = 0,
    /// It found a violation, and has left or answered it.
    Found = 77,
    /// The harness is wrong: it could not begin, or has left an error of the harness's own.
    Broken = 78,
}

impl Status {
    /// The status with this number.
    pub fn from_code(code: i32) -> Option<Status> {
        [Status::Done, Status::Found, Status::Broken].into_iter().find(|status| status.code() == code)
    }

    /// Its number.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// Ends the process at once. Threads may be anywhere, and some wait for a baton that never
    /// comes: nothing is unwound, and no handler of the engine's runs.
    pub fn exit(self) -> ! {
        // SAFETY: ends the process; nothing of it is left to be unsound.
        unsafe { libc::_exit(self.code()) }
    }
}

impl From<Status> for std::process::ExitCode {
    fn from(status: Status) -> Self {
        std::process::ExitCode::from(status as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_known_by_their_numbers() {
        for status in [Status::Done, Status::Found, Status::Broken] {
            assert_eq!(Status::from_code(status.code()), Some(status));
        }
        assert_eq!(Status::from_code(1), None, "a panic's status is none of ours");
    }
}
