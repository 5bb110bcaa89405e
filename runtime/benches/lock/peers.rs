//! The locks that are compared, behind one face.

use std::sync::{Mutex, OnceLock};

use sigstorm_runtime::g::G;
use sigstorm_runtime::lock::{self, Operation};
use sigstorm_runtime::{Config, Core, M};

/// One thread's way to a lock that is the same for the whole process.
pub trait Peer: Copy + Sync {
    /// What the table calls it.
    const NAME: &'static str;

    /// The measuring thread's, and its signal handler's.
    fn here() -> Self;

    /// The second thread's.
    fn there() -> Self {
        Self::here()
    }

    /// Runs `section` with the lock.
    fn locked<R>(self, section: impl FnOnce() -> R) -> R;

    /// The same, if the lock is free.
    fn tried<R>(self, section: impl FnOnce() -> R) -> Option<R>;
}

/// A goroutine's stack lock.
#[derive(Clone, Copy)]
pub struct Ours {
    m: &'static M,
    g: &'static G,
}

impl Ours {
    fn on(machine: usize) -> Ours {
        static CORE: OnceLock<([&M; 2], &G)> = OnceLock::new();
        let (machines, g) = CORE.get_or_init(|| {
            let core = Core::leak(Config::default()).expect("the default configuration is valid");
            ([0, 1].map(|id| M::leak(core, id)), &core.goroutines()[0])
        });
        Ours { m: machines[machine], g }
    }
}

impl Peer for Ours {
    const NAME: &'static str = "sigstorm";

    fn here() -> Self {
        Ours::on(0)
    }

    fn there() -> Self {
        Ours::on(1)
    }

    #[inline]
    fn locked<R>(self, section: impl FnOnce() -> R) -> R {
        let _guard = lock::lock(self.m, self.g, Operation::Install);
        section()
    }

    #[inline]
    fn tried<R>(self, section: impl FnOnce() -> R) -> Option<R> {
        let _guard = lock::try_lock(self.m, self.g, Operation::Walk).ok()?;
        Some(section())
    }
}

/// A peer whose lock is a `static` mutex with `std`'s or `lock_api`'s words.
macro_rules! mutex {
    ($Peer:ident, $name:literal, $Mutex:ty, $new:expr, |$lock:ident| $locked:expr, $tried:expr) => {
        #[doc = concat!("`", $name, "`'s.")]
        #[derive(Clone, Copy)]
        pub struct $Peer(&'static $Mutex);

        impl Peer for $Peer {
            const NAME: &'static str = $name;

            fn here() -> Self {
                static LOCK: $Mutex = $new;
                $Peer(&LOCK)
            }

            #[inline]
            fn locked<R>(self, section: impl FnOnce() -> R) -> R {
                let $lock = self.0;
                let _guard = $locked;
                section()
            }

            #[inline]
            fn tried<R>(self, section: impl FnOnce() -> R) -> Option<R> {
                let $lock = self.0;
                let _guard = $tried?;
                Some(section())
            }
        }
    };
}

mutex!(
    Std,
    "std",
    Mutex<()>,
    Mutex::new(()),
    |lock| lock.lock().expect("no section panics"),
    lock.try_lock().ok()
);
mutex!(
    ParkingLot,
    "parking_lot",
    parking_lot::Mutex<()>,
    parking_lot::Mutex::new(()),
    |lock| lock.lock(),
    lock.try_lock()
);
mutex!(Spin, "spin", spin::Mutex<()>, spin::Mutex::new(()), |lock| lock.lock(), lock.try_lock());
