//! What samples are drawn from where nothing else is asked for: pictures of a dataset, which plugins find in the bag of `sample_begin`, and its captions.

use crate::config::SampleSection;
use crate::data::{self, Dataset};
use crate::plugin::slots::Slot;

use super::conditioning::captions_of;
use super::{Drawing, Error, Session};

/// Hands the first items of a dataset to the samples of a drawing, one each and begun again after the last: their images, columns, names, and, unless
/// others were asked for, their classes and captions. Without a plugin that looks at the start of sampling the drawing stays as it is.
///
/// # Errors
/// Data none of which can be read.
pub(super) fn give(
    drawing: &mut Drawing,
    dataset: &dyn Dataset,
    asked: &SampleSection,
    session: &Session,
) -> Result<(), Error> {
    if !session.stack()?.takes(Slot::SampleBegin) {
        return Ok(());
    }
    let mut batch = data::first_items(dataset, drawing.seeds.len())?;
    if let Some(labels) = batch
        .tensors
        .remove("class_labels")
        .filter(|_| asked.classes.is_none())
    {
        drawing.classes = labels.to_vec1()?;
    }
    if asked.prompts.is_none()
        && let Some(captions) = captions_of(&batch)
    {
        drawing.prompts = captions;
    }
    let device = session.backbone.device();
    for tensor in batch.tensors.values_mut() {
        *tensor = tensor.to_device(device)?;
    }
    drawing.inputs = batch;
    Ok(())
}

/// The captions of a dataset's first items, as many as there are samples, for a network that is conditioned on text and a section that names no prompts.
///
/// # Errors
/// Data that cannot be read.
pub(super) fn captions(
    dataset: &dyn Dataset,
    asked: &SampleSection,
    session: &Session,
) -> Result<Vec<String>, Error> {
    if session.text.is_none() || asked.prompts.is_some() {
        return Ok(Vec::new());
    }
    let items = data::first_images(dataset, asked.count)?;
    Ok(items.into_iter().filter_map(|item| item.caption).collect())
}
