//! A part of a matrix holds what the whole holds there, in every encoding, and copies nothing.

use quern_backend::{
    PackedMatrix, QuantFormat,
    conformance::{Rng, matrix},
};

fn decoded(matrix: &PackedMatrix) -> Vec<Vec<u32>> {
    let mut row = vec![0.0; matrix.cols()];
    let mut bits = |r| {
        matrix.decode_row(r, &mut row);
        row.iter().map(|x| x.to_bits()).collect()
    };
    (0..matrix.rows()).map(&mut bits).collect()
}

/// Two places of `0..=n` in multiples of `step`, in order.
fn some_range(rng: &mut Rng, n: usize, step: usize) -> std::ops::Range<usize> {
    let [a, b] = [(); 2].map(|()| rng.below(n / step + 1) * step);
    a.min(b)..a.max(b)
}

#[test]
fn a_part_decodes_to_what_the_whole_has_there() {
    let mut rng = Rng(0x5a4d);
    for format in QuantFormat::ALL {
        let block = format.block_elements();
        let (rows, cols) = (270, 5 * block.max(64) + if block == 1 { 3 } else { 0 });
        let whole = matrix(&mut rng, format, rows, cols);
        let all = decoded(&whole);
        for _ in 0..60 {
            let (r, c) = (some_range(&mut rng, rows, 1), some_range(&mut rng, cols, block));
            let part = whole.part(r.clone(), c.clone());
            let wanted: Vec<Vec<u32>> = all[r.clone()].iter().map(|row| row[c.clone()].to_vec()).collect();
            assert_eq!((part.rows(), part.cols()), (r.len(), c.len()));
            assert_eq!(decoded(&part), wanted, "{format}, rows {r:?}, columns {c:?}");
            // A part of a part begins where both say.
            let (r2, c2) = (some_range(&mut rng, r.len(), 1), some_range(&mut rng, c.len(), block));
            let inner: Vec<Vec<u32>> = wanted[r2.clone()].iter().map(|row| row[c2.clone()].to_vec()).collect();
            assert_eq!(decoded(&part.part(r2.clone(), c2.clone())), inner, "{format}, {r:?} {c:?}, then {r2:?} {c2:?}");
            if part.rows() > 0 && part.cols() > 0 {
                let bytes = whole.bytes().as_ptr_range();
                assert!(bytes.contains(&part.row(0).as_ptr()), "{format}: the bytes are the whole's");
            }
        }
    }
}

#[test]
fn parts_of_one_matrix_weigh_what_it_weighs() {
    let mut rng = Rng(7);
    for format in QuantFormat::ALL {
        let block = format.block_elements().max(QuantFormat::FP8_BLOCK);
        let whole = matrix(&mut rng, format, 256, 4 * block);
        let columns: usize = (0..4).map(|i| whole.part(0..256, i * block..(i + 1) * block).held_bytes()).sum();
        let rows: usize = (0..2).map(|i| whole.part(i * 128..(i + 1) * 128, 0..4 * block).held_bytes()).sum();
        assert_eq!((columns, rows), (whole.held_bytes(), whole.held_bytes()), "{format}");
    }
}

#[test]
#[should_panic(expected = "cut a block of 256")]
fn a_block_is_not_cut() {
    matrix(&mut Rng(1), QuantFormat::Q4K, 2, 512).part(0..2, 128..512);
}

#[test]
#[should_panic(expected = "rows of 64 bytes every 128")]
fn rows_that_lie_apart_are_not_taken_for_one_run_of_bytes() {
    let _ = matrix(&mut Rng(1), QuantFormat::F32, 2, 32).part(0..2, 16..32).bytes();
}
