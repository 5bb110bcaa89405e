//! A goroutine that is stopped at the bottom of a stack of a known depth.

use sigstorm_runtime::sched::g::G;
use sigstorm_runtime::{Config, FuncId, M, RunResult, Runtime};

/// A core, a machine that runs goroutines, and the collector's.
#[derive(Clone, Copy)]
pub struct Machines {
    pub runtime: &'static Runtime,
    pub m: &'static M,
    #[allow(dead_code, reason = "not every bench collects")]
    pub collector: &'static M,
}

impl Machines {
    /// Of a fresh core; the calling thread is the first machine's.
    pub fn new(config: Config) -> Machines {
        let runtime = Runtime::leak(config).expect("a valid configuration");
        let [m, collector] = [0, 2].map(|id| M::leak(runtime, id));
        m.attach().expect("no timer is asked for");
        Machines { runtime, m, collector }
    }

    /// The machine's goroutine.
    pub fn g(&self) -> &'static G {
        &self.runtime.goroutines()[0]
    }

    /// Ends the goroutine, starts it anew, and takes it down to this depth, the outermost
    /// frame included.
    pub fn descend(&self, depth: usize) {
        self.m.end();
        assert!(self.m.take(self.g()), "it was ended");
        assert_eq!(self.m.ret(), RunResult::NextOp, "its outermost frame asks first");
        self.call(depth, depth - 1);
    }

    /// Calls so many frames, as at the bottom of a stack of this depth.
    pub fn call(&self, depth: usize, frames: usize) {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..frames {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let kind = KINDS[(random >> 40) as usize % if depth > SMALL_ENOUGH { 2 } else { KINDS.len() }];
            assert_eq!(self.m.call(kind), RunResult::NextOp, "the largest stack takes it");
        }
    }
}

/// Kinds of frames, in an order that no predictor of branches knows by heart. Deep stacks
/// take the smallest ones only.
const KINDS: [FuncId; 4] = [FuncId::Nosplit, FuncId::Tiny, FuncId::Small, FuncId::Medium];
const SMALL_ENOUGH: usize = 128;
