//! From the arguments of a run to all that is decided before any weight loads: shared by `run` and `plan`, so that both refuse
//! the same things in the same words.

use super::arguments::RunArguments;
use super::failure::Failure;
use crate::adapter::Report;
use crate::config::{Effect, Overrides, Resolved, compare, resolve};
use crate::plugin::discover::Search;
use crate::plugin::lock::Lock;
use crate::plugin::resolve as plugins;
use crate::pretrained::inspect_adapters;
use crate::train;
use crate::train::folder::RUN_FILE;

/// A run before its first weight.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Every setting, those of the plugins among them.
    pub(super) resolved: Resolved,
    /// The plugins and the composed step.
    pub(super) plugins: plugins::Resolved,
    /// What the adapters hold for the backbone.
    pub(super) adapters: Vec<Report>,
    /// What a user should know though nothing is wrong, a sentence each.
    pub(super) notes: Vec<String>,
}

/// Decides everything that can be decided without loading a weight or executing a plugin.
pub(super) fn prepare(arguments: &RunArguments) -> Result<Prepared, Failure> {
    let mut resolved = arguments.resolve()?;
    let plugins = plugins_of(&mut resolved)?;
    let adapters = adapters_of(&mut resolved, arguments.force)?;
    if let Some(file) = &arguments.locked {
        Lock::read(file)?.verify(plugins.plugins.iter().map(|plugin| &plugin.checked))?;
    }
    let mut notes = plugins.notes.clone();
    if arguments.resume {
        notes.extend(judge_other_settings(&resolved, arguments.force)?);
    }
    Ok(Prepared {
        resolved,
        plugins,
        adapters,
        notes,
    })
}

/// Finds the plugins of a run and takes over their settings as resolved.
pub(super) fn plugins_of(resolved: &mut Resolved) -> Result<plugins::Resolved, Failure> {
    let search = Search::new(&resolved.config.plugin_dir);
    let plugins = plugins::resolve(&search, &resolved.requests())?;
    for (plugin, member) in plugins.plugins.iter().zip(&plugins.composition.plugins) {
        resolved.adopt(member.chosen, plugin);
    }
    Ok(plugins)
}

/// Looks into the adapters of a run, and notes the hash of each, so that the run is resumed on these and no others unless forced.
fn adapters_of(resolved: &mut Resolved, force: bool) -> Result<Vec<Report>, Failure> {
    let config = &mut resolved.config;
    if force {
        for entry in &mut config.adapter {
            entry.sha256 = None;
        }
    }
    let reports = inspect_adapters(config.backbone.path.as_deref(), &config.adapter)?;
    for (entry, report) in config.adapter.iter_mut().zip(&reports) {
        entry.sha256 = Some(report.sha256.clone());
    }
    Ok(reports)
}

/// Compares with the run file in the folder: what the saved state does not fit is refused unless forced, what makes the run diverge is told.
fn judge_other_settings(now: &Resolved, force: bool) -> Result<Vec<String>, Failure> {
    let file = now.out().join(RUN_FILE);
    if !file.is_file() {
        return Err(train::Error::NothingToResume {
            path: now.out().to_owned(),
        }
        .into());
    }
    let mut was = resolve(&Overrides {
        config: Some(file),
        ..Overrides::default()
    })?;
    // The plugins are looked for where this run looks for them.
    was.config.plugin_dir = now.config.plugin_dir.clone();
    plugins_of(&mut was)?;
    let (fatal, rest): (Vec<_>, Vec<_>) = compare(&was.config, &now.config)
        .into_iter()
        .filter(|difference| difference.effect != Effect::Harmless)
        .partition(|difference| difference.effect == Effect::Incompatible);
    if !fatal.is_empty() && !force {
        let differences: Vec<_> = fatal.iter().map(ToString::to_string).collect();
        let path = now.out().to_owned();
        return Err(train::Error::SettingsDiffer {
            path,
            differences: differences.join(", "),
        }
        .into());
    }
    let forced = fatal.iter().map(|difference| {
        format!("{difference}, so saved state that does not fit is left out, and what has none starts anew")
    });
    let told = rest
        .iter()
        .map(|difference| format!("{difference}, so the run goes on otherwise than it would have"));
    Ok(forced.chain(told).collect())
}
