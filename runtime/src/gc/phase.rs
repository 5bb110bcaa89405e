//! The phases of a collection cycle.

crate::named_codes! {
    /// The phase of the collector's cycle.
    pub enum Phase {
        /// No cycle.
        Off = 0, "off";
        /// Stacks are scanned and get barriers while the program goes on.
        Mark = 1, "mark";
        /// The world is stopped; what has changed since its scan is scanned again.
        Termination = 2, "termination";
        /// Unmarked objects are freed while the program goes on.
        Sweep = 3, "sweep";
    }
}
