//! Sources of job events other than HTTP and the command line.

pub mod nats;
