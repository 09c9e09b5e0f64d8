//! The directory: who the devices are, and until when their certificates hold.
//!
//! What was learned is written down beside the keyring, so that a broker that starts while the authority is away knows its
//! devices. It asks from the beginning all the same: what it read is what it goes on with until the authority answers.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smqtt_client::files::{FileError, read_if_any, write_private};
use smqtt_core::api::{self, Device};
use smqtt_core::attribute::Attributes;
use smqtt_core::identity::{DeviceId, Role};

/// Most bytes of a directory that was written down.
const FILE_BYTES_MAX: usize = 256 << 20;
const FILE: &str = "directory.json";

/// A device as the broker knows it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What people call it.
    pub name: String,
    /// What it is.
    pub attributes: Attributes,
    /// Whether it is still anybody's.
    pub active: bool,
    role: Role,
}

impl Peer {
    /// Whether it publishes and subscribes.
    pub fn is_device(&self) -> bool {
        matches!(self.role, Role::Device | Role::Bridge)
    }
}

/// Everyone the authority told of.
#[derive(Default)]
pub(super) struct Known {
    /// Up to where the authority was asked by this process.
    pub(super) revision: u64,
    by_id: HashMap<DeviceId, Arc<Peer>>,
    by_name: HashMap<String, DeviceId>,
    /// Until when the newest certificate of each holds, and in that order.
    until: HashMap<DeviceId, u64>,
    by_until: BTreeSet<(u64, DeviceId)>,
    changed: bool,
}

impl Known {
    /// What was written down in `dir`; nobody, if that cannot be read.
    pub(super) fn load(dir: &Path) -> Self {
        let mut known = Self::default();
        let read = read_if_any(&dir.join(FILE), FILE_BYTES_MAX);
        let directory = match read {
            Ok(Some(bytes)) => serde_json::from_slice::<api::Directory>(&bytes).map_err(|e| e.to_string()),
            Ok(None) => return known,
            Err(error) => Err(error.to_string()),
        };
        match directory {
            Ok(directory) => directory.devices.into_iter().for_each(|device| known.learn(device)),
            Err(error) => {
                tracing::warn!(error, "the directory of devices cannot be read: asking the authority")
            }
        }
        known.changed = false;
        known
    }

    /// What is to be written down, if it changed since this was asked last.
    pub(super) fn take_writing(&mut self, dir: &Path) -> Option<Writing> {
        let changed = std::mem::take(&mut self.changed);
        let device = |(id, peer): (&DeviceId, &Arc<Peer>)| Device {
            id: id.to_string(),
            name: peer.name.clone(),
            role: peer.role.name().to_owned(),
            attributes: peer.attributes.iter().map(ToString::to_string).collect(),
            status: if peer.active { "active" } else { "revoked" }.to_owned(),
            certificate_expires: self.until(*id).unwrap_or_default(),
            ..Device::default()
        };
        changed.then(|| Writing {
            path: dir.join(FILE),
            directory: api::Directory {
                revision: self.revision,
                devices: self.by_id.iter().map(device).collect(),
            },
        })
    }

    /// Whether anybody is known at all: then who is not, is nobody.
    pub(super) fn is_there(&self) -> bool {
        !self.by_id.is_empty()
    }

    pub(super) fn peer(&self, id: DeviceId) -> Option<&Arc<Peer>> {
        self.by_id.get(&id)
    }

    pub(super) fn owner_of(&self, name: &str) -> Option<DeviceId> {
        let by_id = || name.parse().ok().filter(|id| self.by_id.contains_key(id));
        self.by_name.get(name).copied().or_else(by_id)
    }

    /// The device of a name or identifier, active or, if there is none, one that was.
    pub(super) fn find(&self, name: &str) -> Option<(DeviceId, &Arc<Peer>)> {
        let former = || self.by_id.iter().find(|(_, peer)| peer.name == name).map(|(id, _)| *id);
        let id = self.owner_of(name).or_else(former)?;
        self.by_id.get(&id).map(|peer| (id, peer))
    }

