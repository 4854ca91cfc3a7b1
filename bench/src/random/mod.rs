//! The generators of Python and NumPy, bit for bit: the same seed asks for the same lengths and texts as
//! SGLang's own client does.

mod mersenne;
mod numpy;
mod python;

pub use numpy::NumpyRandom;
pub use python::PythonRandom;
