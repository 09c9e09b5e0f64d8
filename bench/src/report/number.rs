//! Numbers as people read them.

/// Three significant digits, thousands apart, no exponent: `0.00123`, `12.3`, `1,230`.
pub fn significant(value: f64) -> String {
    rounded(value, 3)
}

/// So many significant digits, and all of those before the point; thousands apart, no exponent.
pub fn rounded(value: f64, digits: i32) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".to_owned() } else { "?".to_owned() };
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = (digits - 1 - magnitude).clamp(0, 12) as usize;
    let text = format!("{:.*}", decimals, value.abs());
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), ""), |(a, b)| (a, b));
    let digits: Vec<char> = whole.chars().collect();
    let mut out = String::new();
    for (i, digit) in digits.iter().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(*digit);
    }
    let fraction = fraction.trim_end_matches('0');
    if !fraction.is_empty() {
        out = format!("{out}.{fraction}");
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

/// With its unit, a larger or smaller one where that reads better: `1.2 s`, `340 us`, `12.3 KiB`.
pub fn amount(value: f64, unit: &str) -> String {
    let scales: &[(f64, f64, &str)] = match unit {
        "ms" => &[(1e3, 1e3, "s"), (0.1, 1.0, "ms"), (0.0, 1e-3, "us")],
        "us" => &[(1e6, 1e6, "s"), (1e3, 1e3, "ms"), (1.0, 1.0, "us"), (0.0, 1e-3, "ns")],
        "bytes" => &[(1_048_576.0, 1_048_576.0, "MiB"), (10_240.0, 1024.0, "KiB")],
        "instructions" | "cycles" => &[(1e9, 1e9, "G"), (1e6, 1e6, "M")],
        // A digit more: 1.044 is not 1.04.
        "ratio" => return format!("{}x", rounded(value, 4)),
        _ => &[],
    };
    let scale = scales.iter().find(|(from, _, _)| value.abs() >= *from);
    match (scale, unit) {
        (Some((_, by, name)), "instructions" | "cycles") => {
            format!("{} {name} {unit}", significant(value / by))
        }
        (Some((_, by, name)), _) => format!("{} {name}", significant(value / by)),
        (None, _) => format!("{} {unit}", significant(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (2.2049, "2.2"),
            (0.001234, "0.00123"),
            (1234.4, "1,234"),
            (1_048_576.0, "1,048,576"),
            (-12.34, "-12.3"),
            (f64::INFINITY, "?"),
            (1e-30, "0"),
        ] {
            assert_eq!(significant(value), text);
        }
        for (value, unit, text) in [
            (1500.0, "ms", "1.5 s"),
            (2.5, "ms", "2.5 ms"),
            (0.05, "ms", "50 us"),
            (0.25, "us", "250 ns"),
            (800.0, "bytes", "800 bytes"),
            (12_288.0, "bytes", "12 KiB"),
            (2.0, "ratio", "2x"),
            (1.0441, "ratio", "1.044x"),
            (2.5e6, "cycles", "2.5 M cycles"),
            (3.0, "messages/s", "3 messages/s"),
        ] {
            assert_eq!(amount(value, unit), text);
        }
    }
}
