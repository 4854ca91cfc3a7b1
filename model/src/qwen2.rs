//! Qwen2: dense decoders whose queries, keys and values have biases and no norms. Qwen2.5-Coder from 0.5B to 32B is one.
//!
//! Its forward is that of [`qwen3`](crate::qwen3): attention does what the description has tensors for.
//! Source: Qwen Team 2024, "Qwen2.5-Coder Technical Report"; HF `modeling_qwen2.py`.

use crate::{
    config::{ConfigError, Fields, ModelConfig},
    network::{NetworkSpec, Role},
};

/// Every tensor of the network that `config` describes.
pub(crate) fn network(config: &ModelConfig) -> NetworkSpec {
    NetworkSpec::decoder(config, |layer| {
        layer.norms();
        layer.attention();
        layer.vector(Role::QueryBias, "model.layers.{layer}.self_attn.q_proj.bias", config.heads.q_dim());
        layer.vector(Role::KeyBias, "model.layers.{layer}.self_attn.k_proj.bias", config.heads.kv_dim());
        layer.vector(Role::ValueBias, "model.layers.{layer}.self_attn.v_proj.bias", config.heads.kv_dim());
        layer.mlp();
    })
}

/// Refuse switches whose other position is another network.
pub(crate) fn check(fields: &Fields<'_>) -> Result<(), ConfigError> {
    for (switch, supported) in
        [("qkv_bias", true), ("use_sliding_window", false), ("use_qk_norm", false), ("mlp_bias", false)]
    {
        if fields.flag(switch, supported)? != supported {
            return Err(fields.unsupported(switch, supported));
        }
    }
    if fields.present("hidden_act").is_some_and(|v| v != "silu") {
        return Err(fields.unsupported("hidden_act", "\"silu\""));
    }
    if fields.present("partial_rotary_factor").is_some_and(|share| share.as_f64() != Some(1.0)) {
        return Err(fields.unsupported("partial_rotary_factor", "1.0"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{Checkpoint, GenerationConfig};

    /// Qwen2.5-Coder-7B-Instruct's numbers.
    fn coder_7b() -> Value {
        json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 3584, "hidden_act": "silu",
            "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "max_position_embeddings": 32768, "max_window_layers": 28, "sliding_window": 131_072,
            "use_sliding_window": false, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": false,
            "vocab_size": 152_064, "eos_token_id": 151_645, "torch_dtype": "bfloat16",
        })
    }

    fn read(config: &Value) -> Result<ModelConfig, ConfigError> {
        ModelConfig::from_json(config.as_object().unwrap())
    }

    #[test]
    fn published_models_have_the_published_parameters() {
        let config = read(&coder_7b()).unwrap();
        assert_eq!(config.heads.head_dim, 128);
        assert_eq!(config.network().total_params(), 7_615_616_512);
        let mut half = coder_7b();
        for (field, value) in [
            ("hidden_size", 896),
            ("intermediate_size", 4864),
            ("num_hidden_layers", 24),
            ("num_attention_heads", 14),
            ("num_key_value_heads", 2),
            ("vocab_size", 151_936),
        ] {
            half[field] = value.into();
        }
        half["tie_word_embeddings"] = true.into();
        let network = read(&half).unwrap().network();
        assert_eq!((network.total_params(), network.active_params()), (494_032_768, 494_032_768));
    }

    #[test]
    fn switches_of_other_networks_are_refused_by_name() {
        for (switch, value) in [("use_sliding_window", true), ("qkv_bias", false), ("use_qk_norm", true)] {
            let mut config = coder_7b();
            config[switch] = value.into();
            let error = read(&config).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{switch}` = {value} is not supported; supported: {}", !value)),
                "{error}"
            );
        }
    }

    #[test]
    fn biases_stay_numbers_in_fp8() {
        let mut config = coder_7b();
        config["num_hidden_layers"] = 1.into();
        config["quantization_config"] = json!({
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        });
        let checkpoint = Checkpoint::dummy(read(&config).unwrap(), GenerationConfig::default());
        let bias = checkpoint.weights().vector(checkpoint.network().tensor(Some(0), Role::KeyBias)).unwrap();
        assert_eq!(bias.len(), 512);
        assert!(bias.iter().any(|x| *x != bias[0]), "a bias of dummy weights is random");
    }
}
