//! [`Mpi`]: the processes that `mpirun` or `srun` started, connected by the MPI library of that launcher.
//!
//! The library is opened at run time, so that one program starts where there is none, and with whichever there is. Only
//! messages between two processes are used, never a collective: a library's sum changes its order with the length of the
//! message.

mod calls;
mod error;
mod family;
mod flight;
mod library;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

pub use self::error::MpiError;
pub(crate) use self::flight::Parcel;
use self::library::{MpiLibrary, OpenError};
use crate::{Launcher, NodePosition};

/// The processes of a launcher, connected by its library.
pub struct Mpi {
    node: NodePosition,
    library: Arc<dyn MpiLibrary>,
    /// Held by who calls the library.
    calling: Mutex<()>,
    owner: Mutex<OwnerThread>,
}

/// The way to the thread that began, which alone may end: the standard asks for that.
struct OwnerThread {
    end: Sender<()>,
    ended: Receiver<Result<(), MpiError>>,
}

impl Mpi {
    /// Open the library that goes with `launcher`, and meet the other processes, which takes at most `limit`.
    ///
    /// # Errors
    /// If there is no such library, or it does not know of the launcher, or the others do not come.
    pub fn start(launcher: &Launcher, limit: Duration) -> Result<Arc<Self>, MpiError> {
        let Launcher { name, variable, node: expected, families } = *launcher;
        let library: Arc<dyn MpiLibrary> = match self::library::open(families) {
            Ok(library) => library.into(),
            Err(OpenError::Broken(error)) => return Err(error),
            Err(OpenError::None(tried)) => {
                return Err(MpiError::NoLibrary { launcher: name, variable, node: expected, tried });
            }
        };
        let (begun, begins) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        let (tell, ended) = mpsc::channel();
        let owner = Arc::clone(&library);
        let body = move || {
            // Who waits may have given up.
            let _ = begun.send(owner.begin());
            // Nothing comes where the processes do not part in peace.
            if ends.recv().is_ok() {
                let _ = tell.send(owner.end());
            }
        };
        thread::Builder::new().name("quern-mpi".into()).spawn(body)?;
        let slow = |_| MpiError::Slow { call: "MPI_Init_thread", limit };
        let node = begins.recv_timeout(limit).map_err(slow)??;
        if node != expected {
            let (library, version) = (library.file().to_owned(), library.version());
            return Err(MpiError::Stranger { library, version, found: node, launcher: name, variable, expected });
        }
        Ok(Arc::new(Self { node, library, calling: Mutex::default(), owner: Mutex::new(OwnerThread { end, ended }) }))
    }

    /// Which of the processes this is.
    pub fn node(&self) -> NodePosition {
        self.node
    }

    /// The library's file and what it calls itself.
    pub fn library(&self) -> String {
        format!("{}, {}", self.library.file(), self.library.version())
    }

    /// The records of all processes, in their order: each gives its own, all of one length.
    ///
    /// # Errors
    /// If one is not heard of for `limit`.
    pub fn share(&self, own: &[u8], limit: Duration) -> Result<Vec<Vec<u8>>, MpiError> {
        let mut records = vec![vec![0; own.len()]; self.node.count];
        let others = records.iter_mut().enumerate().filter(|(process, _)| *process != self.node.index);
        let mut parcels: Vec<_> = others.map(|(process, into)| Parcel { process, is_told: true, into }).collect();
        let shared = self.exchange(&mut own.to_vec(), &mut parcels, limit, &|| false);
        shared.map_err(|(at, cause)| MpiError::Unheard { process: parcels[at].process, cause })?;
        records[self.node.index].copy_from_slice(own);
        Ok(records)
    }

    /// Send `out` to the processes that are told, and fill what comes, with at most `limit` in which nothing arrives and
    /// only until `is_over`.
    ///
    /// # Errors
    /// The place of the parcel that failed, and why. What was lent to the library is empty then, and nothing can be
    /// exchanged any more.
    pub(crate) fn exchange(
        &self,
        out: &mut Vec<u8>,
        parcels: &mut [Parcel<'_>],
        limit: Duration,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), (usize, io::Error)> {
        // Nothing is kept under the lock, so poison means nothing.
        let _one_at_a_time = self.calling.lock().unwrap_or_else(PoisonError::into_inner);
        self.library.exchange(out, parcels, limit, is_over)
    }

    /// Part from the other processes in peace, which all must do at once. A launcher takes it for a crash where one ends
    /// without.
    ///
    /// # Errors
    /// If that takes longer than `limit`, or an exchange is under way.
    pub fn end(&self, limit: Duration) -> Result<(), MpiError> {
        let slow = MpiError::Slow { call: "MPI_Finalize", limit };
        let _no_exchange = match self.calling.try_lock() {
            Ok(lock) => lock,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(slow),
        };
        let OwnerThread { end, ended } = &*self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if end.send(()).is_err() {
            return Err(slow);
        }
        match ended.recv_timeout(limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(slow),
        }
    }
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mpi").field("node", &self.node).field("library", &self.library()).finish()
    }
}
