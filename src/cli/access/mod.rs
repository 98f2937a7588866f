//! Access to the callbacks: through the API of the running service, or, if none runs, through the
//! store under its lock.

mod find;
mod listing;
mod service;
mod store;

pub(super) use self::{
    find::{Access, Purpose, Running, listening, running},
    listing::{Listing, NOT_TAKEN},
    service::Service,
    store::Store,
};
