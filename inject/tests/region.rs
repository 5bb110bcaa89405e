//! Decoding a region: boundaries, addresses, checks that survive another layout, listings without
//! addresses, and functions that are refused.

mod common;

use std::io;

use common::{INNER, OUTER, functions, functions_again};
use sigstorm_inject::{CodeFunction, CodeMemory, Known, Region, RegionError};

/// A function made of bytes: the region reads, it does not run.
fn bytes(name: &'static str, code: &[u8]) -> CodeFunction {
    let start = code.as_ptr() as usize;
    CodeFunction { name, start, end: start + code.len() }
}

fn checks(region: &Region, f: usize) -> Vec<u8> {
    region.boundaries(f).iter().map(|b| b.check).collect()
}

#[test]
fn sample_functions_are_cut_into_their_instructions() {
    let region = Region::decode(&functions()).expect("it is code");
    let listing: Vec<String> =
        (0..region.count(OUTER)).map(|index| region.disassemble(OUTER, index)).collect();
    assert_eq!(
        listing,
        [
            "push rbp",
            "mov rbp,rsp",
            "mov rax,[<data>]",
            "test rdi,rdi",
            "je short outer+0x1a",
            "call inner",
            "mov [rsp-10h],rax",
            "pop rbp",
            "ret",
        ]
    );
    let offsets: Vec<u16> = region.boundaries(OUTER).iter().map(|b| b.offset).collect();
    assert_eq!(offsets, [0, 1, 4, 11, 14, 16, 21, 26, 27]);
    let lengths: Vec<u8> = region.boundaries(OUTER).iter().map(|b| b.len).collect();
    assert_eq!(lengths, [1, 3, 7, 3, 2, 5, 5, 1, 1]);
    assert_eq!(region.count(INNER), 3);
    assert_eq!(region.functions(), functions());
}

#[test]
fn every_byte_is_located_in_its_instruction() {
    // In both orders: numbers are the caller's, whatever the addresses.
    let [a, b] = functions();
    for order in [[a, b], [b, a]] {
        let region = Region::decode(&order).expect("it is code");
        for (f, function) in order.iter().enumerate() {
            let mut exact = 0;
            for address in function.start..function.end {
                let at = region.locate(address).expect("inside");
                assert_eq!(at.function, f);
                assert_eq!(usize::from(at.offset), address - function.start);
                let boundary = region.boundaries(f)[at.index];
                let into = at.offset - boundary.offset;
                assert!(into < u16::from(boundary.len), "{at:?} is not in {boundary:?}");
                assert_eq!(at.exact, into == 0);
                if at.exact {
                    assert_eq!(region.address(f, at.index), Some(address));
                    exact += 1;
                }
            }
            assert_eq!(exact, region.count(f));
        }
        let lowest = a.start.min(b.start);
        let highest = a.end.max(b.end);
        assert_eq!(region.locate(lowest - 1), None);
        assert_eq!(region.locate(highest), None);
        assert_eq!(region.locate(0), None);
        assert_eq!(region.locate(usize::MAX), None);
    }
}

#[test]
fn functions_and_instructions_that_do_not_exist_are_absent() {
    let region = Region::decode(&functions()).expect("it is code");
    assert_eq!(region.boundaries(2), []);
    assert_eq!(region.count(2), 0);
    assert_eq!(region.address(OUTER, region.count(OUTER)), None);
    assert_eq!(region.address(2, 0), None);
    assert_eq!(region.disassemble(2, 0), "<no instruction 0 of function 2>");
    let empty = Region::decode(&[]).expect("nothing is a region");
    assert_eq!(empty.locate(functions()[0].start), None);
}

#[test]
fn checks_are_equal_in_another_layout() {
    let one = Region::decode(&functions()).expect("it is code");
    let two = Region::decode(&functions_again()).expect("it is code");
    for f in [OUTER, INNER] {
        assert_eq!(checks(&one, f), checks(&two, f));
        assert!(checks(&one, f).iter().all(|check| *check < 128));
    }
    // The copies do differ, else this proves nothing.
    let [outer, _] = functions();
    let [again, _] = functions_again();
    assert_ne!(outer.start, again.start);
    let distance = |f: [CodeFunction; 2]| f[1].start.wrapping_sub(f[0].start);
    assert_ne!(distance(functions()), distance(functions_again()), "the call's bytes differ");
}

