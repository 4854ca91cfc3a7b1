//! Nodes on loopback: sums with the bits of one process, refusals by name, and a node that is gone.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use quern_backend::{
    Collective, ForwardBatch,
    collective::{side_by_side, tree},
    conformance::Rng,
};
use quern_ranks::{
    MeetingPlace, NodeEvent, NodeKey, NodePosition, NodeRank, Peers, Rendezvous, RendezvousError, StepBounds, Welcome,
};

/// A free port of this machine. Another program may take it before it is used; the test would say so.
fn address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn rendezvous(index: usize, count: usize, address: &str) -> Rendezvous {
    Rendezvous {
        node: NodePosition { index, count },
        ranks: 1,
        place: MeetingPlace::Typed(address.to_owned()),
        mpi: None,
        key: NodeKey::new(b"key"),
        limit: Duration::from_secs(60),
        num_pages: 100 + index,
        max_tokens: 512 + index,
        settings: vec![("model".into(), "tiny".into()), ("--dtype".into(), "float32".into())],
    }
}

/// A node that has met the others, and what it hears of them.
struct Met {
    peers: Arc<Peers>,
    welcome: Welcome,
    heard: Receiver<NodeEvent>,
}

fn meet(count: usize) -> Vec<Met> {
    let address = address();
    let nodes = (0..count).map(|index| {
        let rendezvous = rendezvous(index, count, &address);
        thread::spawn(move || {
            let (sender, heard) = mpsc::channel();
            let (peers, welcome) = rendezvous.join(move |event| drop(sender.send(event))).unwrap();
            Met { peers: Arc::new(peers), welcome, heard }
        })
    });
    let nodes: Vec<_> = nodes.collect();
    nodes.into_iter().map(|node| node.join().unwrap()).collect()
}

