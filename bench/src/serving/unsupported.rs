//! [`UnsupportedArgs`]: flags of SGLang's client that measure what is not measured here, known so that they are
//! refused with a reason instead of with "unexpected argument".

use clap::Args;

use crate::error::BenchError;

/// Flags of SGLang's client that are known and refused. Hidden: they are no help to anyone who reads of flags.
#[derive(Args, Clone, Debug, Default)]
pub struct UnsupportedArgs {
    #[arg(long, hide = true, num_args = 0.., value_name = "NAME")]
    lora_name: Option<Vec<String>>,
    #[arg(long, hide = true, num_args = 1)]
    lora_request_distribution: Option<String>,
    #[arg(long, hide = true, num_args = 1)]
    lora_zipf_alpha: Option<String>,
    #[arg(long, hide = true)]
    profile: bool,
    #[arg(long, hide = true, num_args = 1..)]
    profile_activities: Option<Vec<String>>,
    #[arg(long, hide = true)]
    profile_num_steps: Option<String>,
    #[arg(long, hide = true)]
    profile_by_stage: bool,
    #[arg(long, hide = true, num_args = 1..)]
    profile_stages: Option<Vec<String>>,
    #[arg(long, hide = true, num_args = 0..)]
    profile_prefill_url: Option<Vec<String>>,
    #[arg(long, hide = true, num_args = 0..)]
    profile_decode_url: Option<Vec<String>>,
    #[arg(long, hide = true)]
    pd_separated: bool,
    #[arg(long, hide = true)]
    plot_throughput: bool,
    #[arg(long, hide = true)]
    return_routed_experts: bool,
    #[arg(long, hide = true)]
    use_trace_timestamps: bool,
    #[arg(long, hide = true)]
    mooncake_slowdown_factor: Option<String>,
    #[arg(long, hide = true)]
    mooncake_num_rounds: Option<String>,
    #[arg(long, hide = true)]
    mooncake_workload: Option<String>,
    #[arg(long, hide = true)]
    image_count: Option<String>,
    #[arg(long, hide = true)]
    image_resolution: Option<String>,
    #[arg(long, hide = true)]
    image_format: Option<String>,
    #[arg(long, hide = true)]
    image_content: Option<String>,
    #[arg(long, hide = true)]
    random_image_count: bool,
    /// Asks SGLang's client to prepare faster; nothing here is slow to prepare, and no figure is given up.
    #[arg(long, hide = true)]
    gsp_fast_prepare: bool,
}

impl UnsupportedArgs {
    /// Refuse what was typed of them.
    ///
    /// # Errors
    /// With the flag and what there is instead.
    pub fn check(&self) -> Result<(), BenchError> {
        let adapters = "requests name one model; adapters are not measured";
        let profiler = "the server's profiler is not driven from here";
        let split = "servers that split prefill from decoding are measured through their router, without this flag";
        let trace = "traces of Mooncake are not read; --dataset-name agent asks as agents do";
        let images = "requests hold text only";
        let typed = [
            ("--lora-name", self.lora_name.is_some(), adapters),
            ("--lora-request-distribution", self.lora_request_distribution.is_some(), adapters),
            ("--lora-zipf-alpha", self.lora_zipf_alpha.is_some(), adapters),
            ("--profile", self.profile, profiler),
            ("--profile-activities", self.profile_activities.is_some(), profiler),
            ("--profile-num-steps", self.profile_num_steps.is_some(), profiler),
            ("--profile-by-stage", self.profile_by_stage, profiler),
            ("--profile-stages", self.profile_stages.is_some(), profiler),
            ("--profile-prefill-url", self.profile_prefill_url.is_some(), profiler),
            ("--profile-decode-url", self.profile_decode_url.is_some(), profiler),
            ("--pd-separated", self.pd_separated, split),
            ("--plot-throughput", self.plot_throughput, "--report FILE.html draws throughput over time"),
            ("--return-routed-experts", self.return_routed_experts, "routed experts are not asked for"),
            ("--use-trace-timestamps", self.use_trace_timestamps, trace),
            ("--mooncake-slowdown-factor", self.mooncake_slowdown_factor.is_some(), trace),
            ("--mooncake-num-rounds", self.mooncake_num_rounds.is_some(), trace),
            ("--mooncake-workload", self.mooncake_workload.is_some(), trace),
            ("--image-count", self.image_count.is_some(), images),
            ("--image-resolution", self.image_resolution.is_some(), images),
            ("--image-format", self.image_format.is_some(), images),
            ("--image-content", self.image_content.is_some(), images),
            ("--random-image-count", self.random_image_count, images),
        ];
        match typed.into_iter().find(|(_, typed, _)| *typed) {
            Some((flag, _, reason)) => Err(BenchError::Arguments(format!("{flag} is not supported: {reason}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::serving::tests_args;

    #[test]
    fn flags_of_other_measurements_are_refused_by_name() {
        let refusal = |words: &[&str]| tests_args(words).unsupported.check().map_err(|error| error.to_string());
        let profile = refusal(&["--profile"]).expect_err("refused");
        assert_eq!(profile, "--profile is not supported: the server's profiler is not driven from here");
        assert!(refusal(&["--lora-name", "a", "b"]).expect_err("refused").starts_with("--lora-name is not supported"));
        assert_eq!(refusal(&["--gsp-fast-prepare"]), Ok(()), "nothing would differ");
        assert_eq!(refusal(&[]), Ok(()));
    }
}
