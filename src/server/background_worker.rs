//! The background worker of the extension (postmaster/bgworker.h).
//!
//! It connects to no database. [`define`] sets its main function in each process that loads the
//! library.

use core::cell::Cell;
use core::ffi::{CStr, c_char};

use pgrx::pg_sys;

use super::report::{Error, Result, Sqlstate};

/// Arguments of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Arguments {
    /// The handle of a segment.
    pub handle: u32,
    /// A number by which the segment is known.
    pub nonce: u32,
}

type Main = fn(Arguments);

thread_local! {
    static MAIN: Cell<Option<Main>> = const { Cell::new(None) };
}

/// Sets the main function. Called once, when the library loads.
pub fn define(main: Main) {
    MAIN.set(Some(main));
}

/// Handle of a worker in the session that started it.
pub struct BackgroundWorker {
    handle: *mut pg_sys::BackgroundWorkerHandle,
}

impl BackgroundWorker {
    /// Has the postmaster start a worker, which sets the latch of this session when it has started and
    /// when it has ended.
    ///
    /// # Errors
    /// `insufficient_resources` where the server has no worker left.
    pub fn start(name: &CStr, arguments: Arguments) -> Result<Self> {
        let mut worker = pg_sys::BackgroundWorker {
            // It connects to no database, but only with this flag does pg_stat_activity show it.
            bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS
                | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as i32,
            bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_ConsistentState,
            bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
            bgw_main_arg: pg_sys::Datum::from(arguments.handle),
            ..Default::default()
        };
        copy_text(&mut worker.bgw_name, name);
        copy_text(&mut worker.bgw_type, name);
        copy_text(&mut worker.bgw_library_name, c"pg_parallel_backup");
        copy_text(
            &mut worker.bgw_function_name,
            c"pg_parallel_backup_retain_wal",
        );
        let nonce = arguments.nonce.to_ne_bytes();
        for (place, byte) in worker.bgw_extra.iter_mut().zip(nonce) {
            *place = byte as c_char;
        }
        let mut handle = core::ptr::null_mut();
        // SAFETY: guarded by pgrx. The handle is allocated in the context that lives as long as the
        // session, since the caller keeps it from one statement to another.
        let registered = unsafe {
            worker.bgw_notify_pid = pg_sys::MyProcPid;
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = pg_sys::TopMemoryContext;
            let registered =
                pg_sys::RegisterDynamicBackgroundWorker(&raw mut worker, &raw mut handle);
            pg_sys::CurrentMemoryContext = before;
            registered
        };
        if registered {
            return Ok(Self { handle });
        }
        Err(Error::new(
            Sqlstate::ERRCODE_INSUFFICIENT_RESOURCES,
            "could not register background worker to retain WAL",
        )
        .hint("You might need to increase max_worker_processes."))
    }

    /// Whether the worker has ended.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle is this value's own.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.handle, &raw mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
            || status == pg_sys::BgwHandleStatus::BGWH_POSTMASTER_DIED
    }

    /// Waits until the worker has ended. Interrupts are served.
    pub fn wait_for_end(self) {
        // SAFETY: guarded by pgrx; the handle is this value's own, and is freed here.
        unsafe {
            pg_sys::WaitForBackgroundWorkerShutdown(self.handle);
            pg_sys::pfree(self.handle.cast());
        }
    }
}

fn copy_text(target: &mut [c_char], text: &CStr) {
    for (place, byte) in target.iter_mut().zip(text.to_bytes_with_nul()) {
        *place = *byte as c_char;
    }
}

/// The worker's entry, by the name that [`BackgroundWorker::start`] gives.
#[unsafe(no_mangle)]
#[pgrx::pg_guard]
pub extern "C-unwind" fn pg_parallel_backup_retain_wal(argument: pg_sys::Datum) {
    // SAFETY: the postmaster has set up this entry; the extra bytes are those of the start.
    let nonce = unsafe {
        // Up to 18 the default for SIGTERM ends the process within the handler, wherever it stands. A
        // cancel has nothing to cancel here.
        #[cfg(not(pg19_or_newer))]
        {
            let handler: unsafe extern "C-unwind" fn(core::ffi::c_int) = end_at_next_check;
            libc::signal(libc::SIGTERM, handler as libc::sighandler_t);
        }
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnection(core::ptr::null(), core::ptr::null(), 0);
        let extra = &(*pg_sys::MyBgworkerEntry).bgw_extra;
        u32::from_ne_bytes(core::array::from_fn(|index| extra[index] as u8))
    };
    if let Some(main) = MAIN.get() {
        main(Arguments {
            handle: argument.value() as u32,
            nonce,
        });
    }
}

/// The server's own handler, which is the default from 19 on: FATAL at the next check for interrupts.
#[cfg(not(pg19_or_newer))]
unsafe extern "C-unwind" fn end_at_next_check(signal: core::ffi::c_int) {
    // SAFETY: made to be called by a signal.
    unsafe { pg_sys::die(signal) }
}
