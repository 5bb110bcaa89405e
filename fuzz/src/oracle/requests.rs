//! Requests to a goroutine: to scan its own stack, to yield its machine.
//!
//! A request that was made before a call begins must be honoured in that call's prologue. The
//! thread that makes a request and the goroutine's own thread run at the same time in a storm, so
//! "before" needs care: a request may be honoured before its requester has published it
//! here. Each kind of request therefore has a *generation*, the number of times that it was
//! honoured. A requester notes the generation before it asks and publishes the request under that
//! generation. A request counts as outstanding only while its generation lasts, so one that was
//! honoured in between was never outstanding.
//!
//! 1. M2 notes generation 4 and asks G1 to scan itself.
//! 2. M1 honours the request in G1's prologue: generation 5.
//! 3. M2 publishes a request of generation 4, which is over. G1's next call owes nothing.

use core::sync::atomic::{AtomicU32, Ordering};

/// One kind of request to one goroutine.
#[derive(Debug)]
pub(crate) struct Request {
    generation: AtomicU32,
    /// The generation of the last request, plus one.
    published: AtomicU32,
}

impl Request {
    const fn new() -> Self {
        Request { generation: AtomicU32::new(0), published: AtomicU32::new(0) }
    }

    /// The number of times that such a request was honoured or withdrawn.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Notes that a request was made, `generation` having been noted before.
    pub(crate) fn made(&self, generation: u32) {
        self.published.fetch_max(generation + 1, Ordering::AcqRel);
    }

    /// Notes that requests are being honoured, or that the runtime withdraws them. Called by the thread that runs
    /// the goroutine, or with the world stopped: one at a time.
    pub(crate) fn honoured(&self) {
        self.generation.store(self.generation.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// The generation of a request that has not been honoured.
    fn outstanding(&self) -> Option<u32> {
        let generation = self.generation();
        (self.published.load(Ordering::Acquire) == generation + 1).then_some(generation)
    }
}

/// The requests to one goroutine.
#[derive(Debug)]
pub(crate) struct Requests {
    pub(crate) scan: Request,
    pub(crate) yields: Request,
}

/// The requests that were outstanding as a call began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outstanding {
    scan: Option<u32>,
    yields: Option<u32>,
}

impl Outstanding {
    /// None.
    pub(crate) const NONE: Outstanding = Outstanding { scan: None, yields: None };
}

impl Requests {
    pub(crate) const fn new() -> Self {
        Requests { scan: Request::new(), yields: Request::new() }
    }

    /// Notes that whatever was requested is void: the goroutine is made anew, or a run begins.
    pub(crate) fn withdraw(&self) {
        self.scan.honoured();
        self.yields.honoured();
    }

    /// The requests that are outstanding as a call begins.
    pub(crate) fn outstanding(&self) -> Outstanding {
        Outstanding { scan: self.scan.outstanding(), yields: self.yields.outstanding() }
    }

    /// Whether a prologue has honoured what was outstanding as its call began. With foreign frames under
    /// it (`stays`) a goroutine does not yield, and the request is forgotten: also one that its requester has not
    /// published yet.
    ///
    /// 1. M2 notes generation 4 and asks G1, in a callback, to yield.
    /// 2. M1 forgets the request in a prologue of the callback: generation 5.
    /// 3. M2 publishes a request of generation 4. G1 leaves its foreign call, and its next call owes nothing.
    pub(crate) fn are_honoured(&self, before: Outstanding, stays: impl FnOnce() -> bool) -> bool {
        let is_over = |request: &Request, before: Option<u32>| before != Some(request.generation());
        if stays() {
            self.yields.honoured();
        }
        is_over(&self.scan, before.scan) && is_over(&self.yields, before.yields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &Request) {
        request.made(request.generation());
    }

    #[test]
    fn requests_made_before_a_call_are_owed_in_its_prologue() {
        let requests = Requests::new();
        ask(&requests.scan);
        let before = requests.outstanding();
        assert!(!requests.are_honoured(before, || false));
        requests.scan.honoured();
        assert!(requests.are_honoured(before, || false));
        ask(&requests.yields);
        let before = requests.outstanding();
        assert!(!requests.are_honoured(before, || false));
        requests.yields.honoured();
        assert!(requests.are_honoured(before, || false));
    }

    #[test]
    fn requests_made_during_a_call_are_owed_in_the_next_one() {
        let requests = Requests::new();
        let before = requests.outstanding();
        ask(&requests.scan);
        assert!(requests.are_honoured(before, || false));
        assert!(!requests.are_honoured(requests.outstanding(), || false));
    }

    #[test]
    fn requests_published_after_they_were_honoured_are_not_owed() {
        let requests = Requests::new();
        let noted = requests.scan.generation();
        requests.scan.honoured();
        requests.scan.made(noted);
        assert!(requests.are_honoured(requests.outstanding(), || false));
    }

    #[test]
    fn yields_are_forgotten_in_foreign_calls() {
        let requests = Requests::new();
        ask(&requests.yields);
        assert!(requests.are_honoured(requests.outstanding(), || true));
        assert!(requests.are_honoured(requests.outstanding(), || false), "it is forgotten");
        // Forgotten before it was published.
        let noted = requests.yields.generation();
        assert!(requests.are_honoured(requests.outstanding(), || true));
        requests.yields.made(noted);
        assert!(requests.are_honoured(requests.outstanding(), || false), "it is forgotten, too");
    }

    #[test]
    fn withdrawn_requests_are_not_owed() {
        let requests = Requests::new();
        ask(&requests.scan);
        ask(&requests.yields);
        requests.withdraw();
        assert!(requests.are_honoured(requests.outstanding(), || false));
    }
}
