//! [`exchange`]: messages to and from several processes at once, each tried again and again until it has arrived, a deadline
//! has passed, or somebody says that it never will.
//!
//! Nothing here blocks within the library: a call that waits for a process that is gone waits for ever.

use std::{
    io, mem, thread,
    time::{Duration, Instant},
};

use super::{MpiError, calls::Calls, family::Handle};

/// Most bytes of one message, whose length is an int.
const PIECE: usize = 1 << 30;

/// Tries without a break before other threads of this core get their turn: what an exchange within a host takes.
const EAGER_TRIES: u32 = 256;

/// From this long on one sleeps between two tries: it waits for somebody who computes, not for the network.
const LONG: Duration = Duration::from_millis(5);

/// How long.
const NAP: Duration = Duration::from_micros(50);

/// What goes to one other process, and what comes from it.
pub(crate) struct Parcel<'a> {
    pub(crate) process: usize,
    /// Whether it is sent what is sent.
    pub(crate) is_told: bool,
    /// Where what comes is put: as many bytes as it has.
    pub(crate) into: &'a mut Vec<u8>,
}

/// Memory that the library reads and writes. What it may still write to after a failure is never used again.
struct Lent<'a, 'b> {
    out: &'a mut Vec<u8>,
    parcels: &'a mut [Parcel<'b>],
    is_back: bool,
}

impl Drop for Lent<'_, '_> {
    fn drop(&mut self) {
        if !self.is_back {
            mem::forget(mem::take(self.out));
            self.parcels.iter_mut().for_each(|parcel| mem::forget(mem::take(parcel.into)));
        }
    }
}

