//! PyTorch's zip-of-pickles files (`.pt`, `.pth`, `.bin`). Nothing in them is executed: the pickle is only searched for tensors.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use candle_core::pickle::PthTensors;

use super::super::Error;

/// Where training scripts nest the weights, best first: the averaged weights are the ones to use.
const NESTED_UNDER: [&str; 4] = ["ema", "model", "state_dict", "module"];

/// One file of pickled tensors.
pub(super) struct PickleFile {
    tensors: PthTensors,
    file: String,
}

impl std::fmt::Debug for PickleFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PickleFile")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl PickleFile {
    /// Lists a file's tensors: a flat state dict, or one nested under `ema` or `model`.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        let mut tensors = PthTensors::new(path, None).map_err(|error| unreadable(&file, &error))?;
        for key in NESTED_UNDER {
            if !tensors.tensor_infos().is_empty() {
                break;
            }
            // Absent keys are errors here, and simply not the place to look.
            if let Ok(nested) = PthTensors::new(path, Some(key)) {
                tensors = nested;
            }
        }
        if tensors.tensor_infos().is_empty() {
            return Err(Error::Weights {
                file,
                reason: format!(
                    "no tensors at the top level or under {}",
                    NESTED_UNDER.join(", ")
                ),
            });
        }
        Ok(Self { tensors, file })
    }

    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.tensors
            .tensor_infos()
            .iter()
            .map(|(name, info)| (name.clone(), info.layout.dims().to_vec()))
            .collect()
    }

    /// A tensor as stored, on the CPU.
    pub(super) fn load(&self, name: &str) -> Result<Tensor, Error> {
        let tensor = self
            .tensors
            .get(name)
            .map_err(|error| unreadable(&self.file, &error))?;
        let tensor = tensor.ok_or_else(|| Error::Names {
            missing: vec![name.to_owned()],
            unexpected: Vec::new(),
        })?;
        match tensor.dtype().is_float() {
            true => Ok(tensor),
            false => Err(Error::StoredType {
                file: self.file.clone(),
                name: name.to_owned(),
                found: format!("{:?}", tensor.dtype()),
            }),
        }
    }
}

fn unreadable(file: &str, error: &candle_core::Error) -> Error {
    // The first line: the rest of the message may be a backtrace.
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default();
    Error::Weights {
        file: file.to_owned(),
        reason: format!(
            "truncated, or not written by torch.save of PyTorch 1.6 or later ({first})"
        ),
    }
}
