//! CLIP's tokenizer: texts to the numbers of byte pairs (Sennrich et al. 2016), from the files of either age of transformers.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Tokenizer as Inner;

use super::Error;

/// How text is cut into words before byte pairs are merged, and what is taken for one word whatever stands beside it.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
pub(super) const BEGIN: &str = "<|startoftext|>";
pub(super) const END: &str = "<|endoftext|>";
/// Tokens of a text where the files do not say.
const LENGTH: usize = 77;

/// Turns texts into tokens.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    begin: u32,
    end: u32,
    pad: u32,
    length: usize,
}

/// The tokens of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Beginning, words, end and padding: as many as the model takes.
    pub ids: Vec<u32>,
    /// The part of the text that did not fit.
    pub cut: Option<String>,
}

impl Tokenizer {
    /// Reads a `tokenizer/` folder: `tokenizer.json`, or `vocab.json` and `merges.txt`; beside them `tokenizer_config.json` and `special_tokens_map.json`, as far
    /// as they are there. Texts get at most `longest` tokens.
    ///
    /// # Errors
    /// Files that are missing, cannot be read, or lack a special token.
    pub fn open(dir: &Path, longest: usize) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Tokenizer {
            dir: dir.to_owned(),
            reason,
        };
        if !dir.is_dir() {
            return Err(refuse("there is no such folder".to_owned()));
        }
        let settings = settings(dir)?;
        let whole = dir.join("tokenizer.json");
        let text = match whole.is_file() {
            true => read(&whole, dir)?,
            false => assembled(dir, &settings)?.to_string(),
        };
        let mut inner = Inner::from_bytes(text).map_err(|error| refuse(error.to_string()))?;
        // Padding and ends are set here, the same for both kinds of files.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| refuse(error.to_string()))?;
        let id = |key: &str, default: &str| {
            let token = content(&settings[key]).unwrap_or(default);
            (inner.token_to_id(token)).ok_or_else(|| {
                refuse(format!(
                    "`{key}` is `{token}`, which is not in the vocabulary"
                ))
            })
        };
        let (begin, end) = (id("bos_token", BEGIN)?, id("eos_token", END)?);
        // Files without a limit say so with a number of thirty digits.
        let stated = settings["model_max_length"].as_u64().map(|n| n as usize);
        let length = stated.unwrap_or(LENGTH).min(longest);
        if length < 3 {
            return Err(refuse(format!(
                "`model_max_length` is {length}, expected 3 or more"
            )));
        }
        let pad = id("pad_token", END)?;
        Ok(Self {
            inner,
            begin,
            end,
            pad,
            length,
        })
    }

    /// The tokens of a text, [`Tokenizer::length`] of them.
    ///
    /// # Errors
    /// A text that the vocabulary cannot spell.
    pub fn encode(&self, text: &str) -> candle_core::Result<Tokens> {
        let encoding = (self.inner.encode(text, false))
            .map_err(|error| candle_core::Error::Msg(format!("cannot read `{text}`: {error}")))?;
        let room = self.length - 2;
        let words = encoding.get_ids();
        let cut = (words.len() > room)
            .then(|| text.get(encoding.get_offsets()[room].0..))
            .flatten()
            .map(str::to_owned);
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.begin);
        ids.extend(words.iter().take(room));
        ids.push(self.end);
        ids.resize(self.length, self.pad);
        Ok(Tokens { ids, cut })
    }

    /// The token that begins a text.
    pub fn begin(&self) -> u32 {
        self.begin
    }

    /// The token that ends a text.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Tokens of every text.
    pub fn length(&self) -> usize {
        self.length
    }

    /// All that tokens depend on, as text.
    pub(super) fn description(&self) -> String {
        let inner = self.inner.to_string(false).unwrap_or_default();
        format!("{inner} {} {}", self.pad, self.length)
    }

    /// How many different tokens there are.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// `tokenizer_config.json`, and over it what `special_tokens_map.json` says where the former is of the age in which the latter counted.
fn settings(dir: &Path) -> Result<Value, Error> {
    let mut settings = json_in(dir, "tokenizer_config.json")?.unwrap_or_else(|| json!({}));
    if settings["added_tokens_decoder"].is_null()
        && let Some(Value::Object(special)) = json_in(dir, "special_tokens_map.json")?
        && let Some(all) = settings.as_object_mut()
    {
        all.extend(special);
    }
    Ok(settings)
}

/// What `tokenizer.json` would say, of the older files.
fn assembled(dir: &Path, settings: &Value) -> Result<Value, Error> {
    let refuse = |reason: String| Error::Tokenizer {
        dir: dir.to_owned(),
        reason,
    };
    let Some(vocab) = json_in(dir, "vocab.json")? else {
        return Err(refuse(
            "there is neither tokenizer.json nor vocab.json".to_owned(),
        ));
    };
    let merges = dir.join("merges.txt");
    if !merges.is_file() {
        return Err(refuse("there is a vocab.json and no merges.txt".to_owned()));
    }
    let merges = read(&merges, dir)?;
    let merges: Vec<&str> = (merges.lines())
        .filter(|line| !line.is_empty() && !line.starts_with("#version"))
        .collect();
    let unknown = content(&settings["unk_token"]).unwrap_or(END);
    Ok(json!({
        "version": "1.0",
        "added_tokens": added(settings, &vocab),
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
            { "type": "Lowercase" },
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": WORDS }, "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        ] },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE",
            "unk_token": unknown,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": false,
            "vocab": vocab,
            "merges": merges,
        },
    }))
}

/// The tokens that text is searched for before anything else, in the order of their numbers.
fn added(settings: &Value, vocab: &Value) -> Vec<Value> {
    let mut tokens: BTreeMap<u64, Value> = BTreeMap::new();
    if let Some(listed) = settings["added_tokens_decoder"].as_object() {
        for (id, token) in listed {
            if let (Ok(id), Some(content)) = (id.parse(), content(token)) {
                let special = token["special"].as_bool().unwrap_or(false);
                tokens.insert(id, token_entry(id, content, token, special));
            }
        }
    }
    for key in ["bos_token", "eos_token", "unk_token", "pad_token"] {
        let default = match key {
            "bos_token" => BEGIN,
            _ => END,
        };
        let content = content(&settings[key]).unwrap_or(default);
        if let Some(id) = vocab[content].as_u64() {
            tokens
                .entry(id)
                .or_insert_with(|| token_entry(id, content, &settings[key], true));
        }
    }
    tokens.into_values().collect()
}

fn token_entry(id: u64, content: &str, said: &Value, special: bool) -> Value {
    let flag = |name: &str| said[name].as_bool().unwrap_or(false);
    json!({
        "id": id,
        "content": content,
        "single_word": flag("single_word"),
        "lstrip": flag("lstrip"),
        "rstrip": flag("rstrip"),
        "normalized": flag("normalized"),
        "special": special,
    })
}

/// The text of a special token, which is given as such or as an object.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or(token["content"].as_str())
}

fn json_in(dir: &Path, name: &str) -> Result<Option<Value>, Error> {
    let file = dir.join(name);
    if !file.is_file() {
        return Ok(None);
    }
    let text = read(&file, dir)?;
    let value = serde_json::from_str(&text).map_err(|error| Error::Tokenizer {
        dir: dir.to_owned(),
        reason: format!("{name}: {error}"),
    })?;
    Ok(Some(value))
}

fn read(file: &Path, dir: &Path) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|error| Error::Tokenizer {
        dir: dir.to_owned(),
        reason: format!("{}: {error}", file.display()),
    })
}
