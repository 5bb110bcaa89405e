//! Writable code: which ranges are refused, and that code is protected and whole afterwards.

mod common;

use std::fs;

use common::{OUTER, functions, in_child, outer};
use sigstorm_inject::{Region, Text, TextError, breakpoint, clear_breakpoint, set_breakpoint};

/// The permissions of the mapping that has `address`.
fn permissions(address: usize) -> String {
    let maps = fs::read_to_string("/proc/self/maps").expect("it can be read");
    maps.lines()
        .find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).expect("hexadecimal");
            (number(from) <= address && address < number(to)).then(|| rest[..4].to_owned())
        })
        .expect("it is mapped")
}

fn byte(address: usize) -> u8 {
    // SAFETY: Tests pass addresses of code, which is readable.
    unsafe { (address as *const u8).read_volatile() }
}

#[test]
fn ranges_that_are_not_code_are_refused() {
    let [f, _] = functions();
    let refuse = |start, end| {
        // SAFETY: Refused ranges are not touched, and code stays mapped.
        unsafe { Text::writable(start, end) }.expect_err("nonsense")
    };
    for (start, end) in [(f.end, f.start), (f.start, f.start)] {
        let error = refuse(start, end);
        assert!(matches!(error, TextError::Empty { .. }), "{error}");
    }
    let heap = Box::new([0u8; 64]);
    let at = heap.as_ptr() as usize;
    let error = refuse(at, at + 64);
    assert!(matches!(&error, TextError::NotCode { found, .. } if found == "rw-p"), "{error}");
    assert_eq!(permissions(at), "rw-p");
    let error = refuse(16, 32);
    assert!(matches!(&error, TextError::NotCode { found, .. } if found == "nowhere"), "{error}");
    let error = refuse(f.start, usize::MAX);
    assert!(matches!(error, TextError::NotCode { .. }), "{error}");
    // The range begins with code and goes beyond it.
    let error = refuse(f.start, f.start + (1 << 40));
    assert!(matches!(error, TextError::NotCode { .. }), "{error}");
    assert_eq!(permissions(f.start), "r-xp");
}

#[test]
fn pages_are_writable_until_their_last_text_ends() {
    in_child("pages_are_writable_until_their_last_text_ends", || {
        let [f, _] = functions();
        let open = || {
            // SAFETY: This is a test's own code, which stays mapped.
            unsafe { Text::writable(f.start, f.end) }
        };
        let text = open().expect("it is code");
        assert_eq!(permissions(f.start), "rwxp");
        let second = open().expect("this crate has made it writable");
        assert_eq!(outer(2), 1_006, "it runs meanwhile");
        text.protect().expect("it can be protected");
        assert_eq!(permissions(f.start), "rwxp", "the second has the page still");
        drop(second);
        assert_eq!(permissions(f.start), "r-xp");

        drop(open().expect("and again"));
        assert_eq!(permissions(f.start), "r-xp");

        // Code that the program itself has made writable stays as the program wants it.
        let page = f.start & !4095;
        let protect = |protection| {
            // SAFETY: This is a test's own code, which stays readable and executable.
            assert_eq!(unsafe { libc::mprotect(page as *mut _, 4096, protection) }, 0);
        };
        protect(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
        let error = open().expect_err("the program has made it writable");
        assert!(
            matches!(&error, TextError::NotCode { found, address } if found == "rwxp" && *address == page),
            "{error}"
        );
        assert_eq!(permissions(f.start), "rwxp");
        protect(libc::PROT_READ | libc::PROT_EXEC);
    });
}

#[test]
fn second_breakpoint_replaces_the_first() {
    in_child("second_breakpoint_replaces_the_first", || {
        let [f, _] = functions();
        // SAFETY: This is a test's own code, which stays mapped.
        let text = unsafe { Text::writable(f.start, f.end) }.expect("it is code");
        let (one, two) = (f.start, f.start + 1);
        let before = (byte(one), byte(two));
        assert_eq!((breakpoint(), clear_breakpoint()), (None, None));

        // SAFETY: Both are boundaries in `text`; no thread runs the code.
        unsafe { set_breakpoint(one) };
        assert_eq!((breakpoint(), byte(one)), (Some(one), 0xcc));
        // SAFETY: As above.
        unsafe { set_breakpoint(two) };
        assert_eq!((breakpoint(), byte(one), byte(two)), (Some(two), before.0, 0xcc));
        // SAFETY: As above.
        unsafe { set_breakpoint(two) };
        assert_eq!(clear_breakpoint(), Some(two), "setting it twice keeps the original");
        assert_eq!((byte(one), byte(two)), before);
        assert_eq!(clear_breakpoint(), None);

        // A region has the original bytes rather than the patch.
        let clean = Region::decode(&functions()).expect("it is code");
        // SAFETY: As above.
        unsafe { set_breakpoint(one) };
        let patched = Region::decode(&functions()).expect("it is code");
        assert_eq!(clean.boundaries(OUTER), patched.boundaries(OUTER));
        assert_eq!(patched.disassemble(OUTER, 0), "push rbp");

        // Protected code has no breakpoint left in it.
        drop(text);
        assert_eq!((breakpoint(), byte(one)), (None, before.0));
        assert_eq!(outer(1), 1_003);
    });
}

/// The kernel's own policy, as SELinux or systemd would set it.
#[test]
fn refusal_by_a_kernel_policy_names_the_policy() {
    in_child("refusal_by_a_kernel_policy_names_the_policy", || {
        const PR_SET_MDWE: i32 = 65;
        const PR_MDWE_REFUSE_EXEC_GAIN: u64 = 1;
        // SAFETY: This only forbids the process something.
        let result = unsafe { libc::prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0u64, 0u64, 0u64) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
            eprintln!("this kernel (before 6.3) has no such policy: nothing tested");
            return;
        }
        let [f, _] = functions();
        // SAFETY: This is a test's own code, which stays mapped.
        let error = unsafe { Text::writable(f.start, f.end) }.expect_err("it is forbidden");
        let TextError::Refused { source, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::EACCES));
        for word in ["policy", "execmod", "os error 13"] {
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(permissions(f.start), "r-xp");
        assert_eq!(outer(1), 1_003);
    });
}
