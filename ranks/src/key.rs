//! [`NodeKey`]: the secret that the nodes of one network share, and the proof of knowing it.
//!
//! Source: RFC 2104, "HMAC: Keyed-Hashing for Message Authentication".

use std::{fmt, fs::File, io::Read};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Bytes of a proof.
pub(crate) const PROOF: usize = 32;

/// Bytes of what one node asks the other to prove the key on.
pub(crate) const NONCE: usize = 32;

/// Bytes that SHA-256 takes at once.
const BLOCK: usize = 64;

/// The secret of a network's nodes. It never goes over the wire.
#[derive(Clone)]
pub struct NodeKey([u8; 32]);

impl NodeKey {
    /// That of `secret`; an empty one keeps nobody out.
    pub fn new(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// What only those who know the key can make of `parts`.
    pub(crate) fn prove(&self, parts: &[&[u8]]) -> [u8; PROOF] {
        let pad = |with: u8| {
            let mut block = [with; BLOCK];
            block.iter_mut().zip(self.0).for_each(|(byte, key)| *byte ^= key);
            block
        };
        let mut inner = Sha256::new_with_prefix(pad(0x36));
        for part in parts {
            // Where one part ends and the next begins is part of the message.
            inner.update((part.len() as u64).to_le_bytes());
            inner.update(part);
        }
        Sha256::new_with_prefix(pad(0x5c)).chain_update(inner.finalize()).finalize().into()
    }

    /// Whether `proof` is that of `parts`; takes as long for any.
    pub(crate) fn checks(&self, parts: &[&[u8]], proof: &[u8]) -> bool {
        self.prove(parts).as_slice().ct_eq(proof).into()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(***)")
    }
}

/// Bytes that nobody can guess.
///
/// # Errors
/// If the system has none.
pub(crate) fn nonce() -> std::io::Result<[u8; NONCE]> {
    let mut bytes = [0; NONCE];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_one_of_this_key_and_these_parts() {
        let key = NodeKey::new(b"secret");
        let proof = key.prove(&[b"ab", b"c"]);
        assert!(key.checks(&[b"ab", b"c"], &proof));
        assert!(!key.checks(&[b"a", b"bc"], &proof));
        assert!(!key.checks(&[b"ab", b"c"], &proof[1..]));
        assert!(!NodeKey::new(b"another").checks(&[b"ab", b"c"], &proof));
        assert_ne!(nonce().unwrap(), nonce().unwrap());
        assert!(!format!("{key:?}").contains("secret"));
    }
}
