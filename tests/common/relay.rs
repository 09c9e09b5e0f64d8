//! A relay in between that records every byte, in both directions.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Listens for as long as the test runs.
pub struct Relay {
    pub address: SocketAddr,
    recorded: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    /// A relay to `target`, `address:port`.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let recorded = Arc::<Mutex<Vec<u8>>>::default();
        let (target, tape) = (target.to_owned(), recorded.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&target) else { continue };
                let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
                let (there, back) = (tape.clone(), tape.clone());
                std::thread::spawn(move || copy(near, far, &there));
                std::thread::spawn(move || copy(far_too, near_too, &back));
            }
        });
        Self { address, recorded }
    }

    /// What went through connections that are closed, once that is at least `bytes`.
    pub fn wait_recorded(&self, bytes: usize) -> Vec<u8> {
        super::until("bytes on the tape", super::DEADLINE, || {
            let tape = self.recorded.lock().unwrap();
            (tape.len() >= bytes).then(|| tape.clone())
        })
    }
}

/// One direction of one connection; recorded in one piece, so that nothing is torn apart by the other direction.
fn copy(mut from: TcpStream, mut to: TcpStream, tape: &Mutex<Vec<u8>>) {
    let mut own: Vec<u8> = Vec::new();
    let mut buffer = [0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        own.extend(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    tape.lock().unwrap().extend(own);
}
