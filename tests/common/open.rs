//! An open broker as people run it.

use super::TempDir;
use super::process::Running;
use super::site::{port, smqtt};

/// An open broker with these arguments, and where it listens.
pub struct Open {
    pub running: Running,
    pub urls: Vec<String>,
    pub home: TempDir,
}

impl Open {
    pub fn start(arguments: &[&str]) -> Self {
        Self::at(TempDir::new(), arguments)
    }

    pub fn at(home: TempDir, arguments: &[&str]) -> Self {
        let running = Running::spawn(smqtt(home.path()).args(["broker", "--open"]).args(arguments));
        let options = ["--plain", "--tls", "--ws", "--wss"];
        let count = arguments.iter().filter(|argument| options.contains(argument)).count();
        let lines = running.out.first_lines(count);
        let urls = lines.iter().map(|line| line.split_whitespace().last().unwrap().to_owned()).collect();
        Self { running, urls, home }
    }

    pub fn url(&self, scheme: &str) -> &str {
        let scheme = format!("{scheme}://");
        self.urls.iter().find(|url| url.starts_with(&scheme)).expect("it listens there")
    }

    /// `-h` and `-p` of the one with this scheme.
    pub fn options(&self, scheme: &str) -> Vec<String> {
        let url = self.url(scheme).trim_end_matches("/mqtt");
        ["-h", "localhost", "-p", port(url)].map(str::to_owned).into()
    }
}
