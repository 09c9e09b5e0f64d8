//! Memory that holds keys stays where it is: no core file, and no other process of the same user reads it.

use rustix::process::{Resource, Rlimit, setrlimit};

use super::failure::Failure;

/// Has the system write no memory of this process anywhere, and show none to others. Children that are other programs set it
/// themselves; the limit they inherit.
///
/// # Errors
/// The system refuses, and the memory would be anybody's.
pub(super) fn keep_to_itself() -> Result<(), Failure> {
    let failed = |error: rustix::io::Errno| {
        Failure::new("cannot keep secrets out of core files").because(&std::io::Error::from(error))
    };
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(failed)?;
    // The limit does not hold where cores are piped to a program, as systemd does (core(5)).
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).map_err(failed)?;
    Ok(())
}
