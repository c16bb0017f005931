//! From the system's time to a certificate's. It never reads a clock.

use std::time::{Duration, SystemTime};

use crate::Error;

/// How far in the past a certificate begins to be valid: guest clocks lag (SPEC T1).
pub(crate) const SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// Seconds since 1970 of `time`, rounded down; an error before 1970 or after 9999 (RFC 5280
/// section 4.1.2.5).
pub(crate) fn unix_s(time: SystemTime) -> Result<u64, Error> {
    const YEAR_10000: u64 = 253_402_300_800;
    time.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
        .filter(|&seconds| seconds < YEAR_10000)
        .ok_or(Error::TimeOutOfRange(time))
}

/// Sets a certificate's validity, which is in whole seconds.
pub(crate) fn set_validity(
    params: &mut rcgen::CertificateParams,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<(), Error> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(unix_s(not_before)?);
    params.not_after = epoch + Duration::from_secs(unix_s(not_after)?);
    Ok(())
}

/// A random 128-bit serial number, never zero and always positive (RFC 5280 section 4.1.2.2).
pub(crate) fn random_serial() -> Result<rcgen::SerialNumber, Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Crypto("draw a serial number"))?;
    // Without the top bit DER needs no seventeenth byte; with the next one no byte is dropped.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(rcgen::SerialNumber::from_slice(&bytes))
}
