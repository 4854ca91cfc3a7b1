//! [`MpiLibrary`]: a library of MPI that was opened at run time, whatever its handles are.

use std::{
    ffi::{c_int, c_void},
    io, ptr,
    time::Duration,
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::{
    MpiError,
    calls::{Calls, said},
    family::{Constants, Handle, MPICH, OPEN_MPI_HANDLES, STANDARD_ABI, open_mpi},
    flight::{self, Parcel},
};
use crate::{NodePosition, launcher::MpiFamily};

/// A library, whatever its handles are. One call at a time: [`begin`](Self::begin), then exchanges from any threads, then
/// [`end`](Self::end) from the thread that began.
pub(super) trait MpiLibrary: Send + Sync {
    /// As the loader was asked for it.
    fn file(&self) -> &str;

    /// What it calls itself, in a few words.
    fn version(&self) -> String;

    /// Meet the other processes: which of how many this one is.
    fn begin(&self) -> Result<NodePosition, MpiError>;

    /// As [`Mpi::exchange`](super::Mpi::exchange).
    fn exchange(
        &self,
        out: &mut Vec<u8>,
        parcels: &mut [Parcel<'_>],
        limit: Duration,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), (usize, io::Error)>;

    /// Part from the other processes. It may wait for them for ever.
    fn end(&self) -> Result<(), MpiError>;
}

/// The first library of `families` that can be opened, or what was tried and why it was not.
pub(super) fn open(families: &[MpiFamily]) -> Result<Box<dyn MpiLibrary>, OpenError> {
    let mut tried = Vec::new();
    for family in families {
        for file in family.files() {
            // Open MPI opens plugins that want its symbols, hence `RTLD_GLOBAL`.
            // SAFETY: the initialisers of the MPI library run; they are as trusted as the launcher.
            match unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(library) => return Ok(of_family(*family, library, file)?),
                Err(error) => tried.push(why(file, &error)),
            }
        }
    }
    Err(OpenError::None(tried))
}

/// Why there is no library.
pub(super) enum OpenError {
    /// None of these could be opened: the files, and why.
    None(Vec<String>),
    /// One was opened that is none.
    Broken(MpiError),
}

impl From<MpiError> for OpenError {
    fn from(error: MpiError) -> Self {
        Self::Broken(error)
    }
}

/// The loader's words, which begin with the file.
fn why(file: &str, error: &libloading::Error) -> String {
    let words = error.to_string();
    if words.starts_with(file) { words } else { format!("{file}: {words}") }
}

fn of_family(family: MpiFamily, library: Library, file: &str) -> Result<Box<dyn MpiLibrary>, MpiError> {
    Ok(match family {
        MpiFamily::Mpich => Box::new(Calls::of(library, file, MPICH)?),
        MpiFamily::StandardAbi => Box::new(Calls::of(library, file, STANDARD_ABI)?),
        MpiFamily::OpenMpi => {
            let mut addresses = [0; OPEN_MPI_HANDLES.len()];
            for (address, symbol) in addresses.iter_mut().zip(OPEN_MPI_HANDLES) {
                // SAFETY: the symbol is looked up as an address, and nothing is read there.
                let found = unsafe { library.get::<*mut c_void>(symbol.as_bytes()) };
                let missing = |_| MpiError::Symbol { library: file.to_owned(), symbol };
                *address = found.map_err(missing)?.into_raw() as usize;
            }
            Box::new(Calls::of(library, file, open_mpi(addresses))?)
        }
    })
}

impl<H: Handle> MpiLibrary for Calls<H> {
    fn file(&self) -> &str {
        &self.library
    }

    fn version(&self) -> String {
        // SAFETY: the buffer is as long as the longest version, and this call is allowed at any time.
        let text = said(|buffer, length| unsafe { (self.library_version)(buffer, length) });
        // "Open MPI v4.1.4, package: …", "MPICH Version:      4.0.2\nMPICH Release date: …".
        let first = text.lines().next().unwrap_or_default().split(',').next().unwrap_or_default();
        first.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn begin(&self) -> Result<NodePosition, MpiError> {
        let Constants { world, errors_return, serialized, .. } = self.constants;
        let mut provided = 0;
        // SAFETY: the standard allows null for the arguments of the program; `provided` is an int.
        let begun = unsafe { (self.init_thread)(ptr::null_mut(), ptr::null_mut(), serialized, &raw mut provided) };
        self.checked("MPI_Init_thread", begun)?;
        if provided < serialized {
            return Err(MpiError::Threads { library: self.library.clone(), version: self.version(), provided });
        }
        // SAFETY: both handles are the library's own, and it is initialised.
        self.checked("MPI_Comm_set_errhandler", unsafe { (self.set_errhandler)(world, errors_return) })?;
        let (mut index, mut count) = (0, 0);
        // SAFETY: the handle is the library's own; `index` is an int.
        self.checked("MPI_Comm_rank", unsafe { (self.comm_rank)(world, &raw mut index) })?;
        // SAFETY: the handle is the library's own; `count` is an int.
        self.checked("MPI_Comm_size", unsafe { (self.comm_size)(world, &raw mut count) })?;
        let number = |number: c_int| usize::try_from(number).unwrap_or(0);
        Ok(NodePosition { index: number(index), count: number(count) })
    }

    fn exchange(
        &self,
        out: &mut Vec<u8>,
        parcels: &mut [Parcel<'_>],
        limit: Duration,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), (usize, io::Error)> {
        flight::exchange(self, out, parcels, limit, is_over)
    }

    fn end(&self) -> Result<(), MpiError> {
        // SAFETY: `begin` has initialised the library, and nothing is under way.
        self.checked("MPI_Finalize", unsafe { (self.finalize)() })
    }
}
