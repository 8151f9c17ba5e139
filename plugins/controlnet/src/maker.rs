//! Makes the ControlNet's parameters, under the names that diffusers gives them: new, or at the values of a ControlNet to go on from.

use std::collections::BTreeMap;

use plugin_api::{DType, Error, Host, Init, Result, Tensor, bail};

use crate::start::Start;

/// Makes parameters and remembers them, for the file of the result.
pub(crate) struct Maker<'a> {
    pub(crate) host: &'a Host,
    pub(crate) start: Option<&'a Start>,
    /// What was made, by its name in diffusers' files.
    pub(crate) made: BTreeMap<String, Tensor>,
}

impl Maker<'_> {
    /// The parameter `name`, which begins as `init` says where there is nothing to go on from.
    ///
    /// # Errors
    /// A ControlNet to go on from that lacks it, or has it in another shape.
    pub(crate) fn parameter(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        let init = match self.start {
            None => init,
            Some(start) => {
                let value = start.get(name)?;
                if value.dims() != shape {
                    return Err(Error::Shape {
                        what: format!("`{name}` of {}", start.path.display()),
                        expected: shape.to_vec(),
                        got: value.dims(),
                    });
                }
                Init::Value(value.to_dtype(DType::F32)?)
            }
        };
        let tensor = self.host.parameter(name, shape, init)?;
        self.made.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }

    /// Refuses a ControlNet to go on from that holds what nothing asked for.
    ///
    /// # Errors
    /// Naming the first such tensor.
    pub(crate) fn finish(&self) -> Result<()> {
        let Some(start) = self.start else {
            return Ok(());
        };
        match start.names().find(|name| !self.made.contains_key(*name)) {
            Some(unknown) => bail!(
                "{} holds `{unknown}`, which a ControlNet for this backbone does not have",
                start.path.display()
            ),
            None => Ok(()),
        }
    }
}
