//! Asking for planted defects: the macros that stand where the mistakes lie.

use super::defect::Defect;
#[cfg(feature = "defects")]
use super::{canary, defect::is_planted};

/// Returns whether this defect is planted, and notes that its faulty code is about to run.
#[cfg(feature = "defects")]
#[inline(always)]
pub fn planted(defect: Defect) -> bool {
    let planted = is_planted(defect);
    if planted {
        canary::reach(defect);
    }
    planted
}

/// Notes that this defect has taken effect, if it is planted and `condition` holds.
#[cfg(feature = "defects")]
#[inline(always)]
pub fn trigger_when(defect: Defect, condition: impl Fn() -> bool) {
    if is_planted(defect) {
        canary::trigger_if(defect, &condition);
    }
}

/// Returns false: without the `defects` feature no defect is planted.
#[cfg(not(feature = "defects"))]
#[inline(always)]
pub const fn planted(_defect: Defect) -> bool {
    false
}

/// Does nothing without the `defects` feature.
#[cfg(not(feature = "defects"))]
#[inline(always)]
pub fn trigger_when(_defect: Defect, _condition: impl Fn() -> bool) {}

/// `planted!(Name)` is whether that defect is planted. `planted!(Name, condition)` also names the
/// condition under which it takes effect: a canary, which changes nothing.
#[macro_export]
macro_rules! planted {
    ($name:ident) => {
        $crate::instrument::planted::planted($crate::instrument::defect::Defect::$name)
    };
    ($name:ident, $condition:expr) => {{
        $crate::triggered!($name, $condition);
        $crate::planted!($name)
    }};
}

/// `triggered!(Name, condition)` is a canary where a defect takes effect elsewhere than where it lies.
#[macro_export]
macro_rules! triggered {
    ($name:ident, $condition:expr) => {
        $crate::instrument::planted::trigger_when($crate::instrument::defect::Defect::$name, || $condition)
    };
}

/// `unlocked!(Name, g)`: if that defect is planted, a section without its lock begins, and lasts as
/// long as the value that this returns.
#[macro_export]
macro_rules! unlocked {
    ($name:ident, $g:expr) => {{
        #[cfg(feature = "defects")]
        let section = $crate::planted!($name).then(|| {
            $crate::instrument::canary::Unlocked::begin($crate::instrument::defect::Defect::$name, $g)
        });
        #[cfg(not(feature = "defects"))]
        let section = {
            let _: &'static $crate::G = $g;
        };
        section
    }};
}
