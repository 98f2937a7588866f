//! The way to the callbacks: through the running service's API, or, where none runs, through
//! the store itself, under its lock.

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
