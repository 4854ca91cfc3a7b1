//! quern-cpu
