//! Planting defects: sets their switches, and patches the one defect that lies in assembly.
//!
//! The switches themselves are in [`defect`](super::defect), which every room of the core
//! reads. Planting stands apart from them because it needs the function table and the
//! assembly, which must not be a dependency of everything that asks `planted!`.

use super::defect::{self, Defect};
use crate::FuncId;
use crate::arch;
use crate::unwind::functab;

/// Plants exactly these defects, for the whole process. Later calls replace earlier ones,
/// except that the trampoline stays patched.
///
/// No thread may be on a goroutine stack meanwhile.
pub fn plant(defects: &[Defect]) {
    defect::set_planted(defects);
    if defects.contains(&Defect::OrderCheckInverted) {
        // The table says where the trampoline is; it may be needed before any runtime exists.
        functab::init();
        let trampoline = functab::info(FuncId::Trampoline);
        arch::invert_order_check(trampoline.start..trampoline.end);
    }
}
