//! Another process, as a library: nothing here judges what it sees.

pub mod symbols;
