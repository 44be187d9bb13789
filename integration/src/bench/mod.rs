//! The parts of the benchmarks that only think, so that tests can doubt them: figures, tables, arguments, `/proc`.

pub mod figures;
pub mod options;
pub mod processes;
pub mod report;
