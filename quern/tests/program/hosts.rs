//! A network on several nodes: the built program twice, with SGLang's flags. The bits of one process, and what happens when
//! one of them is killed, stopped or cut off.
//!
//! The last three run in network namespaces of their own, which take root and iproute2.

use std::{
    io::{BufRead, Read},
    process::Command,
    time::Instant,
};

use crate::nodes::{CHAT, Client, HERE, LONG, PATIENCE, Place, Starting, content, post, signal, status, streamed};
use crate::process::{Server, quern, serve};

/// What both nodes are started with, and the server of one process that they are compared with.
const NETWORK: [&str; 8] = ["--tp", "2", "--ep", "2", "--max-total-tokens", "2048", "--cpu-threads", "1"];

/// `quern serve` at this place, as a node that meets the others at `address`.
fn node(place: Place<'_>, node: &str, address: &str, more: &[&str]) -> Command {
    let arguments = ["serve", "--device", "cpu", "--port", "0", "--host", place.host, "--dist-init-addr", address];
    let nodes = ["--nnodes", "2", "--node-rank", node];
    let arguments: Vec<&str> = arguments.iter().chain(&nodes).chain(&NETWORK).chain(more).copied().collect();
    place.within(quern(&arguments))
}

/// Node 0 and node 1, which have met.
struct Nodes {
    leader: Server,
    follower: Server,
}

