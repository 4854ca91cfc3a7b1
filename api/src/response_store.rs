//! [`ResponseStore`]: answers of `/v1/responses` that later requests may go on from.
//!
//! In memory and bounded, by number and by bytes; the oldest go first. A client that wants more patience
//! sends its history itself.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use quern_engine::Aborter;
use serde_json::Value;

use crate::caller::Owner;

/// Whose an answer is, and its id: nobody else finds it.
type OwnedId = (Owner, String);

/// The answers that are kept.
#[derive(Debug)]
pub struct ResponseStore {
    max_entries: usize,
    max_bytes: usize,
    kept: Mutex<Kept>,
    /// Answers that will be kept once they have ended, and how to abort them.
    under_way: Mutex<HashMap<OwnedId, Vec<Aborter>>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Each with its size as JSON.
    by_id: HashMap<OwnedId, (Arc<StoredResponse>, usize)>,
    oldest_first: VecDeque<OwnedId>,
    bytes: usize,
}

/// An answer and what led to it.
#[derive(Debug)]
pub struct StoredResponse {
    /// The answer, as its client got it.
    pub object: Value,
    /// The conversation as chat messages, this answer included, instructions excluded: those are said anew
    /// with every request.
    pub messages: Vec<Value>,
    /// Tools that came with the conversation rather than with a request.
    pub tools: Vec<Value>,
    /// The items of the request's input.
    pub input: Vec<Value>,
}

impl ResponseStore {
    /// An empty store of at most `max_entries` answers and `max_bytes` of JSON.
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { max_entries, max_bytes, kept: Mutex::default(), under_way: Mutex::default() }
    }

    /// Keep an answer. One that is larger than the whole store is not kept.
    pub fn insert(&self, owner: &Owner, id: String, response: StoredResponse) {
        let bytes = response.bytes();
        if self.max_entries == 0 || bytes > self.max_bytes {
            tracing::debug!("{id} is not stored: it has {bytes} bytes (--response-store-bytes {})", self.max_bytes);
            return;
        }
        let id = (owner.clone(), id);
        let mut kept = self.lock();
        kept.remove(&id);
        while kept.by_id.len() >= self.max_entries || kept.bytes + bytes > self.max_bytes {
            let oldest = kept.oldest_first.front().cloned().expect("what is over a limit is not empty");
            kept.remove(&oldest);
        }
        kept.bytes += bytes;
        kept.oldest_first.push_back(id.clone());
        kept.by_id.insert(id, (Arc::new(response), bytes));
    }

    /// The answer of this id.
    pub fn get(&self, owner: &Owner, id: &str) -> Option<Arc<StoredResponse>> {
        self.lock().by_id.get(&(owner.clone(), id.to_owned())).map(|(response, _)| Arc::clone(response))
    }

    /// Forget it. Says whether it was there.
    pub fn remove(&self, owner: &Owner, id: &str) -> bool {
        self.lock().remove(&(owner.clone(), id.to_owned()))
    }

    /// An answer that will be kept is under way, until [`ended`](Self::ended).
    pub fn begun(&self, owner: &Owner, id: &str, aborters: Vec<Aborter>) {
        let id = (owner.clone(), id.to_owned());
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(id, aborters);
    }

    /// It has ended, or its client has gone.
    pub fn ended(&self, owner: &Owner, id: &str) {
        let id = (owner.clone(), id.to_owned());
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Abort the answer of exactly this id. Says whether it was under way.
    pub fn cancel(&self, owner: &Owner, id: &str) -> bool {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(aborters) = under_way.get(&(owner.clone(), id.to_owned())) else { return false };
        aborters.iter().for_each(Aborter::abort);
        true
    }

    /// The part of this id of any of the owner's answers.
    pub fn item(&self, owner: &Owner, id: &str) -> Option<Value> {
        let kept = self.lock();
        let own = kept.by_id.iter().filter(|((whose, _), _)| whose == owner).map(|(_, (response, _))| response);
        let mut items = own.filter_map(|response| response.object["output"].as_array()).flatten();
        items.find(|item| item["id"] == id).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn remove(&mut self, id: &OwnedId) -> bool {
        let Some((_, bytes)) = self.by_id.remove(id) else { return false };
        self.bytes -= bytes;
        self.oldest_first.retain(|other| other != id);
        true
    }
}

impl StoredResponse {
    /// Its size as JSON.
    fn bytes(&self) -> usize {
        let json = |value: &Value| serde_json::to_vec(value).map_or(0, |json| json.len());
        json(&self.object) + self.messages.iter().chain(&self.tools).chain(&self.input).map(json).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn response(bytes: usize) -> StoredResponse {
        // Two quotes belong to it.
        StoredResponse {
            object: "x".repeat(bytes - 2).into(),
            messages: Vec::new(),
            tools: Vec::new(),
            input: Vec::new(),
        }
    }

    #[test]
    fn the_oldest_make_room_by_number_and_by_bytes() {
        let store = ResponseStore::new(3, 100);
        for id in ["a", "b", "c", "d"] {
            store.insert(&None, id.into(), response(10));
        }
        let ids = |store: &ResponseStore| {
            ["a", "b", "c", "d", "e", "f"].into_iter().filter(|id| store.get(&None, id).is_some()).collect::<String>()
        };
        assert_eq!(ids(&store), "bcd");
        store.insert(&None, "e".into(), response(85));
        assert_eq!(ids(&store), "de");
        store.insert(&None, "f".into(), response(101));
        assert_eq!(ids(&store), "de", "what never fits pushes nothing out");
        assert!(store.remove(&None, "e") && !store.remove(&None, "e"));
        assert_eq!(store.lock().bytes, 10);
        store.insert(&None, "d".into(), response(20));
        assert_eq!((ids(&store).as_str(), store.lock().bytes), ("d", 20), "an id is kept once");
        ResponseStore::new(0, 100).insert(&None, "a".into(), response(10));
    }

    #[test]
    fn parts_of_answers_are_found_by_their_ids() {
        let store = ResponseStore::new(3, 1000);
        let item = json!({"id": "msg_1", "type": "message"});
        store.insert(
            &None,
            "a".into(),
            StoredResponse {
                object: json!({"output": [item]}),
                messages: Vec::new(),
                tools: Vec::new(),
                input: Vec::new(),
            },
        );
        assert_eq!(store.item(&None, "msg_1"), Some(item));
        assert_eq!(store.item(&None, "msg_2"), None);
        let other = Some("key:other".into());
        assert!(
            store.item(&other, "msg_1").is_none() && store.get(&other, "a").is_none() && !store.remove(&other, "a")
        );
    }
}
