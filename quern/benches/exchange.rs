//! How long one sum over two ranks takes: in the memory of a process, over sockets on loopback, and by the MPI of each
//! `mpirun` that is here, within this machine.
//!
//! `cargo bench -p quern --bench exchange` prints a table: microseconds, the median and the 10th to 90th hundredth. `QUERN_MPIRUN` names
//! another launcher with its flags. For each launcher this program is started again, twice, by it.

use std::{
    env,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use quern_backend::{Collective, Precision};
use quern_cpu::{CpuBackend, CpuConfig};
use quern_ranks::{
    HostRecord, Introduction, Launcher, MeetingPlace, Mpi, NodeKey, NodePosition, NodeRank, Rendezvous, introduce,
};

/// Floats of a sum: a token of Qwen3-Coder-30B, of 480B, and steps of 16 and of 48 tokens.
const SIZES: [usize; 4] = [2048, 6144, 98_304, 294_912];

/// The launchers of Debian's packages.
const LAUNCHERS: [&str; 2] =
    ["mpirun.openmpi --allow-run-as-root --oversubscribe --bind-to none -np 2", "mpirun.mpich -np 2"];

const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let variable = |name: &str| env::var(name).ok();
    if let Some(launcher) = Launcher::find(variable, None).expect("a launcher that makes sense") {
        return launched(&launcher);
    }
    println!("| transport | {} |", SIZES.map(|size| format!("{size} floats")).join(" | "));
    println!("|---|{}", "--:|".repeat(SIZES.len()));
    let config = CpuConfig { threads: Some(2), isa: None, precision: Precision::F32 };
    let team = CpuBackend::ranks(config, 2).expect("two ranks").into_iter();
    let team: Vec<_> = team.map(|rank| rank.collective().expect("one of two")).collect();
    together("two threads, shared memory", team);
    let listener = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    let address = listener.local_addr().expect("an address");
    let places = [MeetingPlace::Open(listener), MeetingPlace::Told(vec![address])];
    let nodes = places.into_iter().enumerate().map(|(index, place)| {
        thread::spawn(move || node(NodePosition { index, count: 2 }, NodeKey::new(b"bench"), place, None))
    });
    let nodes: Vec<_> = nodes.collect();
    together("sockets, loopback", nodes.into_iter().map(|node| node.join().expect("a node")).collect());
    let others = LAUNCHERS.map(str::to_owned).into_iter().chain(env::var("QUERN_MPIRUN"));
    for line in others {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a launcher"));
        let done = command.args(words).arg(env::current_exe().expect("this program")).status();
        match done {
            Ok(status) if status.success() => {}
            Ok(status) => println!("{line}: {status}"),
            Err(error) => println!("{line}: {error}"),
        }
    }
}

/// One node that has met the other one.
fn node(node: NodePosition, key: NodeKey, place: MeetingPlace, mpi: Option<Arc<Mpi>>) -> Arc<dyn Collective> {
    let (num_pages, max_tokens, settings) = (1, 1, Vec::new());
    let rendezvous = Rendezvous { node, ranks: 1, place, mpi, key, limit: LIMIT, num_pages, max_tokens, settings };
    let (peers, _) = rendezvous.join(|_| {}).expect("the other node");
    Arc::new(NodeRank::new(None, Arc::new(peers)))
}

/// One of the two processes of a launcher; the first prints its line.
fn launched(launcher: &Launcher) {
    let mpi = Mpi::start(launcher, LIMIT).expect("the launcher's library");
    let own = HostRecord::of_this_process([]);
    let Introduction { key, place, .. } = introduce(&mpi, &own, None, LIMIT).expect("the other process");
    let rank = node(mpi.node(), key, place, Some(Arc::clone(&mpi)));
    let line = measure(&*rank);
    if mpi.node().index == 0 {
        println!("| MPI, shared memory ({}) | {line} |", mpi.library());
    }
    mpi.end(LIMIT).expect("an end in peace");
}

fn together(name: &str, ranks: Vec<Arc<dyn Collective>>) {
    let ranks: Vec<_> = ranks.into_iter().map(|rank| thread::spawn(move || measure(&*rank))).collect();
    let lines: Vec<_> = ranks.into_iter().map(|rank| rank.join().expect("a rank")).collect();
    println!("| {name} | {} |", lines[0]);
}

/// Microseconds of a sum of each size.
fn measure(rank: &dyn Collective) -> String {
    let cells = SIZES.map(|size| {
        let mut values = vec![1e-3; size];
        let rounds = (40_000_000 / size).clamp(300, 5000);
        let mut times: Vec<f64> = (0..rounds + rounds / 10)
            .map(|_| {
                let begin = Instant::now();
                rank.all_reduce(&mut values).expect("a sum");
                let elapsed = begin.elapsed().as_secs_f64() * 1e6;
                values.iter_mut().for_each(|value| *value *= 0.5);
                elapsed
            })
            .skip(rounds / 10)
            .collect();
        times.sort_by(f64::total_cmp);
        let of = |share: f64| times[(times.len() as f64 * share) as usize];
        format!("{:.1} ({:.1}–{:.1})", of(0.5), of(0.1), of(0.9))
    });
    cells.join(" | ")
}
