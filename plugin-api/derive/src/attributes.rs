//! `#[setting(...)]` and doc comments.

use syn::{
    Attribute, Expr, ExprLit, Lit, LitStr, Meta, Token, bracketed, parse::ParseStream,
    punctuated::Punctuated,
};

use crate::literal::Value;

/// What `#[setting(...)]` says.
#[derive(Default)]
pub(crate) struct Setting {
    pub(crate) default: Option<Value>,
    pub(crate) is_default: bool,
    pub(crate) required: bool,
    pub(crate) low: Option<Value>,
    pub(crate) high: Option<Value>,
    pub(crate) below: Option<Value>,
    pub(crate) above: Option<Value>,
    pub(crate) one_of: Option<Vec<LitStr>>,
}

impl Setting {
    pub(crate) fn read(attributes: &[Attribute]) -> syn::Result<Self> {
        let mut setting = Setting::default();
        for attribute in attributes
            .iter()
            .filter(|attribute| attribute.path().is_ident("setting"))
        {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("default") {
                    if meta.input.peek(Token![=]) {
                        setting.default = Some(meta.value()?.parse()?);
                    } else {
                        setting.is_default = true;
                    }
                    Ok(())
                } else if meta.path.is_ident("required") {
                    setting.required = true;
                    Ok(())
                } else if meta.path.is_ident("range") {
                    setting.read_range(meta.value()?)
                } else if meta.path.is_ident("above") {
                    setting.above = Some(meta.value()?.parse()?);
                    Ok(())
                } else if meta.path.is_ident("one_of") {
                    let content;
                    let value = meta.value()?;
                    bracketed!(content in value);
                    let choices = Punctuated::<LitStr, Token![,]>::parse_terminated(&content)?;
                    setting.one_of = Some(choices.into_iter().collect());
                    Ok(())
                } else {
                    Err(meta.error("expected `default`, `required`, `range`, `above` or `one_of`"))
                }
            })?;
        }
        Ok(setting)
    }

    /// `a..=b`, `a..b`, `a..`, `..=b` or `..b`.
    fn read_range(&mut self, input: ParseStream<'_>) -> syn::Result<()> {
        if !input.peek(Token![..]) {
            self.low = Some(input.parse()?);
        }
        if input.parse::<Option<Token![..=]>>()?.is_some() {
            self.high = Some(input.parse()?);
            return Ok(());
        }
        input.parse::<Token![..]>()?;
        if !(input.is_empty() || input.peek(Token![,])) {
            self.below = Some(input.parse()?);
        }
        Ok(())
    }

    pub(crate) fn has_range(&self) -> bool {
        self.low.is_some() || self.high.is_some() || self.below.is_some() || self.above.is_some()
    }

    /// Whether a number is inside the limits.
    pub(crate) fn contains(&self, number: f64) -> bool {
        let meets = |limit: &Option<Value>, test: fn(f64, f64) -> bool| {
            limit
                .as_ref()
                .and_then(Value::as_f64)
                .is_none_or(|limit| test(number, limit))
        };
        meets(&self.low, |a, b| a >= b)
            && meets(&self.high, |a, b| a <= b)
            && meets(&self.below, |a, b| a < b)
            && meets(&self.above, |a, b| a > b)
    }
}

/// The doc comment: lines of a paragraph joined by spaces, paragraphs by line breaks.
pub(crate) fn docs(attributes: &[Attribute]) -> String {
    let mut paragraphs = vec![String::new()];
    for attribute in attributes {
        let Meta::NameValue(pair) = &attribute.meta else {
            continue;
        };
        let Expr::Lit(ExprLit {
            lit: Lit::Str(line),
            ..
        }) = &pair.value
        else {
            continue;
        };
        if !pair.path.is_ident("doc") {
            continue;
        }
        let line = line.value();
        match (line.trim(), paragraphs.last_mut()) {
            ("", _) => paragraphs.push(String::new()),
            (text, Some(paragraph)) if paragraph.is_empty() => paragraph.push_str(text),
            (text, Some(paragraph)) => {
                paragraph.push(' ');
                paragraph.push_str(text);
            }
            (_, None) => {}
        }
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    paragraphs.join("\n")
}
