//! [`PackedWeightCache`]: repacked weights in a file, so that the next start maps them and repacks nothing.
//!
//! ```text
//! header    "quern panels 2", what the weights are, where the table begins, its bytes and checksum; checksum of these
//! regions   one a call of `Panels::pack`, in the order of the calls
//! table     a line a region: where it begins, its bytes, its matrices; then the checksums of all chunks
//! ```
//!
//! Panels are written through the mapping that the kernels then read, so there is no second copy, and a machine short
//! of memory drops what it can read again. The file gets its name when all of it is on disk: what has the name was
//! whole then. Whether it still is, is looked at before it is used: every byte is held to a checksum, and a file that
//! fails is written anew. One that cannot be written is done without. The layout of panels is the same for every
//! instruction set.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    thread,
};

use crate::{
    memory::{ReadRegion, Region},
    panels::checksum,
};

/// Names the layout of the file and of panels (`format.rs`): a change of either is another number, which
/// `tests/packed_weight_cache.rs` sees to.
const MAGIC: &str = "quern panels 2";

/// Bytes of the header.
const HEADER: usize = 4096;

/// Regions begin at multiples of it, so that huge pages can hold them.
const ALIGNMENT: u64 = 2 << 20;

/// Begins the last line of the table.
const CHECKSUMS: &str = "checksums";

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
    damage: Option<String>,
}

#[derive(Debug)]
enum FileState {
    /// All regions are there, to be mapped and read.
    Whole,
    /// Being written, under [`partial_name`].
    Partial,
    /// Written and renamed.
    Done,
    /// What comes is packed into memory, and why.
    Off(io::Error),
}

/// Where panels lie, or are to lie, in a [`PackedWeightCache`].
pub(crate) enum PanelRegion {
    /// They are there.
    Packed(ReadRegion),
    /// They are to be written.
    Empty(Region),
    /// Not in the file, which is given up.
    Nowhere,
}

