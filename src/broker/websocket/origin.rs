//! Which web pages may speak to the broker (RFC 6455, section 10.2).
//!
//! A browser lets every page open WebSockets to every host, this machine and the network behind the firewall included, and
//! says in `Origin` whose page it is. Programs that are no browsers need not send one, and could send any.

use std::{net::IpAddr, str::FromStr};

/// Pages that are let in besides the broker's own and, on loopback, this machine's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    listed: Vec<String>,
    all: bool,
}

/// Not an origin.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no origin: say `https://app.example.org`, with a port unless it is the usual one, `null`, or `*` for all"
)]
pub struct OriginError(String);

impl Origins {
    /// Adds one: scheme, host and port as browsers send them, `null` (pages from files, and any page that wants to have
    /// none), or `*` for all.
    ///
    /// # Errors
    /// [`OriginError`] for anything else, such as a path.
    pub fn add(&mut self, origin: &str) -> Result<(), OriginError> {
        match (origin, origin.split_once("://")) {
            ("*", _) => self.all = true,
            ("null", _) => self.listed.push(origin.to_owned()),
            (_, Some((scheme, rest)))
                if !scheme.is_empty() && !rest.is_empty() && !rest.contains(['/', '@', '?', '#', ' ']) =>
            {
                self.listed.push(origin.to_ascii_lowercase());
            }
            _ => return Err(OriginError(origin.to_owned())),
        }
        Ok(())
    }

    /// Whether a page of `origin` may speak to a broker that it reached as `host` at the address `local`.
    ///
    /// The page's host being the broker's own says something only if the name cannot be made to mean this broker by
    /// whoever owns it (DNS rebinding): an address, or a name that TLS has proved.
    pub(crate) fn allow(&self, origin: &str, host: &str, tls: bool, local: IpAddr) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.all || self.listed.contains(&origin) {
            return true;
        }
        let Some((_, authority)) = origin.split_once("://") else { return false };
        let (page, own) = (without_port(authority), without_port(host));
        (local.to_canonical().is_loopback() && is_this_machine(page))
            || (page.eq_ignore_ascii_case(own) && (tls || address(page).is_some()))
    }
}

impl FromStr for Origins {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let mut origins = Self::default();
        origins.add(text)?;
        Ok(origins)
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The address that a host of a URL is, if it is one; with brackets for IPv6.
fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

/// Browsers never ask a name server for `localhost` and what is below it.
fn is_this_machine(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || address(host).is_some_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(listed: &[&str]) -> Origins {
        let mut origins = Origins::default();
        listed.iter().for_each(|origin| origins.add(origin).unwrap());
        origins
    }

    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
    const LAN: [u8; 4] = [192, 168, 1, 5];

    #[test]
    fn on_loopback_only_pages_of_this_machine_get_in() {
        let nobody = origins(&[]);
        let ask = |origin| nobody.allow(origin, "127.0.0.1:8083", false, LOOPBACK.into());
        for origin in [
            "http://localhost:3000",
            "HTTP://LOCALHOST",
            "https://127.0.0.1",
            "http://[::1]:1",
            "http://a.localhost",
        ] {
            assert!(ask(origin), "{origin}");
        }
        for origin in [
            "https://evil.example",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://evil.example/#localhost",
            "http://notlocalhost",
            "null",
            "",
            "localhost",
        ] {
            assert!(!ask(origin), "{origin}");
        }
        // A name that somebody made to mean this machine.
        assert!(!nobody.allow("http://evil.example:8083", "evil.example:8083", false, LOOPBACK.into()));
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert!(nobody.allow("http://localhost", "[::1]", false, mapped));
    }

    #[test]
    fn elsewhere_the_brokers_own_pages_get_in_where_the_name_is_proved() {
        let nobody = origins(&[]);
        assert!(nobody.allow("https://mqtt.example.org", "mqtt.example.org:8084", true, LAN.into()));
        assert!(!nobody.allow("http://mqtt.example.org", "mqtt.example.org:8083", false, LAN.into()));
        assert!(nobody.allow("http://192.168.1.5:80", "192.168.1.5:8083", false, LAN.into()));
        assert!(!nobody.allow("http://localhost", "192.168.1.5:8083", false, LAN.into()));
        assert!(!nobody.allow("https://app.example.org", "mqtt.example.org", true, LAN.into()));
    }

    #[test]
    fn what_is_listed_gets_in_exactly() {
        let listed = origins(&["https://App.example.org", "http://localhost:3000", "null"]);
        let ask = |origin| listed.allow(origin, "mqtt.example.org", true, LAN.into());
        assert!(ask("https://app.example.org") && ask("http://localhost:3000") && ask("null"));
        assert!(!ask("http://app.example.org") && !ask("https://app.example.org:444"));
        assert!(origins(&["*"]).allow("https://any.example", "mqtt", false, LOOPBACK.into()));
        for wrong in ["", "app.example.org", "https://", "https://a.example/path", "https://u@a.example"] {
            assert!(Origins::default().add(wrong).is_err(), "{wrong}");
        }
    }
}
