//! Access to the callbacks: through the API of the running service, or, if none runs, through the
//! store under its lock.

mod listing;
mod service;
mod store;
mod way;

pub(super) use self::{
    listing::{Listing, NOT_TAKEN},
    service::Service,
    store::Store,
    way::{Access, Purpose, Running, running},
};
