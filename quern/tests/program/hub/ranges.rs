//! Large files over several connections.

use std::{path::Path, sync::Arc, time::Duration};

use quern::hub::{Hub, HubError, HubOptions};

use super::{
    fake::{FakeHub, Mood, SHARD, Setup, hex_sha256, start, weights},
    fetch_all, model,
};

const RANGE: usize = 100_000;

async fn fetch(address: &str, cache: &Path) -> Result<Vec<u8>, HubError> {
    let hub = Hub::new(HubOptions {
        endpoint: address.to_owned(),
        token: None,
        cache_dir: cache.to_owned(),
        offline: false,
        range_bytes: RANGE as u64,
        retry_delay: Duration::ZERO,
    })?;
    let dir = fetch_all(&hub, &model(), None).await?;
    Ok(std::fs::read(dir.join(SHARD)).unwrap())
}

/// First and last bytes of the ranges that the content network was asked for, in their order in the file, and how often
/// the hub was asked for the file.
fn asked(state: &Arc<FakeHub>) -> (Vec<(usize, usize)>, usize) {
    let requests = state.requests();
    let content = requests.iter().filter_map(|line| line.strip_prefix(&format!("CONTENT {SHARD} bytes=")));
    let mut ranges: Vec<(usize, usize)> = content
        .map(|range| range.split_once('-').unwrap())
        .map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap_or(weights().len() - 1)))
        .collect();
    ranges.sort_unstable();
    (ranges, requests.iter().filter(|line| **line == format!("GET {SHARD}")).count())
}

fn ranges(from: usize) -> Vec<(usize, usize)> {
    (from..weights().len()).step_by(RANGE).map(|first| (first, (first + RANGE).min(weights().len()) - 1)).collect()
}

#[tokio::test]
async fn a_large_file_comes_in_ranges_and_the_hub_is_not_asked_for_each() {
    let (state, address) = start(Setup::default()).await;
    let cache = tempfile::tempdir().unwrap();
    assert!(fetch(&address, cache.path()).await.unwrap() == weights());
    let (found, hub) = asked(&state);
    assert_eq!(found, ranges(0), "each once");
    assert!((1..=4).contains(&hub), "{hub}");
}

#[tokio::test]
async fn a_range_that_breaks_off_goes_on_where_it_stopped() {
    let moods = vec![Mood::Fine, Mood::BreakAfter(30_000), Mood::Overloaded, Mood::BreakAfter(0)];
    let (state, address) = start(Setup { moods, ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    assert!(fetch(&address, cache.path()).await.unwrap() == weights());
    let (found, _) = asked(&state);
    assert_eq!(found.len(), ranges(0).len() + 3, "{found:?}");
    assert!(found.iter().any(|(first, _)| first % RANGE == 30_000), "{found:?}");
}

#[tokio::test]
async fn what_broke_off_for_good_is_a_beginning_that_the_next_start_goes_on_from() {
    let (state, address) = start(Setup { limit: Some(350_000), ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&address, cache.path()).await.unwrap_err();
    assert!(matches!(error, HubError::Broken { done_bytes: 350_000, total_bytes: 1_200_000, .. }), "{error}");
    let blobs = cache.path().join("models--owner--model/blobs");
    let incomplete = blobs.join(format!("{}.incomplete", hex_sha256(&weights())));
    assert!(std::fs::read(incomplete).unwrap() == weights()[..350_000], "any program can go on from there");
    state.requests();
    *state.limit.lock().unwrap() = None;
    assert!(fetch(&address, cache.path()).await.unwrap() == weights());
    assert_eq!(asked(&state).0, ranges(350_000));
}

#[tokio::test]
async fn a_server_without_ranges_is_read_from_the_beginning() {
    let (_, address) = start(Setup { moods: vec![Mood::IgnoreRange; 20], ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    assert!(fetch(&address, cache.path()).await.unwrap() == weights());
}

#[tokio::test]
async fn an_address_that_has_expired_is_asked_for_again() {
    let (state, address) = start(Setup { address_uses: 2, ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    assert!(fetch(&address, cache.path()).await.unwrap() == weights());
    let (_, hub) = asked(&state);
    assert!(hub >= ranges(0).len() / 2, "{hub}");
}

#[tokio::test]
async fn damage_in_a_range_is_found() {
    let (_, address) = start(Setup { moods: vec![Mood::Damage; 12], ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    assert!(fetch(&address, cache.path()).await.unwrap() == weights());
}
