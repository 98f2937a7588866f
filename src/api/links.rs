//! One-time links to the operator's page, and the passwords that were obtained with them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::{Choice, ConstantTimeEq as _};

use super::tokens::Role;

/// How long a link is valid.
const LINK: Duration = Duration::from_secs(60);

/// How long a password is valid.
const PASSWORD: Duration = Duration::from_secs(12 * 60 * 60);

/// Links and passwords that are kept; the oldest are forgotten first.
const KEPT: usize = 64;

/// A secret and until when it is good.
type Secret = (String, Instant);

#[derive(Default)]
struct Secrets {
    links: Vec<Secret>,
    passwords: Vec<Secret>,
}

/// One-time links, and the passwords that were obtained with them.
#[derive(Clone, Default)]
pub struct SignIn(Arc<Mutex<Secrets>>);

impl SignIn {
    fn lock(&self) -> MutexGuard<'_, Secrets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The secret of a new link; `None` if the system has no random numbers.
    pub fn link(&self, now: Instant) -> Option<String> {
        add(&mut self.lock().links, now, LINK)
    }

    /// The password for a link, which is not good any more; `None` if it is not good.
    pub fn password(&self, link: &[u8], now: Instant) -> Option<String> {
        let mut secrets = self.lock();
        let found = find(&secrets.links, link, now)?;
        secrets.links.remove(found);
        add(&mut secrets.passwords, now, PASSWORD)
    }

    /// What a password opens.
    pub fn role(&self, password: &[u8], now: Instant) -> Option<Role> {
        find(&self.lock().passwords, password, now).map(|_| Role::Operator)
    }
}

fn add(secrets: &mut Vec<Secret>, now: Instant, lasts: Duration) -> Option<String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    let secret = BASE64URL_NOPAD.encode(&bytes);
    secrets.retain(|(_, until)| *until > now);
    if secrets.len() >= KEPT {
        secrets.remove(0);
    }
    secrets.push((secret.clone(), now + lasts));
    Some(secret)
}

/// The position of a secret that is good. Takes the same time whichever it is.
fn find(secrets: &[Secret], given: &[u8], now: Instant) -> Option<usize> {
    let is_it = |(secret, until): &Secret| {
        secret.as_bytes().ct_eq(given) & Choice::from(u8::from(*until > now))
    };
    let found: Vec<bool> = secrets.iter().map(|secret| bool::from(is_it(secret))).collect();
    found.into_iter().position(|found| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_good_once_and_for_a_minute() {
        let (sign_in, now) = (SignIn::default(), Instant::now());
        let link = sign_in.link(now).unwrap();
        let password = sign_in.password(link.as_bytes(), now).unwrap();
        assert_eq!(sign_in.role(password.as_bytes(), now), Some(Role::Operator));
        assert_eq!(sign_in.password(link.as_bytes(), now), None, "once");
        assert_eq!(sign_in.role(link.as_bytes(), now), None);
        assert_eq!(sign_in.role(b"", now), None);
        let late = sign_in.link(now).unwrap();
        assert_eq!(sign_in.password(late.as_bytes(), now + LINK), None, "for a minute");
        assert_eq!(sign_in.role(password.as_bytes(), now + PASSWORD), None);
    }

    #[test]
    fn the_oldest_link_is_forgotten_first() {
        let (sign_in, now) = (SignIn::default(), Instant::now());
        let links: Vec<_> = (0..=KEPT).map(|_| sign_in.link(now).unwrap()).collect();
        assert_eq!(sign_in.password(links[0].as_bytes(), now), None);
        assert!(sign_in.password(links[1].as_bytes(), now).is_some());
    }
}
