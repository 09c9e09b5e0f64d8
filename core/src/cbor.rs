//! Deterministic CBOR, written to memory and read back strictly.

use std::convert::Infallible;

use minicbor::{Decoder, Encoder};

/// Bytes from outside that are not the CBOR they should be; says which rule they break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed encoding: {0}")]
pub struct Malformed(pub(crate) &'static str);

/// The result of writing CBOR to memory.
pub(crate) type Written = Result<(), minicbor::encode::Error<Infallible>>;

pub(crate) fn to_vec(write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Written) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new());
    write(&mut e).expect("a Vec takes every write");
    e.into_writer()
}

pub(crate) fn well_formed<T>(read: Result<T, minicbor::decode::Error>) -> Result<T, Malformed> {
    read.map_err(|_| Malformed("not the CBOR item that belongs here"))
}

pub(crate) fn array_len(d: &mut Decoder<'_>, rule: &'static str) -> Result<u64, Malformed> {
    d.array().ok().flatten().ok_or(Malformed(rule))
}

/// Refuses every other spelling of what was read: longer integers, another order, bytes left over.
pub(crate) fn same_bytes(canonical: &[u8], bytes: &[u8]) -> Result<(), Malformed> {
    if canonical == bytes { Ok(()) } else { Err(Malformed("not in canonical form")) }
}

pub(crate) fn expect_array(d: &mut Decoder<'_>, len: u64, rule: &'static str) -> Result<(), Malformed> {
    if array_len(d, rule)? == len { Ok(()) } else { Err(Malformed(rule)) }
}

pub(crate) fn expect_tag(d: &mut Decoder<'_>, tag: u8, rule: &'static str) -> Result<(), Malformed> {
    if well_formed(d.u8())? == tag { Ok(()) } else { Err(Malformed(rule)) }
}
