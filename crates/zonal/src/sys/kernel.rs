//! Which kernel this is.

use std::fs;

/// What this kernel calls itself (`6.12.117+deb12-amd64`); nothing where it does not tell.
pub(crate) fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// The two numbers that a release begins with; zeros where it has none.
pub(crate) fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        for (release, numbers) in [
            ("6.12.117+deb12-amd64", (6, 12)),
            ("6.1.0-50-amd64\n", (6, 1)),
            ("7.0-rc1", (7, 0)),
            ("10.0.1", (10, 0)),
            ("6", (0, 0)),
            ("six.five", (0, 0)),
            ("", (0, 0)),
        ] {
            assert_eq!(version(release), numbers, "{release:?}");
        }
    }

    #[test]
    fn this_kernel_has_a_version() {
        assert!(version(&release()) > (0, 0), "{:?}", release());
    }
}
