//! E4M3 "fn" bytes: 1 sign, 4 exponent (bias 7), 3 mantissa bits, no infinities, NaN is `S.1111.111`; and
//! E5M2 bytes, which are binary16 cut in half.
//!
//! Source: OCP 8-bit Floating Point Specification 1.0, 2023; Micikevicius et al. 2022, "FP8 Formats for
//! Deep Learning".

/// Value of each byte.
pub const E4M3: [f32; 256] = table();

/// Largest finite value.
pub const E4M3_MAX: f32 = 448.0;

const fn table() -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        let exponent = (byte >> 3) & 15;
        let mantissa = (byte & 7) as f32;
        let magnitude = if byte & 127 == 127 {
            f32::NAN
        } else if exponent == 0 {
            mantissa / 512.0
        } else {
            // 2^(exponent - 7) * (1 + mantissa / 8), the power built from its binary32 bits.
            f32::from_bits(((exponent + 120) as u32) << 23) * (1.0 + mantissa / 8.0)
        };
        values[byte] = if byte & 128 == 0 { magnitude } else { -magnitude };
        byte += 1;
    }
    values
}

/// Largest finite value of E5M2, the upper half of a binary16.
pub const E5M2_MAX: f32 = 57344.0;

/// The E4M3 byte nearest to `value`, ties to the even mantissa; magnitudes above [`E4M3_MAX`] saturate,
/// NaN stays NaN.
pub fn encode_e4m3(value: f32) -> u8 {
    encode::<3>(value, 7, E4M3_MAX, 126)
}

/// The E5M2 byte nearest to `value`, in the same manner; magnitudes above [`E5M2_MAX`] saturate.
pub fn encode_e5m2(value: f32) -> u8 {
    encode::<2>(value, 15, E5M2_MAX, 123)
}

/// A byte of `MANTISSA` bits under an exponent with this `bias`; `largest` is the code of `max`.
fn encode<const MANTISSA: i32>(value: f32, bias: i32, max: f32, largest: u8) -> u8 {
    let sign = if value.is_sign_negative() { 128 } else { 0 };
    let magnitude = value.abs();
    if magnitude.is_nan() {
        return sign | 127;
    }
    if magnitude >= max {
        return sign | largest;
    }
    // Grid spacing at this magnitude: 2^(exponent - MANTISSA), not below that of subnormals.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(1 - bias);
    let spacing = f32::from_bits(((exponent - MANTISSA + 127) as u32) << 23);
    let steps = (magnitude / spacing).round_ties_even() as u32;
    // Twice `one` steps carry into the next exponent, where the same byte arithmetic holds.
    let one = 1 << MANTISSA;
    let code = if steps < one { steps } else { (((exponent + bias) as u32) << MANTISSA) + (steps - one) };
    sign | (code as u8).min(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        for (byte, value) in
            [(0x00, 0.0), (0x01, 1.0 / 512.0), (0x08, 1.0 / 64.0), (0x38, 1.0), (0x7e, 448.0), (0xb8, -1.0)]
        {
            assert_eq!(E4M3[byte], value, "byte {byte:#04x}");
        }
        assert!(E4M3[0x7f].is_nan() && E4M3[0xff].is_nan());
        assert_eq!(E4M3.iter().filter(|v| v.is_nan()).count(), 2);
    }

    #[test]
    fn every_finite_byte_survives_a_round_trip() {
        for byte in 0..=255u8 {
            if !E4M3[byte as usize].is_nan() {
                assert_eq!(encode_e4m3(E4M3[byte as usize]), byte);
            }
        }
    }

    #[test]
    fn encoding_takes_the_nearest_byte_and_ties_go_to_even() {
        for byte in 0..126u8 {
            let (low, high) = (E4M3[byte as usize], E4M3[byte as usize + 1]);
            let middle = (low + high) / 2.0;
            assert_eq!(encode_e4m3(middle), byte + byte % 2, "tie between {low} and {high}");
            assert_eq!(encode_e4m3(low + (middle - low) * 0.99), byte);
            assert_eq!(encode_e4m3(high - (high - middle) * 0.99), byte + 1);
        }
        for byte in 0..123u8 {
            let [low, high] = [byte, byte + 1].map(|b| half::f16::from_le_bytes([0, b]).to_f32());
            let middle = (low + high) / 2.0;
            assert_eq!(encode_e5m2(low), byte);
            assert_eq!(encode_e5m2(middle), byte + byte % 2, "tie between {low} and {high}");
        }
        assert_eq!(encode_e4m3(1e9), 126);
        assert_eq!(encode_e4m3(-1e9), 254);
    }
}
