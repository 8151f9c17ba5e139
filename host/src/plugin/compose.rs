//! Composition as pure data: chosen plugins in, the composed step (or the one sentence why not) out. Nothing is loaded here.
//!
//! `host plan` prints a [`Composition`]; `plugin::stack` carries one out.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use super::slots::{Mode, Slot};

/// One plugin as chosen on the command line or in the run file.
#[derive(Clone, Debug)]
pub struct Choice {
    /// What the plugin's file says about it.
    pub manifest: Manifest,
    /// Another name for this use of it, needed when the same plugin is chosen twice.
    pub alias: Option<String>,
    /// Names of slots that the plugin offers and this run leaves out (`without = ["timesteps"]`).
    pub without: Vec<String>,
}

impl Choice {
    /// The plugin as it is, under its own name.
    pub fn new(manifest: Manifest) -> Self {
        Self {
            manifest,
            alias: None,
            without: Vec::new(),
        }
    }

    /// The name this use of the plugin goes by: the alias, or the plugin's id.
    pub fn name(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.manifest.id)
    }
}

/// A plugin's part in a [`Composition`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The name it goes by in this run: settings, metrics and checkpoints use it.
    pub name: String,
    /// The plugin's id.
    pub id: String,
    /// The plugin's version.
    pub version: String,
    /// Its position among the chosen plugins, before ordering (0-based).
    pub chosen: usize,
    /// The slots it takes in this run.
    pub slots: Vec<Slot>,
}

/// Who acts at one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPlan {
    /// The slot.
    pub slot: Slot,
    /// How its plugins share it.
    pub mode: Mode,
    /// The names of its plugins, in calling order; empty: the host's default.
    pub plugins: Vec<String>,
    /// What the host does when no plugin takes the slot.
    pub default: String,
}

/// The composed step: every plugin in order, every slot with its plugins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composition {
    /// The plugins, in calling order.
    pub plugins: Vec<Member>,
    /// Every slot of the step, in the order of the step.
    pub slots: Vec<SlotPlan>,
}

/// Why plugins do not compose. Each is one sentence that names both sides and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Two plugins want a slot that only one can have.
    #[error(
        "`{first}` and `{second}` both take the exclusive slot `{slot}`, which only one plugin can hold: \
         drop one of them, or keep `{second}` out of that slot with `--set {second}.without={slot}`"
    )]
    Exclusive {
        /// The contested slot.
        slot: Slot,
        /// The plugin chosen first.
        first: String,
        /// The plugin chosen after it.
        second: String,
    },
    /// Two uses of plugins have the same name.
    #[error(
        "`{name}` is chosen twice: give the second use another name with `--plugin {id} as NAME` (run file: `as = \"NAME\"`)"
    )]
    SameName {
        /// The name both have.
        name: String,
        /// The id of the second one.
        id: String,
    },
    /// A plugin needs another that is not there.
    #[error(
        "`{plugin}` requires the plugin `{needs}`, which is not chosen: add `--plugin {needs}`"
    )]
    Requires {
        /// The plugin that needs something.
        plugin: String,
        /// The id it needs.
        needs: String,
    },
    /// A plugin declares that it cannot run beside another.
    #[error("`{plugin}` declares a conflict with `{with}`: drop one of them")]
    Conflicts {
        /// The plugin that declares it.
        plugin: String,
        /// The name of the other one.
        with: String,
    },
    /// `before` and `after` contradict each other.
    #[error(
        "the plugins' `before`/`after` declarations go in a circle ({}): drop one of them",
        .cycle.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" before ")
    )]
    Cycle {
        /// The circle; its first and last names are equal.
        cycle: Vec<String>,
    },
    /// A manifest names a slot this host does not have.
    #[error("`{plugin}` takes the slot `{slot}`, which this host does not have: update the host")]
    UnknownSlot {
        /// The plugin.
        plugin: String,
        /// The slot's name.
        slot: String,
    },
    /// `without` names a slot the plugin does not take.
    #[error("`{plugin}.without` names `{slot}`, but that plugin takes {}", .takes.join(", "))]
    WithoutUnknown {
        /// The plugin.
        plugin: String,
        /// The name given.
        slot: String,
        /// The slots that it does take.
        takes: Vec<String>,
    },
}

/// Composes plugins, given in the order they were chosen.
///
/// The calling order is the order chosen, moved only as far as `before` and `after` demand: among the plugins free to come
/// next, the one chosen first comes first. `before` and `after` bind only plugins that are present.
///
/// # Errors
/// The first of: a name used twice, an unknown slot, a missing requirement, a declared conflict, two plugins on an exclusive
/// slot, a circle among `before`/`after`.
pub fn compose(choices: &[Choice]) -> Result<Composition, Error> {
    unique_names(choices)?;
    let slots = choices.iter().map(taken).collect::<Result<Vec<_>, _>>()?;
    requirements(choices)?;
    exclusives(choices, &slots)?;
    let order = order(choices)?;
    let plugins: Vec<Member> = order
        .iter()
        .map(|&index| Member {
            name: choices[index].name().to_owned(),
            id: choices[index].manifest.id.clone(),
            version: choices[index].manifest.version.clone(),
            chosen: index,
            slots: slots[index].clone(),
        })
        .collect();
    let slots = Slot::ALL
        .iter()
        .map(|&slot| SlotPlan {
            slot,
            mode: slot.mode(),
            plugins: plugins
                .iter()
                .filter(|member| member.slots.contains(&slot))
                .map(|member| member.name.clone())
                .collect(),
            default: slot.default().to_owned(),
        })
        .collect();
    Ok(Composition { plugins, slots })
}

