//! [`Launcher`]: what started this process as one of several, by the environment that it set.

use crate::NodePosition;

/// What `mpirun`, `srun` and their like say of a process that they start.
struct Signs {
    name: &'static str,
    index: &'static str,
    count: &'static str,
    families: &'static [MpiFamily],
}

use MpiFamily::{Mpich, OpenMpi, StandardAbi};

/// Libraries of MPI with one binary interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MpiFamily {
    /// Open MPI 3, 4 and 5.
    OpenMpi,
    /// MPICH and what keeps to its interface: Intel MPI, MVAPICH, ParaStation MPI, Cray MPICH.
    Mpich,
    /// The interface that MPI 5 standardises.
    StandardAbi,
}

/// The launchers that are known, the innermost first: Open MPI's and Hydra run inside of Slurm's steps, whose variables
/// their processes inherit. A batch script of Slurm has `SLURM_NTASKS` and is no task of a step, so that it is not asked.
///
/// Sources: Open MPI's FAQ ("environment variables that Open MPI sets"), MPICH's PMI-1 of Hydra, the page of srun(1).
const SIGNS: [Signs; 3] = [
    Signs {
        name: "mpirun",
        index: "OMPI_COMM_WORLD_RANK",
        count: "OMPI_COMM_WORLD_SIZE",
        families: &[OpenMpi, StandardAbi],
    },
    Signs { name: "mpiexec", index: "PMI_RANK", count: "PMI_SIZE", families: &[Mpich, StandardAbi, OpenMpi] },
    Signs {
        name: "srun",
        index: "SLURM_PROCID",
        count: "SLURM_STEP_NUM_TASKS",
        families: &[OpenMpi, Mpich, StandardAbi],
    },
];

/// That of a launcher of which nothing but PMIx is known; how many processes there are it does not say.
const PMIX_RANK: &str = "PMIX_RANK";

/// What started this process as one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launcher {
    /// As people call it.
    pub name: &'static str,
    /// The variable of the environment that says so.
    pub variable: &'static str,
    /// Which of the processes this is.
    pub node: NodePosition,
    /// The families of libraries that go with it, best first.
    pub(crate) families: &'static [MpiFamily],
}

/// What a launcher says makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LauncherError {
    /// Two variables do not go together.
    #[error(
        "{count}={of} and {index}={value} in the environment do not say which process of how many this is; \
         --dist-transport sockets does not ask them"
    )]
    Contradiction {
        /// The variable of how many.
        count: &'static str,
        /// Its value.
        of: String,
        /// The variable of which one.
        index: &'static str,
        /// Its value, or that it is not set.
        value: String,
    },
    /// There are others, and nothing says how many.
    #[error(
        "PMIX_RANK={index} in the environment: other processes were started, and nothing says how many; type it as \
         --nnodes, on all of them"
    )]
    Uncounted {
        /// Which one this is.
        index: String,
    },
}

impl Launcher {
    /// The variables that are asked, for people.
    pub const VARIABLES: &str = "OMPI_COMM_WORLD_SIZE, PMI_SIZE, SLURM_STEP_NUM_TASKS or PMIX_RANK";