#[test]
fn checks_ignore_relative_addresses_and_nothing_else() {
    let check_of = |code: &[u8]| {
        let region = Region::decode(&[bytes("f", code)]).expect("it is code");
        assert_eq!(region.count(0), 1, "{code:02x?}");
        region.boundaries(0)[0].check
    };
    let same: [(&[u8], &[u8]); 6] = [
        (b"\xe8\x01\x02\x03\x04", b"\xe8\xff\xee\xdd\x0c"), // call
        (b"\xe9\x01\x02\x03\x04", b"\xe9\xff\xee\xdd\x0c"), // jmp
        (b"\x74\x05", b"\x74\x7f"),                         // je short
        (b"\x0f\x84\x01\x00\x00\x00", b"\x0f\x84\x00\x00\x00\x7f"), // je near
        (b"\x48\x8b\x05\x01\x02\x03\x04", b"\x48\x8b\x05\x09\x09\x09\x09"), // mov rax,[rip+d]
        // cmp dword ptr [rip+d], 7
        (b"\x81\x3d\x01\x02\x03\x04\x07\0\0\0", b"\x81\x3d\x0a\x0b\x0c\x0d\x07\0\0\0"),
    ];
    for (a, b) in same {
        assert_eq!(check_of(a), check_of(b), "{a:02x?} and {b:02x?}");
    }
    let different: [(&[u8], &[u8]); 5] = [
        (b"\x74\x05", b"\x75\x05"),                 // je, jne
        (b"\x49\x8b\x46\x10", b"\x49\x8b\x46\x18"), // mov rax,[r14+10h], +18h
        (b"\x48\x83\xc4\x08", b"\x48\x83\xc4\x10"), // add rsp,8, 10h
        (b"\xe8\0\0\0\0", b"\xe9\0\0\0\0"),         // call, jmp
        // cmp dword ptr [rip+d], 7 and 8
        (b"\x81\x3d\x01\x02\x03\x04\x07\0\0\0", b"\x81\x3d\x01\x02\x03\x04\x08\0\0\0"),
    ];
    for (a, b) in different {
        assert_ne!(check_of(a), check_of(b), "{a:02x?} and {b:02x?}");
    }
}

/// Kept schedules contain check values. Another hash would make them all useless.
#[test]
fn check_values_never_change() {
    let region = Region::decode(&functions()).expect("it is code");
    assert_eq!(checks(&region, OUTER), [86, 26, 95, 38, 114, 42, 33, 57, 41]);
    assert_eq!(checks(&region, INNER), [65, 42, 41]);
}

#[test]
fn checks_spread_over_their_values() {
    // add rax, imm8: 256 instructions that differ in one byte.
    let mut seen = [0u32; 128];
    for immediate in 0..=255u8 {
        let code = [0x48, 0x83, 0xc0, immediate];
        let region = Region::decode(&[bytes("f", &code)]).expect("it is code");
        seen[usize::from(region.boundaries(0)[0].check)] += 1;
    }
    let used = seen.iter().filter(|n| **n > 0).count();
    assert!(used > 90, "256 instructions share {used} of 128 values");
}

#[test]
fn listings_name_targets_inside_the_region_only() {
    // A function of this very layout, so that both branches have a name.
    let code = b"\xe8\x02\0\0\0\xeb\xf9\x90\xe8\x90\x90\x90\x09\x49\x8b\x46\x10";
    let (first, second) = code.split_at(7);
    let region = Region::decode(&[bytes("first", first), bytes("second", second)]).expect("it is code");
    assert_eq!(region.disassemble(0, 0), "call second");
    assert_eq!(region.disassemble(0, 1), "jmp short first");
    assert_eq!(region.disassemble(1, 1), "call <code>");
    assert_eq!(region.disassemble(1, 2), "mov rax,[r14+10h]");
}

#[test]
fn functions_that_make_no_sense_are_refused() {
    let [outer, inner] = functions();
    let decode = |functions: &[CodeFunction]| Region::decode(functions).expect_err("nonsense");

    let error = decode(&[CodeFunction { start: outer.end, end: outer.start, ..outer }]);
    assert!(matches!(error, RegionError::EndBeforeStart { name: "outer", .. }), "{error}");
    let error = decode(&[CodeFunction { end: outer.start, ..outer }]);
    assert!(matches!(error, RegionError::Empty { name: "outer" }), "{error}");
    let error = decode(&[CodeFunction { end: outer.start + 65_537, ..outer }]);
    assert!(matches!(error, RegionError::TooLong { size: 65_537, .. }), "{error}");

    let tail = CodeFunction { name: "tail", start: outer.end - 1, end: outer.end };
    let error = decode(&[tail, inner, outer]);
    assert!(matches!(error, RegionError::Overlap { first: "outer", second: "tail" }), "{error}");

    let error = decode(&[CodeFunction { name: "null", start: 0, end: 16 }]);
    assert!(matches!(error, RegionError::Unreadable { name: "null", .. }), "{error}");

    // 06 is no instruction in 64-bit code; e8 01 02 is half of one.
    for code in [b"\x90\x90\x06\x90", b"\x90\x90\xe8\x01"] {
        let error = decode(&[bytes("f", code)]);
        let RegionError::Undecodable { name: "f", offset: 2, bytes } = &error else {
            panic!("{error}");
        };
        assert_eq!(bytes, &code[2..]);
        assert!(error.to_string().starts_with("f+0x2 is no instruction"), "{error}");
    }
}

