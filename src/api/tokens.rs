//! The bearer tokens of the API, and what each one opens.

use std::sync::Arc;

use arc_swap::ArcSwap;
use subtle::{Choice, ConstantTimeEq as _};

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Operator,
    /// Read access: GET and HEAD.
    Reader,
}

/// The bearer tokens. They can be replaced while the service runs, both at once: no request sees a new token
/// together with an old one.
#[derive(Clone)]
pub struct Tokens(Arc<ArcSwap<Pair>>);

#[derive(PartialEq, Eq)]
struct Pair {
    operator: String,
    reader: Option<String>,
}

impl Tokens {
    /// The operator's token, and the read-only one where there is one.
    pub fn new(operator: String, reader: Option<String>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Pair { operator, reader })))
    }

    /// Replaces both. Returns whether one has changed.
    pub fn replace(&self, operator: String, reader: Option<String>) -> bool {
        let next = Pair { operator, reader };
        let differs = **self.0.load() != next;
        self.0.store(Arc::new(next));
        differs
    }

    /// What this token allows; `None` if it is unknown. Both comparisons are always made, and each takes
    /// constant time, so the duration reveals only the lengths of the tokens.
    pub fn role(&self, given: &[u8]) -> Option<Role> {
        let tokens = self.0.load();
        let operator = given.ct_eq(tokens.operator.as_bytes());
        let reader = match &tokens.reader {
            Some(reader) => given.ct_eq(reader.as_bytes()),
            None => Choice::from(0),
        };
        match (operator.into(), reader.into()) {
            (true, _) => Some(Role::Operator),
            (false, true) => Some(Role::Reader),
            (false, false) => None,
        }
    }
}
