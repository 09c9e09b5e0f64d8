//! A secret as one line of standard input: never an argument and never the environment, which others can see.

use std::io::{IsTerminal, Read};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::failure::Failure;

/// What a shell reports of a program ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// The next line of standard input, without its end; `None` where there is none. A terminal is asked with `prompt`, and
/// does not show what is typed; Ctrl-C there ends the program.
pub fn read(prompt: &str, bytes_max: usize) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let stdin = std::io::stdin();
    let quiet = stdin.is_terminal().then(|| Quiet::begin(prompt));
    let interrupt = quiet.as_ref().and_then(Quiet::interrupt);
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
            _ if Some(byte[0]) == interrupt => {
                drop(quiet);
                std::process::exit(INTERRUPTED);
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
struct Quiet(Option<Termios>);

impl Quiet {
    fn begin(prompt: &str) -> Self {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        let quiet = before.filter(|mode| tcsetattr(&stdin, OptionalActions::Flush, &quiet(mode)).is_ok());
        eprint!("{prompt}: ");
        if quiet.is_none() {
            eprint!("(it shows as you type) ");
        }
        Self(quiet)
    }

    /// What Ctrl-C is on this terminal, whose signal would end us with the terminal as it is.
    fn interrupt(&self) -> Option<u8> {
        let code = self.0.as_ref()?.special_codes[SpecialCodeIndex::VINTR];
        // 0 is none at all.
        (code != 0).then_some(code)
    }
}

/// The mode without echo. Ctrl-C ends the line, as one of its characters, and raises no signal.
fn quiet(before: &Termios) -> Termios {
    let mut mode = before.clone();
    mode.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    mode.special_codes[SpecialCodeIndex::VEOL] = before.special_codes[SpecialCodeIndex::VINTR];
    mode
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(mode) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, mode);
        }
        eprintln!();
    }
}
