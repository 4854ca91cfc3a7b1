//! [`end_process_by`]: the end of a process whose mapped file was cut off while it was read.
//!
//! Where the bytes of a mapping are gone, because another process has shortened the file or its disk fails, whatever
//! instruction reads them gets a SIGBUS, and there is nothing to give it instead. The handler says which file it was and
//! ends the process with a status of its own. It may do nothing but system calls, so it asks the operating system what
//! is mapped at the address.

#![allow(unsafe_code)]

use std::{ffi::CStr, io};

/// The longest path that Linux knows, and what stands before it in a line of `/proc/self/maps`.
const LONGEST_LINE: usize = 4096 + 128;

/// What is mapped into this process, a line a mapping.
const MAPS: &CStr = c"/proc/self/maps";

/// How long the reader of standard error may take to make room for the last line.
const PATIENCE_MS: libc::c_int = 1000;

/// From now on a mapped file that is cut off while it is read ends this process with `status`, after a line on standard
/// error that begins with `prefix` and names the file.
///
/// # Errors
/// If the handler cannot be installed.
pub fn end_process_by(prefix: &'static str, status: u8) -> io::Result<()> {
    let action = move |info: &libc::siginfo_t| {
        let mut line = [0; LONGEST_LINE];
        // SAFETY: what a fault sends, unlike what a process sends, has an address.
        let address = (info.si_code > 0).then(|| unsafe { info.si_addr() } as u64);
        if let Some(path) = address.and_then(|address| mapped_file(address, &mut line)) {
            for part in [prefix.as_bytes(), path, REASON] {
                write_error(part);
            }
            // SAFETY: ends the process without running anything of it.
            unsafe { libc::_exit(status.into()) }
        }
        // SAFETY: system calls that may be made in handlers. The signal comes again when this one returns.
        unsafe {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
            libc::raise(libc::SIGBUS);
        }
    };
    // SAFETY: the action makes system calls that are allowed in handlers, and writes its own stack.
    unsafe { signal_hook_registry::register_sigaction(libc::SIGBUS, action) }.map(drop)
}

const REASON: &[u8] = b" was cut off, or its disk failed, while it was mapped: files of weights must stay as they are \
                        as long as they are served (a new one belongs beside the old one)\n";

fn write_error(bytes: &[u8]) {
    let mut room = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one descriptor, and bytes that are borrowed. A reader that pauses does not keep the process.
    unsafe {
        if libc::poll(&raw mut room, 1, PATIENCE_MS) > 0 {
            libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len());
        }
    }
}

/// The path of the file that is mapped at `address`, in `line`.
fn mapped_file(address: u64, line: &mut [u8]) -> Option<&[u8]> {
    // SAFETY: a path that ends with NUL.
    let maps = unsafe { libc::open(MAPS.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if maps < 0 {
        return None;
    }
    // SAFETY: the bytes are borrowed for the call. No bytes and errors both end the lines.
    let read = |piece: &mut [u8]| unsafe { libc::read(maps, piece.as_mut_ptr().cast(), piece.len()) };
    let path = find(address, line, |piece| usize::try_from(read(piece)).unwrap_or(0));
    // SAFETY: it was opened above.
    unsafe { libc::close(maps) };
    path
}

/// The path in the line that covers `address`, of those that `read` gives piece by piece.
fn find(address: u64, line: &mut [u8], mut read: impl FnMut(&mut [u8]) -> usize) -> Option<&[u8]> {
    let (mut piece, mut length) = ([0; 1024], 0);
    loop {
        let count = read(&mut piece);
        for &byte in &piece[..count.min(piece.len())] {
            if byte != b'\n' {
                if let Some(place) = line.get_mut(length) {
                    *place = byte;
                    length += 1;
                }
                continue;
            }
            match covers(&line[..length], address) {
                true => return path(&line[..length]),
                false => length = 0,
            }
        }
        if count == 0 {
            return None;
        }
    }
}

/// Whether a line such as `7f00-7f80 r--s 00000000 fe:00 123   /path` is about `address`.
fn covers(line: &[u8], address: u64) -> bool {
    let mut numbers = line.split(|byte| matches!(byte, b'-' | b' ')).map(|digits| {
        let digit = |&byte: &u8| char::from(byte).to_digit(16).map(u64::from);
        digits.iter().try_fold(0u64, |number, byte| Some(number.checked_mul(16)? + digit(byte)?))
    });
    matches!((numbers.next(), numbers.next()), (Some(Some(start)), Some(Some(end))) if (start..end).contains(&address))
}

/// The path at the end of a line; anonymous memory has none.
fn path(line: &[u8]) -> Option<&[u8]> {
    line.iter().position(|&byte| byte == b'/').map(|start| &line[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_an_address_names_the_file() {
        let maps = b"1000-3000 r-xp 00000000 fe:00 1   /bin/quern\n\
                     4000-5000 rw-p 00000000 00:00 0 \n\
                     7f0000000000-7f00000a0000 r--s 00001000 fe:00 77                       /a folder/of weights (deleted)\n\
                     ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
        for step in [1, 7, 1000] {
            let found = |address: u64| {
                let mut rest = &maps[..];
                let mut line = [0; LONGEST_LINE];
                let read = |piece: &mut [u8]| {
                    let count = step.min(rest.len()).min(piece.len());
                    piece[..count].copy_from_slice(&rest[..count]);
                    rest = &rest[count..];
                    count
                };
                find(address, &mut line, read).map(|path| String::from_utf8(path.to_vec()).unwrap())
            };
            assert_eq!(found(0x1000).unwrap(), "/bin/quern");
            assert_eq!(found(0x2fff).unwrap(), "/bin/quern");
            assert_eq!(found(0x3000), None);
            assert_eq!(found(0x4800), None, "anonymous memory");
            assert_eq!(found(0x7f00_0009_ffff).unwrap(), "/a folder/of weights (deleted)");
            assert_eq!(found(0xffff_ffff_ff60_0000), None);
        }
    }

    #[test]
    fn a_path_longer_than_any_is_cut() {
        let line =
            [b"1000-2000 r--s 00000000 fe:00 1 /".to_vec(), vec![b'a'; 2 * LONGEST_LINE], b"\n".to_vec()].concat();
        let mut rest = &line[..];
        let mut kept = [0; LONGEST_LINE];
        let path = find(0x1fff, &mut kept, |piece| io::Read::read(&mut rest, piece).unwrap()).unwrap();
        assert!(path.starts_with(b"/aaa") && path.len() < LONGEST_LINE);
    }

    #[test]
    fn this_process_finds_what_it_has_mapped() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, &[7; 8192]).unwrap();
        let mapped = super::super::mapping::map(file.path()).unwrap();
        let mut line = [0; LONGEST_LINE];
        let path = mapped_file(mapped.as_ptr() as u64 + 5000, &mut line).unwrap();
        assert_eq!(path, file.path().as_os_str().as_encoded_bytes());
        assert_eq!(mapped_file(0, &mut [0; LONGEST_LINE]), None);
    }
}
