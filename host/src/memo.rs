//! Tensors that are costly to compute and depend on nothing but a key: kept in memory, and in the cache folder where that is wanted.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};
use sha2::{Digest, Sha256};

use crate::fs;

/// What is kept under a key: tensors by name, f32.
pub type Kept = BTreeMap<String, Tensor>;

/// A hash of all that a value depends on.
pub type Key = [u8; 32];

/// The hash of these bytes.
pub fn key(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

/// Adds a parameter to a hash of all that values depend on.
///
/// # Errors
/// A device that fails.
pub fn digest(hash: &mut Sha256, name: &str, tensor: &Tensor) -> Result<()> {
    hash.update(name);
    hash.update(format!("{:?}", tensor.dtype()));
    let values = tensor.flatten_all()?.to_dtype(DType::F32)?;
    for chunk in values.to_vec1::<f32>()?.chunks(4096) {
        let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
        hash.update(bytes);
    }
    Ok(())
}

/// The name of a folder for all that went into a hash.
pub fn named(hash: Sha256) -> String {
    let digest = hash.finalize();
    digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A store of computed tensors.
#[derive(Debug, Default)]
pub struct Memo {
    /// Most bytes in memory; what comes later is not kept there.
    capacity: usize,
    /// Where values lie that outlive the process: a file each.
    folder: Option<PathBuf>,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    values: HashMap<Key, Kept>,
    bytes: usize,
}

impl Memo {
    /// A store of at most `capacity` bytes in memory.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    /// The same, which also keeps every value in a file of `folder`. All that values depend on beside their keys must be in the folder's name.
    pub fn in_folder(self, folder: PathBuf) -> Self {
        Self {
            folder: Some(folder),
            ..self
        }
    }

    /// The value of a key, on `device`: as it was computed once, or computed now. A file that cannot be read is computed again, one that cannot be written is
    /// told once and does without.
    ///
    /// # Errors
    /// What `compute` fails with.
    pub fn get(
        &self,
        key: Key,
        device: &Device,
        compute: impl FnOnce() -> Result<Kept>,
    ) -> Result<Kept> {
        if let Some(value) = self.lock().values.get(&key) {
            return Ok(value.clone());
        }
        let value = match self.read(key, device) {
            Some(value) => value,
            None => {
                let value = (compute()?.into_iter())
                    .map(|(name, tensor)| Ok((name, tensor.detach().to_dtype(DType::F32)?)))
                    .collect::<Result<Kept>>()?;
                self.write(key, &value)?;
                value
            }
        };
        let bytes: usize = value.values().map(|tensor| 4 * tensor.elem_count()).sum();
        let mut memory = self.lock();
        if memory.bytes + bytes <= self.capacity && !memory.values.contains_key(&key) {
            memory.bytes += bytes;
            memory.values.insert(key, value.clone());
        }
        Ok(value)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, key: Key) -> Option<PathBuf> {
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        // Folders of a few hundred files each.
        let (shelf, name) = name.split_at(2);
        let folder = self.folder.as_ref()?;
        Some(folder.join(shelf).join(format!("{name}.safetensors")))
    }

    fn read(&self, key: Key, device: &Device) -> Option<Kept> {
        let file = self.file(key).filter(|file| file.is_file())?;
        match candle_core::safetensors::load(&file, device) {
            Ok(tensors) => Some(tensors.into_iter().collect()),
            Err(error) => {
                tracing::warn!("{}: {error}; it is made anew", file.display());
                None
            }
        }
    }

    fn write(&self, key: Key, value: &Kept) -> Result<()> {
        let Some(file) = self.file(key) else {
            return Ok(());
        };
        let tensors: BTreeMap<String, &Tensor> = (value.iter())
            .map(|(name, tensor)| (name.clone(), tensor))
            .collect();
        let mut bytes = Vec::new();
        fs::tensors::write(&mut bytes, &BTreeMap::new(), &tensors, |_| DType::F32)?;
        let shelf = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = shelf
            .map_err(|error| error.to_string())
            .and_then(|()| fs::write_atomic(&file, &bytes).map_err(|error| error.to_string()));
        if let Err(error) = written {
            tracing::warn!("cannot keep {}: {error}", file.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;

    use super::*;

    fn value(number: f32) -> Kept {
        let tensor = Tensor::full(number, (1, 4), &Device::Cpu).unwrap();
        Kept::from([("a".to_owned(), tensor)])
    }

    fn first(kept: &Kept) -> f32 {
        kept["a"].flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
    }

    #[test]
    fn a_value_is_computed_once_and_memory_is_bounded() {
        let memo = Memo::new(16);
        let computed = Cell::new(0);
        let get = |name: &[u8], number: f32| {
            let compute = || {
                computed.set(computed.get() + 1);
                Ok(value(number))
            };
            first(&memo.get(key(name), &Device::Cpu, compute).unwrap())
        };
        assert_eq!((get(b"one", 1.0), get(b"one", 9.0)), (1.0, 1.0));
        assert_eq!(computed.get(), 1);
        // The second does not fit any more.
        assert_eq!((get(b"two", 2.0), get(b"two", 3.0)), (2.0, 3.0));
        assert_eq!(computed.get(), 3);
    }

    #[test]
    fn files_outlive_the_store_and_damaged_ones_are_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let get = |number: f32| {
            let memo = Memo::new(0).in_folder(dir.path().join("x"));
            let compute = || Ok(value(number));
            first(&memo.get(key(b"k"), &Device::Cpu, compute).unwrap())
        };
        assert_eq!((get(1.0), get(2.0)), (1.0, 1.0));
        let shelf = std::fs::read_dir(dir.path().join("x")).unwrap().next();
        let file = std::fs::read_dir(shelf.unwrap().unwrap().path()).unwrap();
        let file = file.map(|file| file.unwrap().path()).next().unwrap();
        std::fs::write(&file, "half a file").unwrap();
        assert_eq!((get(3.0), get(4.0)), (3.0, 3.0));
    }
}
