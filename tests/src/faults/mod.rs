//! Backups under load while something goes wrong, at any point of their course.
//!
//! A [`plan::Plan`] follows from a number and says what strikes when. [`course`] takes the backup,
//! [`injection`] strikes, and [`judgement`] demands that the outcome is one of two: a backup that
//! verifies, restores and has the sums of its load right; or an error that fits the fault, and a
//! server on which nothing is left and the next backup succeeds.

pub mod course;
pub mod injection;
pub mod judgement;
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
