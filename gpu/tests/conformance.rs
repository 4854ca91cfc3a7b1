//! Every operation on a driver twin of each architecture, held to the reference and to itself.

mod support;

use quern_backend::{
    Precision,
    conformance::{self, Grid},
};
use quern_gpu::{KV_FORMATS, WEIGHT_FORMATS};
use support::{Target, backend};

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

#[test]
fn sm_90() {
    conforms(Target::Sm90);
}

#[test]
fn gfx942() {
    conforms(Target::Gfx942);
}

#[test]
fn gfx950() {
    conforms(Target::Gfx950);
}
