//! [`KvPool`]: which pages are free. Who owns the others is written in the page tables of sequences and
//! in the prefix tree; the three together are every page, once (invariant I5).

/// The free pages of a pool.
#[derive(Debug)]
pub struct KvPool {
    /// Free pages; taken from and returned to the end, so that warm pages are reused first.
    free: Vec<u32>,
    is_free: Vec<bool>,
}

impl KvPool {
    /// A pool of `num_pages` free pages.
    pub fn new(num_pages: usize) -> Self {
        let num_pages = u32::try_from(num_pages).expect("page indices are 32 bits wide");
        Self { free: (0..num_pages).rev().collect(), is_free: vec![true; num_pages as usize] }
    }

    /// Pages in all.
    pub fn total(&self) -> usize {
        self.is_free.len()
    }

    /// Free pages.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Take a page.
    pub fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.is_free[page as usize] = false;
        Some(page)
    }

    /// Return a page.
    ///
    /// # Panics
    /// If it is free already: two owners believed in it.
    pub fn give_back(&mut self, page: u32) {
        assert!(!self.is_free[page as usize], "page {page} is given back twice");
        self.is_free[page as usize] = true;
        self.free.push(page);
    }

    /// Whether `page` is free.
    pub fn is_free(&self, page: u32) -> bool {
        self.is_free[page as usize]
    }
}