#[test]
fn instructions_that_always_trap_are_told_from_those_that_can_return() {
    // test edi,edi; je to the `ret`; ud2; ret; and then filler.
    let code = [0x85, 0xff, 0x74, 0x02, 0x0f, 0x0b, 0xc3, 0x66, 0x90, 0xcc];
    let region = Region::decode(&[bytes("f", &code)]).expect("it is code");
    assert_eq!(region.count(0), 4, "filler is no instruction");
    assert_eq!(region.always_traps(0), [false, false, true, false]);
    // A loop that nothing leaves, and a call before a trap.
    let code = [0xeb, 0xfe, 0xe8, 0, 0, 0, 0, 0x0f, 0x0b];
    let region = Region::decode(&[bytes("f", &code)]).expect("it is code");
    assert_eq!(region.always_traps(0), [true, true, true]);
    assert!(region.always_traps(1).is_empty());
}

/// Memory that is not this process's: one piece, at an address that is mapped nowhere here.
struct Elsewhere(Vec<u8>);

const ELSEWHERE: usize = 0x10;

impl CodeMemory for Elsewhere {
    fn read(&self, address: usize, into: &mut [u8]) -> io::Result<()> {
        let start = address.checked_sub(ELSEWHERE).ok_or(io::ErrorKind::NotFound)?;
        let bytes = self.0.get(start..start + into.len()).ok_or(io::ErrorKind::NotFound)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn region_of_other_memory_never_reads_this_process() {
    const WORD: usize = 0x7777_0000;
    let mut memory = vec![
        0xff, 0x15, 0x1a, 0, 0, 0, // 0: call [rip+1ah]: the table's first entry
        0x48, 0x8b, 0x05, 0x1b, 0, 0, 0, // 1: mov rax,[rip+1bh]: its second, which is WORD
        0x48, 0x8b, 0x08, // 2: mov rcx,[rax]
        0x48, 0x85, 0xc9, // 3: test rcx,rcx
        0x74, 0x01, // 4: je to the `ret`
        0x90, // 5: nop
        0xc3, // 6: ret
    ];
    let end = ELSEWHERE + memory.len();
    memory.resize(0x20, 0);
    memory.extend(0x1234_5678_usize.to_le_bytes());
    memory.extend(WORD.to_le_bytes());
    let function = CodeFunction { name: "elsewhere", start: ELSEWHERE, end };
    let region = Region::decode_from(&[function], &Elsewhere(memory)).expect("it is code");
    assert_eq!(region.count(0), 7);
    assert_eq!(region.disassemble(0, 4), "je short elsewhere+0x16");
    assert_eq!(region.flow(0)[0].calls, Some(0x1234_5678), "by the table's entry there");
    assert_eq!(region.flow(0)[4].next, [Some(5), Some(6)]);
    assert_eq!(region.flow_where(0, &[(WORD, Known::Zero)])[4].next, [None, Some(6)]);
    assert_eq!(region.flow_where(0, &[(WORD, Known::NonZero)])[4].next, [Some(5), None]);

    let beyond = CodeFunction { end: end + 0x100, ..function };
    let error = Region::decode_from(&[beyond], &Elsewhere(vec![0x90; 0x20])).expect_err("too short");
    assert!(matches!(error, RegionError::Unreadable { name: "elsewhere", .. }), "{error}");
}

#[test]
fn lower_half_of_a_word_that_is_not_zero_may_be_zero() {
    const WORD: usize = 0x7777_0000;
    // mov rax,[rip+?]; mov rax,[rax]; cmp eax or rax,0; je to the `ret`; nop; ret
    let flow_of = |compare: &[u8]| {
        let mut memory = vec![0x48, 0x8b, 0x05, 0x19, 0, 0, 0, 0x48, 0x8b, 0x00];
        memory.extend(compare);
        memory.extend([0x74, 0x01, 0x90, 0xc3]);
        let end = ELSEWHERE + memory.len();
        memory.resize(0x20, 0);
        memory.extend(WORD.to_le_bytes());
        let function = CodeFunction { name: "elsewhere", start: ELSEWHERE, end };
        let region = Region::decode_from(&[function], &Elsewhere(memory)).expect("it is code");
        assert_eq!(region.count(0), 6);
        [Known::Zero, Known::NonZero].map(|known| region.flow_where(0, &[(WORD, known)])[3].next)
    };
    let both = [Some(4), Some(5)];
    assert_eq!(flow_of(b"\x83\xf8\x00"), [[None, Some(5)], both], "cmp eax,0");
    assert_eq!(flow_of(b"\x48\x83\xf8\x00"), [[None, Some(5)], [Some(4), None]], "cmp rax,0");
}
