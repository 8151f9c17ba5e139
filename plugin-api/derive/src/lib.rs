//! `#[derive(Settings)]`: from a plain struct with doc comments to a JSON Schema that is a constant, a `Default`, and reading.
//!
//! Documented where it is used: `plugin_api::Settings`.

mod attributes;
mod choices;
mod field;
mod literal;
mod table;

use proc_macro::TokenStream;
use syn::{Data, DeriveInput, parse_macro_input};

/// See `plugin_api::Settings`.
#[proc_macro_derive(Settings, attributes(setting))]
pub fn settings(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input)
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}

fn expand(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    if !input.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(
            &input.generics,
            "settings cannot be generic: the schema is one constant",
        ));
    }
    match &input.data {
        Data::Struct(data) => table::expand(input, data),
        Data::Enum(data) => choices::expand(input, data),
        Data::Union(_) => Err(syn::Error::new_spanned(
            &input.ident,
            "settings are a struct, or an enum of choices",
        )),
    }
}
