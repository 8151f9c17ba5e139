//! Safetensors files seen as one set of tensors, on disk or borrowed from memory. Only the tensor being read is in memory: a mapped file would stay there beside its copy.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytemuck::{Pod, cast_slice_mut};
use candle_core::{Device, Tensor, WithDType};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata};

use super::super::Error;

/// Where the bytes of one file are.
#[derive(Debug)]
enum Bytes<'a> {
    Stored(File),
    Borrowed(&'a [u8]),
}

impl Bytes<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(match self {
            Self::Stored(file) => file.metadata()?.len(),
            Self::Borrowed(bytes) => bytes.len() as u64,
        })
    }

    /// Fills `into` from `start` on.
    ///
    /// # Errors
    /// A disk that fails, or a file that ends before.
    fn read(&self, start: u64, into: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Stored(file) => file.read_exact_at(into, start),
            Self::Borrowed(bytes) => {
                let start = start as usize;
                let part = bytes.get(start..start + into.len());
                into.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

/// Where a tensor lies and what it is.
#[derive(Debug)]
struct Entry {
    file: usize,
    range: Range<u64>,
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
    /// Opens files and reads their headers.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, Error> {
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
            files.push((path.display().to_string(), Bytes::Stored(file)));
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
            let length = bytes.len().map_err(|error| malformed(error.to_string()))?;
            let (start, metadata) = header(bytes, length)
                .map_err(|error| malformed(format!("not a complete safetensors file ({error})")))?;
            let available = length.saturating_sub(start);
            if metadata.data_len() as u64 != available {
                return Err(malformed(format!(
                    "its header promises {} bytes of tensors and {available} are there",
                    metadata.data_len()
                )));
            }
            for (tensor, info) in metadata.tensors() {
                let entry = Entry {
                    file,
                    range: start + info.data_offsets.0 as u64..start + info.data_offsets.1 as u64,
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
        match entry.dtype {
            Dtype::F32 => self.tensor::<f32>(entry),
            Dtype::F16 => self.tensor::<f16>(entry),
            Dtype::BF16 => self.tensor::<bf16>(entry),
            Dtype::F64 => self.tensor::<f64>(entry),
            other => Err(Error::StoredType {
                file: self.files[entry.file].0.clone(),
                name: name.to_owned(),
                found: format!("{other:?}"),
            }),
        }
    }

    /// Reads straight into the tensor's own memory: a copy in between would leave a hole there for each tensor.
    fn tensor<T: WithDType + Pod>(&self, entry: &Entry) -> Result<Tensor, Error> {
        let mut values = vec![T::zeroed(); entry.shape.iter().product()];
        self.fill(entry, cast_slice_mut(&mut values))?;
        Ok(Tensor::from_vec(
            values,
            entry.shape.as_slice(),
            &Device::Cpu,
        )?)
    }

    /// Whether two tensors are stored as the same bytes.
    pub(super) fn same(&self, first: &str, second: &str) -> Result<bool, Error> {
        let (first, second) = (self.entry(first)?, self.entry(second)?);
        let bytes = |entry: &Entry| {
            let mut bytes = vec![0; (entry.range.end - entry.range.start) as usize];
            self.fill(entry, &mut bytes)?;
            Ok::<_, Error>(bytes)
        };
        Ok(first.dtype == second.dtype
            && first.shape == second.shape
            && bytes(first)? == bytes(second)?)
    }

    fn entry(&self, name: &str) -> Result<&Entry, Error> {
        self.entries.get(name).ok_or_else(|| Error::Names {
            missing: vec![name.to_owned()],
            unexpected: Vec::new(),
        })
    }

    fn fill(&self, entry: &Entry, into: &mut [u8]) -> Result<(), Error> {
        let (file, bytes) = &self.files[entry.file];
        (bytes.read(entry.range.start, into)).map_err(|error| Error::Weights {
            file: file.clone(),
            reason: format!("it cannot be read ({error})"),
        })
    }
}

/// Where the tensors of a file begin, and what its header says of them; the tensors are known to follow each other without gaps.
fn header(bytes: &Bytes<'_>, length: u64) -> Result<(u64, Metadata), Box<dyn std::error::Error>> {
    const SIZE: u64 = size_of::<u64>() as u64;
    let mut size = [0; SIZE as usize];
    bytes.read(0, &mut size)?;
    let size = u64::from_le_bytes(size);
    // Before room is made for it.
    if size > length {
        return Err("it ends within its header".into());
    }
    let mut text = vec![0; size as usize];
    bytes.read(SIZE, &mut text)?;
    Ok((SIZE + size, serde_json::from_slice(&text)?))
}
