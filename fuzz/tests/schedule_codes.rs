//! A code that was once given a meaning keeps it: kept corpora and reports rely on it.
//!
//! The table below is written down here a second time, on purpose. A new operation
//! adds a line; no line is ever changed.

use sigstorm::schedule::{Class, Op};
use std::fmt::Write;

/// Class, code, the bits of the argument that count, and the text of all of them
/// clear and of all of them set.
const GIVEN: &str = "\
M 0 00: resume
M 1 00: signal
M 2 03: g1 | g4
M 3 1f: call nosplit | call leaf*8
M 4 07: ret | ret 8
M 5 00: syscall
M 6 00: yield
M 7 00: panic
M 8 00: recover
M 9 00: exit
M 10 00: defer
M 11 03: alloc 0 | alloc 3
M 12 1f: load 0 = 0.0 | load 3 = 3.1
M 13 1f: store 0.0 = 0 | store 3.1 = 3
M 14 0f: move 0 = 0 | move 3 = 3
M 15 03: clear 0 | clear 3
M 16 7f: up 1 slot 0 = 0 | up 8 slot 3 = 3
M 17 07: bulk 1 | bulk 8
M 18 7f: ref 0 = up 1 slot 0 | ref 3 = up 8 slot 3
M 19 01: rate off | rate on
M 20 03: send 0 | send 3
M 21 00: foreign
M 22 00: callback
M 28 03: hz 100 | hz 1000
M 29 00: pend
M 32 03: spawn g1 | spawn g4
M 33 00: park
M 34 03: ready g1 | ready g4
M 35 03: preempt g1 | preempt g4
M 36 00: setpc
M 37 03: scan g1 | scan g4
M 38 03: shrink g1 | shrink g4
M 39 03: collect mark | collect stw
M 40 07: drain | drain 8
Gc 0 00: resume
Gc 1 00: signal
Gc 2 00: mark
Gc 3 03: scan g1 | scan g4
Gc 4 07: drain | drain 8
Gc 5 00: term
Gc 6 00: sweep
Gc 7 03: shrink g1 | shrink g4
Gc 8 01: rate off | rate on
Gc 11 03: hz 100 | hz 1000
Gc 12 00: pend
Gc 13 00: read
Gc 14 03: ready g1 | ready g4
Gc 15 03: preempt g1 | preempt g4
Gc 16 00: stw
Ext 0 00: resume
Ext 1 00: signal
Ext 2 01: rate off | rate on
Ext 3 03: hz 100 | hz 1000
Ext 4 00: pend
Ext 5 00: read
Ext 6 00: attach
Ext 7 00: detach
World 0 00: every_frame
World 1 03: stack 2048 | stack 16384
World 2 03: unreadable 1 | unreadable 4
World 3 03: buffer 1 | buffer 8
World 4 00: keep_barriers
World 5 00: scan_shrinks
World 7 00: trace
";

#[test]
fn codes_stay_as_they_were_given() {
    let mut now = String::new();
    for class in [Class::M, Class::Gc, Class::Ext, Class::World] {
        for code in 0..64 {
            let Some(clear) = Op::from_code(class, code, 0) else {
                continue;
            };
            let set = Op::from_code(class, code, u8::MAX).unwrap();
            assert_eq!(clear.arg(), Some(0));
            let mask = set.arg().unwrap();
            write!(now, "{class:?} {code} {mask:02x}: {clear}").unwrap();
            if mask != 0 {
                write!(now, " | {set}").unwrap();
            }
            now.push('\n');
        }
    }
    assert_eq!(now, GIVEN);
}

/// One line for every operand: the text with only the operand's bits set.
const OPERANDS: &[(Class, u8, u8, &str)] = &[
    (Class::M, 3, 0x07, "call leaf"),
    (Class::M, 3, 0x18, "call nosplit*8"),
    (Class::M, 12, 0x03, "load 3 = 0.0"),
    (Class::M, 12, 0x0c, "load 0 = 3.0"),
    (Class::M, 12, 0x10, "load 0 = 0.1"),
    (Class::M, 13, 0x03, "store 3.0 = 0"),
    (Class::M, 13, 0x0c, "store 0.0 = 3"),
    (Class::M, 13, 0x10, "store 0.1 = 0"),
    (Class::M, 14, 0x03, "move 3 = 0"),
    (Class::M, 14, 0x0c, "move 0 = 3"),
    (Class::M, 16, 0x07, "up 8 slot 0 = 0"),
    (Class::M, 16, 0x18, "up 1 slot 0 = 3"),
    (Class::M, 16, 0x60, "up 1 slot 3 = 0"),
    (Class::M, 18, 0x03, "ref 3 = up 1 slot 0"),
    (Class::M, 18, 0x1c, "ref 0 = up 8 slot 0"),
    (Class::M, 18, 0x60, "ref 0 = up 1 slot 3"),
];

#[test]
fn operands_stay_where_they_were_put() {
    for &(class, code, arg, text) in OPERANDS {
        let op = Op::from_code(class, code, arg).unwrap();
        assert_eq!((op.to_string().as_str(), op.arg()), (text, Some(arg)));
    }
}
