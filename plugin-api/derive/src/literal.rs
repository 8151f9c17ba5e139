//! Values written in attributes: numbers, text, choices and lists, as JSON and as Rust.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    Lit, Path, Token, bracketed,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
    spanned::Spanned,
};

use crate::field::Shape;

/// A value written in an attribute.
pub(crate) enum Value {
    Number {
        text: String,
        whole: bool,
        span: proc_macro2::Span,
    },
    Bool(bool),
    Text(String),
    Choice(Path),
    List(Vec<Value>),
}

impl Parse for Value {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if input.peek(syn::token::Bracket) {
            let content;
            bracketed!(content in input);
            let items = Punctuated::<Value, Token![,]>::parse_terminated(&content)?;
            return Ok(Value::List(items.into_iter().collect()));
        }
        let minus = input.parse::<Option<Token![-]>>()?;
        if minus.is_some() || input.peek(Lit) {
            return number_or_literal(input.parse()?, minus.is_some());
        }
        input.parse().map(Value::Choice)
    }
}

fn number_or_literal(literal: Lit, negative: bool) -> syn::Result<Value> {
    let sign = if negative { "-" } else { "" };
    let span = literal.span();
    match literal {
        Lit::Int(number) => Ok(Value::Number {
            text: format!("{sign}{}", number.base10_digits()),
            whole: true,
            span,
        }),
        Lit::Float(number) => {
            let digits = number.base10_digits();
            // Rust allows `1.`, JSON does not.
            let digits = if digits.ends_with('.') {
                format!("{digits}0")
            } else {
                digits.to_owned()
            };
            Ok(Value::Number {
                text: format!("{sign}{digits}"),
                whole: false,
                span,
            })
        }
        Lit::Bool(value) if !negative => Ok(Value::Bool(value.value)),
        Lit::Str(text) if !negative => Ok(Value::Text(text.value())),
        other => Err(syn::Error::new(
            other.span(),
            "expected a number, text, true, false, a choice or a list",
        )),
    }
}

impl Value {
    /// The number, for comparing with limits.
    pub(crate) fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Number { text, .. } => text.parse().ok(),
            _ => None,
        }
    }

    /// As JSON.
    pub(crate) fn json(&self) -> String {
        match self {
            Value::Number { text, .. } => text.clone(),
            Value::Bool(value) => value.to_string(),
            Value::Text(text) => quoted(text),
            Value::Choice(path) => match path.segments.last() {
                Some(last) if last.ident == "None" => "null".to_owned(),
                Some(last) => quoted(&snake_case(&last.ident.to_string())),
                None => "null".to_owned(),
            },
            Value::List(items) => {
                format!(
                    "[{}]",
                    items.iter().map(Value::json).collect::<Vec<_>>().join(",")
                )
            }
        }
    }

    /// As a Rust expression of the field's type.
    pub(crate) fn rust(&self, shape: &Shape<'_>) -> syn::Result<TokenStream> {
        match (shape, self) {
            (Shape::Option(_), Value::Choice(path)) if path.is_ident("None") => {
                Ok(quote!(::core::option::Option::None))
            }
            (Shape::Option(inner), value) => {
                let inner = value.rust(inner)?;
                Ok(quote!(::core::option::Option::Some(#inner)))
            }
            (Shape::List(inner), Value::List(items)) => {
                let items = items
                    .iter()
                    .map(|item| item.rust(inner))
                    .collect::<syn::Result<Vec<_>>>()?;
                Ok(quote!(::std::vec![#(#items),*]))
            }
            (
                Shape::Whole(ty, _),
                Value::Number {
                    text, whole: true, ..
                },
            )
            | (Shape::Float(ty), Value::Number { text, .. }) => {
                let number: TokenStream = text
                    .parse()
                    .map_err(|_| syn::Error::new(ty.span(), "not a number"))?;
                Ok(quote!((#number) as #ty))
            }
            (Shape::Bool, Value::Bool(value)) => Ok(quote!(#value)),
            (Shape::Text(ty), Value::Text(text)) => {
                Ok(quote!(<#ty as ::core::convert::From<&str>>::from(#text)))
            }
            (Shape::Other(_), Value::Choice(path)) => Ok(quote!(#path)),
            (_, Value::Number { span, .. }) => Err(syn::Error::new(
                *span,
                "the default does not fit the setting's type",
            )),
            _ => Err(syn::Error::new(
                proc_macro2::Span::call_site(),
                "a default does not fit its setting's type",
            )),
        }
    }
}

/// Text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if u32::from(control) < 0x20 => {
                out.push_str(&format!("\\u{:04x}", u32::from(control)))
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// `MinSnr` as `min_snr`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for (index, character) in name.chars().enumerate() {
        if character.is_uppercase() && index > 0 {
            out.push('_');
        }
        out.extend(character.to_lowercase());
    }
    out
}
