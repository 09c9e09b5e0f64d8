//! A secret as one line of standard input: never an argument and never the environment, which others can see.

use std::io::{IsTerminal, Read};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::failure::Failure;

/// The next line of standard input, without its end; `None` where there is none. A terminal is asked with `prompt`, and
/// does not show what is typed.
pub fn read(prompt: &str, bytes_max: usize) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let stdin = std::io::stdin();
    let _quiet = stdin.is_terminal().then(|| Quiet::begin(prompt));
    let mut stdin = stdin.lock();
    let mut line = Zeroizing::new(Vec::with_capacity(bytes_max + 1));
    let mut byte = Zeroizing::new([0]);
    let mut ended = false;
    loop {
        let read = stdin.read(&mut *byte);
        match read.map_err(|error| Failure::new("cannot read standard input").because(&error))? {
            0 => break,
            _ if byte[0] == b'\n' => {
                ended = true;
                break;
            }
            _ => line.push(byte[0]),
        }
        if line.len() > bytes_max {
            return Err(Failure::new(format!("the line on standard input has more than {bytes_max} bytes")));
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok((ended || !line.is_empty()).then_some(line))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet(Option<rustix::termios::Termios>);

impl Quiet {
    fn begin(prompt: &str) -> Self {
        eprint!("{prompt}: ");
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        let quiet = before.clone().and_then(|mut mode| {
            mode.local_modes.remove(LocalModes::ECHO);
            tcsetattr(&stdin, OptionalActions::Flush, &mode).ok()
        });
        if quiet.is_none() {
            eprint!("(it shows as you type) ");
        }
        Self(before)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(mode) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, mode);
        }
        eprintln!();
    }
}
