//! Rotary positions as config.json says them: one object out of the three places where files and overrides put it.

use serde_json::{Map, Value};

use crate::config::{ConfigError, Fields, RopeConfig, YarnConfig, shown, yarn_temperature};

/// The object that the others are folded into, transformers 5's.
const FOLDED: &str = "rope_parameters";
/// The objects' names in files.
const OBJECTS: [&str; 2] = ["rope_scaling", FOLDED];
const THETA: &str = "rope_theta";

/// Fold `rope_theta` and `rope_scaling`, as transformers 4 has them, into `rope_parameters`. What stands in two
/// places and differs is refused: programs disagree about which one counts.
pub(super) fn fold(config: &mut Map<String, Value>) -> Result<(), ConfigError> {
    let mut folded = Map::new();
    let mut put = |from: &str, key: &str, value: Value| match folded.get(key) {
        Some(earlier) if !same(earlier, &value) => Err(ConfigError::Field {
            field: format!("{from}{key}"),
            found: format!("{}, and {} in another place", shown(&value), shown(earlier)),
            expected: "the same in rope_theta, rope_scaling and rope_parameters, or in one of them alone".into(),
        }),
        _ => {
            folded.insert(key.to_owned(), value);
            Ok(())
        }
    };
    let mut kinds = Vec::new();
    let mut given = false;
    for object in OBJECTS {
        let Some(value) = config.get(object) else { continue };
        given = true;
        if value.is_null() {
            continue;
        }
        let parameters = Fields(config).object(object)?.cloned().unwrap_or_default();
        let mut stated = None;
        for (key, value) in parameters.into_iter().filter(|(_, value)| !value.is_null()) {
            // `type` is the older spelling.
            let key = if key == "type" { "rope_type".to_owned() } else { key };
            if key == "rope_type" {
                stated = Some(value.clone());
            }
            put(&format!("{object}."), &key, value)?;
        }
        kinds.push((object, stated));
    }
    if let [(_, first), (_, second)] = kinds.as_slice()
        && first != second
    {
        let kind = |stated: &Option<Value>| stated.as_ref().map_or_else(|| "absent".to_owned(), shown);
        return Err(ConfigError::Field {
            field: "rope_scaling.rope_type".into(),
            found: format!("{}, and {} in rope_parameters", kind(first), kind(second)),
            expected: "the same in both objects, or one of them alone".into(),
        });
    }
    if let Some(theta) = config.get(THETA).filter(|theta| !theta.is_null()).cloned() {
        put("", THETA, theta)?;
    }
    for name in [OBJECTS[0], OBJECTS[1], THETA] {
        config.remove(name);
    }
    if given || !folded.is_empty() {
        config.insert(FOLDED.into(), folded.into());
    }
    Ok(())
}

/// Whether two values say the same; 4 and 4.0 do.
fn same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().is_some_and(|one| other.as_f64() == Some(one))
}

/// Lay the folded positions of an override over those of a file: each key that is given counts, and an object that is
/// null or empty takes all away but the base of the frequencies.
pub(super) fn lay_over(base: &mut Map<String, Value>, overrides: &mut Map<String, Value>) {
    let Some(Value::Object(over)) = overrides.remove(FOLDED) else { return };
    let Value::Object(under) = base.entry(FOLDED).or_insert_with(|| Value::Object(Map::new())) else { return };
    if over.is_empty() {
        under.retain(|key, _| key == THETA);
    }
    under.extend(over);
}

/// The positions of a folded config.
pub(super) fn read(fields: &Fields<'_>, max_position_embeddings: usize) -> Result<RopeConfig, ConfigError> {
    let nothing = Map::new();
    let parameters = Fields(fields.object(FOLDED)?.unwrap_or(&nothing));
    let theta = parameters.number(THETA, 10_000.0)?;
    if parameters.present("partial_rotary_factor").is_some_and(|share| share.as_f64() != Some(1.0)) {
        return Err(parameters.unsupported("partial_rotary_factor", "1.0"));
    }
    let kind = match parameters.present("rope_type") {
        Some(kind) => kind.as_str().unwrap_or("no text"),
        None => {
            let asks = |key: &&String| ![THETA, "partial_rotary_factor"].contains(&key.as_str());
            if let Some(key) = parameters.0.keys().find(asks) {
                return Err(ConfigError::Field {
                    field: "rope_scaling.rope_type".into(),
                    found: format!("missing (also called `type`) beside `{key}`"),
                    expected: "yarn, or default, which stretches nothing".into(),
                });
            }
            "default"
        }
    };
    let yarn = match kind {
        "default" => None,
        "yarn" => Some(yarn(&parameters, max_position_embeddings)?),
        other => {
            return Err(ConfigError::Unsupported {
                field: "rope_scaling.rope_type".into(),
                value: other.into(),
                supported: "default, yarn".into(),
            });
        }
    };
    Ok(RopeConfig { theta, yarn })
}

fn yarn(parameters: &Fields<'_>, max_position_embeddings: usize) -> Result<YarnConfig, ConfigError> {
    let original_context = parameters.number("original_max_position_embeddings", max_position_embeddings as f64)?;
    let factor = match parameters.present("factor") {
        Some(_) => parameters.number("factor", 1.0)?,
        None => max_position_embeddings as f64 / original_context,
    };
    let temperature = |scale: f64| yarn_temperature(factor, scale);
    let both = parameters.present("mscale").is_some() && parameters.present("mscale_all_dim").is_some();
    let attention_factor = match (parameters.present("attention_factor"), both) {
        (Some(_), _) => parameters.number("attention_factor", 1.0)?,
        (None, true) => {
            temperature(parameters.number("mscale", 1.0)?) / temperature(parameters.number("mscale_all_dim", 1.0)?)
        }
        (None, false) => temperature(1.0),
    };
    Ok(YarnConfig {
        factor,
        original_context,
        beta_fast: parameters.number("beta_fast", 32.0)?,
        beta_slow: parameters.number("beta_slow", 1.0)?,
        attention_factor,
        truncate: parameters.flag("truncate", true)?,
    })
}
