//! Ranges: what each number of a run file may be, as one table.

use toml::Value;

use super::error::Error;
use super::layers::{Origins, shown};
use super::run_file::{DataSection, SampleSection, TrainSection};

/// Checks every number against its range.
///
/// # Errors
/// [`Error::Value`] for the first one outside, with its origin.
pub fn check_ranges(
    data: &DataSection,
    train: &TrainSection,
    sample: &SampleSection,
    origins: &Origins,
) -> Result<(), Error> {
    let check = Check { origins };

    check.text(
        "data.source",
        "a folder or scenes:DOMAIN",
        "nothing",
        !data.source.is_empty(),
    )?;
    if let Some(size) = data.size {
        check.whole(
            "data.size",
            "8 to 2048",
            size as u64,
            (8..=2048).contains(&size),
        )?;
    }
    if let Some(count) = data.count {
        check.whole("data.count", "at least 1", count as u64, count >= 1)?;
    }

    check.whole("train.steps", "at least 1", train.steps, train.steps >= 1)?;
    check.whole(
        "train.batch_size",
        "at least 1",
        train.batch_size as u64,
        train.batch_size >= 1,
    )?;
    check.whole(
        "train.accumulation",
        "at least 1",
        train.accumulation as u64,
        train.accumulation >= 1,
    )?;
    check.number("train.lr", "above 0", train.lr, train.lr > 0.0)?;
    for beta in train.betas {
        check.number(
            "train.betas",
            "two numbers from 0 up to, not including, 1",
            beta,
            (0.0..1.0).contains(&beta),
        )?;
    }
    check.number("train.eps", "above 0", train.eps, train.eps > 0.0)?;
    check.number(
        "train.weight_decay",
        "0 or more",
        train.weight_decay,
        train.weight_decay >= 0.0,
    )?;
    check.number(
        "train.clip",
        "0 (no clipping) or more",
        train.clip,
        train.clip >= 0.0,
    )?;
    let warmup = format!("at most train.steps ({})", train.steps);
    check.whole(
        "train.warmup_steps",
        &warmup,
        train.warmup_steps,
        train.warmup_steps <= train.steps,
    )?;
    let ratio = train.final_ratio;
    if train.schedule == super::Schedule::Exponential {
        check.number(
            "train.final_ratio",
            "above 0 and at most 1 for schedule exponential",
            ratio,
            ratio > 0.0 && ratio <= 1.0,
        )?;
    }
    check.number(
        "train.final_ratio",
        "0 to 1",
        ratio,
        (0.0..=1.0).contains(&ratio),
    )?;
    let decay = train.ema_decay;
    check.number(
        "train.ema_decay",
        "0 (no average) up to, not including, 1",
        decay,
        (0.0..1.0).contains(&decay),
    )?;
    if let Some(gamma) = train.weighting_gamma {
        check.number("train.weighting_gamma", "above 0", gamma, gamma > 0.0)?;
    }
    check.number(
        "train.noise_offset",
        "0 or more",
        train.noise_offset,
        train.noise_offset >= 0.0,
    )?;
    let dropout = train.label_dropout;
    check.number(
        "train.label_dropout",
        "0 to 1",
        dropout,
        (0.0..=1.0).contains(&dropout),
    )?;

    let dropout = train.caption_dropout;
    check.number(
        "train.caption_dropout",
        "0 to 1",
        dropout,
        (0.0..=1.0).contains(&dropout),
    )?;

    check.whole(
        "sample.steps",
        "at least 1",
        sample.steps as u64,
        sample.steps >= 1,
    )?;
    check.number(
        "sample.eta",
        "0 to 1",
        sample.eta,
        (0.0..=1.0).contains(&sample.eta),
    )?;
    check.number(
        "sample.guidance",
        "0 or more",
        sample.guidance,
        sample.guidance >= 0.0,
    )?;
    check.whole(
        "sample.batch_size",
        "at least 1",
        sample.batch_size as u64,
        sample.batch_size >= 1,
    )?;
    if let Some(classes) = &sample.classes {
        check.text(
            "sample.classes",
            "left out or a list of at least one class",
            "[]",
            !classes.is_empty(),
        )?;
    }
    if let Some(prompts) = &sample.prompts {
        check.text(
            "sample.prompts",
            "left out or a list of at least one text",
            "[]",
            !prompts.is_empty(),
        )?;
    }
    Ok(())
}

struct Check<'a> {
    origins: &'a Origins,
}

impl Check<'_> {
    fn number(&self, key: &str, must: &str, value: f64, holds: bool) -> Result<(), Error> {
        self.verdict(
            key,
            must,
            || shown(&Value::Float(value)),
            holds && value.is_finite(),
        )
    }

    fn whole(&self, key: &str, must: &str, value: u64, holds: bool) -> Result<(), Error> {
        self.verdict(key, must, || value.to_string(), holds)
    }

    fn text(&self, key: &str, must: &str, value: &str, holds: bool) -> Result<(), Error> {
        self.verdict(key, must, || value.to_owned(), holds)
    }

    fn verdict(
        &self,
        key: &str,
        must: &str,
        value: impl Fn() -> String,
        holds: bool,
    ) -> Result<(), Error> {
        if holds {
            return Ok(());
        }
        let origin = self.origins.of(key).clone();
        Err(Error::Value {
            key: key.to_owned(),
            must: must.to_owned(),
            origin,
            value: value(),
            instead: String::new(),
        })
    }
}