impl PackedWeightCache {
    /// The file `path`, whose weights are `identity`. All of it is read: one that is not there, holds something else or
    /// is [damaged](Self::damage), is written anew; `None` if another process is just doing that.
    ///
    /// # Errors
    /// If the file cannot be opened or created.
    pub fn open(path: &Path, identity: &str) -> io::Result<Option<Self>> {
        let new = |file, table, state, damage| Self {
            path: path.to_owned(),
            identity: identity.to_owned(),
            file,
            table,
            end: ALIGNMENT,
            state,
            damage,
        };
        let damage = match open_regular(path) {
            Ok(mut file) => match read_whole(&mut file, identity) {
                Ok(Contents::Whole(table)) => return Ok(Some(new(file, table, FileState::Whole, None))),
                Ok(Contents::Damaged(damage)) => Some(damage),
                Ok(Contents::Other) => None,
                Err(error) => Some(error.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(partial_name(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // What a process that was killed left behind.
        file.set_len(0)?;
        Ok(Some(new(file, VecDeque::new(), FileState::Partial, damage)))
    }

    /// Whether it holds the weights already.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, FileState::Whole)
    }

    /// What was wrong with a file of these weights that is now written anew, if there was one.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Take the disk's room for a file of about `bytes` that is to be written, so that a disk without it is found out
    /// before there are panels in a part of it.
    ///
    /// # Errors
    /// If there is no room.
    pub fn reserve(&self, bytes: u64) -> io::Result<()> {
        match self.state {
            FileState::Partial => reserve(&self.file, 0, ALIGNMENT.saturating_add(bytes)),
            _ => Ok(()),
        }
    }

    /// The next region, `bytes` long, for what `matrices` says in one line; nowhere if the file cannot be mapped or
    /// grow, or does not go on with it: weights that were packed are worth a file, but a file is not worth a server.
    pub(crate) fn region(&mut self, matrices: &str, bytes: usize) -> PanelRegion {
        let region = match self.state {
            FileState::Whole => self.known(matrices, bytes).map(PanelRegion::Packed),
            FileState::Partial => self.fresh(matrices, bytes).map(PanelRegion::Empty),
            FileState::Done | FileState::Off(_) => return PanelRegion::Nowhere,
        };
        region.unwrap_or_else(|error| {
            self.discard();
            self.state = FileState::Off(error);
            PanelRegion::Nowhere
        })
    }

    fn known(&mut self, matrices: &str, bytes: usize) -> io::Result<ReadRegion> {
        let line = self.table.pop_front().unwrap_or_else(|| "nothing".into());
        let at = line.split(' ').next().and_then(|at| at.parse().ok());
        match at.filter(|&at| line == describe(at, bytes, matrices)) {
            Some(at) => ReadRegion::mapped(&self.file, at, bytes),
            None => {
                let told = format!("the next region is `{}`, not {bytes} {matrices}", line.trim_end());
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
        let work: Box<dyn FnOnce() + Send> = match std::mem::replace(&mut self.state, FileState::Done) {
            FileState::Whole | FileState::Done => return,
            FileState::Off(error) => return on_saved(Err(error)),
            FileState::Partial => {
                self.state = FileState::Partial;
                Box::new(move || {
                    let result = self.finish();
                    // What is not finished goes before anybody hears of it.
                    drop(self);
                    on_saved(result);
                })
            }
        };
        // A system without a thread to spare has more urgent needs; the next start repacks.
        let _ = thread::Builder::new().name("quern-panels".into()).spawn(work);
    }

    fn finish(&mut self) -> io::Result<u64> {
        // What was reserved beyond its end goes back, and a gap before the end becomes part of it.
        self.file.set_len(self.end)?;
        let mut table: String = self.table.drain(..).collect();
        table += CHECKSUMS;
        for checksum in checksum::of_chunks(&self.file, HEADER as u64..self.end, ALIGNMENT)? {
            table += &format!(" {checksum:08x}");
        }
        table.push('\n');
        let lines = [MAGIC, &self.identity, &place(self.end, &table)].map(|line| format!("{line}\n")).concat();
        let header = format!("{lines}{:08x}\n", crc32fast::hash(lines.as_bytes()));
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

    /// Delete what is of no use to a later start.
    fn discard(&self) {
        let _ = match self.state {
            FileState::Whole => fs::remove_file(&self.path),
            FileState::Partial => fs::remove_file(partial_name(&self.path)),
            FileState::Done | FileState::Off(_) => Ok(()),
        };
    }
}

impl Drop for PackedWeightCache {
    fn drop(&mut self) {
        if matches!(self.state, FileState::Partial) {
            self.discard();
        }
    }
}

/// Open `path` for reading, unless that is something which never ends or never begins.
fn open_regular(path: &Path) -> io::Result<File> {
    match fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no regular file", path.display()))),
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

/// The header's line about the table, which begins at `start`.
fn place(start: u64, table: &str) -> String {
    format!("{start} {} {:08x}", table.len(), crc32fast::hash(table.as_bytes()))
}

/// What a file of some name turned out to hold.
enum Contents {
    /// The weights looked for; lines of their regions.
    Whole(VecDeque<String>),
    /// These weights once, and what is wrong now.
    Damaged(String),
    /// Something else.
    Other,
}

/// Read the `file` to its end, and hold it to its checksums.
fn read_whole(file: &mut File, identity: &str) -> io::Result<Contents> {
    let damaged = |what: String| Ok(Contents::Damaged(what));
    let mut header = Vec::new();
    file.take(HEADER as u64).read_to_end(&mut header)?;
    let text = String::from_utf8_lossy(&header);
    let mut lines = text.split_inclusive('\n');
    let mut next = || lines.next().unwrap_or_default();
    let lines = [next(), next(), next()];
    if lines[0].trim_end() != MAGIC || lines[1].trim_end() != identity {
        return Ok(Contents::Other);
    }
    let told = format!("{:08x}\n", crc32fast::hash(lines.concat().as_bytes()));
    let rest = header.get(lines.concat().len()..).and_then(|rest| rest.strip_prefix(told.as_bytes()));
    if header.len() < HEADER || rest.is_none_or(|rest| rest.iter().any(|&byte| byte != 0)) {
        return damaged("the header does not have its checksum".into());
    }
    let mut words = lines[2].split(' ').map(|word| word.parse::<u64>());
    let (Some(Ok(start)), Some(Ok(length))) = (words.next(), words.next()) else {
        return damaged("the header does not say where the table is".into());
    };
    let found = file.metadata()?.len();
    if length > MOST_TABLE || start.checked_add(length) != Some(found) {
        return damaged(format!("it has {found} bytes, not {start} and a table of {length}"));
    }
    let mut table = String::new();
    file.seek(SeekFrom::Start(start))?;
    if file.take(length).read_to_string(&mut table).is_err() || lines[2].trim_end() != place(start, &table) {
        return damaged("the table does not have its checksum".into());
    }
    let mut regions: VecDeque<String> = table.split_inclusive('\n').map(str::to_owned).collect();
    let checksums = regions.pop_back().unwrap_or_default();
    let inside = |line: &String| {
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let (Some(Ok(at)), Some(Ok(bytes))) = (numbers.next(), numbers.next()) else { return false };
        at.is_multiple_of(ALIGNMENT) && at.checked_add(bytes).is_some_and(|end| end <= start)
    };
    if start < ALIGNMENT || !regions.iter().all(inside) {
        return damaged("the table does not fit the file".into());
    }
    let told = checksums.split_whitespace().skip(1).map(|word| u32::from_str_radix(word, 16).ok());
    let told: Vec<_> = told.collect();
    let found = checksum::of_chunks(file, HEADER as u64..start, ALIGNMENT)?;
    let differs = told.iter().zip(&found).position(|(told, found)| *told != Some(*found));
    let missing = (told.len() != found.len()).then_some(told.len().min(found.len()));
    let Some(chunk) = differs.or(missing) else { return Ok(Contents::Whole(regions)) };
    let chunk = chunk as u64;
    let bytes = (chunk * ALIGNMENT).max(HEADER as u64)..((chunk + 1) * ALIGNMENT).min(start);
    damaged(format!("bytes {} to {} do not have their checksum", bytes.start, bytes.end))
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
    use std::{os::unix::fs::FileExt, sync::mpsc};

    use quern_backend::{
        PackedMatrix, QuantFormat,
        conformance::{Rng, matrix},
    };
    use tempfile::TempDir;

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

    fn saved(file: Option<PackedWeightCache>) -> io::Result<u64> {
        let (done, wait) = mpsc::channel();
        file.unwrap().save(Box::new(move |result| done.send(result).unwrap()));
        wait.recv().unwrap()
    }

    fn keep(file: Option<PackedWeightCache>) -> u64 {
        saved(file).unwrap()
    }

    /// A folder, the path of a file in it that keeps `all`, and what was packed.
    fn kept(all: &[Vec<PackedMatrix>]) -> (TempDir, PathBuf, Vec<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.panels");
        let mut file = PackedWeightCache::open(&path, "these").unwrap();
        let packed = pack(&mut file, all);
        keep(file);
        (dir, path, packed)
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

        let file = PackedWeightCache::open(&path, "those").unwrap();
        assert!(!file.as_ref().unwrap().is_whole(), "weights of another model");
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "what is not finished goes");
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_flipped_bit_anywhere_is_found_and_the_file_written_anew() {
        let all = matrices(1);
        let (_dir, path, want) = kept(&all);
        let whole = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&whole[..100]).into_owned();
        let table = text.lines().nth(2).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap();
        let opened = || PackedWeightCache::open(&path, "these").unwrap().unwrap();
        let damage = || opened().damage().map(str::to_owned);
        assert!(opened().is_whole() && damage().is_none());

        // All of the header that says something, all of the table, and a sample of everything else: the header's rest,
        // panels, the gaps between regions.
        let mut rng = Rng(7);
        let sample = (0..300).map(|_| rng.bits() as usize % whole.len());
        let places: Vec<_> =
            (0..text.len()).chain([HEADER - 1, HEADER]).chain(sample).chain(table..whole.len()).collect();
        let target = OpenOptions::new().write(true).open(&path).unwrap();
        for at in places {
            target.write_all_at(&[whole[at] ^ 1 << (at % 8)], at as u64).unwrap();
            assert!(!opened().is_whole(), "a flipped bit of byte {at}");
            let names_the_weights = at <= MAGIC.len() + "these".len() + 1;
            assert!(names_the_weights || damage().is_some(), "byte {at}");
            target.write_all_at(&whole[at..=at], at as u64).unwrap();
        }
        for length in [0, 10, HEADER - 1, HEADER, table, whole.len() - 1] {
            target.set_len(length as u64).unwrap();
            assert!(!opened().is_whole(), "{length} bytes");
            fs::write(&path, &whole).unwrap();
        }
        assert!(opened().is_whole());

        target.write_all_at(&[whole[ALIGNMENT as usize + 5] ^ 0x10], ALIGNMENT + 5).unwrap();
        assert_eq!(damage().unwrap(), "bytes 2097152 to 4194304 do not have their checksum");
        let mut file = Some(opened());
        assert_eq!(pack(&mut file, &all), want, "packed, not read");
        keep(file);
        assert!(fs::read(&path).unwrap() == whole);
    }

    /// What is said of a file that was not kept.
    fn lost(file: Option<PackedWeightCache>) -> String {
        saved(file).unwrap_err().to_string()
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn weights_are_packed_also_where_the_file_cannot_grow() {
        let all = matrices(1);
        let want = pack(&mut None, &all);
        // The first region that finds no room: each of them, then none.
        for first in 0..=all.len() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("weights.panels");
            let mut file = PackedWeightCache::open(&path, "these").unwrap();
            file.as_ref().unwrap().reserve(1 << 20).unwrap();
            let mut got = pack(&mut file, &all[..first]);
            // A file that refuses to grow, as on a full disk.
            let unwritable = File::open(partial_name(&path)).unwrap();
            let writable = std::mem::replace(&mut file.as_mut().unwrap().file, unwritable);
            assert!(first == all.len() || file.as_ref().unwrap().reserve(1 << 20).is_err());
            got.extend(pack(&mut file, &all[first..]));
            assert_eq!(got, want, "no room for region {first}");
            assert!(!lost(file).is_empty());
            drop(writable);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "what is not finished goes");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_file_with_other_regions_goes() {
        let all = matrices(1);
        let (_dir, path, _) = kept(&all);
        let mut file = PackedWeightCache::open(&path, "these").unwrap();
        let other = [vec![], all].concat().split_off(2);
        assert_eq!(pack(&mut file, &other), pack(&mut None, &other));
        assert!(lost(file).contains("the next region is"));
        assert!(!path.exists());
    }

    #[test]
    fn only_regular_files_are_read() {
        let error = PackedWeightCache::open(Path::new("/dev/zero"), "these").unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
    }
}
