//! What the libraries of each [`MpiFamily`] are called, and what their constants are.

use std::ffi::c_int;

use crate::launcher::MpiFamily;

impl MpiFamily {
    /// The files of its libraries, best first.
    pub(super) fn files(self) -> &'static [&'static str] {
        match self {
            Self::OpenMpi => &["libmpi.so.40"],
            // Debian's has another name, since both families want `libmpi.so`.
            Self::Mpich => &["libmpi.so.12", "libmpich.so.12"],
            Self::StandardAbi => &["libmpi_abi.so.1", "libmpi_abi.so.0"],
        }
    }
}

/// A handle of MPI's objects as a family has it: as wide as a pointer, or an int.
pub(super) trait Handle: Copy + Send + Sync + 'static {
    /// Stands where a request will be written.
    const EMPTY: Self;
}

impl Handle for usize {
    const EMPTY: Self = 0;
}

impl Handle for c_int {
    const EMPTY: Self = 0;
}

/// What `mpi.h` of a family defines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constants<H> {
    /// `MPI_COMM_WORLD`.
    pub(super) world: H,
    /// `MPI_BYTE`.
    pub(super) byte: H,
    /// `MPI_ERRORS_RETURN`.
    pub(super) errors_return: H,
    /// `MPI_STATUS_IGNORE`, an address.
    pub(super) status_ignore: usize,
    /// `MPI_THREAD_SERIALIZED`; a library that gives more gives a larger number.
    pub(super) serialized: c_int,
}

/// Symbols of Open MPI whose addresses are its handles, in the order of [`open_mpi`]'s arguments. Source: `mpi.h` of Open
/// MPI 4.1.4 and 5.0.11, `OMPI_PREDEFINED_GLOBAL`.
pub(super) const OPEN_MPI_HANDLES: [&str; 3] = ["ompi_mpi_comm_world", "ompi_mpi_byte", "ompi_mpi_errors_return"];

/// Those of Open MPI. Source: as above.
pub(super) const fn open_mpi([world, byte, errors_return]: [usize; 3]) -> Constants<usize> {
    Constants { world, byte, errors_return, status_ignore: 0, serialized: 2 }
}

/// Those of MPICH. Source: `mpi.h` of MPICH 4.0.2, and the MPICH ABI Compatibility Initiative, whose members keep to them.
pub(super) const MPICH: Constants<c_int> =
    Constants { world: 0x4400_0000, byte: 0x4c00_010d, errors_return: 0x5400_0001, status_ignore: 1, serialized: 2 };

/// Those of the standard interface. Source: `mpi.h` of the MPI Forum's `mpi-abi-stubs` (MPI 5.0), and `mpi_abi.h` of MPICH
/// 5.0.2.
pub(super) const STANDARD_ABI: Constants<usize> =
    Constants { world: 0x101, byte: 0x247, errors_return: 0x143, status_ignore: 0, serialized: 2048 };

/// Bytes that every family's `MPI_MAX_LIBRARY_VERSION_STRING` and `MPI_MAX_ERROR_STRING` fit into. Source: as above; the
/// largest is that of MPICH.
pub(super) const MAX_STRING: usize = 8192;
