//! Secrets that must not be found where they do not belong.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smqtt_client::keyring::Keyring;

use super::files_below;

/// Something that must not be found, but below the directory where it is at home.
pub struct Needle {
    pub what: String,
    pub bytes: Vec<u8>,
    pub home: Option<PathBuf>,
}

/// Finds all needles in one pass.
#[derive(Default)]
pub struct Needles {
    pub all: Vec<Needle>,
    /// Which needles begin with these two bytes.
    begins: std::collections::HashMap<[u8; 2], Vec<usize>>,
}

impl Needles {
    pub fn add(&mut self, what: &str, bytes: &[u8], home: Option<&Path>) {
        assert!(
            bytes.len() >= 8 && bytes.iter().any(|byte| *byte != 0),
            "{what}: too short to mean anything"
        );
        self.begins.entry([bytes[0], bytes[1]]).or_default().push(self.all.len());
        self.all.push(Needle {
            what: what.to_owned(),
            bytes: bytes.to_vec(),
            home: home.map(Path::to_owned),
        });
    }

    /// A secret as raw bytes, and as programs print bytes by accident.
    pub fn add_secret(&mut self, what: &str, bytes: &[u8], home: Option<&Path>) {
        self.add(what, bytes, home);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.add(&format!("{what}, hexadecimal"), hex.as_bytes(), home);
        let decimal: Vec<String> = bytes.iter().take(8).map(u8::to_string).collect();
        self.add(&format!("{what}, as a list"), decimal.join(", ").as_bytes(), home);
        let whole = bytes.len() / 3 * 3;
        self.add(&format!("{what}, base64"), STANDARD.encode(&bytes[..whole]).as_bytes(), home);
    }

    pub fn found(&self, hay: &[u8]) -> Vec<&Needle> {
        let mut first = [false; 256];
        self.begins.keys().for_each(|begin| first[usize::from(begin[0])] = true);
        let mut found = vec![false; self.all.len()];
        for (at, pair) in hay.windows(2).enumerate() {
            if !first[usize::from(pair[0])] {
                continue;
            }
            for index in self.begins.get(pair).into_iter().flatten() {
                found[*index] |= hay[at..].starts_with(&self.all[*index].bytes);
            }
        }
        self.all.iter().zip(found).filter_map(|(needle, found)| found.then_some(needle)).collect()
    }

    pub fn assert_clean(&self, place: &str, hay: &[u8]) {
        let found: Vec<_> = self.found(hay).into_iter().map(|needle| &needle.what).collect();
        assert!(found.is_empty(), "in {place}: {found:?}");
    }

    /// No needle in any file below `dir`, but where it is at home.
    pub fn assert_clean_below(&self, dir: &Path) {
        let files = files_below(dir);
        assert!(!files.is_empty(), "nothing in {}", dir.display());
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            for needle in self.found(&bytes) {
                let at_home = needle.home.as_ref().is_some_and(|home| file.starts_with(home));
                assert!(at_home, "{} in {}", needle.what, file.display());
            }
        }
    }
}

/// The DER in a PEM file.
pub fn unpem(path: &Path) -> Vec<u8> {
    let text = std::fs::read_to_string(path).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).unwrap()
}

/// The private scalar of a PKCS #8 key on P-256: `INTEGER 1, OCTET STRING (32)` and then the bytes.
pub fn scalar(pkcs8: &[u8]) -> &[u8] {
    let at = pkcs8.windows(5).position(|bytes| bytes == [2, 1, 1, 4, 32]).unwrap() + 5;
    &pkcs8[at..at + 32]
}

/// A PKCS #8 key in PEM; at home in its directory.
pub fn add_signing_key(needles: &mut Needles, what: &str, path: &Path) {
    let home = path.parent();
    let der = unpem(path);
    needles.add_secret(what, scalar(&der), home);
    needles.add(&format!("{what}, PKCS #8"), &der, home);
    let text = std::fs::read_to_string(path).unwrap();
    // The first line is the same for every key.
    needles.add(&format!("{what}, PEM"), text.lines().nth(2).unwrap().as_bytes(), home);
}

/// Everything secret in a keyring; at home there.
pub fn add_keyring(needles: &mut Needles, dir: &Path) {
    let name = dir.file_name().unwrap().to_string_lossy();
    add_signing_key(needles, &format!("{name}: device key"), &dir.join("device.key"));
    needles.add_secret(&format!("{name}: HPKE key"), &unpem(&dir.join("hpke.key"))[..32], Some(dir));
    for key in Keyring::load(dir).unwrap().keys() {
        let encoded = key.encode();
        // K1 in G2, then K3 and a point for each label in G1, all compressed.
        let material = &encoded[encoded.len() - 96 - 48 * (1 + key.labels().len())..];
        let what = format!("{name}: user secret key of epoch {}", key.epoch());
        needles.add_secret(&format!("{what}, K1"), &material[..96], Some(dir));
        for (index, point) in material[96..].chunks(48).enumerate() {
            needles.add_secret(&format!("{what}, point {index}"), point, Some(dir));
        }
        let text = STANDARD.encode(&*encoded);
        needles.add(&format!("{what}, as stored"), &text.as_bytes()[text.len() - 120..], Some(dir));
    }
}

/// What a process can read of itself, region by region.
pub fn scan_memory(pid: u32, mut see: impl FnMut(&[u8])) -> Result<usize, std::io::Error> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut total = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, mode) = (words.next().unwrap(), words.next().unwrap());
        if !mode.starts_with("rw") || line.contains("[v") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        memory.seek(SeekFrom::Start(from))?;
        // A region may go away meanwhile.
        if memory.read_exact(&mut bytes).is_ok() {
            total += bytes.len();
            see(&bytes);
        }
    }
    Ok(total)
}
