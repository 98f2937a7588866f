//! What the fuzz targets share: second implementations to compare with, and a watch on memory.

pub mod allocations;
pub mod networks;
