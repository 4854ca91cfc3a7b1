//! [`Calls`]: the functions of MPI that are called, looked up in a library that was opened at run time.

use std::{
    ffi::{c_char, c_int, c_void},
    mem::ManuallyDrop,
    ptr,
};

use libloading::os::unix::Library;

use super::{
    MpiError,
    family::{Constants, Handle, MAX_STRING},
};

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
            pub(super) fn of(library: Library, file: &str, constants: Constants<H>) -> Result<Self, MpiError> {
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

    pub(super) fn checked(&self, call: &'static str, code: c_int) -> Result<(), MpiError> {
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
pub(super) fn said(write: impl FnOnce(*mut c_char, *mut c_int) -> c_int) -> String {
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
