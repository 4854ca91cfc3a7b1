//! [`KvPool`]: which pages are free. The others are owned by the page tables of sequences and by the prefix
//! tree; the three together are every page, once (invariant I5).

/// The free pages of a pool.
#[derive(Debug)]
pub struct KvPool {
    /// Free pages; allocated from and freed to the end, so that warm pages are reused first.
    free_pages: Vec<u32>,
    is_free: Vec<bool>,
}

impl KvPool {
    /// A pool of `num_pages` free pages.
    pub fn new(num_pages: usize) -> Self {
        let num_pages = u32::try_from(num_pages).expect("page indices are 32 bits wide");
        Self { free_pages: (0..num_pages).rev().collect(), is_free: vec![true; num_pages as usize] }
    }

    /// Pages in all.
    pub fn total(&self) -> usize {
        self.is_free.len()
    }

    /// Free pages.
    pub fn num_free(&self) -> usize {
        self.free_pages.len()
    }

    /// Take a free page; `None` if there is none.
    pub fn alloc(&mut self) -> Option<u32> {
        let page = self.free_pages.pop()?;
        self.is_free[page as usize] = false;
        Some(page)
    }

    /// Return a page to the pool.
    ///
    /// # Panics
    /// If it is free already (a double free).
    pub fn free(&mut self, page: u32) {
        assert!(!self.is_free[page as usize], "page {page} is freed twice");
        self.is_free[page as usize] = true;
        self.free_pages.push(page);
    }

    /// Whether `page` is free.
    pub fn is_free(&self, page: u32) -> bool {
        self.is_free[page as usize]
    }
}
