//! Templates: what families are told, each version by a name of its own.

use toml::Spanned;

use super::Resolver;
use crate::directory::load::At;
use crate::directory::load::raw::RawTemplate;
use crate::family::{LANGUAGE_DEFAULT, Template};

/// The most characters of what a template is called at its endpoint.
const REMOTE_CHARS_MAX: usize = 64;
/// The most characters of a language tag.
const LANGUAGE_CHARS_MAX: usize = 35;

impl Resolver<'_> {
    pub(super) fn template(&mut self, at: At<'_, RawTemplate>) -> Option<Template> {
        let place = at.place();
        let t = &at.value;
        self.refer(
            "endpoint",
            "endpoint",
            &t.endpoint,
            at.place_of(&t.endpoint),
        );
        if t.states.0.is_empty() {
            let message = format!("template {} tells no state", t.id.get_ref());
            self.fault(
                "no-state",
                place.clone(),
                message,
                "name at least one in `states`",
            );
        }
        if *t.version.get_ref() == 0 {
            let message = "versions count from 1".to_owned();
            self.fault("limit", at.place_of(&t.version), message, "use 1 or more");
        }
        let code = |text: &str, max: usize| {
            (1..=max).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !code(t.remote.get_ref(), REMOTE_CHARS_MAX) {
            self.fault(
                "invalid-id",
                at.place_of(&t.remote),
                "remote is not what a template is called".to_owned(),
                "copy the template's id from the provider, e.g. a UUID",
            );
        }
        if let Some(language) = &t.language
            && !code(language.get_ref(), LANGUAGE_CHARS_MAX)
        {
            self.fault(
                "invalid-id",
                at.place_of(language),
                "language is not a language tag".to_owned(),
                "write it as BCP 47 has it, e.g. \"en\" or \"cy\"",
            );
        }
        let t = at.value;
        let (id, version) = (t.id.into_inner(), t.version.into_inner());
        let validity = self.validity(t.valid_from, t.valid_to, place.clone());
        let name = format!("{id}/{version}");
        self.declare("template", &name, place.clone())
            .then(|| Template {
                id,
                version,
                endpoint: t.endpoint.into_inner(),
                remote: t.remote.into_inner(),
                way: t.way,
                states: t.states.into_values(),
                pathways: t.pathways.into_values(),
                language: t
                    .language
                    .map_or_else(|| LANGUAGE_DEFAULT.to_owned(), Spanned::into_inner),
                format: t.format,
                fields: t.fields.into_values(),
                validity,
                place,
            })
    }
}
