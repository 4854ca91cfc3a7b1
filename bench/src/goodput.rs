//! [`Slo`] and [`Goodput`]: how many requests were answered as fast as promised.

use crate::{metrics::RequestOutcome, record::Recording};

/// What a promise is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Time to the first token.
    Ttft,
    /// Time a token after the first.
    Tpot,
    /// Time to the last token.
    E2el,
}

impl Promise {
    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Tpot => "tpot",
            Self::E2el => "e2el",
        }
    }

    fn observed_ms(self, recording: &Recording) -> f64 {
        1000.0
            * match self {
                Self::Ttft => recording.ttft_s(),
                // One token has no time between tokens.
                Self::Tpot => recording.tpot_s().unwrap_or(0.0),
                Self::E2el => recording.latency_s,
            }
    }
}

/// One promise and its limit in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    /// What it is about.
    pub promise: Promise,
    /// The most it may take.
    pub limit_ms: f64,
}

impl std::str::FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}`: write ttft:MS, tpot:MS or e2el:MS");
        let (name, limit) = text.split_once(':').ok_or_else(refuse)?;
        let promise = match name {
            "ttft" => Promise::Ttft,
            "tpot" => Promise::Tpot,
            "e2el" => Promise::E2el,
            _ => return Err(refuse()),
        };
        let limit_ms = limit.parse().ok().filter(|limit: &f64| *limit > 0.0).ok_or_else(refuse)?;
        Ok(Self { promise, limit_ms })
    }
}

/// How many requests were answered as fast as promised.
#[derive(Clone, Debug, PartialEq)]
pub struct Goodput {
    /// The promises.
    pub slos: Vec<Slo>,
    /// Requests a second that kept all of them.
    pub per_s: f64,
    /// The part of all requests sent that kept all of them.
    pub attainment: f64,
    /// The part that kept each.
    pub attainment_of_each: Vec<f64>,
}

impl Goodput {
    /// Of a run of `duration_s`.
    pub fn of(slos: &[Slo], outcomes: &[RequestOutcome], duration_s: f64) -> Self {
        let kept = |slo: &Slo, outcome: &&RequestOutcome| {
            let recording = &outcome.recording;
            recording.succeeded() && slo.promise.observed_ms(recording) <= slo.limit_ms
        };
        let good = outcomes.iter().filter(|outcome| slos.iter().all(|slo| kept(slo, outcome))).count();
        let part = |count: usize| count as f64 / outcomes.len().max(1) as f64;
        let of_each = slos.iter().map(|slo| part(outcomes.iter().filter(|outcome| kept(slo, outcome)).count()));
        Self {
            slos: slos.to_vec(),
            per_s: good as f64 / duration_s,
            attainment: part(good),
            attainment_of_each: of_each.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::outcome;

    #[test]
    fn all_promises_must_be_kept() {
        let slos: Vec<Slo> = ["ttft:500", "tpot:250"].map(|text| text.parse().expect("right")).to_vec();
        // TTFT 500 and 400; TPOT 250 and 600. The third failed.
        let mut failed = outcome(0.0, &[0.1]);
        failed.recording.error = Some("x".into());
        let outcomes = [outcome(0.0, &[0.5, 0.75]), outcome(0.0, &[0.4, 1.0]), failed, outcome(0.0, &[0.9])];
        let goodput = Goodput::of(&slos, &outcomes, 2.0);
        assert_eq!((goodput.per_s, goodput.attainment), (0.5, 0.25));
        assert_eq!(goodput.attainment_of_each, [0.5, 0.5]);
    }

    #[test]
    fn promises_are_spelt_out() {
        for text in ["ttft", "ttft:", "ttft:0", "itl:5", "ttft:x"] {
            assert!(text.parse::<Slo>().is_err(), "{text}");
        }
    }
}
