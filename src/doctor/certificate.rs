//! Certificates: how long each is still valid, and who may read its key.

use std::time::Duration;

use super::shortage::{Measure, Shortage};

const DAY_SECONDS: u64 = 24 * 3600;
const DAYS_MIN: u64 = 14;
/// A certificate that expires sooner should have been renewed: ACME clients do it a month before.
pub const VALID_FOR_MIN: Duration = Duration::from_secs(DAYS_MIN * DAY_SECONDS);
/// The permissions that every other user of a host has.
const OF_OTHERS: u32 = 0o007;

/// A certificate with its key, as the doctor found them.
#[derive(Clone, Debug)]
pub struct CertificateState {
    /// The certificate's file.
    pub file: String,
    /// How long it is still valid; zero if it has expired.
    pub valid_for: Duration,
    /// The key's file.
    pub key_file: String,
    /// The permissions of the key's file.
    pub key_mode: u32,
}

/// What is wrong with certificates and keys.
pub(super) fn shortages(certificates: &[CertificateState]) -> impl Iterator<Item = Shortage> {
    certificates.iter().flat_map(|it| [expiry(it), permissions(it)]).flatten()
}

fn expiry(certificate: &CertificateState) -> Option<Shortage> {
    let days = certificate.valid_for.as_secs() / DAY_SECONDS;
    (days < DAYS_MIN).then(|| {
        Shortage::new(format!("validity of {}", certificate.file), Measure::Days, days, DAYS_MIN)
            .consequence("browsers and other clients refuse the server once its certificate has expired")
            .fixed_by("sudo certbot renew && sudo systemctl reload fanfare # or renew it where it was issued")
    })
}

fn permissions(certificate: &CertificateState) -> Option<Shortage> {
    let CertificateState { key_file, key_mode, .. } = certificate;
    (key_mode & OF_OTHERS != 0).then(|| {
        let what = format!("permissions of {key_file}");
        Shortage::new(what, Measure::Mode, u64::from(*key_mode), u64::from(key_mode & !OF_OTHERS))
            .consequence("every user of this host can take the key, and answer in the name of this server")
            .fixed_by(format!("sudo chmod o= {key_file}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_short_of_days_and_its_key_of_privacy() {
        let state = |days: u64, key_mode| CertificateState {
            file: "c.pem".into(),
            valid_for: Duration::from_secs(days * DAY_SECONDS),
            key_file: "k.pem".into(),
            key_mode,
        };
        let found = |days, mode| {
            let states = [state(days, mode)];
            let found = shortages(&states).map(|it| (it.what, it.measure.text(it.has), it.measure.text(it.needs)));
            found.collect::<Vec<_>>()
        };
        assert_eq!(found(14, 0o640), []);
        let expiry = |has: &str| ("validity of c.pem".to_owned(), has.to_owned(), "14 days".to_owned());
        assert_eq!(found(13, 0o600), [expiry("13 days")]);
        let permissions = ("permissions of k.pem".to_owned(), "644".to_owned(), "640".to_owned());
        assert_eq!(found(0, 0o644), [expiry("0 days"), permissions]);
    }
}
