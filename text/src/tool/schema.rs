//! [`ToolSchemas`]: what a request's tools say about the types of their parameters.
//!
//! Digested once per request. A schema is read for one question only: what may the text of a parameter
//! become? References are followed within the `parameters` object, alternatives are joined, and a budget
//! bounds the work, since schemas come from clients and may refer to themselves.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

/// Schema objects visited for one tool. Real tools have tens; a reference cycle ends here.
const MAX_VISITS: usize = 4096;

/// Nesting of references and alternatives.
const MAX_DEPTH: usize = 32;

/// The tools of a request, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct ToolSchemas {
    tools: Vec<HashMap<String, ValueType>>,
    by_name: HashMap<String, usize>,
}

impl ToolSchemas {
    /// Read tool definitions: `{"type": "function", "function": {"name", "parameters"}}`, or the bare
    /// `{"name", "parameters"}`. What has no name is no tool; of two with one name the first counts.
    pub fn new(tools: &[Json]) -> Self {
        let mut schemas = Self::default();
        for tool in tools {
            let function = tool.get("function").filter(|f| f.is_object()).unwrap_or(tool);
            let Some(name) = function.get("name").and_then(Json::as_str) else { continue };
            if schemas.by_name.contains_key(name) {
                continue;
            }
            let parameters = function.get("parameters").map(properties).unwrap_or_default();
            schemas.by_name.insert(name.to_string(), schemas.tools.len());
            schemas.tools.push(parameters);
        }
        schemas
    }

    /// Whether a tool of this name is declared.
    pub fn declares(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether some tool's name begins so.
    pub(super) fn begins_a_name(&self, prefix: &str) -> bool {
        self.by_name.keys().any(|name| name.starts_with(prefix))
    }

    /// The tool of this name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The type of a parameter; one that the schema does not know is text.
    pub(super) fn value_type(&self, tool: Option<usize>, parameter: &str) -> ValueType {
        self.declared(tool).and_then(|known| known.get(parameter)).cloned().unwrap_or_else(ValueType::text)
    }

    /// Whether the tool declares the parameter.
    pub(super) fn declares_parameter(&self, tool: Option<usize>, parameter: &str) -> bool {
        self.declared(tool).is_some_and(|known| known.contains_key(parameter))
    }

    /// Whether nothing is known of the tool's parameters.
    pub(super) fn is_open(&self, tool: Option<usize>) -> bool {
        self.declared(tool).is_none_or(HashMap::is_empty)
    }

    fn declared(&self, tool: Option<usize>) -> Option<&HashMap<String, ValueType>> {
        self.tools.get(tool?)
    }
}

/// What a value's text may become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ValueType {
    /// Tried in this order.
    pub(super) kinds: Vec<ScalarKind>,
    /// Text that is none of `kinds` is meant to be text. (Where it is not, it stays text all the same: a
    /// client can tell the model so, and nothing is lost.)
    pub(super) text: bool,
    /// `null` is allowed.
    pub(super) nullable: bool,
}

/// A type other than text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScalarKind {
    Integer,
    Number,
    Boolean,
    /// Objects and arrays alike: both are read as JSON, whichever comes.
    Container,
    /// A type that JSON Schema does not know: whatever literal the text is.
    Other,
}

impl ValueType {
    pub(super) fn text() -> Self {
        Self { kinds: Vec::new(), text: true, nullable: false }
    }

    /// No statement at all, which admits `null` too.
    fn anything() -> Self {
        Self { nullable: true, ..Self::text() }
    }

    fn add(&mut self, other: Self) {
        for kind in other.kinds {
            if !self.kinds.contains(&kind) {
                self.kinds.push(kind);
            }
        }
        self.text |= other.text;
        self.nullable |= other.nullable;
    }

    /// Where text is one of several alternatives, scalars stay text: a postcode `03106` is no number.
    fn prefer_text_to_scalars(mut self) -> Self {
        if self.text {
            self.kinds.retain(|kind| *kind == ScalarKind::Container);
        }
        self
    }

    fn is_empty(&self) -> bool {
        self.kinds.is_empty() && !self.text
    }
}

/// The parameters of a tool, by name.
fn properties(parameters: &Json) -> HashMap<String, ValueType> {
    let mut reader = SchemaReader { root: parameters, visits: 0 };
    let mut found = Map::new();
    let named = reader.collect_properties(parameters, 0, &mut found);
    // Some clients send the properties themselves.
    if !named && let Json::Object(fields) = parameters {
        found.extend(fields.iter().filter(|(_, schema)| schema.is_object()).map(|(k, v)| (k.clone(), v.clone())));
    }
    found.into_iter().map(|(name, schema)| (name, reader.infer(&schema, 0))).collect()
}

