//! [`ResponseStore`]: answers of `/v1/responses` that later requests may go on from.
//!
//! In memory and bounded, by number and by bytes. Where there is no room, the oldest answer of the owner that has most
//! goes first, so that no key pushes out what others have. A client that wants more patience sends its history itself.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use quern_engine::Aborter;
use serde_json::Value;

use crate::{
    caller::Owner,
    offload::{LARGE_BYTES, discard},
};

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
    by_id: HashMap<OwnedId, Arc<StoredResponse>>,
    oldest_first: VecDeque<OwnedId>,
    /// Whose answer has the item of this id, and where among its output.
    items: HashMap<OwnedId, (OwnedId, usize)>,
    bytes: usize,
    /// Of those owners that have any.
    owners: HashMap<Owner, OwnerShare>,
}

/// What an owner has in the store.
#[derive(Clone, Copy, Debug, Default)]
struct OwnerShare {
    entries: usize,
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
    /// Its size as JSON.
    bytes: usize,
}

impl ResponseStore {
    /// An empty store of at most `max_entries` answers and `max_bytes` of JSON.
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { max_entries, max_bytes, kept: Mutex::default(), under_way: Mutex::default() }
    }

    /// Keep an answer. One that is larger than the whole store is not kept, nor is one for which only answers of others
    /// could make room, who have less than its owner would.
    pub fn insert(&self, owner: &Owner, id: String, response: StoredResponse) {
        let bytes = response.bytes;
        if self.max_entries == 0 || bytes > self.max_bytes {
            tracing::debug!("{id} is not stored: it has {bytes} bytes (--response-store-bytes {})", self.max_bytes);
            return;
        }
        let id = (owner.clone(), id);
        let mut kept = self.lock();
        let mut removed = Vec::from_iter(kept.remove(&id));
        let new = OwnerShare { entries: 1, bytes };
        let most = OwnerShare { entries: self.max_entries, bytes: self.max_bytes };
        let Some(leaving) = kept.leaving_for(owner, new, most) else {
            tracing::debug!("{} is not stored: the other owners have less", id.1);
            return;
        };
        removed.extend(leaving.iter().filter_map(|old| kept.remove(old)));
        kept.bytes += bytes;
        let share = kept.owners.entry(owner.clone()).or_default();
        *share = share.with(new);
        kept.oldest_first.push_back(id.clone());
        for (index, item) in response.item_ids() {
            kept.items.insert((owner.clone(), item.to_owned()), (id.clone(), index));
        }
        kept.by_id.insert(id, Arc::new(response));
        drop(kept);
        removed.into_iter().for_each(free);
    }

    /// The answer of this id.
    pub fn get(&self, owner: &Owner, id: &str) -> Option<Arc<StoredResponse>> {
        self.lock().by_id.get(&(owner.clone(), id.to_owned())).map(Arc::clone)
    }

    /// Forget it. Says whether it was there.
    pub fn remove(&self, owner: &Owner, id: &str) -> bool {
        let removed = self.lock().remove(&(owner.clone(), id.to_owned()));
        removed.map(free).is_some()
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
        let (response, index) = {
            let kept = self.lock();
            let (response, index) = kept.items.get(&(owner.clone(), id.to_owned()))?;
            (Arc::clone(kept.by_id.get(response)?), *index)
        };
        response.object["output"].get(index).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn remove(&mut self, id: &OwnedId) -> Option<Arc<StoredResponse>> {
        let response = self.by_id.remove(id)?;
        for (_, item) in response.item_ids() {
            let item = (id.0.clone(), item.to_owned());
            if self.items.get(&item).is_some_and(|(whose, _)| whose == id) {
                self.items.remove(&item);
            }
        }
        self.bytes -= response.bytes;
        self.oldest_first.retain(|other| other != id);
        let share = self.owners.get_mut(&id.0).expect("an owner of an answer has a share");
        *share = share.without(OwnerShare { entries: 1, bytes: response.bytes });
        if share.entries == 0 {
            self.owners.remove(&id.0);
        }
        Some(response)
    }

    /// The answers that leave so that one of `owner` with `new` has room: while there are too many, or too many bytes, the
    /// oldest of the owner that has most of them; of several such owners the oldest of all. None if `owner` alone comes
    /// to have most and has no answer left that could leave.
    fn leaving_for(&self, owner: &Owner, new: OwnerShare, most: OwnerShare) -> Option<Vec<OwnedId>> {
        let mut all = OwnerShare { entries: self.by_id.len(), bytes: self.bytes }.with(new);
        if all.fits(most) {
            return Some(Vec::new());
        }
        let mut shares = self.owners.clone();
        let own = shares.entry(owner.clone()).or_default();
        *own = own.with(new);
        let mut staying: Vec<&OwnedId> = self.oldest_first.iter().collect();
        let mut leaving = Vec::new();
        while !all.fits(most) {
            let size = |whose: &Owner| {
                let share = shares[whose];
                if all.entries > most.entries { share.entries } else { share.bytes }
            };
            let largest = shares.keys().map(size).max()?;
            let index = staying.iter().position(|(whose, _)| size(whose) == largest)?;
            let old = staying.remove(index);
            let less = OwnerShare { entries: 1, bytes: self.by_id[old].bytes };
            all = all.without(less);
            shares.entry(old.0.clone()).and_modify(|share| *share = share.without(less));
            leaving.push(old.clone());
        }
        Some(leaving)
    }
}

