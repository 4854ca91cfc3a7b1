//! No bytes make the header's reader panic or take more memory than they justify.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| quern_model::weights::safetensors::fuzz_header(bytes));
