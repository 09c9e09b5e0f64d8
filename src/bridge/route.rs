//! What is carried where, and under which topic.

use smqtt_core::envelope::is_sealed;
use smqtt_core::topic::Filter;

use crate::mqtt::{Publish, QoS, Text, topic_is_valid};

/// The user property in which a message carries the names of the brokers it was bridged from.
pub const VIA_PROPERTY: &str = "smqtt-via";
/// Over how many bridges a message may come.
pub const HOPS_MAX: usize = 8;

/// Messages that are carried in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which, by their topic where they come from.
    pub filter: Filter,
    /// What their topic gets in front of it: nothing, or levels and a slash. Only plain messages can be renamed: a
    /// sealed one opens nowhere else.
    pub prefix: String,
    /// The highest quality of service: 0 or 1. QoS 2 is carried as QoS 1.
    pub qos: QoS,
}

/// Why a message is not carried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Dropped {
    /// No route asks for it: a subscription of an earlier configuration brought it.
    #[error("no filter of this bridge matches it")]
    Unasked,
    /// It has been where it would go.
    #[error("it came from there")]
    Loop,
    /// It came over [`HOPS_MAX`] bridges.
    #[error("it came over {HOPS_MAX} bridges")]
    Hops,
    /// It is sealed, and the route renames.
    #[error("it is sealed for `{0}` and opens under no other topic: carry it without a prefix")]
    SealedRenamed(String),
    /// With the prefix it is no topic.
    #[error("with the prefix the topic is too long")]
    Topic,
    /// Larger than the other broker takes.
    #[error("its packet has {bytes} bytes, and the other broker takes {bytes_max}")]
    TooLarge {
        /// It has.
        bytes: usize,
        /// Allowed are.
        bytes_max: usize,
    },
    /// It expired while it waited here.
    #[error("it expired while the other broker was away")]
    Expired,
    /// QoS 0, and nobody could take it.
    #[error("QoS 0, and the other broker is away or slow")]
    NotNow,
    /// The other broker said no.
    #[error("refused by the other broker: {0}")]
    Refused(String),
}

impl Dropped {
    /// One word for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Loop => "loop",
            Self::Hops => "hops",
            Self::SealedRenamed(_) => "sealed-renamed",
            Self::Topic => "topic",
            Self::TooLarge { .. } => "too-large",
            Self::Expired => "expired",
            Self::NotNow => "not-now",
            Self::Refused(_) => "refused",
        }
    }
}

/// The message as the other side is to get it: other topic, one more name on its way, no more than the route's QoS.
///
/// # Errors
/// [`Dropped`]: it is not carried.
pub fn carry(routes: &[Route], from: &str, to: &str, mut message: Publish) -> Result<Publish, Dropped> {
    let route = routes.iter().find(|route| route.filter.matches(&message.topic)).ok_or(Dropped::Unasked)?;
    if message.properties.expiry_secs == Some(0) {
        return Err(Dropped::Expired);
    }
    let via = |(name, _): &&(Text, Text)| name.as_str() == VIA_PROPERTY;
    let came = || message.properties.user.iter().filter(via).map(|(_, broker)| broker.as_str());
    if came().any(|broker| broker == to) {
        return Err(Dropped::Loop);
    }
    if came().count() >= HOPS_MAX {
        return Err(Dropped::Hops);
    }
    if !route.prefix.is_empty() {
        if is_sealed(&message.payload) {
            return Err(Dropped::SealedRenamed(message.topic.to_string()));
        }
        let topic = format!("{}{}", route.prefix, message.topic);
        if !topic_is_valid(&topic) {
            return Err(Dropped::Topic);
        }
        message.topic = topic.into();
    }
    message.properties.user.push((VIA_PROPERTY.into(), from.into()));
    // They are between us and the broker that it comes from.
    message.properties.subscription_ids.clear();
    message.properties.topic_alias = None;
    message.qos = message.qos.min(route.qos);
    Ok(message)
}

