//! The model that ships with the program against Transformers' own forward of the same files
//! (`models/quern-demo/goldens.json`, made by `training/compare.py`).

use std::{path::PathBuf, sync::Arc};

use crate::support::{Driver, limits};
use quern_backend::{KvFormat, RefBackend};
use serde_json::Value;

/// A step whose first and second choice lie closer than this (in logits) may go either way: float32 forwards
/// agree within 1e-4 on models of this size (see `golden/README.md`).
const NEAR_TIE: f64 = 1e-3;

fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

#[test]
fn the_shipped_model_says_what_transformers_says() {
    let text = std::fs::read_to_string(demo().join("goldens.json")).expect("goldens.json");
    let file: Value = serde_json::from_str(&text).expect("JSON");
    let goldens = file["goldens"].as_array().expect("goldens");
    let mut driver = Driver::new(&demo(), Arc::new(RefBackend), limits(16, KvFormat::F32));
    for golden in goldens {
        driver.add(&ids(&golden["ids"]));
    }
    let longest = goldens.iter().map(|golden| ids(&golden["greedy_ids"]).len()).max().expect("some goldens");
    for (golden, tokens) in goldens.iter().zip(driver.greedy(longest, 2048)) {
        let name = &golden["name"];
        let wanted = ids(&golden["greedy_ids"]);
        let gaps = golden["gaps"].as_array().expect("gaps").iter().map(|gap| gap.as_f64().expect("a number"));
        let sure = gaps.take_while(|gap| *gap > NEAR_TIE).count();
        assert!(sure * 2 > wanted.len(), "{name}: a near-tie after {sure} of {} tokens", wanted.len());
        assert_eq!(tokens[..sure], wanted[..sure], "{name}");
    }
}
