//! The campaign: the real program with the model that it brings, under load, killed, drained, starved and hung up on. Each
//! experiment is a row of a table; `docs/reliability.md` has the last one.
//!
//! `./test campaign [MINUTES]` runs it at full size with a soak of so many minutes; the ordinary tests run it small, so that
//! it keeps working. `QUERN_BIN` names another program than the one that was just built.

mod ends;
mod limits;
mod process;
mod requests;
mod soak;
mod streams;
mod table;

use std::time::Duration;

use table::{Row, Table};

/// How much of everything.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) soak: Duration,
    /// Requests at once during the soak.
    pub(crate) concurrency: usize,
    pub(crate) kills: usize,
    pub(crate) drains: usize,
    pub(crate) streams: usize,
    pub(crate) slow_readers: usize,
    pub(crate) idle_sockets: usize,
}

impl Scale {
    fn full(minutes: f64) -> Self {
        let soak = Duration::from_secs_f64(minutes * 60.0);
        Self { soak, concurrency: 32, kills: 50, drains: 50, streams: 4096, slow_readers: 200, idle_sockets: 2000 }
    }

    fn small() -> Self {
        let soak = Duration::from_secs(3);
        Self { soak, concurrency: 8, kills: 2, drains: 2, streams: 48, slow_readers: 8, idle_sockets: 100 }
    }
}

type Experiment = fn(Scale) -> Row;

/// The experiments that are chosen by their names, one after the other.
fn run(scale: Scale, is_chosen: impl Fn(&str) -> bool) -> Table {
    let experiments: &[(&str, Experiment)] = &[
        ("mixed requests", soak::soak),
        ("kill -9 and start", ends::kills),
        ("SIGTERM under load", ends::drains),
        ("streams at once", streams::many),
        ("slow readers", streams::slow_readers),
        ("idle sockets", streams::idle_sockets),
        ("a paused process", ends::pauses),
        ("log on a full disk", limits::full_log),
        ("log that nobody reads", limits::stuck_log),
        ("log whose reader is gone", limits::closed_log),
        ("kept files on a full disk", limits::full_disk),
        ("few open files", limits::files),
        ("few threads", limits::threads),
        ("little memory", limits::memory),
    ];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let mut table = Table::default();
    for (name, experiment) in experiments {
        if is_chosen(name) {
            let row = experiment(scale);
            eprintln!("{name}: {}", row.words());
            table.push(name, row);
        }
    }
    table
}

#[test]
#[ignore = "takes a machine for itself: ./test campaign"]
fn campaign() {
    let minutes = std::env::var("QUERN_CAMPAIGN_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(10.0);
    let only = std::env::var("QUERN_CAMPAIGN_ONLY").ok();
    let table = run(Scale::full(minutes), |name| only.as_deref().is_none_or(|only| name.contains(only)));
    println!("{table}");
    assert!(table.has_held(), "an experiment failed; see the table");
}

#[test]
fn a_small_campaign_holds() {
    let table = run(Scale::small(), |_| true);
    println!("{table}");
    assert!(table.has_held(), "an experiment failed:\n{table}");
}
