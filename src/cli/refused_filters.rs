//! Filters that an open broker grants to nobody.

use std::collections::BTreeSet;

use clap::Args;
use smqtt::broker::{Client, Hook, Point, SubscribeRequest, Verdict};
use smqtt::mqtt::{ReasonCode, filter_is_valid};

/// What nobody may subscribe to.
#[derive(Args)]
pub struct RefusedFiltersArgs {
    /// With `--open`: refuse subscriptions to exactly this filter, such as `#`. Give it several times for several, or an
    /// empty one for none. The default is a name to try with how a client takes a refusal
    #[arg(long = "refuse-filter", value_name = "FILTER", default_value = "test/nosubscribe", value_parser = filter, requires = "open")]
    filters: Vec<String>,
}

fn filter(text: &str) -> Result<String, String> {
    match text.is_empty() || filter_is_valid(text) {
        true => Ok(text.to_owned()),
        false => Err("not a topic filter".into()),
    }
}

impl RefusedFiltersArgs {
    /// The hook that refuses them; `None` if there is nothing to refuse.
    pub fn hook(&self) -> Option<Box<dyn Hook>> {
        let filters: BTreeSet<String> =
            self.filters.iter().filter(|text| !text.is_empty()).cloned().collect();
        (!filters.is_empty()).then(|| Box::new(RefusedFilters(filters)) as Box<dyn Hook>)
    }
}

struct RefusedFilters(BTreeSet<String>);

impl Hook for RefusedFilters {
    fn points(&self) -> &'static [Point] {
        &[]
    }

    fn subscribe(&self, _: &Client, request: &SubscribeRequest<'_>) -> Verdict {
        match self.0.contains(request.filter) {
            // 0x80 is the one failure that both versions have (3.1.1, section 3.9.3; 5.0, section 3.9.3).
            true => Verdict::deny(
                ReasonCode::UnspecifiedError,
                "nobody may subscribe to this filter here, see `--refuse-filter`",
            ),
            false => Verdict::Defer,
        }
    }
}
