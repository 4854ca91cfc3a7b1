//! From the messages and tools of a chat request to what templates expect.

mod messages;
pub mod parameters;
pub mod part;
pub mod past_call;

pub use messages::{ConversationError, TemplateMessages, messages, tools};
pub use part::ContentPart;
