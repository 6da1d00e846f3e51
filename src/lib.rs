//! pg_parallel_backup
pgrx::pg_module_magic!();
