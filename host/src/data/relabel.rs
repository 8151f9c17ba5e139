//! A dataset under another's class numbers: the same names need not have the same numbers in two folders.

use std::sync::Arc;

use super::{Dataset, Error, Item, metadata::listed, near};

/// A dataset whose labels are those of `classes`, found by name; a name that is itself a number below their count is that number.
/// Data without classes, or for a model without names of classes, stays as it is.
///
/// # Errors
/// [`Error::UnknownClass`].
pub fn relabelled(
    dataset: Arc<dyn Dataset>,
    classes: &[String],
) -> Result<Arc<dyn Dataset>, Error> {
    if classes.is_empty() || dataset.classes() == classes {
        return Ok(dataset);
    }
    let number = |name: &String| {
        let same = classes.iter().position(|class| class == name);
        let number = same.or_else(|| name.parse().ok().filter(|number| *number < classes.len()));
        number
            .map(|number| number as u32)
            .ok_or_else(|| Error::UnknownClass {
                name: name.clone(),
                near: near(name, classes.iter().map(String::as_str)),
                known: listed(classes.iter().map(String::as_str)),
            })
    };
    let numbers = dataset
        .classes()
        .iter()
        .map(number)
        .collect::<Result<_, _>>()?;
    Ok(Arc::new(Relabelled {
        dataset,
        numbers,
        classes: classes.to_vec(),
    }))
}

struct Relabelled {
    dataset: Arc<dyn Dataset>,
    /// By the dataset's own label.
    numbers: Vec<u32>,
    classes: Vec<String>,
}

impl Dataset for Relabelled {
    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn get(&self, index: usize) -> Result<Item, Error> {
        let mut item = self.dataset.get(index)?;
        item.class = item.class.map(|class| self.numbers[class as usize]);
        Ok(item)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> String {
        self.dataset.describe()
    }

    fn fingerprint(&self) -> String {
        format!("{} as {:?}", self.dataset.fingerprint(), self.numbers)
    }

    fn size(&self) -> usize {
        self.dataset.size()
    }

    fn buckets(&self) -> Option<&[usize]> {
        self.dataset.buckets()
    }

    fn uncaptioned(&self) -> Option<(usize, &str)> {
        self.dataset.uncaptioned()
    }

    fn flips(&self) -> bool {
        self.dataset.flips()
    }

    fn check(&self) -> Result<(), Error> {
        self.dataset.check()
    }

    fn columns(&self) -> Vec<String> {
        self.dataset.columns()
    }
}