struct SchemaReader<'a> {
    root: &'a Json,
    visits: usize,
}

impl<'a> SchemaReader<'a> {
    /// Add the properties of `schema` and its alternatives to `out`; of one name the first counts. Returns
    /// whether there was a `properties` at all.
    fn collect_properties(&mut self, schema: &'a Json, depth: usize, out: &mut Map<String, Json>) -> bool {
        if !self.visit(depth) {
            return false;
        }
        let mut named = false;
        if let Some(fields) = schema.get("properties").and_then(Json::as_object) {
            named = true;
            for (name, schema) in fields {
                out.entry(name.clone()).or_insert_with(|| schema.clone());
            }
        }
        if let Some(target) = schema.get("$ref").and_then(|r| self.resolve(r)) {
            named |= self.collect_properties(target, depth + 1, out);
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            for branch in schema.get(key).and_then(Json::as_array).into_iter().flatten() {
                named |= self.collect_properties(branch, depth + 1, out);
            }
        }
        named
    }

    /// The type of a value with this schema.
    fn infer(&mut self, schema: &Json, depth: usize) -> ValueType {
        if !self.visit(depth) {
            return ValueType::text();
        }
        let mut found = self.stated(schema, depth);
        if schema.get("nullable") == Some(&Json::Bool(true)) {
            found.nullable = true;
        }
        found
    }

    fn stated(&mut self, schema: &Json, depth: usize) -> ValueType {
        match schema.get("type") {
            Some(Json::String(name)) => return named(name),
            Some(Json::Array(names)) => {
                let mut found = ValueType::default();
                let mut first_is_text = None;
                for name in names.iter().filter_map(Json::as_str).map(named) {
                    if !name.is_empty() {
                        first_is_text.get_or_insert(name.text);
                    }
                    found.add(name);
                }
                // The first type is what the author thought of first; SGLang takes no other.
                return if first_is_text == Some(true) { found.prefer_text_to_scalars() } else { found };
            }
            _ => {}
        }
        if let Some(target) = schema.get("$ref").and_then(|r| self.resolve(r)) {
            return self.infer(target, depth + 1);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(branches) = schema.get(key).and_then(Json::as_array).filter(|b| !b.is_empty()) {
                let mut found = ValueType::default();
                for branch in branches {
                    found.add(self.infer(branch, depth + 1));
                }
                return found.prefer_text_to_scalars();
            }
        }
        if let Some(branches) = schema.get("allOf").and_then(Json::as_array).filter(|b| !b.is_empty()) {
            let types: Vec<_> = branches.iter().map(|branch| self.infer(branch, depth + 1)).collect();
            let special = types.iter().find(|t| !t.text).or_else(|| types.iter().find(|t| !t.nullable));
            return special.or(types.first()).cloned().unwrap_or_else(ValueType::anything);
        }
        let values = schema.get("enum").and_then(Json::as_array).map(Vec::as_slice);
        if let Some(values) = values.or_else(|| schema.get("const").map(std::slice::from_ref)) {
            let mut found = ValueType::default();
            for value in values {
                found.add(of_value(value));
            }
            return found.prefer_text_to_scalars();
        }
        let is_container = ["properties", "items", "prefixItems", "additionalProperties"];
        if is_container.iter().any(|key| schema.get(key).is_some()) {
            return ValueType { kinds: vec![ScalarKind::Container], ..ValueType::default() };
        }
        ValueType::anything()
    }

    /// The schema that `#/…` points at.
    fn resolve(&self, reference: &Json) -> Option<&'a Json> {
        self.root.pointer(reference.as_str()?.strip_prefix('#')?)
    }

    fn visit(&mut self, depth: usize) -> bool {
        self.visits += 1;
        self.visits <= MAX_VISITS && depth <= MAX_DEPTH
    }
}

/// The type of this name: JSON Schema's own and those of other languages that clients send.
fn named(name: &str) -> ValueType {
    let name = name.to_lowercase();
    let begins = |list: &[&str]| list.iter().any(|prefix| name.starts_with(prefix));
    let kind = match name.as_str() {
        "null" => return ValueType { nullable: true, ..ValueType::default() },
        "string" | "str" | "text" | "varchar" | "char" | "enum" => return ValueType::text(),
        "boolean" | "bool" | "binary" => ScalarKind::Boolean,
        "object" | "array" | "arr" | "map" | "set" | "tuple" => ScalarKind::Container,
        _ if begins(&["int", "uint", "long", "short", "unsigned"]) => ScalarKind::Integer,
        _ if begins(&["num", "float", "double"]) => ScalarKind::Number,
        _ if begins(&["dict", "list"]) => ScalarKind::Container,
        _ => ScalarKind::Other,
    };
    ValueType { kinds: vec![kind], ..ValueType::default() }
}

