//! [`PackedWeightCache`]: repacked weights in a file, so that the next start maps them and repacks nothing.
//!
//! ```text
//! header    "quern panels 1", what the weights are, where the table begins
//! regions   one a call of `Panels::pack`, in the order of the calls
//! table     a line a region: where it begins, its bytes, its matrices
//! ```
//!
//! Panels are written through the mapping that the kernels then read, so there is no second copy, and a machine short
//! of memory drops what it can read again. The file gets its name when all of it is on disk: what has the name is
//! whole. The layout of panels is the same for every instruction set.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    thread,
};

use crate::memory::{ReadRegion, Region};

/// Names the layout of the file and of panels (`format.rs`): a change of either is another number, which
/// `tests/packed_weight_cache.rs` sees to.
const MAGIC: &str = "quern panels 1";

/// Bytes of the header.
const HEADER: usize = 4096;

/// Regions begin at multiples of it, so that huge pages can hold them.
const ALIGNMENT: u64 = 2 << 20;

/// More than this is no table of ours.
const MOST_TABLE: u64 = 256 << 20;

/// Called when the file is whole, with its bytes, or with the reason why there is none.
pub type OnSaved = Box<dyn FnOnce(io::Result<u64>) + Send>;

/// A file of panels, either whole and read in order, or written for the next start.
#[derive(Debug)]
pub struct PackedWeightCache {
    path: PathBuf,
    identity: String,
    file: File,
    /// Lines of the regions: those that are to come, or those that were written.
    table: VecDeque<String>,
    /// Where the next region begins, when writing.
    end: u64,
    state: FileState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileState {
    /// All regions are there, to be mapped and read.
    Whole,
    /// Being written, under [`partial_name`].
    Partial,
    /// Written and renamed.
    Done,
}

/// Where panels lie, or are to lie, in a [`PackedWeightCache`].
pub(crate) enum PanelRegion {
    /// They are there.
    Packed(ReadRegion),
    /// They are to be written.
    Empty(Region),
}

impl PackedWeightCache {
    /// The file `path`, whose weights are `identity`. One that is not there, or holds something else, is written
    /// anew; `None` if another process is just doing that.
    ///
    /// # Errors
    /// If the file cannot be opened or created.
    pub fn open(path: &Path, identity: &str) -> io::Result<Option<Self>> {
        let new = |file, table, state| Self {
            path: path.to_owned(),
            identity: identity.to_owned(),
            file,
            table,
            end: ALIGNMENT,
            state,
        };
        match File::open(path) {
            Ok(mut file) => {
                if let Some(table) = read_table(&mut file, identity)? {
                    return Ok(Some(new(file, table, FileState::Whole)));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(partial_name(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // What a process that was killed left behind.
        file.set_len(0)?;
        Ok(Some(new(file, VecDeque::new(), FileState::Partial)))
    }

    /// Whether it holds the weights already.
    pub fn is_whole(&self) -> bool {
        self.state == FileState::Whole
    }

    /// The next region, `bytes` long, for what `matrices` says in one line.
    ///
    /// # Errors
    /// If the file has another region next, or cannot be mapped or grow.
    pub(crate) fn region(&mut self, matrices: &str, bytes: usize) -> io::Result<PanelRegion> {
        let region = match self.is_whole() {
            true => self.known(matrices, bytes).map(PanelRegion::Packed),
            false => self.fresh(matrices, bytes).map(PanelRegion::Empty),
        };
        region.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))
    }

    fn known(&mut self, matrices: &str, bytes: usize) -> io::Result<ReadRegion> {
        let line = self.table.pop_front().unwrap_or_else(|| "nothing".into());
        let at = line.split(' ').next().and_then(|at| at.parse().ok());
        match at.filter(|&at| line == describe(at, bytes, matrices)) {
            Some(at) => ReadRegion::mapped(&self.file, at, bytes),
            None => {
                let told = format!("the next region is `{}`, not {bytes} {matrices}; delete the file", line.trim_end());
                Err(io::Error::new(io::ErrorKind::InvalidData, told))
            }
        }
    }

    fn fresh(&mut self, matrices: &str, bytes: usize) -> io::Result<Region> {
        let at = self.end;
        self.end = (at + bytes as u64).next_multiple_of(ALIGNMENT);
        reserve(&self.file, at, bytes as u64)?;
        self.table.push_back(describe(at, bytes, matrices));
        Region::shared(&self.file, at, bytes)
    }

    /// All regions are written: bring the file to disk and give it its name, beside other work.
    pub(crate) fn save(mut self, on_saved: OnSaved) {
        if self.state != FileState::Partial {
            return;
        }
        let work = move || on_saved(self.finish());
        // A system without a thread to spare has more urgent needs; the next start repacks.
        let _ = thread::Builder::new().name("quern-panels".into()).spawn(work);
    }

    fn finish(&mut self) -> io::Result<u64> {
        let table: String = self.table.drain(..).collect();
        let header = format!("{MAGIC}\n{}\n{} {}\n", self.identity, self.end, table.len());
        if header.len() > HEADER {
            return Err(io::Error::other(format!("the header of {} bytes is longer than {HEADER}", header.len())));
        }
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(table.as_bytes())?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(header.as_bytes())?;
        self.file.sync_all()?;
        fs::rename(partial_name(&self.path), &self.path)?;
        self.state = FileState::Done;
        Ok(self.end + table.len() as u64)
    }
}

impl Drop for PackedWeightCache {
    fn drop(&mut self) {
        if self.state == FileState::Partial {
            let _ = fs::remove_file(partial_name(&self.path));
        }
    }
}

/// What a file is called while it is written.
fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// A line of the table.
fn describe(at: u64, bytes: usize, matrices: &str) -> String {
    format!("{at} {bytes} {matrices}\n")
}

/// The lines of the table, if this is a whole file of the weights `identity`.
fn read_table(file: &mut File, identity: &str) -> io::Result<Option<VecDeque<String>>> {
    let mut header = Vec::new();
    file.take(HEADER as u64).read_to_end(&mut header)?;
    let text = String::from_utf8_lossy(&header);
    let mut lines = text.lines();
    if lines.next() != Some(MAGIC) || lines.next() != Some(identity) {
        return Ok(None);
    }
    let place = lines.next().and_then(|line| line.split_once(' '));
    let Some((Ok(start), Ok(length))) = place.map(|(start, length)| (start.parse::<u64>(), length.parse::<u64>()))
    else {
        return Ok(None);
    };
    // Another length means that somebody cut it off or went on writing.
    if length > MOST_TABLE || start.checked_add(length) != Some(file.metadata()?.len()) {
        return Ok(None);
    }
    let mut table = String::new();
    file.seek(SeekFrom::Start(start))?;
    if file.take(length).read_to_string(&mut table).is_err() {
        return Ok(None);
    }
    let lines: VecDeque<String> = table.split_inclusive('\n').map(str::to_owned).collect();
    let inside = |line: &String| {
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let (Some(Ok(at)), Some(Ok(bytes))) = (numbers.next(), numbers.next()) else { return false };
        at.is_multiple_of(ALIGNMENT) && at.checked_add(bytes).is_some_and(|end| end <= start)
    };
    Ok(lines.iter().all(inside).then_some(lines))
}

/// Room on the disk: a page of the mapping that finds none when it is written would end the process.
#[cfg(target_os = "linux")]
fn reserve(file: &File, at: u64, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let [at, bytes] = [at, bytes].map(|n| libc::off_t::try_from(n).expect("files are shorter than 2^63 bytes"));
    // SAFETY: a system call on an open file; no memory of ours.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), at, bytes) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(file: &File, at: u64, bytes: u64) -> io::Result<()> {
    let _ = file.as_raw_fd();
    file.set_len(at + bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use quern_backend::{
        PackedMatrix, QuantFormat,
        conformance::{Rng, matrix},
    };

    use super::*;
    use crate::{panels::Panels, pool::Pool};

    fn matrices(seed: u64) -> Vec<Vec<PackedMatrix>> {
        let mut rng = Rng(seed);
        let mut some = |format, rows: &[usize]| rows.iter().map(|&n| matrix(&mut rng, format, n, 512)).collect();
        vec![some(QuantFormat::Q4K, &[16, 37]), some(QuantFormat::Q6K, &[5]), some(QuantFormat::Q8_0, &[64, 64, 64])]
    }

    fn pack(file: &mut Option<PackedWeightCache>, all: &[Vec<PackedMatrix>]) -> Vec<Vec<u8>> {
        let pool = Pool::new(2).unwrap();
        let pack = |some: &Vec<PackedMatrix>| {
            let refs: Vec<_> = some.iter().collect();
            Panels::pack(&pool, file.as_mut(), &refs).unwrap().iter().flat_map(|p| p.bytes().to_vec()).collect()
        };
        all.iter().map(pack).collect()
    }

    fn keep(file: Option<PackedWeightCache>) -> u64 {
        let (done, wait) = mpsc::channel();
        file.unwrap().save(Box::new(move |result| done.send(result).unwrap()));
        wait.recv().unwrap().unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn what_was_kept_comes_back_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.panels");
        let all = matrices(1);
        let want = pack(&mut None, &all);

        let mut file = PackedWeightCache::open(&path, "these").unwrap();
        assert!(!file.as_ref().unwrap().is_whole());
        assert!(PackedWeightCache::open(&path, "these").unwrap().is_none(), "one process writes at a time");
        assert_eq!(pack(&mut file, &all), want);
        assert!(!path.exists(), "no name before it is whole");
        assert_eq!(keep(file), fs::metadata(&path).unwrap().len());

        let mut file = PackedWeightCache::open(&path, "these").unwrap();
        assert!(file.as_ref().unwrap().is_whole());
        // What is handed over is not looked at: other numbers of the same shapes give the kept ones.
        assert_eq!(pack(&mut file, &matrices(2)), want);
        drop(file);
        assert!(path.exists());

        let pool = Pool::new(1).unwrap();
        let mut file = PackedWeightCache::open(&path, "these").unwrap();
        let error = Panels::pack(&pool, file.as_mut(), &[&all[1][0]]).unwrap_err();
        assert!(error.to_string().contains("the next region is"), "{error}");

        let file = PackedWeightCache::open(&path, "those").unwrap();
        assert!(!file.as_ref().unwrap().is_whole(), "weights of another model");
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "what is not finished goes");
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_damaged_file_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.panels");
        let mut file = PackedWeightCache::open(&path, "these").unwrap();
        pack(&mut file, &matrices(1));
        keep(file);
        let whole = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&whole[..100]).into_owned();
        let table = text.lines().nth(2).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap();
        let is_whole = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            PackedWeightCache::open(&path, "these").unwrap().unwrap().is_whole()
        };
        assert!(is_whole(&whole));
        assert!(!is_whole(&whole[..whole.len() - 1]));
        assert!(!is_whole(&whole[..table]));
        assert!(!is_whole(&whole[..10]));
        assert!(!is_whole(b""));
        for (at, byte) in [(3, b'x'), (table, b'x'), (table, b'9'), (text.find("these").unwrap(), b'T')] {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            assert!(!is_whole(&damaged), "byte {at} {byte}");
        }
    }
}
