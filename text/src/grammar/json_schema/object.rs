//! Objects: properties in the order of the schema, then any others.

use serde_json::{Map, Value};

use super::{
    super::lark::{literal, one_of},
    FORMATS, OF_OBJECTS, SchemaWriter, is_keyword, list, shown,
};

/// Most properties of one object: each is a step of a recursion in llguidance's compiler.
const MAX_PROPERTIES: usize = 1000;

/// Most optional ones: each is a way to go on in llguidance's parser, which holds 2000 at once.
const MAX_OPTIONAL: usize = 500;

impl SchemaWriter<'_> {
    pub(super) fn object(&mut self, schema: &Value, fields: &Map<String, Value>) -> Result<String, String> {
        let names = fields.get("propertyNames").filter(|names| !is_harmless_name(names));
        let needs_part =
            ["patternProperties", "minProperties", "maxProperties"].iter().any(|key| match fields.get(*key) {
                None => false,
                Some(Value::Object(patterns)) => !patterns.is_empty(),
                Some(least) => *key == "maxProperties" || *least != 0,
            });
        let empty = Map::new();
        let properties = match fields.get("properties") {
            None => &empty,
            Some(Value::Object(properties)) => properties,
            Some(other) => return Err(format!("properties: {} is not an object", shown(other))),
        };
        let required = match fields.get("required") {
            None | Some(Value::Bool(_)) => Vec::new(),
            Some(_) => {
                let wrong = |name| format!("required: {} is not a name", shown(name));
                let names = list(fields, "required")?.iter();
                names.map(|name| name.as_str().ok_or_else(|| wrong(name))).collect::<Result<Vec<_>, _>>()?
            }
        };
        let optional = properties.keys().filter(|name| !required.contains(&name.as_str())).count();
        check_most("properties", optional + required.len(), MAX_PROPERTIES)?;
        check_most("optional properties", optional, MAX_OPTIONAL)?;
        if needs_part {
            return self.part_of_type(fields, "object", &OF_OBJECTS);
        }
        let more = fields.get("additionalProperties").unwrap_or(&Value::Bool(true));
        if let Some(names) = names {
            return self.named_object(schema, properties, names, more);
        }
        let mut members = Vec::new();
        for (name, schema) in properties {
            let is_required = required.contains(&name.as_str());
            if *schema == Value::Bool(false) {
                if is_required {
                    return Err(format!("the property {name:?} is required and not allowed"));
                }
                continue;
            }
            members.push(Member { name, value: self.value(schema)?, is_required });
        }
        for name in required.iter().filter(|name| !properties.contains_key(**name)) {
            if *more == Value::Bool(false) {
                return Err(format!("the property {name:?} is required and not allowed"));
            }
            members.push(Member { name, value: self.value(more)?, is_required: true });
        }
        let more = if *more == Value::Bool(false) { None } else { Some(self.value(more)?) };
        // Names that are not allowed are taken as well.
        let taken: Vec<&str> = properties.keys().map(String::as_str).chain(required).collect();
        Ok(self.members(members, &taken, more.as_deref()))
    }

    /// An object whose property names follow a schema of their own.
    fn named_object(
        &mut self,
        schema: &Value,
        properties: &Map<String, Value>,
        names: &Value,
        more: &Value,
    ) -> Result<String, String> {
        let listed = names.get("enum").and_then(Value::as_array);
        if let (Some(listed), true) = (listed, properties.is_empty()) {
            let mut fields = schema.as_object().cloned().unwrap_or_default();
            fields.remove("propertyNames");
            let listed = listed.iter().filter_map(Value::as_str).map(|name| (name.to_owned(), more.clone()));
            fields.insert("properties".into(), Value::Object(listed.collect()));
            fields.insert("additionalProperties".into(), false.into());
            return self.object(schema, &fields);
        }
        if !properties.is_empty() || schema.get("required").is_some() || *more == Value::Bool(false) {
            return Err("propertyNames is supported without properties, required and additionalProperties only".into());
        }
        let (name, value) = (self.value(names)?, self.value(more)?);
        let member = format!("{name} {} {value}", self.colon());
        let members = format!("{member} ({} {member})*", self.comma());
        Ok(self.enclosed("{", &members, "}", true))
    }

    /// An object of `members`, and of any others with the value `more`, whose names are not `taken`.
    pub(super) fn members(&mut self, members: Vec<Member<'_>>, taken: &[&str], more: Option<&str>) -> String {
        let (comma, colon) = (self.comma(), self.colon());
        let others = more.map(|value| {
            let mut name = self.any_string();
            if !taken.is_empty() {
                let taken: Vec<String> = taken.iter().map(|name| literal(&Value::from(*name).to_string())).collect();
                name = self.lark.terminal(&format!("{name} & ~{}", one_of(&taken)));
            }
            let head = self.lark.terminal(&format!("{name} {colon}"));
            self.lark.rule(&format!("{head} {value}"))
        });
        // Backwards. `after`: what may follow something, `first`: what may come where nothing was before.
        let mut after = others.as_ref().map_or_else(String::new, |other| format!("({comma} {other})*"));
        let mut first = others.map(|other| self.lark.rule(&format!("{other} {after}")));
        let mut may_be_empty = true;
        for member in members.iter().rev() {
            let name = literal(&Value::from(member.name).to_string());
            let head = self.lark.terminal(&format!("{name} {colon}"));
            let this = self.lark.rule(&format!("{head} {}", member.value));
            let begins = self.lark.rule(&format!("{this} {after}"));
            first = Some(match first {
                Some(later) if !member.is_required => self.lark.rule(&format!("{begins} | {later}")),
                _ => begins,
            });
            let mark = if member.is_required { "" } else { "?" };
            after = self.lark.rule(&format!("({comma} {this}){mark} {after}"));
            may_be_empty &= !member.is_required;
        }
        match first {
            Some(first) => self.enclosed("{", &first, "}", may_be_empty),
            None => self.enclosed("{", "", "}", true),
        }
    }
}

/// A property with its own name.
pub(super) struct Member<'n> {
    name: &'n str,
    value: String,
    is_required: bool,
}

/// Whether a schema of names allows every name.
pub(super) fn is_harmless_name(names: &Value) -> bool {
    match names {
        Value::Bool(any) => *any,
        Value::Object(fields) => {
            let says_text = |(key, value): (&String, &Value)| {
                !is_keyword(key) && (key != "type" || *value == "string")
                    || key == "format" && !value.as_str().is_some_and(|format| FORMATS.contains(&format))
            };
            fields.iter().all(says_text)
        }
        _ => false,
    }
}

fn check_most(what: &str, count: usize, most: usize) -> Result<(), String> {
    if count > most {
        return Err(format!("an object has {count} {what}; at most {most} are supported"));
    }
    Ok(())
}
