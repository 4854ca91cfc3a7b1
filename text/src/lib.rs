//! quern-text
