//! [`Calls`]: the functions of MPI that are called, looked up in a library that was opened at run time.

use std::{
    ffi::{c_char, c_int, c_void},
    io,
    mem::ManuallyDrop,
    ptr,
    time::Duration,
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::{
    MpiError,
    family::{Constants, Handle, MAX_STRING, MPICH, OPEN_MPI_HANDLES, STANDARD_ABI, open_mpi},
    flight::{self, Parcel},
};
use crate::{NodePosition, launcher::MpiFamily};

/// The tag of all messages: those between two processes do not overtake one another.
const TAG: c_int = 0;

/// A table of functions whose handles are `H`: the name here, MPI's, and the arguments.
macro_rules! calls {
    ($($(#[$doc:meta])* $function:ident: $symbol:literal ($($type:ty),*);)*) => {
        /// The functions of one library. All return 0 where they succeed.
        pub(super) struct Calls<H> {
            /// As the loader was asked for it.
            pub(super) library: String,
            pub(super) constants: Constants<H>,
            $($(#[$doc])* pub(super) $function: unsafe extern "C" fn($($type),*) -> c_int,)*
            // Never closed: it keeps threads that must not lose their code.
            pub(super) _library: Option<ManuallyDrop<Library>>,
        }

        impl<H: Handle> Calls<H> {
            /// Look all functions up in `library`, which was opened as `file`.
            fn of(library: Library, file: &str, constants: Constants<H>) -> Result<Self, MpiError> {
                Ok(Self {
                    library: file.to_owned(),
                    constants,
                    $($function: {
                        // SAFETY: the signature is the standard's for this function, with handles as the family has them.
                        match unsafe { library.get($symbol.as_bytes()) } {
                            Ok(found) => *found,
                            Err(_) => return Err(MpiError::Symbol { library: file.to_owned(), symbol: $symbol }),
                        }
                    },)*
                    _library: Some(ManuallyDrop::new(library)),
                })
            }
        }
    };
}

calls! {
    /// `argc`, `argv`, `required`, `provided`.
    init_thread: "MPI_Init_thread" (*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int);
    finalize: "MPI_Finalize" ();
    comm_rank: "MPI_Comm_rank" (H, *mut c_int);
    comm_size: "MPI_Comm_size" (H, *mut c_int);
    set_errhandler: "MPI_Comm_set_errhandler" (H, H);
    /// `buf`, `count`, `datatype`, `dest`, `tag`, `comm`, `request`.
    isend: "MPI_Isend" (*const c_void, c_int, H, c_int, c_int, H, *mut H);
    /// `buf`, `count`, `datatype`, `source`, `tag`, `comm`, `request`.
    irecv: "MPI_Irecv" (*mut c_void, c_int, H, c_int, c_int, H, *mut H);
    /// `request`, `flag`, `status`.
    test: "MPI_Test" (*mut H, *mut c_int, *mut c_void);
    library_version: "MPI_Get_library_version" (*mut c_char, *mut c_int);
    error_string: "MPI_Error_string" (c_int, *mut c_char, *mut c_int);
}

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

impl<H: Handle> Calls<H> {
    /// Begin to send `len` bytes to a process.
    ///
    /// # Safety
    /// They stay there, unchanged, until [`is_done`](Self::is_done) has said so of the request, or for ever.
    pub(super) unsafe fn send(&self, bytes: *const u8, len: usize, to: usize) -> Result<H, MpiError> {
        let Constants { world, byte, .. } = self.constants;
        let mut request = H::EMPTY;
        // SAFETY: this function's contract; the handles are the library's own.
        let code = unsafe { (self.isend)(bytes.cast(), int(len), byte, int(to), TAG, world, &raw mut request) };
        self.checked("MPI_Isend", code).map(|()| request)
    }

    /// Begin to receive `len` bytes of a process.
    ///
    /// # Safety
    /// They stay there, and nobody else touches them, until [`is_done`](Self::is_done) has said so of the request, or for
    /// ever.
    pub(super) unsafe fn receive(&self, bytes: *mut u8, len: usize, from: usize) -> Result<H, MpiError> {
        let Constants { world, byte, .. } = self.constants;
        let mut request = H::EMPTY;
        // SAFETY: this function's contract; the handles are the library's own.
        let code = unsafe { (self.irecv)(bytes.cast(), int(len), byte, int(from), TAG, world, &raw mut request) };
        self.checked("MPI_Irecv", code).map(|()| request)
    }

    /// Whether a request is done; then it is none any more. What can be sent and received meanwhile is.
    pub(super) fn is_done(&self, request: &mut H) -> Result<bool, MpiError> {
        let mut flag = 0;
        let status = ptr::without_provenance_mut(self.constants.status_ignore);
        // SAFETY: the request is one of this library's; the status is the one that it ignores.
        let code = unsafe { (self.test)(request, &raw mut flag, status) };
        self.checked("MPI_Test", code).map(|()| flag != 0)
    }

    fn checked(&self, call: &'static str, code: c_int) -> Result<(), MpiError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the buffer is as long as the longest error.
        let cause = said(|buffer, length| unsafe { (self.error_string)(code, buffer, length) });
        let cause = if cause.is_empty() { format!("error {code}") } else { cause };
        Err(MpiError::Call { library: self.library.clone(), call, cause })
    }
}

/// What a function writes into a buffer of [`MAX_STRING`] characters; nothing where it fails.
fn said(write: impl FnOnce(*mut c_char, *mut c_int) -> c_int) -> String {
    let mut buffer = vec![0_u8; MAX_STRING];
    let mut length = 0;
    match write(buffer.as_mut_ptr().cast(), &raw mut length) {
        0 => {
            buffer.truncate(usize::try_from(length).unwrap_or(0));
            String::from_utf8_lossy(&buffer).trim_matches(['\0', ' ', '\n']).to_owned()
        }
        _ => String::new(),
    }
}

/// A count or a process: pieces are shorter than an int is wide, and so is the number of processes.
fn int(n: usize) -> c_int {
    c_int::try_from(n).expect("it fits an int")
}