    /// What the environment says; `None` where there is no other process. `nnodes`: how many there are as it was typed,
    /// for a launcher that does not say.
    ///
    /// # Errors
    /// If what it says makes no sense.
    pub fn find(
        variable: impl Fn(&str) -> Option<String>,
        nnodes: Option<usize>,
    ) -> Result<Option<Self>, LauncherError> {
        for Signs { name, index, count, families } in SIGNS {
            let Some(of) = variable(count) else { continue };
            let value = variable(index);
            let numbers = (value.as_deref().and_then(number), number(&of));
            return match numbers {
                (_, Some(1)) => Ok(None),
                (Some(place), Some(total)) if place < total => {
                    let node = NodePosition { index: place, count: total };
                    // Slurm speaks PMI too (`--mpi=pmi2`).
                    let is_slurms = variable("SLURM_STEP_NUM_TASKS").as_ref() == Some(&of);
                    let name = if is_slurms && name == "mpiexec" { "srun" } else { name };
                    Ok(Some(Self { name, variable: count, node, families }))
                }
                _ => {
                    let value = value.unwrap_or_else(|| "(not set)".to_owned());
                    Err(LauncherError::Contradiction { count, of, index, value })
                }
            };
        }
        let Some(index) = variable(PMIX_RANK) else { return Ok(None) };
        match (number(&index), nnodes) {
            (Some(place), Some(of)) if place < of && of > 1 => Ok(Some(Self {
                name: "a launcher with PMIx",
                variable: PMIX_RANK,
                node: NodePosition { index: place, count: of },
                families: &[OpenMpi, Mpich, StandardAbi],
            })),
            // It may be alone.
            (Some(0), None) | (_, Some(1)) => Ok(None),
            (Some(_), None) => Err(LauncherError::Uncounted { index }),
            (_, nnodes) => {
                let of = nnodes.map_or_else(|| "(not typed)".to_owned(), |count| count.to_string());
                Err(LauncherError::Contradiction { count: "--nnodes", of, index: PMIX_RANK, value: index })
            }
        }
    }
}

fn number(text: &str) -> Option<usize> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(variables: &[(&str, &str)], nnodes: Option<usize>) -> Result<Option<Launcher>, LauncherError> {
        let value = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Launcher::find(value, nnodes)
    }

    #[test]
    fn launchers_of_several_processes_are_known_by_what_they_set() {
        let open_mpi = [("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3"), ("PMIX_RANK", "3")];
        let hydra = [("PMI_SIZE", "2"), ("PMI_RANK", "0")];
        let slurm = [("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_PROCID", "7"), ("SLURM_NTASKS", "8")];
        for (variables, name, index, count, first) in [
            (&open_mpi[..], "mpirun", 3, 4, OpenMpi),
            (&hydra, "mpiexec", 0, 2, Mpich),
            (&slurm, "srun", 7, 8, OpenMpi),
            // Within a step of as many tasks as there are hosts.
            (&[("SLURM_STEP_NUM_TASKS", "3"), ("SLURM_PROCID", "1"), hydra[0], hydra[1]], "mpiexec", 0, 2, Mpich),
            (&[("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_PROCID", "0"), hydra[0], hydra[1]], "srun", 0, 2, Mpich),
        ] {
            let found = find(variables, None).unwrap().unwrap();
            assert_eq!((found.name, found.node), (name, NodePosition { index, count }));
            assert_eq!(found.families.first(), Some(&first), "{name}");
        }
        assert_eq!(find(&[("PMIX_RANK", "1")], Some(2)).unwrap().unwrap().node, NodePosition { index: 1, count: 2 });
    }

    #[test]
    fn one_process_is_no_network() {
        for variables in [
            &[][..],
            &[("OMPI_COMM_WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_RANK", "0"), ("PMIX_RANK", "0")],
            &[("PMI_SIZE", "1"), ("PMI_RANK", "0")],
            // The script of a batch job, and a shell of salloc.
            &[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")],
            &[("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_PROCID", "0")],
            &[("PMIX_RANK", "0")],
        ] {
            assert_eq!(find(variables, None), Ok(None), "{variables:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (variables, nnodes, part) in [
            (&[("PMI_SIZE", "2"), ("PMI_RANK", "2")][..], None, "PMI_SIZE=2 and PMI_RANK=2"),
            (&[("PMI_SIZE", "2")], None, "PMI_RANK=(not set)"),
            (&[("OMPI_COMM_WORLD_SIZE", "two"), ("OMPI_COMM_WORLD_RANK", "0")], None, "OMPI_COMM_WORLD_SIZE=two"),
            (&[("SLURM_STEP_NUM_TASKS", "0"), ("SLURM_PROCID", "0")], None, "SLURM_STEP_NUM_TASKS=0"),
            (&[("PMIX_RANK", "1")], None, "PMIX_RANK=1 in the environment: other processes were started"),
            (&[("PMIX_RANK", "3")], Some(2), "--nnodes=2 and PMIX_RANK=3"),
        ] {
            let error = find(variables, nnodes).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
