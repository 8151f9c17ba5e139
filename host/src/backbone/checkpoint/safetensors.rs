//! Safetensors files seen as one set of tensors, through a memory map or borrowed from memory: only the tensor being read is ever copied.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::super::Error;

/// The bytes of one file.
#[derive(Debug)]
enum Bytes<'a> {
    Mapped(Mmap),
    Borrowed(&'a [u8]),
}

impl Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Borrowed(bytes) => bytes,
        }
    }
}

/// Where a tensor lies and what it is.
#[derive(Debug)]
struct Entry {
    file: usize,
    range: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
}

/// One or more safetensors files.
#[derive(Debug)]
pub(super) struct SafetensorsFiles<'a> {
    files: Vec<(String, Bytes<'a>)>,
    entries: BTreeMap<String, Entry>,
}

impl<'a> SafetensorsFiles<'a> {
    /// Maps files and reads their headers.
    pub(super) fn map(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut files = Vec::new();
        for path in paths {
            let io = |source| Error::Io {
                path: path.clone(),
                source,
            };
            let file = File::open(path).map_err(io)?;
            if file.metadata().map_err(io)?.len() == 0 {
                return Err(Error::Weights {
                    file: path.display().to_string(),
                    reason: "the file is empty".to_owned(),
                });
            }
            // SAFETY: the map is read-only and private to this value. It is unsound only if the file shrinks or changes while it is open, which no reader of a mapped file can
            // exclude; writers of checkpoints, this one included, replace files by renaming, which leaves an open map on the old contents.
            let map = unsafe { Mmap::map(&file) }.map_err(io)?;
            files.push((path.display().to_string(), Bytes::Mapped(map)));
        }
        Self::index(files)
    }

    /// Reads the header of a file held in memory; `name` stands for it in errors.
    pub(super) fn borrow(bytes: &'a [u8], name: &str) -> Result<Self, Error> {
        Self::index(vec![(name.to_owned(), Bytes::Borrowed(bytes))])
    }

    fn index(files: Vec<(String, Bytes<'a>)>) -> Result<Self, Error> {
        let mut entries = BTreeMap::new();
        for (file, (name, bytes)) in files.iter().enumerate() {
            let malformed = |reason: String| Error::Weights {
                file: name.clone(),
                reason,
            };
            let (header, metadata) = SafeTensors::read_metadata(bytes)
                .map_err(|error| malformed(format!("not a complete safetensors file ({error})")))?;
            let start = header + size_of::<u64>();
            let available = bytes.len().saturating_sub(start);
            if metadata.data_len() != available {
                return Err(malformed(format!(
                    "its header promises {} bytes of tensors and {available} are there",
                    metadata.data_len()
                )));
            }
            for (tensor, info) in metadata.tensors() {
                let entry = Entry {
                    file,
                    range: start + info.data_offsets.0..start + info.data_offsets.1,
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                };
                if entries.insert(tensor.clone(), entry).is_some() {
                    return Err(malformed(format!("`{tensor}` is also in another shard")));
                }
            }
        }
        Ok(Self { files, entries })
    }

    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.clone(), entry.shape.clone()))
            .collect()
    }

    /// A tensor as stored, on the CPU.
    pub(super) fn load(&self, name: &str) -> Result<Tensor, Error> {
        let entry = self.entry(name)?;
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F64 => DType::F64,
            other => {
                return Err(Error::StoredType {
                    file: self.files[entry.file].0.clone(),
                    name: name.to_owned(),
                    found: format!("{other:?}"),
                });
            }
        };
        Ok(Tensor::from_raw_buffer(
            self.bytes(entry),
            dtype,
            &entry.shape,
            &Device::Cpu,
        )?)
    }

    /// Whether two tensors are stored as the same bytes.
    pub(super) fn same(&self, first: &str, second: &str) -> Result<bool, Error> {
        let (first, second) = (self.entry(first)?, self.entry(second)?);
        Ok(first.dtype == second.dtype
            && first.shape == second.shape
            && self.bytes(first) == self.bytes(second))
    }

    fn entry(&self, name: &str) -> Result<&Entry, Error> {
        self.entries.get(name).ok_or_else(|| Error::Names {
            missing: vec![name.to_owned()],
            unexpected: Vec::new(),
        })
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.files[entry.file].1[entry.range.clone()]
    }
}
