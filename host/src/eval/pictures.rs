//! The two sets of pictures: as bytes, since that is what files and published distances are made of, each with its class where it has one.

use candle_core::Tensor;
use image::RgbImage;
use rayon::prelude::*;

use super::Error;
use crate::cancel::Cancel;
use crate::data::{self, Dataset, transform};

/// Pictures of one size, and their classes.
#[derive(Clone, Debug, Default)]
pub struct Pictures {
    /// The pictures.
    pub images: Vec<RgbImage>,
    /// The class of each, a place in `names`; none where it has no class.
    pub classes: Vec<Option<usize>>,
    /// Names of the classes.
    pub names: Vec<String>,
}

impl Pictures {
    /// All pictures of a dataset, but for those that cannot be read, which are told.
    ///
    /// # Errors
    /// Data that cannot be read at all, or an interruption.
    pub fn read(dataset: &dyn Dataset, cancel: &Cancel) -> Result<Self, Error> {
        let side = dataset.size();
        let items: Option<Vec<Result<data::Item, data::Error>>> = (0..dataset.len())
            .into_par_iter()
            .map(|index| (!cancel.requested()).then(|| dataset.get(index)))
            .collect();
        let items = items.ok_or(Error::Interrupted)?;
        let mut all = Self {
            names: dataset.classes().to_vec(),
            ..Self::default()
        };
        let mut first = None;
        for item in items {
            match item {
                Ok(item) => {
                    let shape = (3, side, side);
                    let image = Tensor::from_vec(item.image, shape, &candle_core::Device::Cpu)?;
                    all.images.push(transform::to_rgb8(&image)?);
                    all.classes.push(item.class.map(|class| class as usize));
                }
                Err(data::Error::Unreadable { name, reason }) => {
                    tracing::warn!(file = name, reason, "skipped an unreadable file");
                    first.get_or_insert(format!("{name}: {reason}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        match (all.images.is_empty(), first) {
            (true, Some(first)) => Err(data::Error::AllUnreadable {
                dataset: dataset.describe(),
                count: dataset.len(),
                first,
            }
            .into()),
            _ => Ok(all),
        }
    }

    /// Drawn images `[N, 3, H, W]` in -1..=1, each asked for a class; what lies beyond `names` is no class.
    ///
    /// # Errors
    /// A tensor of another shape.
    pub fn drawn(images: &Tensor, classes: &[u32], names: Vec<String>) -> Result<Self, Error> {
        let count = images.dims().first().copied().unwrap_or_default();
        let pictures = (0..count)
            .map(|index| Ok(transform::to_rgb8(&images.get(index)?)?))
            .collect::<Result<_, Error>>()?;
        let named = |class: &u32| Some(*class as usize).filter(|class| *class < names.len());
        Ok(Self {
            images: pictures,
            classes: classes.iter().map(named).collect(),
            names,
        })
    }

    /// The places of the pictures of a class.
    pub(super) fn of_class(&self, name: &str) -> Vec<usize> {
        let class = self.names.iter().position(|known| known == name);
        (0..self.images.len())
            .filter(|&place| class.is_some() && self.classes[place] == class)
            .collect()
    }

    /// The name of a picture's class.
    pub(super) fn class_name(&self, place: usize) -> Option<&str> {
        self.names.get(self.classes[place]?).map(String::as_str)
    }
}
