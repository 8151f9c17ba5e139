//! Safetensors files as others' loaders want them: a header that names its framework, tensors converted and streamed one at a time,
//! and the same bytes for the same content (the usual writer orders the header's texts by chance).

use std::collections::BTreeMap;
use std::io::Write;

use candle_core::{DType, Device, Result, Tensor, bail};
use serde_json::{Map, Value, json};

/// Writes tensors as f32, f16 or bf16, `metadata` into the header. `format = "pt"` is added where it is missing: loaders of the
/// ecosystem refuse a file that does not say which framework laid it out.
///
/// # Errors
/// A writer that fails, or a tensor that `dtype` names another type for.
pub fn write(
    file: &mut dyn Write,
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, &Tensor>,
    dtype: impl Fn(&Tensor) -> DType,
) -> Result<()> {
    let mut texts = metadata.clone();
    texts
        .entry("format".to_owned())
        .or_insert_with(|| "pt".to_owned());
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!(texts));
    // Wide numbers first, so that each tensor begins at a multiple of its number's size.
    let mut order: Vec<(&String, &Tensor)> = tensors.iter().map(|(name, t)| (name, *t)).collect();
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(dtype(tensor).size_in_bytes()));
    let mut end = 0;
    for &(name, tensor) in &order {
        let kind = match dtype(tensor) {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            other => bail!("weights are saved as f32, f16 or bf16, not {other:?}"),
        };
        let start = end;
        end += tensor.elem_count() * dtype(tensor).size_in_bytes();
        let entry = json!({ "dtype": kind, "shape": tensor.dims(), "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Spaces, so that the tensors begin aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (_, tensor) in order {
        let flat = tensor
            .to_device(&Device::Cpu)?
            .to_dtype(dtype(tensor))?
            .flatten_all()?;
        values(file, &flat)?;
    }
    Ok(())
}

fn values(file: &mut dyn Write, flat: &Tensor) -> Result<()> {
    match flat.dtype() {
        DType::F32 => {
            for value in flat.to_vec1::<f32>()? {
                file.write_all(&value.to_le_bytes())?;
            }
        }
        DType::F16 => {
            for value in flat.to_vec1::<half::f16>()? {
                file.write_all(&value.to_le_bytes())?;
            }
        }
        DType::BF16 => {
            for value in flat.to_vec1::<half::bf16>()? {
                file.write_all(&value.to_le_bytes())?;
            }
        }
        other => bail!("weights are saved as f32, f16 or bf16, not {other:?}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn another_reader_finds_values_texts_and_aligned_tensors() {
        let device = Device::Cpu;
        let half = Tensor::new(&[1.5f32], &device).unwrap();
        let half = half.to_dtype(DType::F16).unwrap();
        let wide = Tensor::new(&[[0.1f32, -2.0], [3.0, 1e-30]], &device).unwrap();
        let tensors = BTreeMap::from([("a".to_owned(), &half), ("b".to_owned(), &wide)]);
        let metadata = BTreeMap::from([("alpha".to_owned(), "{\"r\": 4}".to_owned())]);
        let bytes = || {
            let mut bytes = Vec::new();
            write(&mut bytes, &metadata, &tensors, Tensor::dtype).unwrap();
            bytes
        };
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes()).unwrap();
        let texts = header.metadata().clone().unwrap();
        assert_eq!((&*texts["format"], &*texts["alpha"]), ("pt", "{\"r\": 4}"));
        assert_eq!(header.info("b").unwrap().data_offsets, (0, 16));
        let read = candle_core::safetensors::load_buffer(&bytes(), &device).unwrap();
        assert_eq!(
            read["b"].to_vec2::<f32>().unwrap(),
            wide.to_vec2::<f32>().unwrap()
        );
        assert_eq!(read["a"].dtype(), DType::F16);
        assert_eq!(bytes(), bytes());
    }

    #[test]
    fn a_type_that_loaders_do_not_expect_is_refused() {
        let whole = Tensor::new(&[1u32], &Device::Cpu).unwrap();
        let tensors = BTreeMap::from([("a".to_owned(), &whole)]);
        let error = write(&mut Vec::new(), &BTreeMap::new(), &tensors, Tensor::dtype).unwrap_err();
        assert!(error.to_string().contains("U32"), "{error}");
    }
}
