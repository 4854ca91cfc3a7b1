//! Every block format against the `gguf` package, bit for bit. `golden/make_blocks.py` wrote the file.

use std::{io::Read, sync::Arc};

use quern_backend::{PackedMatrix, QuantFormat, SharedBytes};

#[test]
fn values_of_every_block_are_those_of_the_gguf_package() {
    let mut golden: &[u8] = include_bytes!("golden/blocks.bin");
    let mut seen = Vec::new();
    while !golden.is_empty() {
        let [number, count] = [(); 2].map(|()| u32::from_le_bytes(take(&mut golden, 4).try_into().unwrap()));
        let format = QuantFormat::from_ggml_type(number).unwrap_or_else(|| panic!("encoding {number} is unknown"));
        let cols = count as usize * format.block_elements();
        let blocks = take(&mut golden, count as usize * format.block_bytes());
        let want = take(&mut golden, cols * 4);
        let matrix = PackedMatrix::plain(format, 1, cols, SharedBytes::new(Arc::new(blocks)));
        let mut got = vec![0.0; cols];
        matrix.decode_row(0, &mut got);
        for (i, (got, want)) in got.iter().zip(want.chunks_exact(4)).enumerate() {
            let want = f32::from_le_bytes(want.try_into().unwrap());
            // A minimum that is subtracted makes zeros of one sign, a factor of both.
            let both_zero = format == QuantFormat::Iq1S && *got == 0.0 && want == 0.0;
            assert!(got.to_bits() == want.to_bits() || both_zero, "{format}, element {i}: {got:e} for {want:e}");
        }
        seen.push(format);
    }
    let all: Vec<_> = QuantFormat::ALL.into_iter().filter(|format| format.blocks().is_some()).collect();
    assert_eq!(seen, all, "the golden file holds every block format");
}

fn take(golden: &mut &[u8], count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    golden.read_exact(&mut bytes).expect("the golden file is whole");
    bytes
}