fn of_value(value: &Json) -> ValueType {
    let kind = match value {
        Json::Null => return ValueType { nullable: true, ..ValueType::default() },
        Json::String(_) => return ValueType::text(),
        Json::Bool(_) => ScalarKind::Boolean,
        Json::Number(n) if n.is_i64() || n.is_u64() => ScalarKind::Integer,
        Json::Number(_) => ScalarKind::Number,
        Json::Array(_) | Json::Object(_) => ScalarKind::Container,
    };
    ValueType { kinds: vec![kind], ..ValueType::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn infer(schema: Json) -> String {
        let parameters = json!({
            "type": "object",
            "properties": {"p": schema},
            "$defs": {
                "Point": {"type": "object", "properties": {"x": {"type": "number"}}},
                "Maybe": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
                "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}, {"$ref": "#/$defs/Loop"}]},
            },
        });
        let schemas = ToolSchemas::new(&[json!({"function": {"name": "f", "parameters": parameters}})]);
        let found = schemas.value_type(schemas.find("f"), "p");
        let text = if found.text { "text" } else { "" };
        format!("{:?}{text}{}", found.kinds, if found.nullable { "?" } else { "" })
    }

    #[test]
    fn types_are_read_from_wherever_schemas_state_them() {
        let cases = [
            (json!({"type": "string"}), "[]text"),
            (json!({"type": "INT64"}), "[Integer]"),
            (json!({"type": "double"}), "[Number]"),
            (json!({"type": "datetime"}), "[Other]"),
            (json!({"type": ["integer", "null"]}), "[Integer]?"),
            (json!({"type": ["string", "integer"]}), "[]text"),
            (json!({"type": ["integer", "string"]}), "[Integer]text"),
            (json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), "[]text"),
            (json!({"anyOf": [{"type": "string"}, {"type": "array"}, {"type": "null"}]}), "[Container]text?"),
            (json!({"oneOf": [{"type": "integer"}, {"type": "boolean"}]}), "[Integer, Boolean]"),
            (json!({"allOf": [{"description": "d"}, {"$ref": "#/$defs/Point"}]}), "[Container]"),
            (json!({"$ref": "#/$defs/Maybe"}), "[Container]?"),
            (json!({"$ref": "#/$defs/Nowhere"}), "[]text?"),
            (json!({"$ref": "#/$defs/Loop"}), "[]text"),
            (json!({"enum": ["a", "b", null]}), "[]text?"),
            (json!({"enum": [1, 2]}), "[Integer]"),
            (json!({"const": true}), "[Boolean]"),
            (json!({"items": {}}), "[Container]"),
            (json!({"type": "integer", "nullable": true}), "[Integer]?"),
            (json!({}), "[]text?"),
            (json!(true), "[]text?"),
        ];
        for (schema, want) in cases {
            assert_eq!(infer(schema.clone()), want, "{schema}");
        }
    }

    #[test]
    fn properties_are_found_at_the_root_behind_references_and_alternatives() {
        let integer = |parameters: Json| {
            let schemas = ToolSchemas::new(&[json!({"name": "f", "parameters": parameters})]);
            schemas.value_type(schemas.find("f"), "n").kinds == [ScalarKind::Integer]
        };
        let n = json!({"n": {"type": "integer"}});
        assert!(integer(json!({"type": "object", "properties": n})));
        assert!(integer(json!({"oneOf": [{"properties": {}}, {"properties": n}]})));
        assert!(integer(json!({"$ref": "#/$defs/A", "$defs": {"A": {"properties": n}}})));
        assert!(integer(n.clone()), "the properties themselves");
        assert!(!integer(json!({"type": "object", "properties": {}, "n": {"type": "integer"}})));
    }

    #[test]
    fn what_is_no_tool_is_passed_over() {
        let schemas = ToolSchemas::new(&[json!(null), json!({"function": {}}), json!({"function": {"name": "f"}})]);
        assert!(schemas.declares("f") && schemas.is_open(schemas.find("f")) && schemas.is_open(None));
        assert!(!schemas.declares("g") && schemas.begins_a_name("f"));
    }
}