/// Send `out` to the processes that are told, and fill what comes, with at most `limit` in which nothing arrives.
pub(super) fn exchange<H: Handle>(
    calls: &Calls<H>,
    out: &mut Vec<u8>,
    parcels: &mut [Parcel<'_>],
    limit: Duration,
    is_over: &dyn Fn() -> bool,
) -> Result<(), (usize, io::Error)> {
    let mut lent = Lent { out, parcels, is_back: false };
    let failed = |at: usize| move |error: MpiError| (at, io::Error::new(io::ErrorKind::BrokenPipe, error));
    let mut under_way = Vec::with_capacity(2 * lent.parcels.len());
    // First what is received, so that it need not be kept elsewhere when it comes.
    for (at, parcel) in lent.parcels.iter_mut().enumerate() {
        for piece in parcel.into.chunks_mut(PIECE) {
            // SAFETY: `lent` keeps the bytes until all is done, and for ever if it never is.
            let request = unsafe { calls.receive(piece.as_mut_ptr(), piece.len(), parcel.process) };
            under_way.push((at, request.map_err(failed(at))?));
        }
    }
    for (at, parcel) in lent.parcels.iter().enumerate().filter(|(_, parcel)| parcel.is_told) {
        for piece in lent.out.chunks(PIECE) {
            // SAFETY: as above.
            let request = unsafe { calls.send(piece.as_ptr(), piece.len(), parcel.process) };
            under_way.push((at, request.map_err(failed(at))?));
        }
    }
    let mut patience = Patience::new(limit);
    while let Some((waits, _)) = under_way.first() {
        let waits = *waits;
        let before = under_way.len();
        let mut next = 0;
        while let Some((at, request)) = under_way.get_mut(next) {
            if calls.is_done(request).map_err(failed(*at))? {
                under_way.swap_remove(next);
            } else {
                next += 1;
            }
        }
        match under_way.len() < before {
            true => patience = Patience::new(limit),
            false => patience.wait(is_over).map_err(|kind| (waits, kind.into()))?,
        }
    }
    lent.is_back = true;
    Ok(())
}

/// How long has been waited.
struct Patience {
    began: Instant,
    limit: Duration,
    tries: u32,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { began: Instant::now(), limit, tries: 0 }
    }

    /// Wait until the next try is due.
    fn wait(&mut self, is_over: &dyn Fn() -> bool) -> Result<(), io::ErrorKind> {
        self.tries = self.tries.saturating_add(1);
        if self.tries < EAGER_TRIES {
            std::hint::spin_loop();
            return Ok(());
        }
        if is_over() {
            return Err(io::ErrorKind::ConnectionAborted);
        }
        match self.began.elapsed() {
            waited if waited >= self.limit => return Err(io::ErrorKind::TimedOut),
            waited if waited >= LONG => thread::sleep(NAP),
            _ => thread::yield_now(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        collections::VecDeque,
        ffi::{c_char, c_int, c_void},
    };

    use super::*;
    use crate::mpi::family::MPICH;

    thread_local! {
        /// What was sent and has not been received: all messages are to oneself.
        static MAIL: RefCell<VecDeque<Vec<u8>>> = RefCell::default();
        /// What is to be received: where to and how much.
        static WANTED: RefCell<Vec<(*mut u8, usize)>> = RefCell::default();
        /// Tries of a request before it is done; `None`: never.
        static DELAY: Cell<Option<u32>> = const { Cell::new(Some(0)) };
    }

    /// Sends have odd numbers, receptions even ones.
    unsafe extern "C" fn isend(
        bytes: *const c_void,
        len: c_int,
        _: c_int,
        _: c_int,
        _: c_int,
        _: c_int,
        request: *mut c_int,
    ) -> c_int {
        // SAFETY: the caller sends bytes that are there.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len as usize) };
        MAIL.with_borrow_mut(|mail| mail.push_back(bytes.to_vec()));
        // SAFETY: the caller's own.
        unsafe { *request = 1 };
        0
    }

    unsafe extern "C" fn irecv(
        bytes: *mut c_void,
        len: c_int,
        _: c_int,
        _: c_int,
        _: c_int,
        _: c_int,
        request: *mut c_int,
    ) -> c_int {
        let place = WANTED.with_borrow_mut(|wanted| {
            wanted.push((bytes.cast(), len as usize));
            wanted.len() - 1
        });
        // SAFETY: the caller's own.
        unsafe { *request = 2 * place as c_int };
        0
    }

    unsafe extern "C" fn test(request: *mut c_int, flag: *mut c_int, status: *mut c_void) -> c_int {
        assert_eq!(status as usize, 1, "the status that is ignored");
        match DELAY.get() {
            Some(0) => {}
            left => {
                DELAY.set(left.map(|left| left - 1));
                return 0;
            }
        }
        // SAFETY: the caller's own.
        let number = unsafe { *request };
        let code = match number % 2 {
            1 => 0,
            _ => {
                let (to, len) = WANTED.with_borrow(|wanted| wanted[number as usize / 2]);
                let message = MAIL.with_borrow_mut(VecDeque::pop_front).unwrap();
                // SAFETY: the caller keeps the bytes until this says that the request is done.
                unsafe { message.as_ptr().copy_to(to, message.len().min(len)) };
                // MPI_ERR_TRUNCATE of a message that is too long.
                if message.len() > len { 14 } else { 0 }
            }
        };
        // SAFETY: the caller's own.
        unsafe { *flag = 1 };
        code
    }

    unsafe extern "C" fn words(buffer: *mut c_char, length: *mut c_int) -> c_int {
        let text = b"MPICH Version:\t9.9\nMPICH Release date:\tnever\0";
        // SAFETY: the caller has room for more.
        unsafe {
            text.as_ptr().copy_to(buffer.cast(), text.len());
            *length = text.len() as c_int;
        }
        0
    }

    unsafe extern "C" fn error_words(_: c_int, buffer: *mut c_char, length: *mut c_int) -> c_int {
        let text = b"Message truncated";
        // SAFETY: the caller has room for more.
        unsafe {
            text.as_ptr().copy_to(buffer.cast(), text.len());
            *length = text.len() as c_int;
        }
        0
    }

    unsafe extern "C" fn begin(
        _: *mut c_int,
        _: *mut *mut *mut c_char,
        required: c_int,
        provided: *mut c_int,
    ) -> c_int {
        // SAFETY: the caller's own.
        unsafe { *provided = required };
        0
    }

    unsafe extern "C" fn end() -> c_int {
        0
    }

    unsafe extern "C" fn one(_: c_int, number: *mut c_int) -> c_int {
        // SAFETY: the caller's own.
        unsafe { *number = 1 };
        0
    }

    unsafe extern "C" fn accept(_: c_int, _: c_int) -> c_int {
        0
    }

    /// A library that sends all messages back.
    fn echo() -> Calls<c_int> {
        Calls {
            library: "echo".into(),
            constants: MPICH,
            init_thread: begin,
            finalize: end,
            comm_rank: one,
            comm_size: one,
            set_errhandler: accept,
            isend,
            irecv,
            test,
            library_version: words,
            error_string: error_words,
            _library: None,
        }
    }

    fn send_to_oneself(len: usize, limit: Duration, is_over: &dyn Fn() -> bool) -> Result<(), (usize, io::Error)> {
        let (mut out, mut into) = ((0..9).collect::<Vec<u8>>(), vec![0; len]);
        let mut parcels = [Parcel { process: 0, is_told: true, into: &mut into }];
        let done = exchange(&echo(), &mut out, &mut parcels, limit, is_over);
        // What the library may still write to is not ours any more.
        let expected = if done.is_ok() { (0..9).collect() } else { Vec::new() };
        assert_eq!((&out, &into), (&expected, &expected));
        done
    }

    #[test]
    fn messages_arrive_however_often_they_are_asked_for() {
        for delay in [0, 1, 5000] {
            DELAY.set(Some(delay));
            send_to_oneself(9, Duration::from_secs(60), &|| false).unwrap();
        }
    }

    #[test]
    fn what_never_arrives_is_given_up_at_the_deadline() {
        DELAY.set(None);
        let (limit, begin) = (Duration::from_millis(50), Instant::now());
        let (at, error) = send_to_oneself(9, limit, &|| false).unwrap_err();
        assert_eq!((at, error.kind()), (0, io::ErrorKind::TimedOut));
        assert!(begin.elapsed() >= limit);
    }

    #[test]
    fn nobody_waits_for_a_process_that_is_known_to_be_lost() {
        DELAY.set(None);
        let (_, error) = send_to_oneself(9, Duration::MAX, &|| true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[test]
    fn a_call_that_fails_is_told_in_the_words_of_the_library() {
        let (_, error) = send_to_oneself(5, Duration::from_secs(60), &|| false).unwrap_err();
        assert_eq!(error.to_string(), "echo: MPI_Test failed: Message truncated");
    }
}
