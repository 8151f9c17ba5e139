//! The host's batch and the plugins' batch, turned into each other.
//!
//! The host keeps one text a sample as a JSON list in `meta` (`names`, `captions`); plugins get such lists as `texts`.

use plugin_api::Error;

use super::tensor_ops;
use crate::data::Batch;

/// A batch as plugins see it; tensors are shared, not copied.
pub(super) fn export(batch: &Batch) -> plugin_api::Batch {
    let mut bag = plugin_api::Batch::new();
    for (name, tensor) in &batch.tensors {
        bag.tensors.insert(name.clone(), tensor_ops::export(tensor));
    }
    for (name, value) in &batch.meta {
        let list = value
            .starts_with('[')
            .then(|| serde_json::from_str::<Vec<String>>(value).ok())
            .flatten();
        match list {
            Some(list) => drop(bag.texts.insert(name.clone(), list)),
            None => drop(bag.meta.insert(name.clone(), value.clone())),
        }
    }
    bag
}

/// A batch from a plugin.
pub(super) fn import(bag: &plugin_api::Batch) -> Result<Batch, Error> {
    let mut batch = Batch::default();
    for (name, tensor) in &bag.tensors {
        batch
            .tensors
            .insert(name.clone(), tensor_ops::import(tensor)?);
    }
    batch.meta = bag.meta.clone();
    for (name, list) in &bag.texts {
        let list = serde_json::to_string(list).map_err(Error::msg)?;
        batch.meta.insert(name.clone(), list);
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn a_batch_comes_back_as_it_went() {
        let mut batch = Batch::default();
        let images = Tensor::arange(0f32, 12.0, &Device::Cpu)
            .unwrap()
            .reshape((1, 3, 2, 2))
            .unwrap();
        batch.tensors.insert("images".into(), images.clone());
        batch.meta.insert("names".into(), r#"["a\"b.png"]"#.into());
        batch.meta.insert("domain".into(), "clay".into());
        let bag = export(&batch);
        assert_eq!(bag.texts["names"], ["a\"b.png"]);
        assert_eq!(bag.meta["domain"], "clay");
        let back = import(&bag).unwrap();
        assert_eq!(back.meta, batch.meta);
        assert_eq!(back.tensors["images"].id(), images.id());
    }
}
