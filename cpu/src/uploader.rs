//! [`CpuUploader`]: weights on their way to kernels, repacked or as they lie.

use quern_backend::{PackedMatrix, UploadError, Uploader};

use crate::{
    CpuBackend,
    moe::Experts,
    panels::{OnSaved, PackedWeightCache},
    pool::Pool,
    product::Weight,
};

/// Takes the weights of one network, in the order in which it loads them.
pub struct CpuUploader<'a> {
    pool: &'a Pool,
    /// Where repacked weights are kept, and who hears how that ended.
    file: Option<(PackedWeightCache, OnSaved)>,
}

impl CpuUploader<'_> {
    fn file(&mut self) -> Option<&mut PackedWeightCache> {
        self.file.as_mut().map(|(file, _)| file)
    }
}

impl CpuBackend {
    /// A way for weights which takes repacked ones from the `file`, if there is one, or writes them there for the next
    /// start; who comes with it hears how that ended. The file's identity vouches for the weights: those that are going
    /// to be uploaded, in the same order.
    pub fn uploader_with(&self, file: Option<(PackedWeightCache, OnSaved)>) -> CpuUploader<'_> {
        CpuUploader { pool: &self.pool, file }
    }
}

impl Uploader<CpuBackend> for CpuUploader<'_> {
    fn weight(&mut self, parts: &[PackedMatrix]) -> Result<Weight, UploadError> {
        Weight::new(self.pool, self.file(), parts)
    }

    fn experts(
        &mut self,
        first: usize,
        gate: &[PackedMatrix],
        up: &[PackedMatrix],
        down: &[PackedMatrix],
    ) -> Result<Experts, UploadError> {
        Experts::new(self.pool, self.file(), (first, [gate, up, down]))
    }

    fn finish(self: Box<Self>) -> Result<(), UploadError> {
        if let Some((file, on_saved)) = self.file {
            file.save(on_saved);
        }
        Ok(())
    }
}
