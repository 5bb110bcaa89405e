//! A native stack of a known depth, and the peers that can walk one.

use std::fs;
use std::hint::black_box;
use std::ops::Range;
use std::rc::Rc;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, Unwinder};
use object::{Object, ObjectSection};
use sigstorm_compare::{Case, time};

use crate::Frames;

/// Calls down `left` more frames, of four sizes in a random order, and runs `bottom` there.
#[inline(never)]
fn descend<const WORDS: usize>(left: usize, random: u64, bottom: &mut dyn FnMut()) -> usize {
    let frame = black_box([left; WORDS]);
    if left == 0 {
        bottom();
        return frame[0];
    }
    let random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let below = match random >> 40 & 3 {
        0 => descend::<2>(left - 1, random, bottom),
        1 => descend::<4>(left - 1, random, bottom),
        2 => descend::<10>(left - 1, random, bottom),
        _ => descend::<30>(left - 1, random, bottom),
    };
    // Not a tail call: the frame is still needed.
    black_box(&frame)[WORDS - 1] + below
}

/// Runs `bottom` under that many frames.
fn at(depth: usize, mut bottom: impl FnMut()) {
    black_box(descend::<4>(black_box(depth), 0x9e37_79b9_7f4a_7c15, &mut bottom));
}

/// Returns PC, SP and frame pointer of the place where this is inlined.
#[inline(always)]
fn here() -> (u64, UnwindRegsX86_64) {
    let (pc, sp, bp): (u64, u64, u64);
    // SAFETY: only reads registers.
    unsafe {
        std::arch::asm!(
            "lea {pc}, [rip]",
            "mov {sp}, rsp",
            "mov {bp}, rbp",
            pc = out(reg) pc,
            sp = out(reg) sp,
            bp = out(reg) bp,
            options(nomem, nostack, preserves_flags),
        );
    }
    (pc, UnwindRegsX86_64::new(pc, sp, bp))
}

type Bytes = Rc<[u8]>;

/// `framehop`, with this program as its one module.
pub struct Framehop(Rc<UnwinderX86_64<Bytes>>);

impl Framehop {
    /// Reads the program's own unwinding tables.
    pub fn new() -> Framehop {
        let program = fs::read("/proc/self/exe").expect("the program's own file");
        let file = object::File::parse(&*program).expect("an ELF file");
        let section = |name: &str| -> (Option<Range<u64>>, Option<Bytes>) {
            let section = file.section_by_name(name).unwrap_or_else(|| panic!("there is no {name}"));
            let data = section.data().expect("the section's bytes");
            (Some(section.address()..section.address() + section.size()), Some(Rc::from(data)))
        };
        let (text_svma, text) = section(".text");
        let (eh_frame_svma, eh_frame) = section(".eh_frame");
        let (eh_frame_hdr_svma, eh_frame_hdr) = section(".eh_frame_hdr");
        let size = file.sections().map(|s| s.address() + s.size()).max().expect("it has sections");
        let base = base();
        let mut unwinder = UnwinderX86_64::new();
        unwinder.add_module(Module::new(
            "the bench".to_owned(),
            base..base + size,
            base,
            ExplicitModuleSectionInfo {
                base_svma: 0,
                text_svma,
                text,
                eh_frame_svma,
                eh_frame,
                eh_frame_hdr_svma,
                eh_frame_hdr,
                ..Default::default()
            },
        ));
        Framehop(Rc::new(unwinder))
    }

    /// Walks a native stack of this depth, with a cache that stays warm.
    pub fn case(&self, depth: usize, frames: &Frames) -> Case {
        let (unwinder, frames) = (Rc::clone(&self.0), Rc::clone(frames));
        let mut cache = CacheX86_64::<_>::new();
        Case::timed("framehop", move |times| {
            let mut took = None;
            at(depth, || {
                let (pc, registers) = here();
                let mut frames = frames.borrow_mut();
                took = Some(time(times, || {
                    // SAFETY: the walk only asks for words of the stack, which is readable.
                    let mut read = |address: u64| Ok(unsafe { *(address as *const u64) });
                    let mut walk = unwinder.iter_frames(pc, registers, &mut cache, &mut read);
                    let mut len = 0;
                    while len < depth {
                        match walk.next() {
                            Ok(Some(frame)) => frames[len] = frame.address() as usize,
                            end => panic!("framehop ends at frame {len} with {end:?}"),
                        }
                        len += 1;
                    }
                    black_box(&frames);
                }));
            });
            took.expect("the bottom was reached")
        })
        .per(depth)
    }
}

/// Returns the address that the program was loaded at.
fn base() -> u64 {
    // SAFETY: a symbol that the linker puts at the first byte of the loaded file.
    unsafe extern "C" {
        #[link_name = "__ehdr_start"]
        static FIRST: u8;
    }
    (&raw const FIRST) as u64
}

/// `backtrace` on a native stack of this depth; it has to begin with frames of its own.
pub fn backtrace(depth: usize, frames: &Frames) -> Case {
    let frames = Rc::clone(frames);
    Case::timed("backtrace", move |times| {
        let mut took = None;
        at(depth, || {
            let mut frames = frames.borrow_mut();
            took = Some(time(times, || {
                let mut len = 0;
                // SAFETY: this thread alone uses the crate.
                unsafe {
                    backtrace::trace_unsynchronized(|frame| {
                        frames[len] = frame.ip() as usize;
                        len += 1;
                        len < depth
                    });
                }
                assert_eq!(len, depth);
                black_box(&frames);
            }));
        });
        took.expect("the bottom was reached")
    })
    .per(depth)
}
