//! [`QuantRecipe`]: which encoding each matrix gets when a network is quantised.

use std::fmt;

use quern_backend::QuantFormat;

use crate::network::{MlpPart, Role};

/// A mixture of encodings, by llama.cpp's names where it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantRecipe {
    /// Q8_0 throughout: 8.5 bits a weight.
    Q8_0,
    /// Q4_0, the head in Q6_K: 4.5 bits.
    Q4_0,
    /// Q4_K, with Q6_K for the head and for the values and down projections of half of the layers: 4.8
    /// bits. The mixture is `llama-quantize`'s (`llama_tensor_get_type` in llama.cpp).
    Q4KM,
    /// [`QuantRecipe::Q4KM`] with Q6_K for all of attention and for the embedding, which are few of the weights of a
    /// mixture of experts and are met by every token.
    ///
    /// Computed from shapes: 30B-A3B takes 18.83 GB for 18.53 (4.93 bits for 4.85; +1.7 %), 480B-A35B +1.0 %,
    /// but 8B dense +10.6 %. More of what it adds is read at each step: 12 % of a lone token's bytes in 30B-A3B.
    ///
    /// Mean divergence from the stored network, q4_k_m's behind it: the shipped model over 5,405 positions 0.0028
    /// (0.0126), in size +7.2 %; random networks 0.014 (0.058) at +1.3 %, 0.046 (0.245) at +2.5 %, 0.0036 (0.0130) at
    /// +2.3 %, 0.158 (0.473) at +9.9 %. Q8_0 in place of Q6_K takes twice the bytes and gains no more than the spread.
    /// None of these has rows of whole blocks in `down_proj`, so the mixture there is llama.cpp's, not measured.
    Q4Best,
}

impl QuantRecipe {
    /// All of them, by the names that users type.
    pub const NAMES: [(&str, QuantRecipe); 4] = [
        ("q8_0", QuantRecipe::Q8_0),
        ("q4_0", QuantRecipe::Q4_0),
        ("q4_k_m", QuantRecipe::Q4KM),
        ("q4_best", QuantRecipe::Q4Best),
    ];

    /// The encoding of the matrix of this `role` in `layer`, with rows of `cols` elements in a network of `num_layers`
    /// layers; `None` leaves it as it is stored.
    ///
    /// Routers stay: they are small, and a token that goes to another expert is not a rounding error.
    /// Where rows are no whole number of blocks, Q8_0 takes the place of wider blocks.
    pub fn format(self, role: Role, layer: Option<usize>, cols: usize, num_layers: usize) -> Option<QuantFormat> {
        if role == Role::Router {
            return None;
        }
        let wanted = match self {
            QuantRecipe::Q8_0 => QuantFormat::Q8_0,
            QuantRecipe::Q4_0 | QuantRecipe::Q4KM | QuantRecipe::Q4Best if role.is_head() => QuantFormat::Q6K,
            QuantRecipe::Q4_0 => QuantFormat::Q4_0,
            QuantRecipe::Q4Best
                if matches!(role, Role::Query | Role::Key | Role::Value | Role::AttentionOutput | Role::Embedding) =>
            {
                QuantFormat::Q6K
            }
            QuantRecipe::Q4KM | QuantRecipe::Q4Best => match (role, layer) {
                (Role::Value | Role::Mlp(MlpPart::Down) | Role::Expert(MlpPart::Down), Some(layer))
                    if gets_more_bits(layer, num_layers) =>
                {
                    QuantFormat::Q6K
                }
                _ => QuantFormat::Q4K,
            },
        };
        [wanted, QuantFormat::Q8_0].into_iter().find(|format| cols.is_multiple_of(format.block_elements()))
    }
}

/// The first and the last eighth of the layers, and every third between.
fn gets_more_bits(layer: usize, num_layers: usize) -> bool {
    let eighth = num_layers / 8;
    layer < eighth || layer >= 7 * num_layers / 8 || (layer - eighth) % 3 == 2
}

impl fmt::Display for QuantRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, recipe)| recipe == self).map(|(name, _)| *name);
        f.write_str(name.expect("every recipe has a name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixture_is_llama_quantizes() {
        let format = |role, layer| QuantRecipe::Q4KM.format(role, layer, 2048, 48);
        let down = Role::Expert(MlpPart::Down);
        let six: Vec<usize> = (0..48).filter(|&layer| format(down, Some(layer)) == Some(QuantFormat::Q6K)).collect();
        // What llama-quantize makes of the 48 layers of 30B-A3B.
        assert_eq!(six, [0, 1, 2, 3, 4, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35, 38, 41, 42, 43, 44, 45, 46, 47]);
        assert_eq!(format(Role::Query, Some(0)), Some(QuantFormat::Q4K));
        assert_eq!(format(Role::Router, Some(0)), None);
        for (role, wanted) in [
            (Role::Head, QuantFormat::Q6K),
            (Role::TiedEmbedding, QuantFormat::Q6K),
            (Role::Embedding, QuantFormat::Q4K),
        ] {
            assert_eq!(format(role, None), Some(wanted), "{role:?}");
        }
    }

    #[test]
    fn the_best_mixture_gives_attention_and_the_embedding_more_bits() {
        let formats =
            |role, layer| [QuantRecipe::Q4KM, QuantRecipe::Q4Best].map(|r| r.format(role, layer, 2048, 48).unwrap());
        for role in [Role::Query, Role::Key, Role::AttentionOutput] {
            assert_eq!(formats(role, Some(6)), [QuantFormat::Q4K, QuantFormat::Q6K], "{role:?}");
        }
        assert_eq!(formats(Role::Embedding, None), [QuantFormat::Q4K, QuantFormat::Q6K]);
        for (layer, part) in [(6, MlpPart::Gate), (6, MlpPart::Up), (6, MlpPart::Down), (8, MlpPart::Down)] {
            let [theirs, ours] = formats(Role::Expert(part), Some(layer));
            assert_eq!(theirs, ours, "{part:?} of layer {layer}");
        }
        assert_eq!(QuantRecipe::Q4Best.format(Role::Router, Some(0), 2048, 48), None);
    }

    #[test]
    fn rows_that_are_not_whole_blocks_get_smaller_blocks() {
        let format = |recipe: QuantRecipe, cols| recipe.format(Role::Mlp(MlpPart::Up), Some(0), cols, 5);
        assert_eq!(format(QuantRecipe::Q4KM, 96), Some(QuantFormat::Q8_0));
        assert_eq!(format(QuantRecipe::Q4_0, 96), Some(QuantFormat::Q4_0));
        assert_eq!(format(QuantRecipe::Q8_0, 100), None);
    }
}
