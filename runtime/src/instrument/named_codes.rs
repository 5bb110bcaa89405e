//! One macro for the core's small closed sets: enums whose members have a code that never changes
//! and a name that people read.
//!
//! Schedules name places and functions by code in their byte form and by name in their text form, and
//! a kept corpus must mean tomorrow what it means today. So every such set is an enum with
//! written-out codes, and both directions of both forms are made from the one list.

/// Defines an enum whose variants have a stable `u8` code and a stable name.
///
/// Gives `ALL`, `code`, `name`, `from_code`, `from_name` and `Display`.
#[macro_export]
macro_rules! named_codes {
    ($(#[$meta:meta])* $vis:vis enum $Type:ident { $($(#[$vmeta:meta])* $Variant:ident = $code:literal, $name:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        $vis enum $Type { $($(#[$vmeta])* $Variant = $code,)+ }

        impl $Type {
            /// Every member, in the order of the list.
            pub const ALL: &'static [$Type] = &[$($Type::$Variant),+];

            /// Returns the stable code used in byte forms.
            #[inline]
            pub const fn code(self) -> u8 { self as u8 }

            /// Returns the stable name used in text forms.
            pub const fn name(self) -> &'static str {
                match self { $($Type::$Variant => $name,)+ }
            }

            /// Returns the member with this code, if one is assigned.
            pub const fn from_code(code: u8) -> Option<$Type> {
                match code { $($code => Some($Type::$Variant),)+ _ => None }
            }

            /// Returns the member with this name, if there is one.
            pub fn from_name(name: &str) -> Option<$Type> {
                match name { $($name => Some($Type::$Variant),)+ _ => None }
            }
        }

        impl core::fmt::Display for $Type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
