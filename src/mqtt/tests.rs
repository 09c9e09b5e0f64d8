//! Round trips and hostile bytes.
