//! The four forms in which an expiry is given: EX, PX, EXAT, PXAT.

/// How a time is given and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExpiryForm {
    /// In seconds rather than milliseconds.
    pub seconds: bool,
    /// Counted from now rather than from 1970.
    pub relative: bool,
}

impl ExpiryForm {
    /// As an option says.
    pub fn of_option(option: &[u8]) -> Option<ExpiryForm> {
        let named = |name: &[u8]| option.eq_ignore_ascii_case(name);
        Some(match () {
            () if named(b"EX") => ExpiryForm { seconds: true, relative: true },
            () if named(b"PX") => ExpiryForm { seconds: false, relative: true },
            () if named(b"EXAT") => ExpiryForm { seconds: true, relative: false },
            () if named(b"PXAT") => ExpiryForm { seconds: false, relative: false },
            () => return None,
        })
    }

    /// The Unix milliseconds that `time` means; `None` where there are too many.
    pub fn at_ms(self, time: i64, now_ms: i64) -> Option<i64> {
        let base_ms = if self.relative { now_ms } else { 0 };
        time.checked_mul(if self.seconds { 1000 } else { 1 })?.checked_add(base_ms)
    }
}
