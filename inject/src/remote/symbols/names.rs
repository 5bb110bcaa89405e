//! Names: demangled for people, and in all the spellings in which people write them.

use std::borrow::Cow;

use cpp_demangle::{BorrowedSymbol, DemangleOptions};

/// Suffixes of the parts and copies that compilers make of a function.
const PARTS: [&str; 12] = [
    "cold",
    "part",
    "constprop",
    "isra",
    "lto_priv",
    "llvm",
    "localalias",
    "clone",
    "warm",
    "abi0",
    "abiinternal",
    "lto",
];

/// A symbol's name without version (`@GLIBC_2.34`) and without the suffix of a part or a copy
/// (`.cold`, `.part.0`, `.constprop.1`), and that suffix.
pub(super) fn split_part(name: &str) -> (&str, &str) {
    let name = match name.find('@') {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    };
    let is_part = |dot: &usize| {
        let next = name[dot + 1..].split('.').next().unwrap_or_default();
        *dot > 0 && PARTS.contains(&next)
    };
    match name.match_indices('.').map(|(dot, _)| dot).find(is_part) {
        Some(dot) => name.split_at(dot),
        None => (name, ""),
    }
}

/// The name that reports show: `alloc::vec::Vec<T>::push`, `ns::f(int) [clone .cold]`.
pub(super) fn demangle(raw: &str) -> Cow<'_, str> {
    let (base, part) = split_part(raw);
    let name = match demangle_base(base) {
        Some(name) => name,
        None if part.is_empty() => return Cow::Borrowed(base),
        None => return Cow::Owned(format!("{base}{part}")),
    };
    Cow::Owned(if part.is_empty() { name } else { format!("{name} [clone {part}]") })
}

fn demangle_base(base: &str) -> Option<String> {
    if let Some(name) = rust(base) {
        return Some(name);
    }
    if !base.starts_with("_Z") {
        return None;
    }
    let symbol = BorrowedSymbol::new(base.as_bytes()).ok()?;
    symbol.demangle_with_options(&DemangleOptions::new().no_return_type()).ok()
}

fn rust(base: &str) -> Option<String> {
    if !base.starts_with("_R") && !is_legacy_rust(base) {
        return None;
    }
    Some(format!("{:#}", rustc_demangle::try_demangle(base).ok()?))
}

