//! A QR code as text, two rows of modules in a line.

use qrcodegen::{QrCode, QrCodeEcc};
use zeroize::Zeroizing;

use super::failure::Failure;

/// Modules of light around it (ISO/IEC 18004, section 9.1).
const QUIET: i32 = 4;

/// `content` as a QR code in block characters, which stand for what is light: as on a dark terminal. With `colours` it is so
/// on a light one, too.
pub fn text(content: &str, colours: bool) -> Result<Zeroizing<String>, Failure> {
    let code = QrCode::encode_text(content, QrCodeEcc::Low)
        .map_err(|error| Failure::new("this does not fit into a QR code").because(&error))?;
    let edge = code.size() + QUIET;
    // Outside the code everything is light.
    let light = |x, y| !code.get_module(x, y);
    let mut text = Zeroizing::new(String::new());
    for y in (-QUIET..edge).step_by(2) {
        if y > -QUIET {
            text.push('\n');
        }
        if colours {
            text.push_str("\x1b[97;40m");
        }
        for x in -QUIET..edge {
            // The last line may have only one row in it.
            text.push(match (light(x, y), y + 1 < edge && light(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        if colours {
            text.push_str("\x1b[0m");
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_module_is_there_with_light_around() {
        let code = QrCode::encode_text("smqtt1.abc", QrCodeEcc::Low).unwrap();
        let plain = text("smqtt1.abc", false).unwrap();
        let mut rows = Vec::new();
        for line in plain.lines() {
            rows.push(line.chars().map(|c| "█▀".contains(c)).collect::<Vec<bool>>());
            rows.push(line.chars().map(|c| "█▄".contains(c)).collect());
        }
        let size = code.size() + 2 * QUIET;
        assert!(rows[..size as usize].iter().all(|row| row.len() == size as usize));
        for (y, row) in (-QUIET..).zip(&rows[..size as usize]) {
            for (x, light) in (-QUIET..).zip(row) {
                assert_eq!(*light, !code.get_module(x, y), "{x} {y}");
            }
        }
        let coloured = text("smqtt1.abc", true).unwrap();
        assert_eq!(coloured.replace("\x1b[97;40m", "").replace("\x1b[0m", ""), *plain);
        assert!(text(&"x".repeat(3000), false).is_err());
    }
}
