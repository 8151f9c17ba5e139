//! The visual domains: a *content* (which solids stand there) joined with a *style* (how they are drawn).
//!
//! Content domains share the source's low-level statistics and show new things; style domains show the source's things in a new look.

use super::super::Error;
use super::solid::{SOURCE, Shape};

/// What stands on the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// One of the six source solids.
    Source,
    /// One of six solids the source domain never shows.
    Solids,
    /// A large source solid, which gives the class, and a small one of another kind.
    Pairs,
}

/// How it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Bright pastel studio with a soft shadow: the source domain.
    Studio,
    /// The same solids under a low, warm light, in another palette.
    Dusk,
    /// Glowing outlines in the dark.
    Neon,
    /// Pencil on paper.
    Sketch,
    /// Three flat tones.
    Poster,
    /// Checkered surfaces.
    Checker,
    /// Thick, pale fog.
    Fog,
}

/// The classes of [`Content::Solids`].
pub(super) const NEW_CLASSES: [&str; 6] = ["capsule", "star", "arch", "stack", "dome", "cross"];

impl Content {
    /// Every content.
    pub const ALL: [Self; 3] = [Self::Source, Self::Solids, Self::Pairs];

    /// The class names, in the order of the labels.
    pub fn classes(self) -> Vec<String> {
        match self {
            Self::Source => SOURCE.iter().map(|shape| shape.name().to_owned()).collect(),
            Self::Solids => NEW_CLASSES.iter().map(|&name| name.to_owned()).collect(),
            Self::Pairs => SOURCE
                .iter()
                .map(|shape: &Shape| format!("{} pair", shape.name()))
                .collect(),
        }
    }
}

impl Style {
    /// Every style.
    pub const ALL: [Self; 7] = [
        Self::Studio,
        Self::Dusk,
        Self::Neon,
        Self::Sketch,
        Self::Poster,
        Self::Checker,
        Self::Fog,
    ];
}

/// A content in a style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// What is shown.
    pub content: Content,
    /// How.
    pub style: Style,
}

/// Each domain that has a name of its own, with what it is.
pub const DOMAINS: [(&str, Domain, &str); 9] = [
    (
        "studio",
        domain(Content::Source, Style::Studio),
        "the source domain: six lit solids on a pastel floor",
    ),
    (
        "solids",
        domain(Content::Solids, Style::Studio),
        "new content: capsule, star, arch, stack, dome, cross",
    ),
    (
        "pairs",
        domain(Content::Pairs, Style::Studio),
        "new content: two solids, the class is the large one",
    ),
    (
        "dusk",
        domain(Content::Source, Style::Dusk),
        "the source solids under a low warm light, new palette",
    ),
    (
        "neon",
        domain(Content::Source, Style::Neon),
        "glowing outlines in the dark",
    ),
    (
        "sketch",
        domain(Content::Source, Style::Sketch),
        "pencil on paper",
    ),
    (
        "poster",
        domain(Content::Source, Style::Poster),
        "flat colours",
    ),
    (
        "checker",
        domain(Content::Source, Style::Checker),
        "checkered surfaces",
    ),
    ("fog", domain(Content::Source, Style::Fog), "thick fog"),
];

const fn domain(content: Content, style: Style) -> Domain {
    Domain { content, style }
}

impl Domain {
    /// Parses a domain's name (`studio`, also called `source`), or a content and a style joined by `+` (`solids+neon`).
    ///
    /// # Errors
    /// [`Error::UnknownDomain`] with the nearest name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text.split_once('+') {
            None => named(text),
            Some((content, style)) => {
                let (content, style) = (named(content)?, named(style)?);
                // Either order, as long as each side brings what the other leaves at the source's.
                if content.style == Style::Studio && style.content == Content::Source {
                    Ok(domain(content.content, style.style))
                } else if style.style == Style::Studio && content.content == Content::Source {
                    Ok(domain(style.content, content.style))
                } else {
                    Err(unknown(text))
                }
            }
        }
    }

    /// The name that [`Domain::parse`] reads.
    pub fn name(&self) -> String {
        let find = |wanted: Domain| {
            DOMAINS
                .iter()
                .find(|(_, domain, _)| *domain == wanted)
                .map_or("", |(name, ..)| name)
        };
        let own = find(*self);
        if own.is_empty() {
            format!(
                "{}+{}",
                find(domain(self.content, Style::Studio)),
                find(domain(Content::Source, self.style))
            )
        } else {
            own.to_owned()
        }
    }
}

fn named(text: &str) -> Result<Domain, Error> {
    if text == "source" {
        return Ok(DOMAINS[0].1);
    }
    DOMAINS
        .iter()
        .find(|(name, ..)| *name == text)
        .map(|(_, domain, _)| *domain)
        .ok_or_else(|| unknown(text))
}

fn unknown(text: &str) -> Error {
    Error::UnknownDomain {
        name: text.to_owned(),
        near: super::super::near(text, DOMAINS.iter().map(|(name, ..)| *name)),
        known: DOMAINS.map(|(name, ..)| name).join(", "),
    }
}
