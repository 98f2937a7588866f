//! Schemas of texts with a defined format, for the `OpenAPI` document.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat,
        schema::{AnyOfBuilder, Type},
    },
};

/// A text that matches a regular expression.
fn text(description: &str, pattern: &str, example: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .pattern(Some(pattern))
        .examples([example])
}

/// What the URL parser takes, without names that are not ASCII.
const DESTINATION: &str = concat!(
    "^[Hh][Tt][Tt][Pp][Ss]?://(",
    "([A-Za-z0-9][A-Za-z0-9!$&'()*+,;=_~-]*\\.)*[0-9]*[A-WYZa-wyz!$&'()*+,;=_~-][A-Za-z0-9!$&'()*+,;=_~-]*",
    "|((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])",
    "|\\[([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\\]|\\[([0-9a-f]{1,4}:){1,5}:[0-9a-f]{1,4}\\]|\\[::[0-9a-f]{1,4}\\]",
    ")(:(0{0,3}([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?)?",
    "([/?#\\\\][!-~]*)?$"
);

macro_rules! schema {
    ($(#[$doc:meta])* $name:ident = $schema:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                Schema::from($schema.build()).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    };
}

schema! {
    /// [`CallbackId`](crate::callback::CallbackId): 128 bits, so two bits of the last character are 0.
    CallbackId = text(
        "Id of a callback",
        "^[0-9a-v]{25}[048cgkos]$",
        "06h1kuqc7g0003796ovvvcapps",
    )
}

schema! {
    /// A destination as [`parse_callable`](crate::select::parse_callable) reads it; also the beginning of a URL.
    Destination = text(
        "Scheme, host and port; without a port, that of the scheme",
        DESTINATION,
        "https://callbackhost:443",
    )
}

schema! {
    /// [`DestinationCursor`](crate::outbox::DestinationCursor).
    DestinationCursor = text(
        "nextCursor of a page of destinations",
        "^[0-9]-[0-9]{1,18}-[0-9]{1,18}-[!-~]*$",
        "3-100-0-https://callbackhost:443",
    )
}

schema! {
    /// The name of a job or a directory, at most [`MAX_NAME_BYTES`](crate::event::MAX_NAME_BYTES).
    Name = AnyOfBuilder::new()
        .description(Some("Text of at most 255 bytes in UTF-8"))
        .item(ObjectBuilder::new().schema_type(Type::String).max_length(Some(63)))
        .item(text("", "^[\\x01-\\x7f]*$", "4711").description(None::<String>).max_length(Some(255)))
}

schema! {
    /// A time as [`parse_time`](crate::select::parse_time) reads it.
    Time = OneOfBuilder::new()
        .description(Some("A time (RFC 3339), or how long ago it was"))
        .item(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
                .examples(["2026-01-31T08:00:00Z"]),
        )
        .item(text("How long ago, with a unit", "^(0|[0-9]{1,4}(ms|s|m|h|d))$", "12h"))
}
