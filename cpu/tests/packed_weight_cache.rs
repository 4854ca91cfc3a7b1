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
const MAGIC: &str = "quern panels 2";

/// A digest of everything behind the header, for a small matrix in each format.
const LAYOUTS: &[(&str, u64)] = &[
    ("Q4_0", 0x58f2418e49c2cfcf),
    ("Q4_1", 0xb213cf995d4440e5),
    ("Q5_0", 0x719f2ccd7aa01e4d),
    ("Q5_1", 0x1a8bb413f5e1d788),
    ("Q8_0", 0xfb51bf38461af37c),
    ("Q2_K", 0xacce956d998a6b4b),
    ("Q3_K", 0xdb1beda563c3670f),
    ("Q4_K", 0xc487ad46fda1cb4b),
    ("Q5_K", 0xf5a309a5b399f532),
    ("Q6_K", 0xcb7f7d19795bd8b9),
    ("IQ4_NL", 0x7adcbf5197d7c412),
    ("IQ4_XS", 0xe052879415b1fd93),
    ("MXFP4", 0x71398fdcd95bccdd),
    ("IQ1_S", 0xc9d2c3edfbcef602),
    ("IQ1_M", 0x6d074d73d098fc53),
    ("IQ2_XXS", 0x5167dbff4cfc077a),
    ("IQ2_XS", 0xd1986a39292bbb12),
    ("IQ2_S", 0xbe55441336df613d),
    ("IQ3_XXS", 0x0d46df0910737d97),
    ("IQ3_S", 0xce47c74579f945d6),
    ("TQ1_0", 0xf26f75aed13d99a9),
    ("TQ2_0", 0x5edf9e3913286429),
    ("NVFP4", 0x9875f29675e05598),
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
