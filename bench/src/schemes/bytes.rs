//! How many bytes a value has in a plain binary serialisation: fixed-width integers, no names, a length of four
//! bytes before strings and sequences. rabe names no format of its own. What it serialises of a point is three coordinates,
//! uncompressed, so that its sizes here are those of its own serialisation, not the least that its schemes allow: a
//! compressed point is a third of that.

use std::fmt;

use serde::ser::{self, Serialize};

/// Bytes of `value`.
pub fn count(value: &impl Serialize) -> usize {
    let mut counter = Counter(0);
    value.serialize(&mut counter).expect("counting cannot fail");
    counter.0
}

struct Counter(usize);

const LENGTH_BYTES: usize = 4;
const VARIANT_BYTES: usize = 1;

#[derive(Debug)]
struct Never;

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot be counted")
    }
}

impl std::error::Error for Never {}

impl ser::Error for Never {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

type Counted = Result<(), Never>;

macro_rules! fixed {
    ($($method:ident: $type:ty,)*) => {
        $(fn $method(self, _: $type) -> Counted {
            self.0 += size_of::<$type>();
            Ok(())
        })*
    };
}

impl<'a> ser::Serializer for &'a mut Counter {
    type Ok = ();
    type Error = Never;
    type SerializeSeq = &'a mut Counter;
    type SerializeTuple = &'a mut Counter;
    type SerializeTupleStruct = &'a mut Counter;
    type SerializeTupleVariant = &'a mut Counter;
    type SerializeMap = &'a mut Counter;
    type SerializeStruct = &'a mut Counter;
    type SerializeStructVariant = &'a mut Counter;

    fixed! {
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
        serialize_f32: f32,
        serialize_f64: f64,
        serialize_char: char,
    }

    fn serialize_str(self, text: &str) -> Counted {
        self.serialize_bytes(text.as_bytes())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Counted {
        self.0 += LENGTH_BYTES + bytes.len();
        Ok(())
    }

    fn serialize_none(self) -> Counted {
        self.0 += VARIANT_BYTES;
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Counted {
        self.0 += VARIANT_BYTES;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Counted {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Counted {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Counted {
        self.0 += VARIANT_BYTES;
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Counted {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Counted {
        self.0 += VARIANT_BYTES;
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Never> {
        self.0 += LENGTH_BYTES;
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Never> {
        self.0 += VARIANT_BYTES;
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Never> {
        self.0 += LENGTH_BYTES;
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Never> {
        self.0 += VARIANT_BYTES;
        Ok(self)
    }
}

macro_rules! elements {
    ($($trait:ident: $method:ident,)*) => {
        $(impl ser::$trait for &mut Counter {
            type Ok = ();
            type Error = Never;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Counted {
                value.serialize(&mut **self)
            }

            fn end(self) -> Counted {
                Ok(())
            }
        })*
    };
}

elements! {
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
}

macro_rules! named {
    ($($trait:ident,)*) => {
        $(impl ser::$trait for &mut Counter {
            type Ok = ();
            type Error = Never;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Counted {
                value.serialize(&mut **self)
            }

            fn end(self) -> Counted {
                Ok(())
            }
        })*
    };
}

named! {
    SerializeStruct,
    SerializeStructVariant,
}

impl ser::SerializeMap for &mut Counter {
    type Ok = ();
    type Error = Never;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Counted {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Counted {
        value.serialize(&mut **self)
    }

    fn end(self) -> Counted {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_plain_bytes() {
        assert_eq!(count(&7u64), 8);
        assert_eq!(count(&[1u64; 4]), 32);
        assert_eq!(count(&"abc"), 7);
        assert_eq!(count(&vec![(1u8, 2u16), (3, 4)]), 4 + 2 * 3);
        assert_eq!(count(&Some(1u8)), 2);
        assert_eq!(count(&std::collections::BTreeMap::from([("k", 1u32)])), 4 + 5 + 4);
        assert_eq!(count(&crate::result::Question::Mode), 1);
    }
}
