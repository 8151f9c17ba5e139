//! Scenes of several domains in turn.

use super::super::{DataOptions, Dataset, Error, Item};
use super::{DEFAULT_COUNT, Domain, Scenes};

/// Several domains in turn: item `i` is scene `i / n` of domain `i % n`. It has classes where all domains show the same content.
#[derive(Clone, Debug)]
pub struct Mixed {
    domains: Vec<Scenes>,
    count: usize,
}

impl Mixed {
    /// `count` scenes in all.
    ///
    /// # Errors
    /// As [`Scenes::new`].
    pub fn new(domains: &[Domain], options: &DataOptions) -> Result<Self, Error> {
        let count = options.count.unwrap_or(DEFAULT_COUNT);
        let each = DataOptions {
            count: Some(count.div_ceil(domains.len().max(1))),
            ..options.clone()
        };
        let domains = domains.iter().map(|&domain| Scenes::new(domain, &each));
        Ok(Self {
            domains: domains.collect::<Result<_, _>>()?,
            count,
        })
    }

    fn has_classes(&self) -> bool {
        (self.domains.windows(2)).all(|pair| pair[0].classes() == pair[1].classes())
    }

    fn names(&self) -> String {
        let names = self.domains.iter().map(|scenes| scenes.domain.name());
        names.collect::<Vec<_>>().join(",")
    }
}

impl Dataset for Mixed {
    fn len(&self) -> usize {
        self.count
    }

    fn get(&self, index: usize) -> Result<Item, Error> {
        let domains = self.domains.len();
        let item = self.domains[index % domains].get(index / domains)?;
        Ok(Item {
            class: item.class.filter(|_| self.has_classes()),
            ..item
        })
    }

    fn classes(&self) -> &[String] {
        match self.has_classes() {
            true => self.domains[0].classes(),
            false => &[],
        }
    }

    fn describe(&self) -> String {
        let seed = self.domains[0].seed;
        format!(
            "{} rendered scenes ({}, seed {seed})",
            self.count,
            self.names()
        )
    }

    fn fingerprint(&self) -> String {
        let parts: Vec<String> = self.domains.iter().map(Dataset::fingerprint).collect();
        format!("mixed:count{}:{}", self.count, parts.join(";"))
    }

    fn size(&self) -> usize {
        self.domains[0].size()
    }

    fn flips(&self) -> bool {
        self.domains[0].flips()
    }

    fn columns(&self) -> Vec<String> {
        self.domains[0].columns()
    }
}