impl OwnerShare {
    fn with(self, more: Self) -> Self {
        Self { entries: self.entries + more.entries, bytes: self.bytes + more.bytes }
    }

    fn fits(self, most: Self) -> bool {
        self.entries <= most.entries && self.bytes <= most.bytes
    }

    fn without(self, less: Self) -> Self {
        Self { entries: self.entries - less.entries, bytes: self.bytes - less.bytes }
    }
}

impl StoredResponse {
    /// An answer and what led to it.
    pub fn new(object: Value, messages: Vec<Value>, tools: Vec<Value>, input: Vec<Value>) -> Self {
        let parts = messages.iter().chain(&tools).chain(&input);
        let bytes = json_bytes(&object) + parts.map(json_bytes).sum::<usize>();
        Self { object, messages, tools, input, bytes }
    }

    /// Its size as JSON.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The ids of its output's items, each with its place.
    fn item_ids(&self) -> impl Iterator<Item = (usize, &str)> {
        let items = self.object["output"].as_array().into_iter().flatten().enumerate();
        items.filter_map(|(index, item)| Some((index, item["id"].as_str()?)))
    }
}

fn json_bytes(value: &Value) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("counting does not fail");
    count.0
}

/// Drop an answer that is no longer kept.
fn free(response: Arc<StoredResponse>) {
    if response.bytes > LARGE_BYTES {
        discard(response);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn response(bytes: usize) -> StoredResponse {
        // Two quotes belong to it.
        StoredResponse::new("x".repeat(bytes - 2).into(), Vec::new(), Vec::new(), Vec::new())
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
    fn no_owner_pushes_out_what_others_have() {
        let [red, blue] = ["red", "blue"].map(|name| Some(name.into()));
        let ids = |store: &ResponseStore, owner: &Owner| {
            ('a'..='z').filter(|id| store.get(owner, &id.to_string()).is_some()).collect::<String>()
        };
        for (store, bytes) in [(ResponseStore::new(4, 1000), 10), (ResponseStore::new(100, 40), 10)] {
            store.insert(&blue, "a".into(), response(bytes));
            for id in ["a", "b", "c", "d", "e"] {
                store.insert(&red, id.into(), response(bytes));
            }
            assert_eq!((ids(&store, &red).as_str(), ids(&store, &blue).as_str()), ("cde", "a"));
            for id in ["b", "c", "d"] {
                store.insert(&blue, id.into(), response(bytes));
            }
            assert_eq!((ids(&store, &red).as_str(), ids(&store, &blue).as_str()), ("de", "cd"), "each has a half");
        }
        // One large answer takes no more than its owner may have beside others, either.
        let store = ResponseStore::new(100, 100);
        store.insert(&blue, "a".into(), response(30));
        store.insert(&red, "a".into(), response(80));
        assert_eq!((ids(&store, &red).as_str(), ids(&store, &blue).as_str()), ("", "a"));
        store.insert(&red, "b".into(), response(70));
        store.insert(&blue, "b".into(), response(31));
        assert_eq!((ids(&store, &red).as_str(), ids(&store, &blue).as_str()), ("", "ab"));
        // What is not kept after all has pushed out nothing of its owner's, either.
        store.insert(&red, "c".into(), response(30));
        store.insert(&red, "d".into(), response(62));
        assert_eq!((ids(&store, &red).as_str(), ids(&store, &blue).as_str()), ("c", "ab"));
        store.remove(&red, "c");
        store.remove(&blue, "a");
        store.remove(&blue, "b");
        let kept = store.lock();
        assert!(kept.owners.is_empty() && kept.bytes == 0 && kept.oldest_first.is_empty());
    }

    #[test]
    fn parts_of_answers_are_found_by_their_ids() {
        let store = ResponseStore::new(3, 1000);
        let item = json!({"id": "msg_1", "type": "message"});
        store.insert(
            &None,
            "a".into(),
            StoredResponse::new(json!({"output": [item]}), Vec::new(), Vec::new(), Vec::new()),
        );
        assert_eq!(store.item(&None, "msg_1").as_ref(), Some(&item));
        assert_eq!(store.item(&None, "msg_2"), None);
        store.remove(&None, "a");
        assert!(store.item(&None, "msg_1").is_none() && store.lock().items.is_empty());
        store.insert(
            &None,
            "a".into(),
            StoredResponse::new(json!({"output": [item]}), Vec::new(), Vec::new(), Vec::new()),
        );
        assert_eq!(store.item(&None, "msg_1"), Some(item));
        let other = Some("key:other".into());
        assert!(
            store.item(&other, "msg_1").is_none() && store.get(&other, "a").is_none() && !store.remove(&other, "a")
        );
    }
}