    pub(super) fn learn(&mut self, device: Device) {
        let (Ok(id), Some(role)) = (device.id.parse::<DeviceId>(), Role::from_name(&device.role)) else {
            return;
        };
        let active = device.status == "active";
        let attributes = Attributes::parse(&device.attributes).unwrap_or_default();
        if active {
            self.by_name.insert(device.name.clone(), id);
        } else if self.by_name.get(&device.name) == Some(&id) {
            self.by_name.remove(&device.name);
        }
        self.saw_certificate(id, device.certificate_expires);
        let peer = Peer { name: device.name, attributes, active, role };
        self.by_id.insert(id, Arc::new(peer));
        self.changed = true;
    }

    /// The device has a certificate that holds until then (seconds since 1970); an older one changes nothing.
    pub(super) fn saw_certificate(&mut self, id: DeviceId, until: u64) {
        let before = self.until.get(&id).copied();
        if before.is_none_or(|before| before < until) {
            self.until.insert(id, until);
            before.map(|before| self.by_until.remove(&(before, id)));
            self.by_until.insert((until, id));
        }
    }

    /// Until when its newest certificate holds.
    pub(super) fn until(&self, id: DeviceId) -> Option<u64> {
        self.until.get(&id).copied()
    }

    /// Those whose last certificate ran out before `now` (it holds through its last second, RFC 5280, section 4.1.2.5) and who were not given here before.
    pub(super) fn take_expired(&mut self, now: u64) -> Vec<DeviceId> {
        let mut expired = Vec::new();
        while let Some((_, id)) = self.by_until.first().copied().filter(|(until, _)| *until < now) {
            self.by_until.pop_first();
            expired.push(id);
        }
        expired
    }
}

/// A directory on its way to the disk.
pub(super) struct Writing {
    path: PathBuf,
    directory: api::Directory,
}

impl Writing {
    /// Writes it; blocks.
    pub(super) fn write(&self) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(&self.directory).unwrap_or_default();
        write_private(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: u8, name: &str, status: &str, expires: u64) -> Device {
        Device {
            id: DeviceId([n; 16]).to_string(),
            name: name.into(),
            role: "device".into(),
            attributes: vec!["role=nurse".into()],
            status: status.into(),
            certificate_expires: expires,
            ..Device::default()
        }
    }

    #[test]
    fn a_device_expires_once_and_a_renewal_puts_it_off() {
        let mut known = Known::default();
        known.learn(device(1, "a", "active", 100));
        known.learn(device(2, "b", "active", 200));
        assert_eq!(known.take_expired(100), []);
        known.saw_certificate(DeviceId([1; 16]), 150);
        // What the authority says later of the older one changes nothing.
        known.learn(device(1, "a", "active", 100));
        assert_eq!(known.take_expired(150), []);
        assert_eq!(known.take_expired(151), [DeviceId([1; 16])]);
        assert_eq!(known.take_expired(151), []);
        known.learn(device(1, "a", "active", 400));
        assert_eq!(known.take_expired(300), [DeviceId([2; 16])]);
        assert_eq!(known.until(DeviceId([1; 16])), Some(400));
    }

    #[test]
    fn a_directory_is_there_again_after_a_restart_and_is_asked_for_from_the_beginning() {
        let dir = std::env::temp_dir().join(format!("smqtt-directory-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut known = Known::default();
        assert!(!known.is_there());
        known.learn(device(1, "a", "active", 100));
        known.learn(device(2, "b", "revoked", 200));
        known.revision = 7;
        known.take_writing(&dir).unwrap().write().unwrap();
        assert!(known.take_writing(&dir).is_none());
        let mut again = Known::load(&dir);
        assert!(again.is_there() && again.take_writing(&dir).is_none());
        assert_eq!(again.revision, 0);
        assert_eq!(again.owner_of("a"), Some(DeviceId([1; 16])));
        assert_eq!(again.owner_of("b"), None);
        assert!(!again.peer(DeviceId([2; 16])).unwrap().active);
        std::fs::write(dir.join(FILE), b"nonsense").unwrap();
        assert!(!Known::load(&dir).is_there());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
