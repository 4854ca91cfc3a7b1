//! Compiled kernels as files, so that a second start compiles nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{Arch, GpuError, driver::Compiler};

/// The file of one image: its name is made of everything that the image depends on.
pub(crate) struct CachedImage {
    path: PathBuf,
}

impl CachedImage {
    /// That of `source` for `arch` by the compiler of this version, in `folder`.
    pub(crate) fn new(folder: &Path, source: &str, arch: &Arch, version: (i32, i32)) -> Self {
        let mut hash = Sha256::new();
        hash.update(source);
        hash.update(format!("\0{arch}\0{}.{}", version.0, version.1));
        for option in Compiler::options(arch.vendor()) {
            hash.update(option.to_bytes_with_nul());
        }
        let name = format!("{arch}-{}.kernels", hex(&hash.finalize()));
        Self { path: folder.join(name) }
    }

    /// The image, if it is there whole.
    pub(crate) fn read(&self) -> Option<Vec<u8>> {
        let mut bytes = fs::read(&self.path).ok()?;
        let image = bytes.split_off(bytes.len().min(DIGEST_BYTES));
        (bytes == Sha256::digest(&image)[..]).then_some(image)
    }

    /// Keep `image`. A reader sees it whole or not at all.
    ///
    /// # Errors
    /// [`GpuError::Cache`], if the file cannot be written.
    pub(crate) fn write(&self, image: &[u8]) -> Result<(), GpuError> {
        let refused = |cause| GpuError::Cache { path: self.path.clone(), cause };
        let folder = self.path.parent().expect("a file lies in a folder");
        fs::create_dir_all(folder).map_err(refused)?;
        let unfinished = self.path.with_extension(format!("{}.incomplete", std::process::id()));
        let bytes = [&Sha256::digest(image)[..], image].concat();
        fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, &self.path)).map_err(|cause| {
            let _ = fs::remove_file(&unfinished);
            refused(cause)
        })
    }
}

/// What stands before an image: its SHA-256.
const DIGEST_BYTES: usize = 32;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vendor;

    #[test]
    fn an_image_comes_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let arch = Arch::of(Vendor::Nvidia, 9, 0).unwrap();
        let file = CachedImage::new(folder.path(), "text", &arch, (13, 0));
        assert_eq!(file.read(), None);
        file.write(b"an image").unwrap();
        assert_eq!(file.read().as_deref(), Some(&b"an image"[..]));
        for other in [
            CachedImage::new(folder.path(), "texts", &arch, (13, 0)),
            CachedImage::new(folder.path(), "text", &arch, (13, 1)),
            CachedImage::new(folder.path(), "text", &Arch::of(Vendor::Nvidia, 8, 0).unwrap(), (13, 0)),
        ] {
            assert_eq!(other.read(), None, "another text, version or architecture has its own file");
        }
        let whole = fs::read(&file.path).unwrap();
        for broken in [&whole[..whole.len() - 1], &whole[..5], b""] {
            fs::write(&file.path, broken).unwrap();
            assert_eq!(file.read(), None, "{} of {} bytes", broken.len(), whole.len());
        }
    }
}
