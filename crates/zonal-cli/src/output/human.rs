//! Numbers for people. Sizes that must stay exact are `args::format_size`'s.

/// Three significant digits with a unit of `units`, each `step` times the one before.
fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut rest = units;
    // 999.5 would be printed as 1000.
    while let [_, larger @ ..] = rest
        && !larger.is_empty()
        && value >= step - 0.5
    {
        value /= step;
        rest = larger;
    }
    let unit = rest.first().copied().unwrap_or("");
    let digits = match value {
        v if v >= 99.95 || v == v.trunc() => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}{unit}")
}

/// A latency: `812 ns`, `3.04 ms`.
pub(crate) fn format_nanos(nanos: f64) -> String {
    scaled(nanos, 1000.0, &[" ns", " µs", " ms", " s"])
}

/// A time that somebody waited: `2.31 s`.
pub(crate) fn format_seconds(time: std::time::Duration) -> String {
    format_nanos(time.as_secs_f64() * 1e9)
}

/// How many, roughly: `182k`.
pub(crate) fn format_count(count: f64) -> String {
    scaled(count, 1000.0, &["", "k", "M", "G"])
}

/// Bytes a second, in decimal units as drives are sold: `712 MB/s`.
pub(crate) fn format_rate(bytes_per_second: f64) -> String {
    scaled(bytes_per_second, 1000.0, &[" B/s", " kB/s", " MB/s", " GB/s", " TB/s"])
}

/// Bytes, roughly, in binary units: `31.3G`.
#[expect(clippy::cast_precision_loss, reason = "three digits are left")]
pub(crate) fn format_bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["", "K", "M", "G", "T", "P"])
}

/// `1 zone`, `2 zones`.
pub(crate) fn plural(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        assert_eq!(format_nanos(812.0), "812 ns");
        assert_eq!(format_nanos(3_040_000.0), "3.04 ms");
        assert_eq!(format_nanos(999_800.0), "1000 µs".replace("1000 µs", "1.00 ms"));
        assert_eq!(format_count(182_345.0), "182k");
        assert_eq!(format_count(7.0), "7");
        assert_eq!(format_rate(1.25e9), "1.25 GB/s");
        assert_eq!(format_rate(0.0), "0 B/s");
        assert_eq!(format_bytes(0), "0");
        assert_eq!(format_bytes(64 << 20), "64M");
        assert_eq!(format_bytes((64 << 30) - 1), "64.0G");
        assert_eq!(format_bytes(32_776_792 << 10), "31.3G");
    }
}
