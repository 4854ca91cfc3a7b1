//! Ids of requests: a client's own, or new ones.

use uuid::Uuid;

use crate::protocol::{ApiError, scalar::Texts};

/// Longest request id that a client may choose.
const MAX_ID_BYTES: usize = 256;

/// The request's own id, or a new one of 32 hexadecimal digits.
///
/// # Errors
/// If the id is empty or too long.
pub fn request_id(given: Option<&Texts>) -> Result<String, ApiError> {
    let id = match given.map(|Texts(list)| list.as_slice()) {
        None | Some([]) => return Ok(new_id()),
        Some([id]) => id,
        Some(_) => return Err(ApiError::invalid("rid: one id is wanted; prompts are numbered from it.").about("rid")),
    };
    check_id(id)?;
    Ok(id.clone())
}

/// Refuse an id that is empty or too long.
///
/// # Errors
/// If it is.
pub fn check_id(id: &str) -> Result<(), ApiError> {
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        let message = format!("rid: an id of 1 to {MAX_ID_BYTES} bytes is wanted, not {} bytes.", id.len());
        return Err(ApiError::invalid(message).about("rid"));
    }
    Ok(())
}

/// A new id: 32 hexadecimal digits.
pub fn new_id() -> String {
    Uuid::new_v4().simple().to_string()
}
