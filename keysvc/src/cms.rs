//! Certificates in a CMS message that signs nothing, "certs-only" (RFC 5652, section 5.1; RFC 8551, section 3.8): what EST answers with.

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, constructed.
const CONTEXT_0: u8 = 0xa0;
/// 1.2.840.113549.1.7.2, `signedData`.
const SIGNED_DATA: [u8; 11] = [0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// 1.2.840.113549.1.7.1, `data`.
const DATA: [u8; 11] = [0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const VERSION_1: [u8; 3] = [0x02, 1, 1];

/// These certificates (DER) as a certs-only message, DER.
pub(crate) fn certs_only<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut certificates: Vec<_> = certificates.into_iter().collect();
    // A set, in the order that DER has for one (X.690, section 11.6).
    certificates.sort_unstable();
    let signed_data = [
        VERSION_1.to_vec(),
        der(SET, &[]),
        der(SEQUENCE, &DATA),
        der(CONTEXT_0, &certificates.concat()),
        der(SET, &[]),
    ];
    let signed_data = der(CONTEXT_0, &der(SEQUENCE, &signed_data.concat()));
    der(SEQUENCE, &[&SIGNED_DATA[..], &signed_data].concat())
}

/// Tag, length and content (X.690, section 8.1).
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut out = vec![tag];
    match content.len() {
        0..=0x7f => out.push(content.len() as u8),
        _ => {
            out.push(0x80 | length.len() as u8);
            out.extend(length);
        }
    }
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_minimal() {
        assert_eq!(der(SET, &[]), [0x31, 0]);
        assert_eq!(der(SET, &[7; 127])[..2], [0x31, 0x7f]);
        assert_eq!(der(SET, &[7; 128])[..3], [0x31, 0x81, 0x80]);
        assert_eq!(der(SET, &[7; 256])[..4], [0x31, 0x82, 1, 0]);
        assert_eq!(certs_only([]).len(), 2 + 11 + 2 + 2 + 3 + 2 + 13 + 2 + 2);
    }
}