/// Rust's older names look like C++'s, but for a hash at their end.
fn is_legacy_rust(base: &str) -> bool {
    let hash =
        base.strip_suffix('E').and_then(|name| Some(name.split_at_checked(name.len().checked_sub(19)?)?.1));
    let hex = hash.and_then(|hash| hash.strip_prefix("17h"));
    base.starts_with("_ZN") && hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Calls `visit` with each spelling of a symbol's name, until it returns true:
///
/// - the name as it is shown, with arguments and template arguments,
/// - without arguments, without template arguments, without the part's suffix,
/// - the last segment alone (`push_back`, `alloc`),
/// - for a method of a trait, with the type instead (`Vec::drop` for `<Vec<T> as Drop>::drop`),
///   and with the trait,
/// - the symbol itself, as it stands in the table.
pub(super) fn any_spelling(raw: &str, go: bool, visit: &mut dyn FnMut(&str) -> bool) -> bool {
    if go {
        return any_go_spelling(raw, visit);
    }
    let (base, part) = split_part(raw);
    if visit(raw) || (base.len() != raw.len() && visit(base)) {
        return true;
    }
    if !base.starts_with("_Z") && !base.starts_with("_R") {
        return false;
    }
    if let Some(name) = rust(base) {
        return visit(&name)
            || !part.is_empty() && visit(&format!("{name} [clone {part}]"))
            || any_path_spelling(&name, visit);
    }
    let Ok(symbol) = BorrowedSymbol::new(base.as_bytes()) else { return false };
    let options = DemangleOptions::new().no_return_type();
    let Ok(bare) = symbol.demangle_with_options(&options.no_params()) else { return false };
    if visit(&bare) || any_path_spelling(&bare, visit) {
        return true;
    }
    let Ok(full) = symbol.demangle_with_options(&DemangleOptions::new().no_return_type()) else {
        return false;
    };
    full != bare && visit(&full) || !part.is_empty() && visit(&format!("{full} [clone {part}]"))
}

/// The shorter spellings of a path with `::`.
fn any_path_spelling(name: &str, visit: &mut dyn FnMut(&str) -> bool) -> bool {
    let plain = without_generics(name);
    if plain != name && visit(&plain) {
        return true;
    }
    // `<Type as Trait>::method`.
    let mut path: &str = &plain;
    if let Some((inner, method)) = plain.strip_prefix('<').and_then(|rest| rest.rsplit_once(">::"))
        && let Some((kind, implemented)) = inner.split_once(" as ")
    {
        let kind = kind.trim_start_matches(['&', '<', '(']);
        if visit(&format!("{kind}::{method}")) || visit(&format!("{implemented}::{method}")) {
            return true;
        }
        path = method;
    }
    let last = last_segment(path);
    last != name && visit(last)
}

fn any_go_spelling(raw: &str, visit: &mut dyn FnMut(&str) -> bool) -> bool {
    let (base, _) = split_part(raw);
    if visit(raw) || (base.len() != raw.len() && visit(base)) {
        return true;
    }
    // `example.org/module/package.Type[...].Method`.
    let plain: String = match base.find('[') {
        Some(open) => {
            let close = base.rfind(']').map_or(open, |close| close + 1);
            format!("{}{}", &base[..open], &base[close.max(open)..])
        }
        None => base.to_owned(),
    };
    let local = plain.rsplit('/').next().unwrap_or_default();
    let item = local.split_once('.').map_or(local, |(_, item)| item);
    let last = local.rsplit('.').next().unwrap_or_default();
    [plain.as_str(), local, item, last]
        .into_iter()
        .any(|name| name != base && !name.is_empty() && visit(name))
}

/// A path without the `<..>` of templates and generics. The brackets of an operator's name, and
/// those that begin a path (`<T as Trait>::method`), stay.
pub(super) fn without_generics(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut plain = String::with_capacity(name.len());
    let mut depth = 0_usize;
    let mut kept = 0_usize;
    for (at, character) in name.char_indices() {
        let operator =
            plain.ends_with("operator") || plain.ends_with("operator<") || plain.ends_with("operator-");
        match character {
            '<' if depth == 0 && operator => plain.push('<'),
            '<' if depth == 0 && (at == 0 || matches!(bytes[at - 1], b'&' | b'(' | b' ' | b'<')) => {
                kept += 1;
                plain.push('<');
            }
            '<' => depth += 1,
            // An arrow closes nothing.
            '>' if at > 0 && bytes[at - 1] == b'-' && depth > 0 => {}
            '>' if at > 0 && bytes[at - 1] == b'-' => plain.push('>'),
            '>' if depth > 0 => depth -= 1,
            '>' => {
                kept = kept.saturating_sub(1);
                plain.push('>');
            }
            _ if depth == 0 => plain.push(character),
            _ => {}
        }
    }
    // A turbofish leaves its colons.
    plain.replace("::::", "::").trim_end_matches("::").to_owned()
}

/// The last segment of a path, not looking into brackets.
pub(super) fn last_segment(path: &str) -> &str {
    let bytes = path.as_bytes();
    let mut depth = 0_i32;
    let mut start = 0;
    for at in 0..bytes.len() {
        match bytes[at] {
            b'<' | b'(' | b'{' | b'[' => depth += 1,
            b'>' | b')' | b'}' | b']' => depth -= 1,
            b':' if depth <= 0 && at > 0 && bytes[at - 1] == b':' => start = at + 1,
            _ => {}
        }
    }
    &path[start..]
}

/// The rank of an alias, best first: names that are exported, without leading underscores,
/// short ones.
pub(super) fn rank(name: &str, global: bool) -> (bool, usize, usize, &str) {
    let underscores = name.len() - name.trim_start_matches('_').len();
    (!global, underscores, name.len(), name)
}
