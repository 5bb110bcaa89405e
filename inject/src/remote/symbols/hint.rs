//! Which package brings the symbols of a stripped object.

use super::object::Object;

/// The libraries of Debian's `libc6`, by the first part of their names.
const LIBC: [&str; 14] = [
    "libc",
    "ld-linux-x86-64",
    "libm",
    "libmvec",
    "libpthread",
    "librt",
    "libdl",
    "libresolv",
    "libutil",
    "libanl",
    "libthread_db",
    "libnsl",
    "libBrokenLocale",
    "libnss_files",
];

impl Object {
    /// For an object without a full symbol table, a sentence that says how to get one; `None` if
    /// it has one.
    pub fn symbols_hint(&self) -> Option<String> {
        if !self.is_stripped() || self.functions().is_go() {
            return None;
        }
        let name = self.name();
        let stem = name.split(".so").next().unwrap_or_default();
        if self.path().as_os_str() == "[vdso]" {
            return None;
        }
        let id: String = self.build_id().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(if LIBC.contains(&stem) {
            format!("{name} is stripped: Debian's package libc6-dbg has its symbols")
        } else if id.is_empty() {
            format!("{name} is stripped and has no build id: build it again without stripping")
        } else {
            format!(
                "{name} is stripped: `find-dbgsym-packages {}` (Debian's package debian-goodies) names the package \
                 with its symbols, and `debuginfod-find debuginfo {id}` fetches them",
                self.path().display()
            )
        })
    }
}
