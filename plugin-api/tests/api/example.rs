//! A plugin that does whatever a test's settings tell it to.

use plugin_api::{
    Batch, Error, Host, LayerInfo, Plugin, Result, Settings, StoredTensor, Tensor, export_plugin,
    hooks::{
        BatchHook, LayerHook, LossTermHook, LossTermIn, ObserveHook, ObserveIn, PrepareHook,
        SavedState, StateHook,
    },
};

/// What to do.
#[derive(Settings, Debug)]
pub(crate) struct ExampleSettings {
    /// What `batch` does.
    pub(crate) batch: Trick,
    /// Whether `drop` panics.
    #[setting(default = false)]
    pub(crate) bad_drop: bool,
}

/// A trick.
#[derive(Settings, Debug, PartialEq)]
pub(crate) enum Trick {
    /// Keep the images, doubled.
    #[setting(default)]
    Double,
    /// Panic.
    Panic,
    /// Return an error.
    Fail,
    /// Ask for an operation the test host lacks.
    Unsupported,
    /// Call a service.
    Sample,
    /// Write log lines.
    Log,
}

#[derive(Debug)]
pub(crate) struct Example {
    settings: ExampleSettings,
    kept: Option<StoredTensor>,
    steps: u32,
}

impl Plugin for Example {
    type Settings = ExampleSettings;
    const ID: &'static str = "example";
    const SUMMARY: &'static str = "Does \"what\" it is told.";
    const REQUIRES: &'static [&'static str] = &["lora", "other"];

    fn build(settings: ExampleSettings, _host: &Host) -> Result<Self> {
        Ok(Example {
            settings,
            kept: None,
            steps: 0,
        })
    }
}

export_plugin!(Example: Prepare, Batch, Layer, LossTerm, Observe, State);

impl Drop for Example {
    fn drop(&mut self) {
        assert!(!self.settings.bad_drop, "a drop that fails");
    }
}

impl PrepareHook for Example {
    fn prepare(&mut self, _host: &Host) -> Result<()> {
        Ok(())
    }
}

impl BatchHook for Example {
    fn batch(&mut self, mut batch: Batch, host: &Host) -> Result<Batch> {
        let images = batch.images()?.clone();
        self.kept = Some(StoredTensor::new(&images)?);
        match self.settings.batch {
            Trick::Double => batch.set("images", (&images * 2.0)?),
            Trick::Panic => panic!("batch {} went wrong", host.step()),
            Trick::Fail => return Err(Error::msg("no such luck")),
            Trick::Unsupported => batch.set("images", images.gelu_erf()?),
            Trick::Sample => batch.set("images", host.sample(plugin_api::SampleRequest::new(1))?),
            Trick::Log => {
                tracing::info!(count = 3, "mixing {}", "samples");
                tracing::trace!("not wanted");
            }
        }
        Ok(batch)
    }
}

impl LayerHook for Example {
    fn adapts(&self, layer: &LayerInfo) -> bool {
        layer.path.ends_with("to_q")
    }

    fn layer(
        &mut self,
        layer: &LayerInfo,
        _input: &Tensor,
        output: Tensor,
        _host: &Host,
    ) -> Result<Tensor> {
        output + layer.in_features as f64
    }
}

impl LossTermHook for Example {
    fn loss_term(&mut self, at: &LossTermIn, _host: &Host) -> Result<Tensor> {
        (&at.prediction - &at.target)?.sqr()?.mean_all()
    }
}

impl ObserveHook for Example {
    fn observe(&mut self, _at: &ObserveIn, _host: &Host) -> Result<()> {
        self.steps += 1;
        Ok(())
    }
}

impl StateHook for Example {
    const REVISION: u32 = 2;

    fn save(&mut self) -> Result<Vec<u8>> {
        Ok(self.steps.to_le_bytes().to_vec())
    }

    fn load(&mut self, state: SavedState, _host: &Host) -> Result<()> {
        let bytes = state
            .bytes
            .try_into()
            .map_err(|_| Error::msg("the state is not four bytes"))?;
        self.steps = u32::from_le_bytes(bytes);
        Ok(())
    }
}
