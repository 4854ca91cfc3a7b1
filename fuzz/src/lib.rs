//! The fuzz targets, for cargo-fuzz; `quern/tests/fuzz_corpus.rs` runs the same functions over their corpora.

pub mod targets;
