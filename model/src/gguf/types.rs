//! Names of the encodings that GGUF files number and that are not supported.

/// llama.cpp's, by number (`enum ggml_type` in ggml.h).
const GGML: [&str; 42] = [
    "F32",
    "F16",
    "Q4_0",
    "Q4_1",
    "Q4_2",
    "Q4_3",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q8_1",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q8_K",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ3_XXS",
    "IQ1_S",
    "IQ4_NL",
    "IQ3_S",
    "IQ2_S",
    "IQ4_XS",
    "I8",
    "I16",
    "I32",
    "I64",
    "F64",
    "IQ1_M",
    "BF16",
    "Q4_0_4_4",
    "Q4_0_4_8",
    "Q4_0_8_8",
    "TQ1_0",
    "TQ2_0",
    "IQ4_NL_4_4",
    "IQ4_NL_4_8",
    "IQ4_NL_8_8",
    "MXFP4",
    "NVFP4",
    "Q1_0",
];

/// Those that only ik_llama.cpp has.
const IK_LLAMA: [(u32, &str); 20] = [
    (133, "Q6_0"),
    (134, "IQ1_BN"),
    (135, "IQ2_BN"),
    (137, "IQ2_K"),
    (138, "IQ3_K"),
    (139, "IQ4_K"),
    (140, "IQ5_K"),
    (141, "IQ6_K"),
    (144, "IQ4_KS"),
    (145, "IQ2_KS"),
    (146, "IQ4_KSS"),
    (152, "IQ5_KS"),
    (153, "IQ2_KT"),
    (154, "IQ3_KT"),
    (155, "IQ4_KT"),
    (156, "IQ3_KS"),
    (157, "IQ2_KL"),
    (158, "IQ1_KT"),
    (202, "Q4_0_R8"),
    (212, "Q4_K_R4"),
];

/// `IQ2_XXS (type 16)`, or `type 77, unknown`.
pub(super) fn named(number: u32) -> String {
    let ours = GGML.get(number as usize).map(|name| format!("{name} (type {number})"));
    let theirs = || IK_LLAMA.iter().find(|(known, _)| *known == number);
    ours.or_else(|| theirs().map(|(_, name)| format!("{name} (type {number} of ik_llama.cpp)")))
        .unwrap_or_else(|| format!("type {number}, unknown"))
}

#[cfg(test)]
mod tests {
    use quern_backend::QuantFormat;

    use super::*;

    #[test]
    fn names_are_ggmls() {
        assert_eq!(named(31), "Q4_0_4_4 (type 31)");
        assert_eq!(named(41), "Q1_0 (type 41)");
        assert_eq!(named(157), "IQ2_KL (type 157 of ik_llama.cpp)");
        assert_eq!(named(77), "type 77, unknown");
        for format in QuantFormat::ALL {
            let Some(number) = format.ggml_type() else { continue };
            let ours = format.to_string().replace('_', "").to_uppercase();
            assert!(named(number).replace('_', "").starts_with(&format!("{ours} ")), "{format} {number}");
        }
    }
}
