//! [`Hello`] and [`Welcome`]: what two nodes tell each other of themselves when they connect.

use std::net::SocketAddr;

use crate::{
    NodePosition,
    key::NONCE,
    wire::{RecordReader, RecordWriter, WireError},
};

/// Changes with what goes over the wire.
const PROTOCOL: u32 = 1;

/// What a hello begins with, whatever the version.
const MAGIC: [u8; 8] = *b"quernrnk";

/// Most nodes of a network.
const MAX_NODES: usize = 1024;

/// Most settings that must agree, and most bytes of the name or the value of one.
const MAX_SETTINGS: usize = 64;
const MAX_TEXT: usize = 512;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// Signs of life, and what a node says of itself.
    Control,
    /// Steps and numbers.
    Data,
}

/// Who connects, and what must be alike on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The node that connects.
    pub node: NodePosition,
    /// What for.
    pub purpose: Purpose,
    /// Never the same twice.
    pub nonce: [u8; NONCE],
    /// Where it listens for the nodes behind it.
    pub port: u16,
    /// Pages of keys and values that it has memory for.
    pub num_pages: usize,
    /// Names, as an operator knows them, and values of all that must be alike.
    pub settings: Vec<(String, String)>,
}

impl Hello {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut record = RecordWriter::default();
        record.bytes(&MAGIC).u32(PROTOCOL).count(self.node.index).count(self.node.count);
        record.u32((self.purpose == Purpose::Data).into()).bytes(&self.nonce).u32(self.port.into());
        record.count(self.num_pages).count(self.settings.len());
        for (name, value) in &self.settings {
            record.text(name).text(value);
        }
        record.finish()
    }

    /// The hello that `record` is.
    ///
    /// # Errors
    /// If it is none, or one of another version.
    pub fn read(record: &[u8]) -> Result<Self, WireError> {
        let mut fields = RecordReader::new(record);
        if fields.array("protocol")? != MAGIC {
            return Err(WireError::new("protocol", "not that of Quern's nodes"));
        }
        match fields.u32("protocol")? {
            PROTOCOL => {}
            other => return Err(WireError::new("protocol", format!("version {other}, this one speaks {PROTOCOL}"))),
        }
        let (index, count) = (fields.count("node", MAX_NODES)?, fields.count("nodes", MAX_NODES)?);
        if index >= count {
            return Err(WireError::new("node", format!("{index} of {count}")));
        }
        let purpose = match fields.count("purpose", 1)? {
            0 => Purpose::Control,
            _ => Purpose::Data,
        };
        let nonce = fields.array("nonce")?;
        let port = fields.count("port", u16::MAX.into())? as u16;
        let num_pages = fields.count("pages", u32::MAX as usize)?;
        let settings = (0..fields.count("settings", MAX_SETTINGS)?).map(|_| {
            let name = fields.text("setting", MAX_TEXT)?.to_owned();
            Ok((name, fields.text("setting", MAX_TEXT)?.to_owned()))
        });
        let settings = settings.collect::<Result<_, WireError>>()?;
        fields.end()?;
        Ok(Self { node: NodePosition { index, count }, purpose, nonce, port, num_pages, settings })
    }

    /// What `other`, the hello of the node that was connected to, has otherwise, as a sentence for both operators.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        if self.node.count != other.node.count {
            let (a, b) = (self.node, other.node);
            return Some(format!("--nnodes is {} on node {} and {} on node {}", a.count, a.index, b.count, b.index));
        }
        let of = |hello: &Self, at: usize| hello.settings.get(at).cloned().unwrap_or_default();
        let most = self.settings.len().max(other.settings.len());
        let at = (0..most).find(|at| of(self, *at) != of(other, *at))?;
        let ((name, value), (_, others)) = (of(self, at), of(other, at));
        Some(format!("{name} is {value} on node {} and {others} on node {}", self.node.index, other.node.index))
    }
}

/// What node 0 tells the others once all have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Pages of keys and values that all have memory for.
    pub num_pages: usize,
    /// Most tokens of a step, as node 0 decides.
    pub max_tokens: usize,
    /// Where each node listens, from node 1 on.
    pub addresses: Vec<SocketAddr>,
}

impl Welcome {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut record = RecordWriter::default();
        record.count(self.num_pages).count(self.max_tokens).count(self.addresses.len());
        for address in &self.addresses {
            record.text(&address.to_string());
        }
        record.finish()
    }

    /// The welcome that `record` is.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(record: &[u8]) -> Result<Self, WireError> {
        let mut fields = RecordReader::new(record);
        let num_pages = fields.count("pages", u32::MAX as usize)?;
        let max_tokens = fields.count("tokens", u32::MAX as usize)?;
        let addresses = (0..fields.count("addresses", MAX_NODES)?).map(|_| {
            let text = fields.text("address", 64)?;
            text.parse().map_err(|_| WireError::new("address", format!("`{text}` is none")))
        });
        let addresses = addresses.collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Self { num_pages, max_tokens, addresses })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn hello(index: usize, settings: &[(&str, &str)]) -> Hello {
        Hello {
            node: NodePosition { index, count: 2 },
            purpose: Purpose::Data,
            nonce: [7; NONCE],
            port: 4242,
            num_pages: 64,
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    #[test]
    fn what_nodes_tell_survives_the_wire_and_its_parts_are_none() {
        let hello = hello(1, &[("model", "a"), ("--dtype", "bfloat16")]);
        assert_eq!(Hello::read(&hello.write()), Ok(hello.clone()));
        let welcome = Welcome {
            num_pages: 9,
            max_tokens: 5,
            addresses: vec!["10.0.0.2:7".parse().unwrap(), "[::1]:8".parse().unwrap()],
        };
        assert_eq!(Welcome::read(&welcome.write()), Ok(welcome.clone()));
        for length in 0..hello.write().len() {
            assert!(Hello::read(&hello.write()[..length]).is_err(), "{length}");
        }
        for length in 0..welcome.write().len() {
            assert!(Welcome::read(&welcome.write()[..length]).is_err(), "{length}");
        }
        let mut newer = hello.write();
        newer[8] = 9;
        assert_eq!(Hello::read(&newer).unwrap_err().to_string(), "protocol: version 9, this one speaks 1");
    }

    #[test]
    fn what_differs_is_named_with_both_values() {
        let of = |value| hello(1, &[("model", "a"), ("--dtype", value)]);
        assert_eq!(of("float32").difference(&of("float32")), None);
        let leader = Hello { node: NodePosition { index: 0, count: 2 }, ..of("bfloat16") };
        let difference = of("float32").difference(&leader).unwrap();
        assert_eq!(difference, "--dtype is float32 on node 1 and bfloat16 on node 0");
        let of_three = Hello { node: NodePosition { index: 1, count: 3 }, ..leader.clone() };
        assert!(of_three.difference(&leader).unwrap().starts_with("--nnodes is 3 on node 1 and 2 on node 0"));
    }
}
