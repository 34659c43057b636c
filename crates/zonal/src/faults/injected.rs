//! Errors that a plan made: those of the system, with a text that owns up to it.

use std::error::Error;
use std::fmt;
use std::io;

/// An error of the system that did not happen.
#[derive(Debug)]
struct Injected {
    /// Whose number and words it has.
    real: io::Error,
    /// Which word of the plan did it.
    word: String,
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, by its fault plan ({})", self.real, self.word)
    }
}

impl Error for Injected {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.real)
    }
}

/// An error of that number, by that word of a plan.
pub(super) fn inject(errno: i32, word: String) -> io::Error {
    let real = io::Error::from_raw_os_error(errno);
    io::Error::new(real.kind(), Injected { real, word })
}

fn injected(error: &io::Error) -> Option<&Injected> {
    error.get_ref()?.downcast_ref()
}

/// Whether a plan made it.
pub(crate) fn is_injected(error: &io::Error) -> bool {
    injected(error).is_some()
}

/// The system's number of an error, real or not.
pub(crate) fn errno(error: &io::Error) -> Option<i32> {
    match injected(error) {
        Some(injected) => injected.real.raw_os_error(),
        None => error.raw_os_error(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_injected_error_is_the_real_one_but_for_its_text() {
        let error = inject(libc::ENOSPC, "space=4096".to_owned());
        let real = io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!((error.kind(), errno(&error)), (real.kind(), Some(libc::ENOSPC)));
        assert_eq!(error.to_string(), format!("{real}, by its fault plan (space=4096)"));
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.and_then(io::Error::raw_os_error), Some(libc::ENOSPC));
        assert!(is_injected(&error) && !is_injected(&real));
        assert_eq!(errno(&real), Some(libc::ENOSPC));
    }
}