fn unique_names(choices: &[Choice]) -> Result<(), Error> {
    for (index, choice) in choices.iter().enumerate() {
        if choices[..index]
            .iter()
            .any(|other| other.name() == choice.name())
        {
            return Err(Error::SameName {
                name: choice.name().to_owned(),
                id: choice.manifest.id.clone(),
            });
        }
    }
    Ok(())
}

/// The slots a choice takes, in the order of the step.
fn taken(choice: &Choice) -> Result<Vec<Slot>, Error> {
    let mut slots = Vec::new();
    for name in &choice.manifest.slots {
        slots.push(Slot::from_name(name).ok_or_else(|| Error::UnknownSlot {
            plugin: choice.name().to_owned(),
            slot: name.clone(),
        })?);
    }
    for name in &choice.without {
        match Slot::from_name(name).and_then(|slot| slots.iter().position(|&s| s == slot)) {
            Some(position) => {
                slots.remove(position);
            }
            None => {
                return Err(Error::WithoutUnknown {
                    plugin: choice.name().to_owned(),
                    slot: name.clone(),
                    takes: slots.iter().map(|slot| format!("`{slot}`")).collect(),
                });
            }
        }
    }
    slots.sort_unstable();
    slots.dedup();
    Ok(slots)
}

fn requirements(choices: &[Choice]) -> Result<(), Error> {
    for choice in choices {
        for needs in &choice.manifest.requires {
            if !choices.iter().any(|other| is(other, needs)) {
                return Err(Error::Requires {
                    plugin: choice.name().to_owned(),
                    needs: needs.clone(),
                });
            }
        }
    }
    for (index, choice) in choices.iter().enumerate() {
        for (other_index, other) in choices.iter().enumerate() {
            if index != other_index && choice.manifest.conflicts.iter().any(|name| is(other, name))
            {
                return Err(Error::Conflicts {
                    plugin: choice.name().to_owned(),
                    with: other.name().to_owned(),
                });
            }
        }
    }
    Ok(())
}

fn exclusives(choices: &[Choice], slots: &[Vec<Slot>]) -> Result<(), Error> {
    let mut holders: BTreeMap<Slot, &str> = BTreeMap::new();
    for (choice, slots) in choices.iter().zip(slots) {
        for &slot in slots {
            if slot.mode() != Mode::Exclusive {
                continue;
            }
            if let Some(first) = holders.insert(slot, choice.name()) {
                return Err(Error::Exclusive {
                    slot,
                    first: first.to_owned(),
                    second: choice.name().to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// Whether a declaration's name means this choice: by its plugin's id or by the name of this use.
fn is(choice: &Choice, name: &str) -> bool {
    choice.manifest.id == name || choice.name() == name
}

/// The stable topological order, as indices into `choices`.
fn order(choices: &[Choice]) -> Result<Vec<usize>, Error> {
    let precedes = |first: usize, second: usize| {
        first != second
            && (choices[first]
                .manifest
                .before
                .iter()
                .any(|name| is(&choices[second], name))
                || choices[second]
                    .manifest
                    .after
                    .iter()
                    .any(|name| is(&choices[first], name)))
    };
    let mut left: Vec<usize> = (0..choices.len()).collect();
    let mut ordered = Vec::with_capacity(choices.len());
    while !left.is_empty() {
        let free = left
            .iter()
            .position(|&index| !left.iter().any(|&other| precedes(other, index)));
        match free {
            Some(position) => ordered.push(left.remove(position)),
            None => return Err(cycle(choices, &left, precedes)),
        }
    }
    Ok(ordered)
}

/// Every plugin of `left` has a predecessor in `left`; walking back along them must close a circle.
fn cycle(choices: &[Choice], left: &[usize], precedes: impl Fn(usize, usize) -> bool) -> Error {
    let mut walk = vec![left[0]];
    loop {
        let here = walk[walk.len() - 1];
        let Some(&back) = left.iter().find(|&&other| precedes(other, here)) else {
            return Error::Cycle { cycle: Vec::new() };
        };
        if let Some(start) = walk.iter().position(|&index| index == back) {
            // The walk went backwards in time; the circle is told forwards.
            let mut cycle: Vec<String> = walk[start..]
                .iter()
                .rev()
                .map(|&index| choices[index].name().to_owned())
                .collect();
            cycle.push(cycle[0].clone());
            return Error::Cycle { cycle };
        }
        walk.push(back);
    }
}

impl Composition {
    /// Who acts at a slot, in calling order.
    pub fn at(&self, slot: Slot) -> &[String] {
        self.slots
            .iter()
            .find(|plan| plan.slot == slot)
            .map_or(&[], |plan| plan.plugins.as_slice())
    }
}

/// The table `host plan` prints: one line a slot.
impl fmt::Display for Composition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
        let slot_width = width(&mut self.slots.iter().map(|plan| plan.slot.name().len()));
        writeln!(f, "{:slot_width$}  {:9}  plugins", "slot", "mode")?;
        for plan in &self.slots {
            let plugins = if plan.plugins.is_empty() {
                format!("({})", plan.default)
            } else {
                let between = match plan.mode {
                    Mode::Chain => " -> ",
                    Mode::Product => " * ",
                    Mode::Sum => " + ",
                    Mode::Union => " | ",
                    Mode::Exclusive | Mode::Each => ", ",
                };
                plan.plugins.join(between)
            };
            writeln!(f, "{:slot_width$}  {:9}  {plugins}", plan.slot, plan.mode)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
