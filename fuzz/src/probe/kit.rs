//! The knowledge that processes of one thread of the probe share: each object is read once, and each name looked up
//! once.
//!
//! A look-up by a pattern goes through every function of every object, which takes milliseconds, and a fresh process
//! takes few. So its result is kept for as long as processes have the same objects in the same order.

use std::collections::HashMap;
use std::sync::Arc;

use sigstorm_inject::remote::symbols::{FunctionId, Mapped, Object, Pattern, Symbols};

use super::choose::{ChosenFunctions, choose};
use super::points::Points;

/// The knowledge that processes of one thread of the probe share.
#[derive(Debug, Default)]
pub struct Kit {
    /// The objects that were opened.
    pub symbols: Symbols,
    /// The boundaries.
    pub points: Points,
    found: Found,
}

/// The results of look-ups in a list of objects.
#[derive(Debug, Default)]
struct Found {
    objects: Vec<Arc<Object>>,
    named: HashMap<&'static str, Vec<FunctionId>>,
    chosen: Option<ChosenFunctions>,
}

impl Kit {
    /// The functions that a pattern of the probe's own names.
    pub(super) fn named(&mut self, pattern: &'static str) -> Vec<FunctionId> {
        self.renew();
        let Kit { symbols, found, .. } = self;
        let find = || Pattern::new(pattern).map_or_else(|_| Vec::new(), |own| symbols.find_functions(&[own]));
        found.named.entry(pattern).or_insert_with(find).clone()
    }

    /// The functions that are attacked, by the patterns of `--at`.
    pub(super) fn chosen(&mut self, at: &[Pattern]) -> ChosenFunctions {
        self.renew();
        let Kit { symbols, found, .. } = self;
        found.chosen.get_or_insert_with(|| choose(at, symbols)).clone()
    }

    /// Forgets what was found among other objects.
    fn renew(&mut self) {
        let now = self.symbols.objects();
        let is_same = |(mapped, known): (&Mapped, &Arc<Object>)| Arc::ptr_eq(&mapped.object, known);
        if now.len() != self.found.objects.len() || !now.iter().zip(&self.found.objects).all(is_same) {
            let objects = now.iter().map(|mapped| Arc::clone(&mapped.object)).collect();
            self.found = Found { objects, ..Found::default() };
        }
    }
}