/// The first two filters of which one has nothing to add: a broker might send their messages twice.
pub fn redundant(routes: &[Route]) -> Option<(&Route, &Route)> {
    let pairs = routes
        .iter()
        .enumerate()
        .flat_map(|(i, a)| routes.iter().enumerate().filter(move |(j, _)| *j != i).map(move |(_, b)| (a, b)));
    pairs.into_iter().find(|(wide, narrow)| wide.filter.covers(&narrow.filter))
}

/// The first routes by which a message could go there and come back.
pub fn circular<'a>(out: &'a [Route], back: &'a [Route]) -> Option<(&'a Route, &'a Route)> {
    let arrives = |route: &Route| format!("{}{}", route.prefix, route.filter).parse::<Filter>();
    let meets = |a: &Route, b: &Route| arrives(a).is_ok_and(|there| there.overlaps(&b.filter));
    out.iter().flat_map(|a| back.iter().map(move |b| (a, b))).find(|(a, b)| meets(a, b) || meets(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(filter: &str, prefix: &str) -> Route {
        Route { filter: filter.parse().unwrap(), prefix: prefix.into(), qos: QoS::AtLeastOnce }
    }

    fn message(topic: &str, payload: &[u8]) -> Publish {
        Publish {
            topic: topic.into(),
            payload: payload.to_vec().into(),
            qos: QoS::ExactlyOnce,
            packet_id: 9,
            ..Publish::default()
        }
    }

    fn via(message: &Publish) -> Vec<&str> {
        message.properties.user.iter().map(|(_, broker)| broker.as_str()).collect()
    }

    #[test]
    fn the_first_route_that_matches_names_topic_and_qos() {
        let routes = [route("a/#", ""), Route { qos: QoS::AtMostOnce, ..route("b/+", "site/") }];
        let carried = carry(&routes, "here", "there", message("a/1", b"x")).unwrap();
        assert_eq!((carried.topic.as_str(), carried.qos), ("a/1", QoS::AtLeastOnce));
        assert_eq!(via(&carried), ["here"]);
        let carried = carry(&routes, "here", "there", message("b/1", b"x")).unwrap();
        assert_eq!((carried.topic.as_str(), carried.qos), ("site/b/1", QoS::AtMostOnce));
        assert_eq!(carry(&routes, "here", "there", message("c", b"x")), Err(Dropped::Unasked));
        let long = "x".repeat(65_533);
        assert_eq!(carry(&routes, "here", "there", message(&format!("b/{long}"), b"")), Err(Dropped::Topic));
    }

    #[test]
    fn nothing_goes_where_it_was_or_on_for_ever() {
        let routes = [route("#", "")];
        let once = carry(&routes, "a", "b", message("t", b"x")).unwrap();
        assert_eq!(carry(&routes, "b", "a", once.clone()), Err(Dropped::Loop));
        let mut on = carry(&routes, "b", "c", once).unwrap();
        assert_eq!(via(&on), ["a", "b"]);
        for hop in 2..HOPS_MAX {
            on = carry(&routes, &hop.to_string(), "c", on).unwrap();
        }
        assert_eq!(carry(&routes, "x", "c", on), Err(Dropped::Hops));
    }

    #[test]
    fn a_sealed_message_keeps_its_topic() {
        let sealed = b"\xdaSMQT\x83rest";
        let renamed = carry(&[route("#", "p/")], "a", "b", message("t", sealed));
        assert_eq!(renamed, Err(Dropped::SealedRenamed("t".into())));
        let carried = carry(&[route("#", "")], "a", "b", message("t", sealed)).unwrap();
        assert_eq!(&carried.payload[..], sealed);
    }

    #[test]
    fn routes_that_would_repeat_or_circle_are_found() {
        assert_eq!(
            redundant(&[route("a/+", ""), route("b/#", ""), route("a/1", "")]).unwrap().1.filter.as_str(),
            "a/1"
        );
        assert_eq!(redundant(&[route("a/+", ""), route("+/a", "")]), None);
        assert!(circular(&[route("a/#", "")], &[route("a/1", "")]).is_some());
        assert!(circular(&[route("a/#", "")], &[route("b/#", "")]).is_none());
        assert!(circular(&[route("a/#", "b/")], &[route("b/#", "")]).is_some());
        assert!(circular(&[route("a/#", "")], &[route("b/#", "a/")]).is_some());
    }
}
