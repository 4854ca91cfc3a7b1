//! The model inside this program, served when no other is named.

/// Its name.
pub const NAME: &str = "quern-dummy";
