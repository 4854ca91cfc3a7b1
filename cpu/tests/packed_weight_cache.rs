//! The layout of kept weights, byte by byte: files that an earlier program wrote must not be taken for the present
//! layout.

use std::{fs, sync::mpsc};

use quern_backend::{
    QuantFormat, Uploader,
    conformance::{Rng, matrix},
};
use quern_cpu::{CpuBackend, CpuConfig, PackedWeightCache};

/// The first line of every file. Whoever has to change a line of [`LAYOUTS`] counts it up, here and in
/// `panels/packed_weight_cache.rs`.
const MAGIC: &str = "quern panels 1";

/// A digest of everything behind the header, for a small matrix in each format.
const LAYOUTS: &[(&str, u64)] = &[
    ("Q4_0", 0xaf5c3fb6432cdca6),
    ("Q4_1", 0x6f66c642d477e0af),
    ("Q5_0", 0xd63d6ff94f23e12e),
    ("Q5_1", 0x390db6e272b8557d),
    ("Q8_0", 0x11767b177b1722be),
    ("Q2_K", 0xf215468753540002),
    ("Q3_K", 0x406cdde6ff36ba2b),
    ("Q4_K", 0x7fd6923e9abc7d95),
    ("Q5_K", 0xe784e59fad3b6118),
    ("Q6_K", 0x214b80fd0ab77c0a),
    ("IQ4_NL", 0x52e5683c45fc5f3b),
    ("IQ4_XS", 0x3d999b4a5951781a),
    ("MXFP4", 0x208a0de514f6edbc),
];

/// Bytes of the header, which holds the identity of the weights.
const HEADER: usize = 4096;

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn a_change_of_layout_needs_another_number() {
    let backend = CpuBackend::new(CpuConfig { threads: Some(1), ..CpuConfig::default() }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    for format in QuantFormat::ALL.into_iter().filter(|format| format.blocks().is_some()) {
        let path = dir.path().join(format.to_string());
        let file = PackedWeightCache::open(&path, "these").unwrap().expect("nobody else writes it");
        let (done, saved) = mpsc::channel();
        let mut uploader =
            Box::new(backend.uploader_with(Some((file, Box::new(move |result| done.send(result).unwrap())))));
        uploader.weight(&[matrix(&mut Rng(1), format, 19, 512)]).unwrap();
        uploader.finish().unwrap();
        saved.recv().unwrap().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.starts_with(format!("{MAGIC}\n").as_bytes()), "{format}");
        found.push((format.to_string(), digest(&bytes[HEADER..])));
    }
    let found: Vec<_> = found.iter().map(|(format, digest)| (format.as_str(), *digest)).collect();
    assert_eq!(found, LAYOUTS, "the layout has changed: it needs another MAGIC, and these digests: {found:#x?}");
}
