//! Backups of the program `pg_parallel_backup` under load, with a fault in the server, its sessions, the program
//! or the place of the backup.
//!
//! A [`plan::ClientPlan`] says what kind of backup is taken and what strikes. [`course`] runs the program and
//! injects the fault, and [`judgement`] requires one of two outcomes. Either the program succeeds, and the backup
//! verifies, restores and has consistent sums; or its error fits the fault ([`expectation`]), it leaves nothing,
//! and the next backup succeeds. [`stock`] has the backups that incremental ones build on.

pub mod course;
pub mod expectation;
pub mod judgement;
pub mod plan;
pub mod run;
pub mod stock;
