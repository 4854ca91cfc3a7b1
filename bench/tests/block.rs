//! The printed block, blank for blank, against what SGLang's own print statements made of the same figures.
//!
//! `golden/block-*.txt` were printed by the statements between the block's title and its last line in
//! `sglang/bench_serving.py` 0.5.8 and `sglang/benchmark/serving.py` 0.5.23, run over the figures below.

use quern_bench::{
    layout::{Heading, Layout, block},
    metrics::LoadMetrics,
    statistics::Distribution,
};

fn figures() -> LoadMetrics {
    LoadMetrics {
        completed: 80,
        total_input: 39668,
        total_output: 40805,
        total_output_retokenized: 40364,
        duration_s: 87.04,
        peak_output_per_s: 608.0,
        peak_concurrent: 20,
        concurrency: 13.76,
        e2e_ms: distribution([1234.5678, 876.5431, 441.8518, 313.7037, 222.716, 158.1481]),
        ttft_ms: distribution([112.3457, 79.7531, 40.2469, 28.5185, 20.2469, 14.321]),
        tpot_ms: distribution([10.1235, 7.1605, 3.5802, 2.5926, 1.8519, 1.358]),
        itl_ms: distribution([0.9877, 0.7407, 0.3704, 0.2469, 0.1235, 0.1235]),
        ..LoadMetrics::default()
    }
}

fn distribution([mean, median, p90, p95, p99, max]: [f64; 6]) -> Distribution {
    Distribution { mean, median, std: 0.0, p90, p95, p99, max }
}

fn printed(layout: Layout) -> String {
    let heading = Heading { backend: "sglang", request_rate: f64::INFINITY, max_concurrency: Some(16) };
    block(layout, &heading, &figures(), None, false) + "\n"
}

#[test]
fn the_block_of_0_5_8_is_byte_exact() {
    assert_eq!(printed(Layout::V0_5_8), include_str!("golden/block-0.5.8.txt"));
}

#[test]
fn the_block_of_0_5_23_is_byte_exact() {
    assert_eq!(printed(Layout::V0_5_23), include_str!("golden/block-0.5.23.txt"));
}

#[test]
fn a_finite_rate_and_no_limit_are_printed_as_python_prints_them() {
    let heading = Heading { backend: "vllm", request_rate: 4.0, max_concurrency: None };
    let text = block(Layout::V0_5_8, &heading, &figures(), None, false);
    assert!(text.contains("\nTraffic request rate:                    4.0       \n"), "{text}");
    assert!(text.contains("\nMax request concurrency:                 not set   \n"), "{text}");
}