/// Both nodes, each at its place, ready.
fn start(places: [Place<'_>; 2], more: &[&str]) -> Nodes {
    let any_port = format!("{}:0", places[0].host);
    let mut leader = Starting::spawn(node(places[0], "0", &any_port, more));
    let address = leader.wait("waits for the others at ");
    let follower = Starting::spawn(node(places[1], "1", address.trim_end_matches('.'), more));
    let leader = leader.ready();
    Nodes { leader, follower: follower.ready() }
}

#[test]
fn two_nodes_answer_with_the_bits_of_one_process() {
    let nodes = start([HERE; 2], &[]);
    let alone = serve(&NETWORK);
    alone.said("Ranks: 2 in this process");
    nodes.leader.said("Ranks: 0 to 0 of 2 on node 0 of 2 over sockets");
    nodes.follower.said("Ranks: 1 to 1 of 2 on node 1 of 2");
    nodes.leader.said("there is no --dist-key-file");
    let chat = format!("{CHAT}}}");
    let expected = content(&alone.post("/v1/chat/completions", &chat));
    assert_eq!(content(&nodes.leader.post("/v1/chat/completions", &chat)), expected);
    let stream = format!("{CHAT},\"stream\":true}}");
    let answer = nodes.leader.post("/v1/chat/completions", &stream);
    assert!(answer.contains("data: [DONE]"), "{answer}");
    assert_eq!(streamed(&answer), expected[0]["message"]["content"].as_str().unwrap());
    for path in ["/health", "/health_generate"] {
        for node in [&nodes.leader, &nodes.follower] {
            assert!(node.get(path).starts_with("HTTP/1.1 200"), "{path}");
        }
    }
    let elsewhere = nodes.follower.post("/v1/chat/completions", &chat);
    assert!(elsewhere.starts_with("HTTP/1.1 404") && elsewhere.contains("node 0 serves requests"), "{elsewhere}");
    // Asked to end, node 1 waits for node 0, which ends its requests first.
    let Nodes { mut leader, mut follower } = nodes;
    signal(&follower.process, "TERM");
    assert_eq!(status(&mut leader.process), Some(75), "it cannot go on, and a supervisor starts it anew");
    assert_eq!(status(&mut follower.process), Some(0), "that was asked for");
}

#[test]
fn several_ranks_on_each_node_have_the_bits_of_one_process() {
    // The shipped model has four heads, of which two are on each node.
    let layout = ["--tp", "4", "--ep", "1"];
    let nodes = start([HERE; 2], &layout);
    nodes.follower.said("Ranks: 2 to 3 of 4 on node 1 of 2");
    let alone = serve(&[&NETWORK[..], &layout].concat());
    let chat = format!("{CHAT}}}");
    let expected = content(&alone.post("/v1/chat/completions", &chat));
    assert_eq!(content(&nodes.leader.post("/v1/chat/completions", &chat)), expected);
    // Asked to end itself, node 0 takes the other one with it.
    let Nodes { mut leader, mut follower } = nodes;
    signal(&leader.process, "TERM");
    assert_eq!((status(&mut leader.process), status(&mut follower.process)), (Some(0), Some(0)));
}

#[test]
fn a_node_with_other_settings_or_another_key_is_refused_by_name_and_the_right_one_still_comes() {
    let folder = tempfile::tempdir().unwrap();
    let key = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (key("right", "a secret of this network"), key("wrong", "another secret of others"));
    let with_key = ["--dist-key-file", &right];
    let mut leader = Starting::spawn(node(HERE, "0", "127.0.0.1:0", &with_key));
    let address = leader.wait("waits for the others at ");
    let address = address.trim_end_matches('.');
    let refused = |more: &[&str]| {
        let output = node(HERE, "1", address, more).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{more:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let error = refused(&[&with_key[..], &["--dtype", "float32"]].concat());
    assert!(error.contains("refuses this node: --dtype is float32 on node 1 and bfloat16 on node 0"), "{error}");
    leader.wait("127.0.0.1 connects as a node and is refused: --dtype is float32 on node 1");
    let error = refused(&["--dist-key-file", &wrong]);
    assert!(error.contains("another key") && error.contains("--dist-key-file"), "{error}");
    let follower = Starting::spawn(node(HERE, "1", address, &with_key));
    let (leader, follower) = (leader.ready(), follower.ready());
    assert!(leader.get("/health").starts_with("HTTP/1.1 200") && follower.get("/health").starts_with("HTTP/1.1 200"));
}

/// What becomes of both nodes, and of a stream that has begun, when `harm` is done; `heal` is done once node 0 has ended.
/// Returns what node 0 says of the other one.
fn node_0_misses_node_1(places: [Place<'_>; 2], harm: impl FnOnce(&Server), heal: impl FnOnce(&Server)) -> String {
    let Nodes { mut leader, mut follower } = start(places, &LONG);
    let body = r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":80000,"ignore_eos":true,"stream":true}"#;
    let mut stream = Client::open(places[0], leader.address, &post("/v1/chat/completions", body));
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(stream.answer.read_line(&mut line).unwrap() > 0, "the stream begins");
    }
    let begin = Instant::now();
    harm(&follower);
    let health = loop {
        let health = places[0].get(leader.address, "/health");
        if !health.starts_with("HTTP/1.1 200") {
            break health;
        }
        assert!(begin.elapsed() < PATIENCE, "it is noticed");
    };
    eprintln!("{}: noticed after {:?}", std::thread::current().name().unwrap_or_default(), begin.elapsed());
    assert!(health.starts_with("HTTP/1.1 503"), "{health:?}");
    let mut rest = String::new();
    stream.answer.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"error\"") && rest.contains("rank 1 (node 1"), "an end that says why: {rest}");
    assert_eq!(status(&mut leader.process), Some(75));
    heal(&follower);
    // Node 1 goes by itself, unless it is gone.
    let ended = status(&mut follower.process);
    assert!([None, Some(75)].contains(&ended), "{ended:?}");
    leader.later_log.iter().find(|line| line.contains("rank 1 (node 1")).expect("the log names the node")
}

#[test]
fn a_node_that_is_killed_ends_streams_with_an_error_and_node_0_with_a_status_for_a_supervisor() {
    let said = node_0_misses_node_1([HERE; 2], |follower| signal(&follower.process, "KILL"), |_| {});
    assert!(said.contains("is gone"), "{said}");
}

#[test]
fn node_1_goes_when_node_0_is_killed() {
    let Nodes { mut leader, mut follower } = start([HERE; 2], &[]);
    signal(&leader.process, "KILL");
    assert_eq!((status(&mut leader.process), status(&mut follower.process)), (None, Some(75)));
    let log: Vec<String> = follower.later_log.iter().collect();
    assert!(log.iter().any(|line| line.contains("quern: error: rank 0 (node 0, 127.0.0.1) is gone")), "{log:#?}");
}

/// Two network namespaces and a cable between them, which are gone with it.
struct Cable {
    names: [String; 2],
}

const HOSTS: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

impl Cable {
    /// Lay one; says that the test is skipped where that is not allowed.
    fn lay(name: &str) -> Option<Self> {
        // Several runs of the tests do not meet.
        let names = ["a", "b"].map(|end| format!("quern-{name}-{}-{end}", std::process::id()));
        let cable = Self { names };
        match cable.plug() {
            Ok(()) => Some(cable),
            Err(cause) => {
                crate::skip::skip(&cause, "run as root with iproute2, where network namespaces are allowed");
                None
            }
        }
    }

    fn plug(&self) -> Result<(), String> {
        let [a, b] = &self.names;
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&["-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b])?;
        for (name, host) in self.names.iter().zip(HOSTS) {
            ip(&["-n", name, "address", "add", &format!("{host}/24"), "dev", "cable"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "link", "set", "cable", "up"])?;
        }
        Ok(())
    }

    fn pull(&self) {
        ip(&["-n", &self.names[1], "link", "set", "cable", "down"]).unwrap();
    }

    fn places(&self) -> [Place<'_>; 2] {
        [0, 1].map(|at| Place { namespace: Some(&self.names[at]), host: HOSTS[at] })
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

#[test]
fn a_host_whose_process_is_killed_is_missed() {
    let Some(cable) = Cable::lay("kill") else { return };
    let said = node_0_misses_node_1(cable.places(), |follower| signal(&follower.process, "KILL"), |_| {});
    assert!(said.contains("(node 1, 10.77.0.2) is gone"), "{said}");
}

#[test]
fn a_host_that_stands_still_is_missed() {
    let Some(cable) = Cable::lay("stop") else { return };
    let stop = |follower: &Server| signal(&follower.process, "STOP");
    let said = node_0_misses_node_1(cable.places(), stop, |follower| signal(&follower.process, "CONT"));
    assert!(said.contains("(node 1, 10.77.0.2) has been silent for 4 s"), "{said}");
}

#[test]
fn a_host_whose_cable_is_pulled_is_missed() {
    let Some(cable) = Cable::lay("cut") else { return };
    let said = node_0_misses_node_1(cable.places(), |_| cable.pull(), |_| {});
    assert!(said.contains("(node 1, 10.77.0.2) has been silent for 4 s"), "{said}");
}
