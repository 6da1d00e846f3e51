//! Backups under load with a fault at any point of their course.
//!
//! A [`plan::Plan`] is derived from a number and specifies the fault and its stage. [`course`]
//! takes the backup, [`injection`] injects the fault, and [`judgement`] requires one of two
//! outcomes. Either the backup verifies, restores and has consistent sums; or the error fits the
//! fault, the server has no leftovers, and the next backup succeeds.

pub mod client;
pub mod course;
pub mod injection;
pub mod judgement;
pub mod kinds;
pub mod layer;
pub mod load;
pub mod one_statement;
pub mod plan;
pub mod pressure;
pub mod proxy;
pub mod random;
pub mod run;
pub mod session;
pub mod site;
pub mod wal_stream;
