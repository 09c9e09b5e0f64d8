//! An authority of its own process, and its administrator.

use std::path::Path;

use smqtt_client::authority::Authority;
use smqtt_client::tls;

use super::needles::unpem;
use super::process::Running;
use super::site::smqtt;

/// `smqtt authority`, and its address.
pub fn start(home: &Path, listen: &str) -> (Running, String) {
    let mut command = smqtt(home);
    let running =
        Running::spawn(command.args(["authority", "--listen", listen, "--data"]).arg(home.join("site")));
    running.out.line("fingerprint");
    let url = running.out.line("authority").split_whitespace().last().unwrap().to_owned();
    (running, url)
}

/// A file of the administrator's, without its PEM.
pub fn pem(home: &Path, name: &str) -> Vec<u8> {
    unpem(&home.join("site/admin").join(name))
}

pub fn administrator(home: &Path, url: &str) -> Authority {
    let (root, certificate, key) = (pem(home, "root.pem"), pem(home, "cert.pem"), pem(home, "key.pem"));
    Authority::new(url, tls::client_config(&[root], Some((&certificate, &key))).unwrap()).unwrap()
}
