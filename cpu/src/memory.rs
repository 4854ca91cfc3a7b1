//! The memory that kernels read and write: aligned vectors, lazily mapped regions, and slices whose
//! disjoint parts several workers write at once.

use std::{fs::File, io, marker::PhantomData, ops::Range, os::fd::AsRawFd, ptr::NonNull};

/// A cache line of f32, so that vectors of them begin on one.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct CacheLine([f32; 16]);

/// A growable f32 vector that begins on a cache line.
#[derive(Debug, Default)]
pub(crate) struct AlignedVec {
    lines: Vec<CacheLine>,
    len: usize,
}

impl AlignedVec {
    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { lines: vec![CacheLine([0.0; 16]); len.div_ceil(16)], len }
    }

    /// At least `len` elements of which the caller knows nothing; allocates only to grow.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [f32] {
        if self.len < len {
            self.lines.resize(len.div_ceil(16), CacheLine([0.0; 16]));
            self.len = len;
        }
        &mut self[..len]
    }
}

impl std::ops::Deref for AlignedVec {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `CacheLine` is 16 f32 without padding, and `len <= 16 * lines.len()`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for AlignedVec {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// A mapping that this process owns: unmapped when it is dropped.
#[derive(Debug)]
struct OwnedMapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is owned like a `Box<[u8]>`; access follows the borrow of `Region` or `ReadRegion`.
unsafe impl Send for OwnedMapping {}
// SAFETY: as above.
unsafe impl Sync for OwnedMapping {}

impl OwnedMapping {
    /// `len` bytes of `file` from `at` on, shared with every process that maps the file.
    fn of_file(file: &File, at: u64, len: usize, protection: libc::c_int) -> io::Result<Self> {
        let at = libc::off_t::try_from(at).expect("files are shorter than 2^63 bytes");
        // SAFETY: a fresh mapping touches no memory of ours. No other process writes the file while it is being
        // written (it is locked) or once it is whole (nothing of ours does).
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), at) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = Self { start: NonNull::new(start.cast()).expect("a mapping is not at 0"), len };
        mapping.advise_huge_pages();
        Ok(mapping)
    }

    /// Attention walks pages of keys in an order of its own and weights are many gigabytes, so fewer TLB entries help.
    fn advise_huge_pages(&self) {
        #[cfg(all(target_os = "linux", not(miri)))]
        // SAFETY: the range is mapped. Advice only: failure costs nothing else.
        unsafe {
            libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE);
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `len` bytes, readable; who writes it borrows the `Region` exclusively.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for OwnedMapping {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: `mmap` gave these `len` bytes to this value (a mapping of none is dangling), and no borrow of
            // them outlives it.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}

/// Writable memory that the operating system provides page by page on first touch: zeroed, or a part of a file.
#[derive(Debug)]
pub(crate) struct Region(OwnedMapping);

impl Region {
    /// `len` bytes, or `None` if the operating system refuses.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self(OwnedMapping { start: NonNull::<CacheLine>::dangling().cast(), len }));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping touches no memory of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let mapping = OwnedMapping { start: NonNull::new(start.cast())?, len };
        mapping.advise_huge_pages();
        Some(Self(mapping))
    }

    /// `len` bytes of a file from `at` on, to write and to read.
    pub(crate) fn shared(file: &File, at: u64, len: usize) -> io::Result<Self> {
        OwnedMapping::of_file(file, at, len, libc::PROT_READ | libc::PROT_WRITE).map(Self)
    }

    /// The bytes as f32, as many as are whole.
    pub(crate) fn words(&mut self) -> &mut [f32] {
        // SAFETY: the mapping is writable and begins on a page (or, of no bytes, on a `CacheLine`), so it is aligned; every
        // bit pattern is an f32; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.0.start.as_ptr().cast(), self.0.len / 4) }
    }

    /// The bytes, for several workers.
    pub(crate) fn disjoint(&mut self) -> DisjointMut<'_, u8> {
        DisjointMut { start: self.0.start.as_ptr(), len: self.0.len, borrow: PhantomData }
    }

    /// The same memory, which nobody writes any more.
    pub(crate) fn freeze(self) -> ReadRegion {
        ReadRegion(self.0)
    }
}

/// Memory that is only read: a frozen [`Region`], or a part of a file that was mapped without the right to write it.
#[derive(Debug)]
pub(crate) struct ReadRegion(OwnedMapping);

impl ReadRegion {
    /// `len` bytes of a file from `at` on; what is in memory already is mapped at once.
    pub(crate) fn mapped(file: &File, at: u64, len: usize) -> io::Result<Self> {
        let mapping = OwnedMapping::of_file(file, at, len, libc::PROT_READ)?;
        #[cfg(target_os = "linux")]
        // SAFETY: the range was mapped just now. Advice only: read in order it comes from the disk in large pieces.
        unsafe {
            libc::madvise(mapping.start.as_ptr().cast(), len, libc::MADV_POPULATE_READ);
        }
        Ok(Self(mapping))
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// A mutable slice whose parts are handed to several workers. That the parts of different workers do
/// not overlap is each user's proof.
#[derive(Clone, Copy)]
pub(crate) struct DisjointMut<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a `DisjointMut` is a `&mut [T]` whose exclusive use the callers of `part` divide among threads.
unsafe impl<T: Send> Send for DisjointMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}

impl<'a, T> DisjointMut<'a, T> {
    /// All of `slice`.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// Elements.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first element's address.
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.start
    }

    /// A part of it.
    ///
    /// # Safety
    /// While the part is borrowed nobody else holds a part that overlaps it.
    #[expect(clippy::mut_from_ref, reason = "the exclusive borrow is divided, see the type")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {}", self.len);
        // SAFETY: in bounds by the assertion; exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// A part of it, to read.
    ///
    /// # Safety
    /// While it is borrowed nobody holds a part that overlaps it.
    pub(crate) unsafe fn read(&self, range: Range<usize>) -> &[T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {}", self.len);
        // SAFETY: in bounds by the assertion; nobody writes by this function's contract.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }
}
