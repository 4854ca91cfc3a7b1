//! [`NodeKey`]: the secret that the nodes of one network share, and the proof of knowing it.

use std::{fmt, fs::File, io::Read};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Bytes of a proof.
pub(crate) const PROOF: usize = 32;

/// Bytes of what one node asks the other to prove the key on.
pub(crate) const NONCE: usize = 32;

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
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Whether `proof` is that of `parts`; takes as long for any.
    pub(crate) fn checks(&self, parts: &[&[u8]], proof: &[u8]) -> bool {
        self.mac(parts).verify_slice(proof).is_ok()
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(&self.0).expect("keys of any length are taken");
        for part in parts {
            // Where one part ends and the next begins is part of the message.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
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
