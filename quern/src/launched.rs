//! [`Launched`]: the processes that `mpirun` or `srun` started beside this one, and what of the command line they decide.

use std::{sync::Arc, time::Duration};

use quern_ranks::{HostRecord, Introduction, Launcher, Mpi, introduce};

use crate::{
    cli::ServeArgs,
    config::{DistTransport, RefusedFlag},
    cores::{self, CoreShare},
    start_error::StartError,
};

/// How long the processes of a launcher may take to part.
const PARTING: Duration = Duration::from_secs(5);

/// The processes that a launcher started beside this one, connected by its MPI.
#[derive(Debug)]
pub struct Launched {
    /// Their connection.
    pub mpi: Arc<Mpi>,
    /// What they have told each other.
    pub introduction: Introduction,
    /// How many of them are on this machine, this one included: they share its memory.
    pub processes_here: usize,
}

/// Let the launcher decide how many nodes there are and which of them this is, if it started several processes: then they
/// are connected by MPI, unless the command line asks for sockets. `variable` reads the environment.
///
/// # Errors
/// If the command line asks for something else than what the launcher did, or the environment makes no sense.
pub fn settle(args: &mut ServeArgs, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launcher>, StartError> {
    let ServeArgs { device, listen, .. } = args;
    let (parallel, nodes) = (&mut device.parallel, &mut device.nodes);
    if nodes.dist_transport == Some(DistTransport::Sockets) {
        return Ok(None);
    }
    let Some(launcher) = Launcher::find(variable, parallel.nnodes)? else {
        if nodes.dist_transport == Some(DistTransport::Mpi) && parallel.nnodes.unwrap_or(1) > 1 {
            let reason = format!(
                "no launcher started other processes ({} would say so): run it by mpirun or srun, or take sockets with \
                 --dist-init-addr HOST:PORT",
                Launcher::VARIABLES
            );
            return Err(RefusedFlag::new("dist-transport", "mpi", reason).into());
        }
        return Ok(None);
    };
    let Launcher { name, variable, node, .. } = launcher;
    let otherwise = |typed: Option<usize>, said| typed.filter(|typed| *typed != said);
    if let Some(typed) = otherwise(parallel.nnodes, node.count) {
        let reason = format!(
            "{name} started {} processes ({variable}): leave it out; --dist-transport sockets heeds no launcher",
            node.count
        );
        return Err(RefusedFlag::new("nnodes", typed, reason).into());
    }
    if let Some(typed) = otherwise(parallel.node_rank, node.index) {
        let reason = format!(
            "{name} started this process as number {} of {}: leave it out; --dist-transport sockets heeds no launcher",
            node.index, node.count
        );
        return Err(RefusedFlag::new("node-rank", typed, reason).into());
    }
    // SGLang's command, which has always gone over sockets, whatever started it.
    let is_sglangs = parallel.nnodes.is_some() && nodes.dist_init_addr.is_some();
    parallel.node_rank = Some(node.index);
    if nodes.dist_transport.is_none() && is_sglangs {
        nodes.dist_transport = Some(DistTransport::Sockets);
        return Ok(None);
    }
    if !parallel.tp_size.is_multiple_of(node.count) {
        let reason = format!(
            "{name} started {} processes ({variable}), each of which has equally many ranks: {} or a multiple of it is \
             wanted; --dist-transport sockets serves in each process by itself",
            node.count, node.count
        );
        return Err(RefusedFlag::new("tp-size", parallel.tp_size, reason).into());
    }
    (parallel.nnodes, nodes.dist_transport) = (Some(node.count), Some(DistTransport::Mpi));
    if listen.port != 0 {
        // One command line for all, who may be on one host.
        let port = u16::try_from(usize::from(listen.port) + node.index).map_err(|_| {
            let reason =
                format!("node {} answers /health at --port + {}, and there is no such port", node.index, node.index);
            RefusedFlag::new("port", listen.port, reason)
        })?;
        listen.port = port;
    }
    Ok(Some(launcher))
}

impl Launched {
    /// Connect the processes of `launcher`, as `args` say, and keep to this one's share of the cores.
    ///
    /// # Errors
    /// If there is no MPI that they are connected by, or one of them does not come.
    pub fn connect(launcher: &Launcher, args: &ServeArgs) -> Result<Self, StartError> {
        // A command line that is refused keeps nobody waiting; what it has to say is said later.
        args.check()?;
        let nodes = &args.device.nodes;
        let limit = Duration::from_secs_f64(nodes.dist_timeout);
        let mpi = Mpi::start(launcher, limit)?;
        let node = mpi.node();
        tracing::info!(
            "Node {} of {} over MPI ({}), started by {}.",
            node.index,
            node.count,
            mpi.library(),
            launcher.name
        );
        let own = HostRecord::of_this_process(cores::allowed(None));
        let introduction = introduce(&mpi, &own, nodes.dist_init_addr.as_deref(), limit)?;
        let share = CoreShare::of(&introduction.hosts, node.index);
        share.keep_to();
        for line in &share.lines {
            tracing::info!("Cores: {line}.");
        }
        let processes_here = introduction.hosts.iter().filter(|host| host.shares_machine(&own)).count();
        Ok(Self { mpi, introduction, processes_here })
    }

    /// Part from the others in peace, if they do it too: a launcher takes a process that just ends for one that crashed.
    pub fn part(&self) {
        if let Err(error) = self.mpi.end(PARTING) {
            tracing::warn!("{error}; this process ends without");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Job};

    const OPEN_MPI: &[(&str, &str)] = &[("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1")];

    /// What the command line is under a launcher with these `variables`, and whether MPI is used.
    fn settled(line: &str, variables: &[(&str, &str)]) -> Result<(ServeArgs, bool), String> {
        let words = format!("quern serve {line}");
        let parsed = Cli::from_arguments(words.split_whitespace().map(Into::into)).unwrap();
        let Job::Serve(mut args) = parsed.command else { panic!("not `serve`") };
        let value = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let launcher = settle(&mut args, value).map_err(|error| error.to_string())?;
        args.device.check().map_err(|error| error.to_string())?;
        Ok((*args, launcher.is_some()))
    }

    #[test]
    fn a_launcher_of_several_processes_says_how_many_nodes_there_are() {
        let (args, by_mpi) = settled("--tp 2", OPEN_MPI).unwrap();
        let parallel = args.device.parallel.options();
        assert_eq!((parallel.nnodes, parallel.node_rank, by_mpi), (2, 1, true));
        assert_eq!(args.device.nodes.dist_transport, Some(DistTransport::Mpi));
        assert_eq!(args.listen.port, 30001, "both may be on one host");
        assert_eq!(settled("--tp 2 --port 0", OPEN_MPI).unwrap().0.listen.port, 0);
        // Typed and the same.
        assert!(settled("--tp 2 --nnodes 2 --node-rank 1", OPEN_MPI).unwrap().1);
        assert!(settled("--tp 2 --dist-init-addr a:1", OPEN_MPI).unwrap().1);
        assert!(settled("--tp 2 --nnodes 2 --dist-init-addr a:1 --dist-transport mpi", OPEN_MPI).unwrap().1);
    }

    #[test]
    fn without_other_processes_all_is_as_typed() {
        let alone = [("OMPI_COMM_WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_RANK", "0")];
        for (line, variables) in [("--tp 2", &[][..]), ("", &alone), ("", &[]), ("--dist-transport sockets", OPEN_MPI)]
        {
            let (args, by_mpi) = settled(line, variables).unwrap();
            let parallel = args.device.parallel.options();
            assert_eq!((parallel.nnodes, parallel.node_rank, by_mpi, args.listen.port), (1, 0, false, 30000), "{line}");
        }
        // SGLang's command goes over sockets, and the launcher may say which node this is.
        let (args, by_mpi) = settled("--tp 2 --nnodes 2 --dist-init-addr 10.0.0.1:1", OPEN_MPI).unwrap();
        let parallel = args.device.parallel.options();
        assert_eq!((parallel.nnodes, parallel.node_rank, by_mpi, args.listen.port), (2, 1, false, 30000));
    }

    #[test]
    fn what_disagrees_with_the_launcher_is_refused_by_name() {
        for (line, variables, parts) in [
            ("--tp 2 --nnodes 1", OPEN_MPI, &["--nnodes 1: mpirun started 2 processes (OMPI_COMM_WORLD_SIZE)"][..]),
            ("--tp 4 --nnodes 4 --dist-init-addr 10.0.0.1:1", OPEN_MPI, &["--nnodes 4: mpirun", "sockets"]),
            ("--tp 2 --node-rank 0", OPEN_MPI, &["--node-rank 0: mpirun started this process as number 1 of 2"]),
            ("", OPEN_MPI, &["--tp-size 1: mpirun started 2 processes", "a multiple", "sockets"]),
            ("--tp 3", OPEN_MPI, &["--tp-size 3", "2 or a multiple"]),
            ("--tp 6", OPEN_MPI, &["--nnodes 2", "3 ranks"]),
            ("--tp 2 --port 65535", OPEN_MPI, &["--port 65535", "--port + 1"]),
            ("--tp 2 --nnodes 2 --dist-transport mpi", &[], &["--dist-transport mpi: no launcher", "PMI_SIZE"]),
            ("--tp 2", &[("PMI_SIZE", "2")], &["PMI_RANK=(not set)"]),
        ] {
            let error = settled(line, variables).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{line}: {error}");
        }
    }
}