/// What each rank makes of `f`, all at once.
fn together<T: Send>(ranks: &[NodeRank], f: impl Fn(&NodeRank) -> T + Sync) -> Vec<T> {
    let f = &f;
    thread::scope(|scope| {
        let threads: Vec<_> = ranks.iter().map(|rank| scope.spawn(move || f(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn sums_and_rows_are_those_of_one_process_on_any_number_of_nodes() {
    for count in [2, 3, 4] {
        let met = meet(count);
        assert!(met.iter().all(|met| met.welcome.num_pages == 100), "the least of all");
        assert!(met.iter().all(|met| met.welcome.max_tokens == 512), "that of node 0");
        let ranks: Vec<_> = met.iter().map(|met| NodeRank::new(None, Arc::clone(&met.peers))).collect();
        let mut numbers = Rng(7);
        for length in [1, 2048, 0, 300_000] {
            let parts: Vec<Vec<f32>> = (0..count).map(|_| numbers.values(length)).collect();
            let of: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
            let mut expected = vec![0.0; length];
            tree(&of, &mut expected);
            let sums = together(&ranks, |rank| {
                let mut values = parts[rank.rank().index].clone();
                rank.all_reduce(&mut values).unwrap();
                values
            });
            for sum in sums {
                assert!(sum.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{count} nodes, {length}");
            }
            let widths: Vec<usize> = (0..count).map(|index| length * (index + 1)).collect();
            let rows: Vec<Vec<f32>> = widths.iter().map(|width| vec![*width as f32; 2 * width]).collect();
            let mut expected = vec![0.0; 2 * widths.iter().sum::<usize>()];
            side_by_side(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), &widths, &mut expected);
            let gathered = together(&ranks, |rank| {
                let index = rank.rank().index;
                let mut all = vec![0.0; if index == 0 { expected.len() } else { 0 }];
                rank.gather(&rows[index], &widths, &mut all).unwrap();
                all
            });
            assert_eq!(gathered[0], expected);
        }
    }
}

#[test]
fn steps_arrive_and_a_goodbye_ends_them() {
    let met = meet(2);
    let bounds = StepBounds { max_tokens: 8, vocab_size: 10, page_size: 4, num_pages: 2 };
    let batch = ForwardBatch::default();
    met[0].peers.send_step(&batch).unwrap();
    assert_eq!(met[1].peers.receive_step(&bounds), Ok(Some(batch)));
    met[1].peers.tell_loaded();
    met[0].peers.wait_loaded().unwrap();
    met[1].peers.leave();
    assert_eq!(met[0].heard.recv().unwrap(), NodeEvent::Leaving(1));
    met[0].peers.goodbye();
    assert_eq!(met[1].peers.receive_step(&bounds), Ok(None));
    assert_eq!(met[1].heard.recv().unwrap(), NodeEvent::Goodbye);
}

#[test]
fn a_rank_that_fails_is_named_to_all_and_frees_those_who_wait() {
    let met = meet(3);
    let ranks: Vec<_> = met.iter().map(|met| NodeRank::new(None, Arc::clone(&met.peers))).collect();
    let results = together(&ranks, |rank| match rank.rank().index {
        1 => {
            rank.poison("panicked: unlucky");
            rank.reset()
        }
        _ => rank.all_reduce(&mut [1.0]),
    });
    for (result, rank) in results.into_iter().zip(&ranks) {
        let lost = result.unwrap_err();
        assert!(lost.gone);
        assert_eq!(lost.to_string(), "rank 1 panicked: unlucky");
        assert_eq!(rank.reset(), Err(lost), "it stays lost");
    }
}

#[test]
fn a_node_that_ends_is_missed_by_the_others_though_no_step_runs() {
    let mut met = meet(2);
    let gone = met.pop().unwrap();
    drop(gone);
    let NodeEvent::Lost(lost) = met[0].heard.recv().unwrap() else { panic!("it is lost") };
    assert!(lost.gone && lost.to_string().starts_with("rank 1 (node 1, 127.0.0.1) "), "{lost}");
    assert_eq!(met[0].peers.send_step(&ForwardBatch::default()), Err(lost));
}

#[test]
fn who_does_not_belong_is_refused_by_name_and_keeps_nobody_out() {
    let address = address();
    let leader = thread::spawn({
        let rendezvous = rendezvous(0, 2, &address);
        move || rendezvous.join(|_| {}).map(drop)
    });
    let refusal = |change: fn(&mut Rendezvous)| {
        let mut other = rendezvous(1, 2, &address);
        change(&mut other);
        other.join(|_| {}).map(drop).unwrap_err().to_string()
    };
    let differs = refusal(|rendezvous| rendezvous.settings[1].1 = "bfloat16".into());
    assert!(differs.ends_with("refuses this node: --dtype is bfloat16 on node 1 and float32 on node 0"), "{differs}");
    let of_three = refusal(|rendezvous| rendezvous.node.count = 3);
    assert!(of_three.contains("--nnodes is 3 on node 1 and 2 on node 0"), "{of_three}");
    let other_key = refusal(|rendezvous| rendezvous.key = NodeKey::new(b"guessed"));
    assert!(other_key.contains("another key") && other_key.contains("--dist-key-file"), "{other_key}");
    // One that speaks something else, and one that says nothing at all.
    let mut foreign = TcpStream::connect(&address).unwrap();
    foreign.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let _ = foreign.read_to_end(&mut Vec::new());
    let _silent = TcpStream::connect(&address).unwrap();
    rendezvous(1, 2, &address).join(|_| {}).unwrap();
    leader.join().unwrap().unwrap();
}

#[test]
fn of_several_addresses_the_one_of_node_0_is_found() {
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let real = listener.local_addr().unwrap();
    // One that nobody listens at, and one of a program that says something else.
    let nobody = address().parse().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign = other.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in other.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let leader = Rendezvous { place: MeetingPlace::Open(listener), ..rendezvous(0, 2, "") };
    let follower = Rendezvous { place: MeetingPlace::Told(vec![nobody, foreign, real]), ..rendezvous(1, 2, "") };
    let leader = thread::spawn(move || leader.join(|_| {}).map(drop));
    follower.join(|_| {}).unwrap();
    leader.join().unwrap().unwrap();
    let lost =
        Rendezvous { place: MeetingPlace::Told(vec![foreign, nobody]), limit: Duration::ZERO, ..rendezvous(1, 2, "") };
    let error = lost.join(|_| {}).map(drop).unwrap_err();
    assert!(matches!(error, RendezvousError::Unreached { .. }), "{error}");
    assert!(error.to_string().contains(&format!("{foreign} or {nobody} (chosen by node 0)")), "{error}");
}

#[test]
fn nodes_that_do_not_come_are_named() {
    let impatient = |index, count| Rendezvous { limit: Duration::ZERO, ..rendezvous(index, count, &address()) };
    let missing = impatient(0, 3).join(|_| {}).map(drop).unwrap_err();
    assert_eq!(missing.to_string(), "--nnodes 3: node 1, node 2 did not come within 0 s (--dist-timeout)");
    let unreached = impatient(1, 2).join(|_| {}).map(drop).unwrap_err();
    assert!(matches!(unreached, RendezvousError::Unreached { .. }) && unreached.is_temporary(), "{unreached}");
    let elsewhere = Rendezvous { place: MeetingPlace::Typed("203.0.113.7:1".into()), ..rendezvous(0, 2, "") };
    let refused = elsewhere.join(|_| {}).map(drop).unwrap_err();
    assert!(refused.to_string().starts_with("--dist-init-addr 203.0.113.7:1: node 0 cannot listen"), "{refused}");
    assert!(!refused.is_temporary());
}
