\echo Use "ALTER EXTENSION pg_parallel_backup UPDATE TO '0.2.0'" to load this file. \quit

-- 0.2.0 has the functions of 0.1.0, unchanged; what is new is in the library.
