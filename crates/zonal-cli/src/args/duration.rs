//! Times: `5`, `5s`, `1.5s`, `500ms`, `2m`.

use std::time::Duration;

/// The time that `text` names; a bare number is in seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const MESSAGE: &str = "not a time above zero; write 5, 5s, 500ms or 2m";
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let seconds = match &text[unit..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        _ => return Err(MESSAGE.into()),
    };
    let number: f64 = text[..unit].trim().parse().map_err(|_| MESSAGE)?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err(MESSAGE.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_unless_said_otherwise() {
        assert_eq!(parse_duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
    }

    #[test]
    fn no_time_is_refused() {
        for text in ["", "0", "s", "-1", "5h", "nan", "1e300"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
