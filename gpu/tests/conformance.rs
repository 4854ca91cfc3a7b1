//! Every operation on a driver twin of each architecture, held to the reference and to itself.

mod support;

use quern_backend::{
    Precision,
    conformance::{self, Grid},
};
use quern_gpu::{KV_FORMATS, WEIGHT_FORMATS};
use support::{Target, backend, on_each_target};

fn conforms(target: Target) {
    let Some(backend) = backend(target) else { return };
    let grid = Grid {
        precision: Precision::Bf16,
        weights: &WEIGHT_FORMATS,
        pages: &KV_FORMATS,
        signed_zeros: !backend.arch().is_fnuz(),
        parts: false,
    };
    conformance::run(&backend, &grid);
}

on_each_target!(conforms);
